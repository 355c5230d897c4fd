"""Scores go out into other programs: stars beside the pictures, tables, folders for trainers; and
nothing of anybody else's is lost on the way."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from sqlalchemy.event import listen
from sqlmodel import select

from tastemaker import jobs, projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job
from tastemaker.errors import Conflict, Invalid, NotFound, NotWritable, StorageFull
from tastemaker.files import placing
from tastemaker.files.xmp import Packet
from tastemaker.importing.mark_rules import DEFAULT_RULE
from tastemaker.importing.marks import MarkedFile, Marks, marks_of_file, marks_of_packet
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import Limits
from tastemaker.publishing import sidecars, trainer_folders, write_back
from tastemaker.publishing.outgoing import Outgoing, outgoing, parse_borders, stars_of
from tastemaker.publishing.sidecars import plan_sidecars, undo_sidecars, write_sidecars
from tastemaker.scores import Origin
from tastemaker.scores.score_files import labels_of
from tests import pictures
from tests.command_line import Run
from tests.conftest import work_on
from tests.desk import Desk, png
from tests.pictures import encoded, write
from tests.test_stars import DARKTABLE, rated, xmp
from tests.test_web_pages import Forms
from tests.web_world import World, add_version, client_of, make_world

SCORES = {"a": 10, "b": 7, "c": 4, "d": 0}
LIMITS = Limits()


@pytest.fixture
def shelf(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Four scored images, `a.png` to `d.png`, and one without a score."""
    from tastemaker.importing import imports

    monkeypatch.setattr(sidecars, "DecodePool", imports.DecodePool)
    contents = {name: png(number) for number, name in enumerate([*SCORES, "e"])}
    for name, content in contents.items():
        desk.put(f"{name}.png", content)
    desk.bring_in()
    with writing(desk.engine) as session:
        project = projects.get(session, desk.project.id)
        person = projects.annotator(session, "me")
        for name, score in SCORES.items():
            image = desk.image(contents[name]).id
            scores.record(session, project, image, person, "set", score, origin=Origin.LIBRARY)
    return desk


def rows_of(shelf: Desk, **more: Any) -> list[Outgoing]:
    with reading(shelf.engine) as session:
        project = projects.get(session, shelf.project.id)
        return list(outgoing(session, project, None, **more))


def beside(shelf: Desk, name: str) -> dict[str, str]:
    packet = Packet((shelf.folder / name).read_bytes())
    return {"stars": packet.get("xmp", "Rating"), "score": packet.get("tastemaker", "Score")}


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_rows_that_leave_ask_the_database_some_hundred_images_at_a_time(shelf: Desk) -> None:
    asked: list[str] = []
    listen(shelf.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    few = rows_of(shelf, low=10)
    of_few = len(asked)
    assert len(rows_of(shelf)) == 4 * len(few) and len(asked) == 2 * of_few
    with reading(shelf.engine) as session:
        asked.clear()
        labels = labels_of(session, projects.get(session, shelf.project.id))
        assert len(labels) == 4 and sum("image_path" in one for one in asked) == 1
        assert {Path(row["path"]).name for row in labels} == {f"{name}.png" for name in SCORES}


# --- sidecars ------------------------------------------------------------------------------------


def test_stars_come_back_as_the_scores_that_they_were_made_of() -> None:
    for stars in range(1, 6):
        score = DEFAULT_RULE.score(Marks(stars=stars))
        assert score is not None and stars_of(score) == stars
    assert [stars_of(score) for score in (0, 2.99, 3, 9)] == [1, 1, 2, 5]
    assert stars_of(5, parse_borders("1,2,3,4")) == 5
    for typed in ("1,2,3", "4,3,2,1", "a", "1,2,3,11"):
        with pytest.raises(Invalid):
            parse_borders(typed)


def test_a_dry_run_writes_nothing_and_writing_leaves_the_pictures_alone(shelf: Desk) -> None:
    before = everything_in(shelf.folder)
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    assert len(plan.changes) == 4 and everything_in(shelf.folder) == before
    assert write_sidecars(shelf.settings, plan) == (4, [])
    after = everything_in(shelf.folder)
    assert {name: after[name] for name in before} == before, "to the byte"
    assert set(after) - set(before) == {f"{name}.png.xmp" for name in SCORES}
    assert beside(shelf, "a.png.xmp") == {"stars": "5", "score": "10.00"}
    assert beside(shelf, "d.png.xmp") == {"stars": "1", "score": "0.00"}

    again = plan_sidecars(rows_of(shelf), LIMITS)
    assert (again.changes, again.unchanged) == ([], 4)
    read = marks_of_file(MarkedFile(shelf.folder / "a.png", LIMITS))
    assert not read, "what this program wrote is nobody's opinion"

    assert undo_sidecars(shelf.settings) == (4, [])
    assert everything_in(shelf.folder) == before
    with pytest.raises(NotFound):
        undo_sidecars(shelf.settings)


def test_what_other_programs_wrote_stays_and_so_do_stars_that_a_person_gave(shelf: Desk) -> None:
    shelf.put("a.png.xmp", DARKTABLE.decode().replace('xmp:Rating="-1"', 'xmp:Rating="0"'))
    shelf.put("b.xmp", rated(2))
    mode = 0o600
    (shelf.folder / "b.xmp").chmod(mode)
    before = everything_in(shelf.folder)
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    assert plan.kept == 1
    write_sidecars(shelf.settings, plan)
    packet = Packet((shelf.folder / "a.png.xmp").read_bytes())
    assert packet.items("darktable", "colorlabels") == ["0", "3"]
    assert beside(shelf, "a.png.xmp")["stars"] == "5", "0 is unrated"
    assert beside(shelf, "b.xmp") == {"stars": "2", "score": "7.00"}, "in the one that lay there"
    assert (shelf.folder / "b.xmp").stat().st_mode & 0o777 == mode

    replaced = plan_sidecars(rows_of(shelf), LIMITS, replace_stars=True)
    assert [change.sidecar.name for change in replaced.changes] == ["b.xmp"]
    write_sidecars(shelf.settings, replaced)
    assert beside(shelf, "b.xmp")["stars"] == "4"
    shelf.put("c.png.xmp", (shelf.folder / "c.png.xmp").read_bytes() + b"<!-- edited -->")
    assert undo_sidecars(shelf.settings) == (1, [])
    undone, problems = undo_sidecars(shelf.settings)
    assert undone == 3 and "Another program changed it since" in problems[0][1]
    (shelf.folder / "c.png.xmp").unlink()
    assert everything_in(shelf.folder) == before


def test_stars_of_ones_own_give_way_to_a_persons_and_never_pass_for_theirs(shelf: Desk) -> None:
    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    (sidecar, *_) = sorted(shelf.folder.glob("*.xmp"))
    ours = sidecar.read_bytes()
    packet = Packet(ours)
    assert packet.get("xmp", "Rating") == packet.get("tastemaker", "Stars") != ""
    packet.put("digiKam", "PickLabel", "3")
    sidecar.write_bytes(packet.content())
    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    after = sidecar.read_bytes()
    assert marks_of_packet(after, "it").stars is None and marks_of_packet(after, "it").flag == 1
    assert Packet(after).get("tastemaker", "Score") == packet.get("tastemaker", "Score")


def test_an_undo_that_could_not_be_done_is_tried_again_by_the_next(shelf: Desk) -> None:
    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    away = shelf.folder.with_name("away")
    shelf.folder.rename(away)
    undone, problems = undo_sidecars(shelf.settings)
    assert undone == 0 and len(problems) > 0
    assert all("folder is not there" in why for _, why in problems)
    away.rename(shelf.folder)
    assert undo_sidecars(shelf.settings) == (len(problems), [])
    assert list(shelf.folder.glob("*.xmp")) == []


def test_stars_inside_a_picture_are_somebodys_too(shelf: Desk) -> None:
    content = encoded(pictures.scene(seed=9), "JPEG", xmp=rated(1))
    shelf.put("inside.jpg", content)
    shelf.bring_in()
    with writing(shelf.engine) as session:
        project = projects.get(session, shelf.project.id)
        person = projects.annotator(session, "me")
        scores.record(session, project, shelf.image(content).id, person, "set", 9)
    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    assert beside(shelf, "inside.jpg.xmp") == {"stars": "", "score": "9.00"}
    assert marks_of_file(MarkedFile(shelf.folder / "inside.jpg", LIMITS)) == Marks(stars=1)


def test_stars_that_were_copied_into_a_picture_stay_this_programs_when_its_mind_changes(
    shelf: Desk,
) -> None:
    content = encoded(pictures.scene(seed=9), "JPEG", xmp=rated(4))
    picture = shelf.put("copied.jpg", content)
    for score in (7.0, 5.0):
        row = Outgoing(1, "", str(picture), score, "v1.0", (picture,))
        if score == 7.0:  # the stars inside are the copy that the next lines make theirs
            sidecar = sidecars.sidecar_of(picture)
            first = sidecars.Change(sidecar, "", score, "v1.0", 4, False)
            sidecar.write_bytes(first.written_into(None))
        else:
            write_sidecars(shelf.settings, plan_sidecars([row], LIMITS))
        assert not marks_of_file(MarkedFile(picture, LIMITS)), score
    assert beside(shelf, "copied.jpg.xmp") == {"stars": "3", "score": "5.00"}


def test_a_sidecar_of_several_pictures_is_left_to_them(shelf: Desk) -> None:
    shelf.put("a.xmp", xmp(xmp_Label="Red"))
    shelf.put("a.jpg", encoded(pictures.scene(), "JPEG"))
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    assert {change.sidecar.name for change in plan.changes} >= {"a.png.xmp"}


def test_a_raw_photograph_gets_the_sidecar_that_lightroom_looks_for(tmp_path: Path) -> None:
    assert sidecars.sidecar_of(write(tmp_path / "a.CR3", b"")) == tmp_path / "a.xmp"
    write(tmp_path / "a.jpg", b"")
    assert sidecars.sidecar_of(tmp_path / "a.CR3") == tmp_path / "a.xmp", "beside its JPEG, too"
    assert sidecars.sidecar_of(tmp_path / "a.jpg") == tmp_path / "a.jpg.xmp"
    write(tmp_path / "a.NEF", b"")
    assert sidecars.sidecar_of(tmp_path / "a.NEF") == tmp_path / "a.NEF.xmp", "one for each of two"


def test_what_cannot_be_written_is_named_and_the_rest_goes_on(
    shelf: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(shelf.folder / "a.png", ns=(1, 1))  # changed since it was scored
    (shelf.folder / "b.png").unlink()
    shelf.put("c.png.xmp", "no XMP")
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    reasons = {Path(path).name: reason for path, reason in plan.problems}
    assert "changed since it was scored" in reasons["a.png"] and "gone" in reasons["b.png"]
    assert "is damaged: it is not XML" in reasons["c.png"]
    assert [change.sidecar.name for change in plan.changes] == ["d.png.xmp"]

    (shelf.folder / "c.png.xmp").unlink()
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    shelf.put("d.png.xmp", rated(3))  # meanwhile
    atomic = sidecars.write_atomic

    def read_only(path: Path, content: Any) -> None:
        if path.name == "c.png.xmp":
            raise NotWritable(f"{path} cannot be written: read-only file system.", "")
        atomic(path, content)

    monkeypatch.setattr(sidecars, "write_atomic", read_only)
    written, problems = write_sidecars(shelf.settings, plan)
    assert written == 0
    told = {Path(path).name: reason for path, reason in problems}
    assert "read-only" in told["c.png.xmp"] and "changed meanwhile" in told["d.png.xmp"]

    def full(path: Path, content: Any) -> None:
        raise StorageFull("The disk is full.") if errno.ENOSPC else AssertionError

    monkeypatch.setattr(sidecars, "write_atomic", full)
    (shelf.folder / "d.png.xmp").unlink()
    with pytest.raises(StorageFull, match="0 of 2 sidecars"):
        write_sidecars(shelf.settings, plan)


def test_nothing_is_written_outside_of_the_folders_that_may_be_imported(
    shelf: Desk, tmp_path: Path
) -> None:
    elsewhere = Limits(roots=(tmp_path / "allowed",))
    plan = plan_sidecars(rows_of(shelf), elsewhere)
    assert plan.changes == [] and len(plan.problems) == 4
    assert all("lies outside of the folders" in reason for _, reason in plan.problems)


def test_a_link_is_never_written_through(shelf: Desk, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere.xmp", rated(3))
    (shelf.folder / "a.png.xmp").symlink_to(elsewhere)
    plan = plan_sidecars(rows_of(shelf), LIMITS)
    assert [Path(path).name for path, _ in plan.problems] == ["a.png"]
    write_sidecars(shelf.settings, plan)
    assert elsewhere.read_bytes() == rated(3)


def test_exiftool_reads_what_was_written_and_no_pixel_moves(shelf: Desk) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("ExifTool is not installed.")

    def exiftool(*words: str) -> str:
        done = subprocess.run(
            ["exiftool", *words], cwd=shelf.folder, check=True, capture_output=True, text=True
        )
        return done.stdout

    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in shelf.folder.iterdir()}
    exiftool("-q", "-XMP-dc:Title=Mine", "-XMP-xmp:Label=Green", "-o", "b.png.xmp")
    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    [told] = json.loads(exiftool("-j", "-Rating", "-Title", "-Label", "-Score", "b.png.xmp"))
    assert told == {
        "SourceFile": "b.png.xmp", "Rating": 4, "Title": "Mine", "Label": "Green", "Score": 7,
    }  # fmt: skip
    assert exiftool("-validate", "-warning", "-a", "-s3", "b.png.xmp").split("\n")[0] == "OK"
    # From the sidecar into the picture, as docs/lightroom-digikam.md has it.
    exiftool("-q", "-overwrite_original", "-tagsfromfile", "%d%f.%e.xmp", "-xmp:all", "b.png")
    packet = exiftool("-b", "-XMP", "b.png").encode()
    assert marks_of_packet(packet, "b.png") == Marks(stars=4, labels=("green",))
    read = marks_of_file(MarkedFile(shelf.folder / "b.png", LIMITS))
    assert read == Marks(labels=("green",)), "the stars are a copy of what this program wrote"
    exiftool("-q", "-overwrite_original", "-Rating=1", "a.png.xmp")  # rated again there
    read = marks_of_file(MarkedFile(shelf.folder / "a.png", LIMITS))
    assert read == Marks(stars=1), "a person's word, from now on"
    for name in ("a.png", "c.png", "d.png", "e.png"):
        content = (shelf.folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == hashes[name]


@pytest.mark.slow
def test_darktable_reads_what_was_written_and_what_it_writes_is_read(
    shelf: Desk, tmp_path: Path
) -> None:
    if shutil.which("darktable-cli") is None:
        pytest.skip("darktable is not installed.")

    def exported(name: str) -> Path:
        to = tmp_path / f"{name}.jpg"
        apart = ["--configdir", tmp_path / "config", "--cachedir", tmp_path / "cache"]
        subprocess.run(
            ["darktable-cli", name, f"{name}.xmp", to, "--core", *apart, "--library", ":memory:",
             "--disable-opencl", "-t", "1"],
            cwd=shelf.folder, check=True, capture_output=True, timeout=100,
            env=os.environ | {"HOME": str(tmp_path)},
        )  # fmt: skip
        return to

    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    shelf.put("e.png.xmp", rated(2))
    before = everything_in(shelf.folder)
    ours, theirs = exported("b.png"), exported("e.png")
    with Picture.open(ours) as picture:
        assert picture.getexif()[0x4746] == 4, "darktable has the stars of the score"
    assert not marks_of_file(MarkedFile(ours, LIMITS)), "and they are still this program's own"
    assert marks_of_file(MarkedFile(theirs, LIMITS)) == Marks(stars=2)
    assert everything_in(shelf.folder) == before, "to the byte"


def test_what_digikam_and_darktable_write_with_reads_it_and_keeps_it(shelf: Desk) -> None:
    if shutil.which("exiv2") is None:
        pytest.skip("Exiv2 is not installed.")

    def exiv2(*words: str) -> str:
        done = subprocess.run(
            ["exiv2", *words], cwd=shelf.folder, check=True, capture_output=True, text=True
        )
        return done.stdout

    write_sidecars(shelf.settings, plan_sidecars(rows_of(shelf), LIMITS))
    told = dict(line.split() for line in exiv2("-PXkt", "b.png.xmp").splitlines())
    assert told["Xmp.xmp.Rating"] == "4" and told["Xmp.tastemaker.Score"] == "7.00"
    exiv2("-Mset Xmp.xmp.Rating 2", "-Mset Xmp.digiKam.PickLabel 3", "b.png.xmp")
    assert beside(shelf, "b.png.xmp") == {"stars": "2", "score": "7.00"}, "ours is kept"
    read = marks_of_file(MarkedFile(shelf.folder / "b.png", LIMITS))
    assert read == Marks(stars=2, flag=1), "and theirs is read"
    again = plan_sidecars(rows_of(shelf), LIMITS)
    assert again.kept == 1, "and stays"


# --- which scores --------------------------------------------------------------------------------


def test_a_persons_score_goes_before_the_prediction(tmp_path: Path) -> None:
    world: World = make_world(tmp_path / "home", images=3)
    add_version(world, 0, {1: 0.81, 2: 0.2})
    with writing(world.engine) as session:
        from tastemaker import versions

        project = world.project(session)
        version = versions.chosen(session, project)
        person = projects.annotator(session, "me")
        scores.record(session, project, 1, person, "set", 3)

        def told(**more: Any) -> dict[int, tuple[float, str]]:
            rows = outgoing(session, project, version, **more)
            return {row.image_id: (round(row.score, 3), row.by) for row in rows}

        assert told() == {1: (3, "scored"), 2: (2, "v1.0")}
        assert told(which="predictions") == {1: (8.1, "v1.0"), 2: (2, "v1.0")}
        assert told(which="scores") == {1: (3, "scored")}
        assert told(low=2.5) == {1: (3, "scored")}


# --- folders for trainers ------------------------------------------------------------------------


def test_tags_of_a_score_are_those_that_people_train_with() -> None:
    assert trainer_folders.score_tags(7.4) == [f"score_{n}_up" for n in (7, 6, 5, 4)]
    assert trainer_folders.score_tags(9)[:2] == ["score_9", "score_8_up"]
    assert trainer_folders.score_tags(3.99) == []
    said = trainer_folders.caption(5, "a cat, score_9, score_8_up,\n on a mat ,")
    assert said == "score_5_up, score_4_up, a cat, on a mat"


@given(st.floats(0, 10), st.floats(0, 10))
def test_a_better_score_has_every_tag_and_repeat_of_a_worse_one(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert set(trainer_folders.score_tags(low)) <= set(trainer_folders.score_tags(high))
    usual = trainer_folders.USUAL_REPEATS
    assert trainer_folders.repeats_of(low, usual) <= trainer_folders.repeats_of(high, usual)


@pytest.mark.parametrize("typed", ["", "5", "5=-1", "11=1", "5=0", "5=2000", "x=1"])
def test_what_says_no_repeats_is_refused(typed: str) -> None:
    with pytest.raises(Invalid):
        trainer_folders.parse_repeats(typed)


def test_a_folder_for_trainers_has_repeats_and_captions(shelf: Desk, tmp_path: Path) -> None:
    shelf.put("a.txt", "a red thing, best")
    shelf.put("sub/b.png", png(50))
    shelf.bring_in()
    with writing(shelf.engine) as session:
        project = projects.get(session, shelf.project.id)
        person = projects.annotator(session, "me")
        scores.record(session, project, shelf.image(png(50)).id, person, "set", 8)
    into = tmp_path / "train"
    dry = trainer_folders.write_trainer_folders(rows_of(shelf), into, "My taste", dry_run=True)
    assert dry.folders == {"4_My-taste": 1, "2_My-taste": 2} and not into.exists()
    done = trainer_folders.write_trainer_folders(rows_of(shelf), into, "My taste", link=True)
    assert (done.placed, done.captions) == (3, 3)
    names = {str(path.relative_to(into)) for path in into.rglob("*.*")}
    assert names == {
        "4_My-taste/a.png", "4_My-taste/a.txt", "2_My-taste/b.png", "2_My-taste/b.txt",
        "2_My-taste/b-1.png", "2_My-taste/b-1.txt",
    }  # fmt: skip
    text = (into / "4_My-taste/a.txt").read_text()
    assert text.startswith("score_9, score_8_up") and text.endswith("a red thing, best")
    assert (into / "4_My-taste/a.png").is_symlink()
    with pytest.raises(Invalid, match="is not empty"):
        trainer_folders.write_trainer_folders(rows_of(shelf), into, "x")


def test_folders_that_a_full_disk_stopped_are_gone_on_with(
    shelf: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, copy, room = tmp_path / "train", placing._copy, 2

    def full(origin: Path, target: Path) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(origin, target)

    def again() -> trainer_folders.Placed:
        return trainer_folders.write_trainer_folders(rows_of(shelf), into, "T", ((0.0, 1),))

    with monkeypatch.context() as patch:
        patch.setattr(placing, "_copy", full)
        with pytest.raises(StorageFull, match="2 of 4 pictures"):
            again()
    done = again()
    assert (done.there, done.placed, done.captions, done.problems) == (2, 2, 4, [])
    (into / "1_T/a.txt").write_text("my own words")
    assert again().problems == [
        (str(into / "1_T/a.txt"), "Another caption is there already; it was left as it is.")
    ]
    (into / "1_T/a.png").write_bytes(png(70))
    with pytest.raises(Invalid, match=r"1_T.a\.png would not be written so now"):
        again()


class Counted(type(Path())):
    """A path that counts how often it was compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return bool(super().__eq__(other))

    __hash__ = type(Path()).__hash__


def test_many_pictures_of_one_name_are_each_compared_with_a_few(
    shelf: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, row = 150, rows_of(shelf)[0]
    files = []
    for number in range(count):
        file = shelf.put(f"many/{number}/a.png", "x" * (number + 1))
        files.append(replace(row, paths=(Counted(file),), shown=f"{number}/a.png"))
    compared = []
    same = placing._same
    monkeypatch.setattr(placing, "_same", lambda *both: compared.append(both) or same(*both))
    monkeypatch.setattr(Counted, "compared", 0)
    done = trainer_folders.write_score_folders(files, tmp_path / "out", dry_run=True)
    assert done.placed == count
    assert Counted.compared < 12 * count
    plan = placing.plan_files(
        [(str(n), row.paths[0], "a.png") for n, row in enumerate(files)], tmp_path / "flat"
    )
    assert len({item.target for item in plan}) == count and len(compared) < count
    again = placing.plan_files(
        [(str(n), files[n % 3].paths[0], "a.png") for n in range(6)], tmp_path / "flat"
    )
    assert [item.there for item in again] == [False] * 3 + [True] * 3
    names = ["a.png", "a-1.png", "a-2.png"]
    assert [item.target.name for item in again if item.target] == names * 2


# --- the page ------------------------------------------------------------------------------------


def test_the_page_tells_first_writes_when_asked_and_takes_back(shelf: Desk) -> None:
    client, at = client_of(create_app(shelf.settings)), f"/projects/{shelf.project.id}/write-back"
    before = everything_in(shelf.folder)

    def finish() -> str:
        assert 'hx-trigger="every 1s"' in client.get(f"{at}/found").text
        with reading(shelf.engine) as session:
            job = session.exec(
                select(Job).where(Job.kind == "write-back", Job.state == "queued")
            ).one()
        work = work_on(shelf.settings, shelf.engine, job.id)
        result = write_back.run(work)
        with writing(shelf.engine) as session:
            jobs.finish(session, work.claim, result)
        return client.get(at).text

    assert "Nothing was looked at yet" in client.get(at).text
    for wrong in ({"low": "8", "high": "2"}, {"low": "x"}, {"stars": "1,2"}, {"which": "all"}):
        refused = client.post(at, data=wrong)
        assert refused.status_code == 422 and 'role="alert"' in refused.text, wrong
    form = {"which": "scores", "low": "4", "high": "", "stars": "3,5,7,9"}
    assert client.post(at, data=form).status_code == 303
    page = finish()
    assert "<b>3</b> would be written" in page and "a.png.xmp" in page
    assert everything_in(shelf.folder) == before and "Take the newest" not in page

    sends = next(f for a, f in Forms(page).found if a == at and "write" in f)
    assert sends["write"] == "true" and sends["low"] == "4.0"
    assert client.post(at, data=sends).status_code == 303
    page = finish()
    assert "<b>3</b> written, 0 said so already" in page and "Write 3" not in page
    assert beside(shelf, "a.png.xmp") == {"stars": "5", "score": "10.00"}

    other = sidecars.Plan([sidecars.Change(shelf.folder / "z.xmp", "", 5, "x", 3, False)])
    write_sidecars(shelf.settings, other, project_id=99)
    unnamed = client.post(f"{at}/undo")
    assert unnamed.status_code == 422 and "Which writing" in unnamed.text
    named = next(f for a, f in Forms(page).found if a == f"{at}/undo")
    assert client.post(f"{at}/undo", data=named).status_code == 303
    assert "<b>3</b> sidecars are as before" in finish()
    (shelf.folder / "z.xmp").unlink()
    assert everything_in(shelf.folder) == before
    assert "Take the newest" not in client.get(at).text, "that of another project is not its own"
    assert client.post(f"/api/v1{at}", json={"low": 11}).status_code == 422
    assert client.post(f"/api/v1{at}", json={"write": True}).json()["kind"] == "write-back"
    assert "<b>4</b> written" in finish()
    with reading(shelf.engine) as session:
        newest = session.exec(select(Job).order_by(Job.id.desc())).first()
    name = newest.result["writing"]
    refused = client.delete(f"/api/v1{at}")
    assert refused.status_code == 422 and name in refused.json()["hint"]
    assert client.delete(f"/api/v1{at}?of=20200101-000000").status_code == 409
    assert client.delete(f"/api/v1{at}?of={name}").status_code == 202
    assert "<b>4</b> sidecars are as before" in finish()
    again = client.delete(f"/api/v1{at}?of={name}")
    assert again.status_code == 409 and "taken back already" in again.text


def test_an_undo_that_comes_twice_takes_back_once(shelf: Desk) -> None:
    """A double click, or a second tab: the writing before the one that was shown stays."""
    client, at = client_of(create_app(shelf.settings)), f"/projects/{shelf.project.id}/write-back"
    plan = plan_sidecars(rows_of(shelf), Limits(), (3, 5, 7, 9))
    write_sidecars(shelf.settings, plan, project_id=shelf.project.id)
    first = everything_in(shelf.folder)
    plan = plan_sidecars(rows_of(shelf), Limits(), (1, 2, 3, 4))
    assert write_sidecars(shelf.settings, plan, project_id=shelf.project.id)[0] > 0
    (form,) = [f for a, f in Forms(client.get(at).text).found if a == f"{at}/undo"]
    assert client.post(f"{at}/undo", data=form).status_code == 303
    assert client.post(f"{at}/undo", data=form).status_code == 303, "the same job while it waits"
    with reading(shelf.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "write-back")).all()
    work = work_on(shelf.settings, shelf.engine, job.id)
    result = write_back.run(work)
    assert result["undone"] > 0 and everything_in(shelf.folder) == first
    again = write_back.run(work)  # as after a crash
    assert (again["undone"], again["already"]) == (0, True)
    with writing(shelf.engine) as session:
        jobs.finish(session, work.claim, again)
    page = client.get(at).text
    assert "It was taken back already; nothing was changed." in page
    refused = client.post(f"{at}/undo", data=form)
    assert refused.status_code == 409 and "taken back already" in refused.text
    assert everything_in(shelf.folder) == first, "what was written before stays"


def test_an_older_writing_is_not_taken_back_before_the_newest(shelf: Desk) -> None:
    """Asked for while a writing waits: what the older one replaced would be lost for good."""
    at_first = everything_in(shelf.folder)
    asked = []
    for borders in ((3, 5, 7, 9), (1, 2, 3, 4)):
        plan = plan_sidecars(rows_of(shelf), Limits(), borders)
        assert write_sidecars(shelf.settings, plan, project_id=shelf.project.id)[0] > 0
        with writing(shelf.engine) as session:
            project = projects.get(session, shelf.project.id)
            named = sidecars.newest_writing(shelf.settings, shelf.project.id) or ""
            undo = write_back.WriteBackRequest(undo=True, of=named)
            asked.append(write_back.request_write_back(session, shelf.settings, project, undo).id)
    before = everything_in(shelf.folder)
    older, newest = [work_on(shelf.settings, shelf.engine, id) for id in asked]
    with pytest.raises(Conflict, match="written again"):
        write_back.run(older)
    assert everything_in(shelf.folder) == before
    assert write_back.run(newest)["undone"] > 0 and write_back.run(older)["undone"] > 0
    assert everything_in(shelf.folder) == at_first


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "It was stopped. Nothing was written."),
        ({"write": True}, "none was written yet"),
        ({"undo": True}, "Taking back was stopped."),
    ],
)
def test_what_was_stopped_says_what_is_left_of_it(
    shelf: Desk, asked: dict[str, Any], sentence: str
) -> None:
    client, at = client_of(create_app(shelf.settings)), f"/projects/{shelf.project.id}/write-back"
    if "undo" in asked:
        plan = plan_sidecars(rows_of(shelf), Limits(), (3, 5, 7, 9))
        write_sidecars(shelf.settings, plan, project_id=shelf.project.id)
        asked = asked | {"of": sidecars.newest_writing(shelf.settings, shelf.project.id)}
    with writing(shelf.engine) as session:
        project = projects.get(session, shelf.project.id)
        request = write_back.WriteBackRequest(**asked)
        job = write_back.request_write_back(session, shelf.settings, project, request)
        jobs.cancel(session, job.id)
    assert sentence in client.get(at).text


# --- the command ---------------------------------------------------------------------------------


def test_the_command_tells_first_and_does_it_when_asked(
    shelf: Desk, run: Run, tmp_path: Path
) -> None:
    shelf.engine.dispose()
    told = run("write-back", "Desk")
    assert told.code == 0 and "4 sidecars would be written" in told.out
    assert "Nothing was written" in told.out and not list(shelf.folder.glob("*.xmp"))
    told = json.loads(run("write-back", "Desk", "--write", "--json").out)
    assert (told["written"], told["problems"]) == (4, [])
    asked = run("write-back", "--undo")
    assert asked.code == 1 and "no terminal to ask on; nothing was changed" in asked.sentence
    told = r"Writing \S+, of “Desk”, \S+ \S+ UTC: 4 sidecars, \S+ first\."
    assert re.search(told, asked.sentence)
    assert len(list(shelf.folder.glob("*.xmp"))) == 4
    assert "no such writing" in run("write-back", "--undo", "--of", "20200101-x").sentence
    assert run("write-back", "--of", "x").code == 2
    assert "4 sidecars are as before" in run("write-back", "--undo", "--yes").out
    assert not list(shelf.folder.glob("*.xmp"))
    run("write-back", "Desk", "--write")
    named = sidecars.newest_writing(shelf.settings) or ""
    assert named in run("write-back", "--undo").sentence
    assert run("write-back", "--undo", "--of", named).code == 0
    assert not list(shelf.folder.glob("*.xmp"))
    assert "no writing of sidecars" in run("write-back", "--undo").sentence

    table = tmp_path / "out.parquet"
    assert "4 rows would be written" in run("write-back", "Desk", "--table", table).out
    assert not table.exists()
    run("write-back", "Desk", "--table", table, "--write", "--min", "50")
    rows = pq.read_table(table).to_pylist()
    assert [(Path(r["path"]).name, r["score"], r["stars"], r["by"]) for r in rows] == [
        ("a.png", 10, 5, "scored"), ("b.png", 7, 4, "scored"),
    ] or [r["stars"] for r in rows] == [4, 5]  # fmt: skip
    run("write-back", "Desk", "--table", tmp_path / "out.csv", "--write")
    with (tmp_path / "out.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4

    folders = tmp_path / "folders"
    assert run("write-back", "Desk", "--folders", folders, "--write").code == 0
    assert {p.name for p in folders.iterdir()} == {"10", "07", "04", "00"}
    assert "4 there already" in run("write-back", "Desk", "--folders", folders, "--write").out
    (folders / "mine.txt").touch()
    assert run("write-back", "Desk", "--folders", folders, "--write").code == 1
    for wrong in (["--link"], ["--undo"], ["--stars", "x"], ["--which", "none"]):
        assert run("write-back", "Desk", *wrong).code != 0, wrong
