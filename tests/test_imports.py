"""Files come in whole, once, with what lies beside them; a bad one never stops the rest."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import Engine
from sqlmodel import col, func, select

from tastemaker import embeddings, images, jobs, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import (
    Annotator,
    Audit,
    AuditImage,
    Collection,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    ImagePath,
    Job,
    Label,
    RemovedImage,
    ScoreEvent,
    Tag,
    Version,
    now,
)
from tastemaker.embeddings import declare_encoder, embed_project, is_normalised, matrix
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound, StorageFull, TastemakerError
from tastemaker.importing import imports, leftovers, sources
from tastemaker.importing.outcome import known_in_words
from tastemaker.importing.requests import ImportRequest
from tastemaker.library.filters import LibraryFilter
from tastemaker.library.scopes import name_like, resolve
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import KnownPicture, decode
from tastemaker.scores import Origin
from tastemaker.scores.references import References
from tests.conftest import environment, until, work_on
from tests.desk import ELSEWHERE, Desk, noise, png, request_import
from tests.pictures import encoded, truncated, write
from tests.web_world import client_of

# --- folders -----------------------------------------------------------------------------------


def test_a_folder_comes_in_with_all_its_folders_and_doubles_are_one_image_with_every_path(
    desk: Desk,
) -> None:
    for seed, name in enumerate(["a.png", "deep/b.PNG", "deep/er/c d é 日本.png"]):
        desk.put(name, png(seed))
    desk.put("deep/again.png", png(0))
    desk.put("notes.md", "not a picture")
    result = desk.bring_in()
    assert (result["added"], result["known"], result["set_aside"]) == (3, 1, 0)
    assert known_in_words(result) == "1 more than once among these files"
    with sessions.writing(desk.engine) as session:
        project = projects.create(session, "Known")
    result = desk.bring_in(project=project)
    told = "3 already in the library, 1 more than once among these files"
    assert known_in_words(result) == told, "the library had them, the project did not"
    assert known_in_words(desk.bring_in(project=project)).startswith("3 already in this project")
    assert len(desk.all(Image)) == len(desk.all(CollectionImage)) == 3
    assert desk.paths() == dict.fromkeys(
        ["a.png", "b.PNG", "c d é 日本.png", "again.png"], "present"
    )
    twice = desk.image(png(0))
    with sessions.reading(desk.engine) as session:
        found = images.source_paths(session, desk.settings, twice)
        assert {path.name for path in found} == {"a.png", "again.png"}
        assert images.source_path(session, desk.settings, twice).read_bytes() == png(0)
        assert projects.pool_size(session, desk.project) == 3
    assert (twice.kind, twice.format, twice.width, twice.height) == ("file", "PNG", 48, 48)
    assert len(list(desk.settings.thumbs.rglob("*.webp"))) == 6, "two sizes each"
    assert not list(desk.settings.images.rglob("*.*")), "scanned files stay where they are"


def test_one_bad_file_in_sixty_is_set_aside_with_its_reason_and_the_rest_is_done(
    desk: Desk,
) -> None:
    for seed in range(59):
        desk.put(f"{seed:02d}.png", png(seed))
    desk.put("30-bad.jpg", truncated())
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (59, 1)
    assert desk.reasons().keys() == {"30-bad.jpg"}
    assert "cut short" in desk.reasons()["30-bad.jpg"] and "30-bad.jpg" in result["first_reason"]

    desk.put("30-bad.jpg", encoded(noise(99), "JPEG"))  # mended
    assert desk.bring_in()["added"] == 1
    assert desk.reasons() == {}


def test_odd_things_with_a_picture_s_name_are_set_aside_and_never_waited_for(desk: Desk) -> None:
    desk.put("good.png", png(1))
    desk.put("empty.png", b"")
    desk.put("text.jpg", "only text " * 50)
    (desk.folder / "nowhere.png").symlink_to(desk.folder / "gone.png")
    (desk.folder / "folder.png").mkdir()
    os.mkfifo(desk.folder / "pipe.png")
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (1, 4)
    assert desk.reasons().keys() == {"empty.png", "text.jpg", "nowhere.png", "pipe.png"}


def test_a_name_that_is_no_text_is_set_aside_like_any_bad_file(desk: Desk) -> None:
    desk.put("good.png", png(1))
    strange = os.fsencode(desk.folder) + b"/\xff\xfe.png"
    with open(strange, "wb") as file:  # noqa: PTH123  a path of bytes
        file.write(png(2))
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (1, 1)
    assert "not in UTF-8" in result["first_reason"]


def test_importing_again_reads_only_what_is_new_or_changed(desk: Desk) -> None:
    for seed in range(3):
        desk.put(f"{seed}.png", png(seed))
    desk.bring_in()
    assert len(desk.read) == 3
    desk.read.clear()
    assert desk.bring_in()["known"] == 3
    assert desk.read == []
    assert desk.bring_in()["in_project"] == 3
    with sessions.writing(desk.engine) as session:
        session.add(RemovedImage(project_id=desk.project.id, image_id=desk.all(Image)[0].id))
    assert desk.bring_in()["in_project"] == 3, "one that was taken out is in it all the same"
    new = desk.put("new.png", png(7))
    touched = desk.folder / "1.png"
    os.utime(touched, ns=(1, 1))
    result = desk.bring_in()
    assert (result["added"], result["known"]) == (1, 3)
    assert sorted(desk.read) == sorted([new, touched])
    assert len(desk.all(Image)) == 4


def test_what_a_stopped_run_brought_in_is_told_apart_from_what_was_there_before(
    desk: Desk,
) -> None:
    """Of the same folder alone, and no more once a run has come to its end."""
    desk.put("before.png", png(0))
    desk.bring_in()
    for seed in range(1, 4):
        desk.put(f"{seed}.png", png(seed))
    desk.bring_in()
    with sessions.writing(desk.engine) as session:
        imported = select(Job).where(Job.kind == "import").order_by(col(Job.id).desc())
        session.exec(imported).first().state = "cancelled"
    desk.put("after.png", png(9))
    result = desk.bring_in()
    assert (result["added"], result["kept"], result["in_project"]) == (1, 3, 1)
    told = "3 kept from the run that was stopped, 1 already in this project"
    assert known_in_words(result) == told
    again = desk.bring_in()
    assert (again["kept"], again["in_project"]) == (0, 5)


def test_a_moved_file_is_found_again_and_its_old_place_is_missing(desk: Desk) -> None:
    desk.put("old/a.png", png(1))
    desk.put("b.png", png(2))
    desk.bring_in()
    (desk.folder / "new").mkdir()
    (desk.folder / "old/a.png").rename(desk.folder / "new/moved.png")
    result = desk.bring_in()
    assert (result["added"], len(desk.all(Image))) == (0, 2)
    assert desk.paths() == {"a.png": "missing", "b.png": "present", "moved.png": "present"}
    with sessions.reading(desk.engine) as session:
        image = images.by_sha256(session, desk.image(png(1)).sha256)
        assert image is not None
        assert images.shown_path(session, image) == str(desk.folder / "new/moved.png")
    (desk.folder / "b.png").unlink()
    desk.bring_in()
    assert desk.paths()["b.png"] == "missing"
    with (
        sessions.reading(desk.engine) as session,
        pytest.raises(NotFound, match="gone, or was changed"),
    ):
        images.source_path(session, desk.settings, desk.image(png(2)))
    desk.put("b.png", png(2))
    desk.bring_in()
    assert desk.paths()["b.png"] == "present"


def test_a_changed_file_is_another_image_and_the_scores_stay_with_the_old_one(
    desk: Desk,
) -> None:
    path = desk.put("a.png", png(1))
    desk.bring_in()
    old = desk.image(png(1))
    with sessions.writing(desk.engine) as session:
        person = projects.annotator(session, "me")
        scores.record(session, desk.project, old.id, person, "set", 9)
    path.write_bytes(png(2))
    with sessions.reading(desk.engine) as session, pytest.raises(NotFound):
        images.source_path(session, desk.settings, old)  # other bytes are never taken for it
    assert desk.bring_in()["added"] == 1
    assert [label.image_id for label in desk.all(Label)] == [old.id]
    with sessions.reading(desk.engine) as session:
        found = images.source_path(session, desk.settings, desk.image(png(2)))
        assert found == path
        assert images.source_paths(session, desk.settings, old) == []


def test_the_same_folder_in_two_collections_is_one_set_of_images(desk: Desk) -> None:
    desk.put("a.png", png(1))
    desk.bring_in(collection="One")
    with sessions.writing(desk.engine) as session:
        other = projects.create(session, "Other")
    desk.bring_in(collection="Two", role="test-run", project=other)
    assert len(desk.all(Image)) == 1 and len(desk.all(CollectionImage)) == 2
    with sessions.reading(desk.engine) as session:
        assert projects.pool_size(session, other) == 0, "a test run feeds no queue"
    with pytest.raises(Invalid, match="no role"):
        desk.bring_in(role="pol")


def test_what_can_be_seen_at_once_is_refused_at_once_and_changes_nothing(
    desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "texts" / "a.txt", b"text")
    inside = write(desk.settings.images / "ab" / "c.png", png(1))
    for given, sentence in {
        str(tmp_path / "nothing"): "no file or folder",
        "\0": "no file or folder",
        str(tmp_path / "empty"): "no picture",
        str(tmp_path / "texts"): "no picture",
        str(tmp_path / "texts/a.txt"): "not a picture",
        str(desk.settings.root): "own folder",
        str(inside): "own folder",
        "": "own folder|no picture|no file",
    }.items():
        if given == "":
            continue
        with pytest.raises(TastemakerError, match=sentence):
            desk.bring_in(given)
    with (
        pytest.raises(Invalid, match="Nothing to import"),
        sessions.writing(desk.engine) as session,
    ):
        request_import(session, desk.settings, [])
    assert desk.all(Job) == desk.all(Collection) == []


def test_a_folder_that_may_not_be_read_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.put("a.png", png(1))
    inner = desk.folder / "inner"
    inner.mkdir()
    me, closed = os.geteuid(), desk.folder
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == me and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o055)  # the way there is open
    closed.chmod(0)
    with sessions.writing(desk.engine) as session:
        try:
            if me == 0:  # root may read everything: be nobody for a moment
                os.seteuid(65534)
            for given in (closed, inner):
                with pytest.raises(Invalid, match="cannot be read"):
                    request_import(session, desk.settings, [given])
        finally:
            os.seteuid(me)
            closed.chmod(0o755)


def test_a_folder_around_tastemaker_s_own_is_imported_without_it(
    desk: Desk, tmp_path: Path
) -> None:
    desk.put("a.png", png(1))
    write(desk.settings.images / "ab" / "stored.png", png(2))
    result = desk.bring_in(tmp_path)
    assert result["added"] == 1
    assert desk.bring_in(tmp_path)["added"] == 0, "thumbnails are not taken for pictures"


def test_a_full_disk_refuses_imports_before_they_begin(desk: Desk) -> None:
    desk.put("a.png", png(1))
    desk.settings.min_free_gb = 1e9
    with pytest.raises(StorageFull):
        desk.bring_in()
    assert desk.all(Job) == []


# --- files that move ---------------------------------------------------------------------------


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be nobody for a moment, whom the modes of files bind."""
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(me)


def test_a_file_that_vanishes_while_it_is_imported_is_told_by_name_and_the_rest_goes_on(
    desk: Desk,
) -> None:
    paths = [desk.put(f"{seed}.png", png(seed)) for seed in range(9)]
    for path in (paths[1], paths[8]):
        desk.meanwhile[path] = path.unlink
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (7, 2)
    assert desk.reasons().keys() == {"1.png", "8.png"}
    assert "moved or deleted" in desk.reasons()["1.png"]


def test_a_file_saved_again_while_it_is_imported_is_read_again(desk: Desk) -> None:
    paths = [desk.put(f"{seed}.png", png(seed)) for seed in range(6)]
    path = paths[2]

    def save_again() -> None:
        path.write_bytes(png(50))
        desk.meanwhile.clear()

    desk.meanwhile[path] = save_again
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (6, 0)
    row = desk.all(ImagePath, ImagePath.path == str(path))[0]
    assert row.image_id == desk.image(png(50)).id
    assert (row.size, row.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert png(2) not in {path.read_bytes() for path in desk.folder.iterdir()}
    assert len(desk.all(Image)) == 6


def test_a_file_that_somebody_keeps_writing_to_is_told_by_name(desk: Desk) -> None:
    desk.put("a.png", png(1))
    path = desk.put("b.png", png(2))
    seeds = iter(range(50, 60))
    desk.meanwhile[path] = lambda: path.write_bytes(png(next(seeds)))
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (1, 1)
    assert "changed while it was imported" in desk.reasons()["b.png"]
    desk.meanwhile.clear()
    assert desk.bring_in()["added"] == 1
    assert desk.reasons() == {}


def test_the_bytes_that_are_embedded_are_those_that_were_imported(desk: Desk) -> None:
    path = desk.put("a.png", png(1))
    known = KnownPicture(path, hashlib.sha256(png(1)).hexdigest())
    assert decode(known).size == noise(1).size
    path.write_bytes(png(2))
    with pytest.raises(BadImage, match="changed since it was imported"):
        decode(known)


def test_a_folder_that_cannot_be_entered_is_named_and_what_is_known_of_it_stays(
    desk: Desk,
) -> None:
    desk.put("a.png", png(1))
    desk.put("closed/b.png", png(2))
    closed, me = desk.folder / "closed", os.geteuid()
    desk.bring_in()
    closed.chmod(0)
    for folder in (desk.folder, *desk.folder.parents):
        if folder.stat().st_uid == me and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o055)
    request = ImportRequest(collection="All", paths=(str(desk.folder),))
    seen = sources.Seen()
    with as_nobody():
        found = list(
            sources.find_items(
                request, desk.settings.incoming, desk.folder, desk.settings.root, print, seen
            )
        )
    closed.chmod(0o755)
    items = [item for item in found if isinstance(item, sources.ImportItem)]
    told = [item for item in found if isinstance(item, sources.Skipped)]
    assert [item.name for item in items] == ["a.png"]
    assert [item.label for item in told] == [str(closed)]
    assert "permission denied" in told[0].reason and "stays as it is" in told[0].reason

    (closed / "b.png").unlink()  # as it looks from outside
    with sessions.writing(desk.engine) as session:
        images.mark_missing(session, str(desk.folder), seen.unreadable)
    assert desk.paths() == {"a.png": "present", "b.png": "present"}
    with sessions.writing(desk.engine) as session:
        images.record_skipped(session, str(closed), "closed", None)
    desk.bring_in()
    assert desk.paths()["b.png"] == "missing"
    assert desk.reasons() == {}, "it can be entered again"


def test_what_is_gone_is_noted_where_paths_have_backslashes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = png(1)
    desk.put("a.png", content)
    desk.bring_in()
    monkeypatch.setattr(os, "sep", "\\")
    with sessions.writing(desk.engine) as session:
        image_id = desk.image(content).id
        for place in (r"C:\Pictures\a.png", r"C:\Pictures too\b.png"):
            session.add(ImagePath(path=place, image_id=image_id, size=1, mtime_ns=1))
    with sessions.writing(desk.engine) as session:
        images.mark_missing(session, r"C:\Pictures")
    monkeypatch.undo()
    states = {row.path: row.state for row in desk.all(ImagePath)}
    assert states[r"C:\Pictures\a.png"] == "missing"
    assert states[r"C:\Pictures too\b.png"] == "present", "another folder's"


def test_a_folder_that_is_gone_when_its_turn_comes_does_not_stop_the_others(
    desk: Desk, tmp_path: Path
) -> None:
    desk.put("a.png", png(1))
    share = write(tmp_path / "share" / "b.png", png(2)).parent
    desk.bring_in(desk.folder, share)
    with sessions.writing(desk.engine) as session:
        job_id = request_import(
            session, desk.settings, [share, desk.folder], project=desk.project
        ).id
    share.rename(tmp_path / "away")
    result = desk.run(job_id)
    assert (result["known"], result["set_aside"], result["unread"]) == (1, 1, 1)
    assert result["first_unread"].startswith("share: It cannot be reached")
    assert "cannot be reached: no such file" in desk.reasons()["share"]
    assert desk.paths()["b.png"] == "present", "nothing is known of it"


def test_what_is_left_out_is_told_in_one_line_with_counts(desk: Desk, tmp_path: Path) -> None:
    desk.put("a.png", png(1))
    desk.put("a.txt", "sky")
    for name in (
        "._a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "#recycle/b.png", "$RECYCLE.BIN/c.png",
        ".thumbnails/d.png", "lost+found/e.png", "in/.AppleDouble/f.png", "b.psd", "c.psd",
        "clip.mp4", "d.svg", "e.jfif", "README",
    ):  # fmt: skip
        desk.put(name, png(2))
    write(tmp_path / "far" / "g.png", png(3))
    (desk.folder / "linked").symlink_to(tmp_path / "far")
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (1, 0)
    assert result["left_out"].startswith("Left out: 6 hidden or system folders, 2 .psd, ")
    for part in ("1 hidden or system file", "1 .mp4", "1 .svg", "1 .jfif",
                 "1 link to a folder", "1 file without an ending"):  # fmt: skip
        assert part in result["left_out"]
    write(tmp_path / "only" / "a.psd", png(1))
    with pytest.raises(Invalid, match=r"no picture.*Left out: 1 \.psd\."):
        desk.bring_in(tmp_path / "only")


def test_a_text_that_is_a_link_is_nobody_s_tags(desk: Desk, tmp_path: Path) -> None:
    desk.put("a.png", png(1))
    (desk.folder / "a.txt").symlink_to(write(tmp_path / "passwd", b"root, secret"))
    desk.bring_in()
    assert desk.tags(png(1)) == set()


def retitled(seed: int, title: str) -> bytes:
    """The same pixels in other bytes, as a program leaves them that writes titles into files."""
    info = PngInfo()
    info.add_text("Title", title)
    return encoded(noise(seed), pnginfo=info)


def test_scores_tags_and_place_are_carried_over_to_a_file_written_again_with_the_same_pixels(
    desk: Desk,
) -> None:
    path, other = desk.put("a.png", png(1)), desk.put("b.png", png(2))
    desk.bring_in()
    old, unwanted = desk.image(png(1)), desk.image(png(2))
    with sessions.writing(desk.engine) as session:
        person = projects.annotator(session, "me")
        scores.record(session, desk.project, old.id, person, "set", 9, origin=Origin.CONTROL)
        images.add_tags(session, old.id, ["mine"])
        session.add(RemovedImage(project_id=desk.project.id, image_id=unwanted.id))
        encoder = declare_encoder(session, desk.elsewhere, np.ones(4, np.float32)).id
        version = Version(project_id=desk.project.id, made_by="t", encoder_id=encoder, event_high=0)
        session.add(version)
        session.flush()
        audit = Audit(
            project_id=desk.project.id, version_id=version.id, annotator_id=person.id,
            kind="library", name="a", cut=0.5, good_from=6, goal=0.9, confidence=0.95,
            share_below=0.2, seed=0,
        )  # fmt: skip
        session.add(audit)
        session.flush()
        drawn = {"audit_id": audit.id, "position": 0, "score": 0.7, "expected": 0.7}
        session.add(AuditImage(image_id=old.id, **drawn))
    path.write_bytes(retitled(1, "A title"))
    other.write_bytes(retitled(2, "A title"))
    result = desk.bring_in()
    assert (result["added"], result["rewritten"]) == (2, 2)
    new = desk.image(retitled(1, "A title"))
    assert {label.image_id: label.value for label in desk.all(Label)} == {old.id: 9, new.id: 9}
    events = desk.all(ScoreEvent)
    assert [(e.image_id, e.value, e.origin) for e in events] == [
        (old.id, 9, "control"), (new.id, 9, "control")
    ]  # fmt: skip
    assert events[0].at == events[1].at
    assert [row.image_id for row in desk.all(AuditImage)] == [new.id], "it is asked in its place"
    assert "mine" in desk.tags(retitled(1, "A title"))
    with sessions.reading(desk.engine) as session:
        assert projects.pool_size(session, desk.project) == 1, "the old one and the unwanted left"
    assert desk.bring_in()["rewritten"] == 0, "once"


def test_a_copy_beside_its_original_takes_nothing_from_it(desk: Desk) -> None:
    desk.put("a.png", png(1))
    desk.bring_in()
    desk.put("copy.png", retitled(1, "A copy"))
    assert desk.bring_in()["rewritten"] == 0
    with sessions.reading(desk.engine) as session:
        assert projects.pool_size(session, desk.project) == 2
    (desk.folder / "a.png").unlink()
    (desk.folder / "copy.png").rename(desk.folder / "moved.png")
    (desk.folder / "moved.png").write_bytes(retitled(1, "Moved, then written again"))
    assert desk.bring_in()["rewritten"] == 1


# --- what lies beside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "content", "tags"),
    [
        (".txt", "1girl, solo,  long hair ,", {"1girl", "solo", "long hair"}),
        (".png.txt", "solo, solo\nsolo", {"solo"}),
        (".txt", "{{masterpiece}}, sky", {"{{masterpiece}}", "sky"}),
        (".json", {"tags": "1girl, long hair"}, {"1girl", "long hair"}),
        (".json", {"tags": "1girl long_hair"}, {"1girl", "long_hair"}),
        (".json", {"tags": ["a", "b c", 5, None]}, {"a", "b c"}),
        (".png.json", {"tag_string": "sky cloud"}, {"sky", "cloud"}),
        (".JSON", {"tags": ["sky"], "source": "s"}, {"sky"}),
        (".json", {"tags": {"general": ["sky"], "artist": ["x"], "meta": 5}}, {"sky", "x"}),
        (".json", {"tags": None}, set()),
        (".json", {"tags": ["\ud800 half a character", "whole"]}, {"whole"}),
        (".json", ["not an object"], set()),
        (".json", "{ broken", set()),
        (".json", "[" * 100_000, set()),
        (".txt", "x" * 1000, {"x" * 100}),
        (".txt", "", set()),
        (".txt", "\ufeffsky, sea".encode(), {"sky", "sea"}),
        (".txt", "sky, café".encode("utf-16"), {"sky", "café"}),
        (".txt", "sky, sea".encode("utf-16-le"), {"sky", "sea"}),
        (".txt", "sky, café".encode("latin-1"), {"sky", "café"}),
        (".txt", "cafe\u0301, café".encode(), {"café"}),
        (".txt", b"sky\r\nsea\r\n\0", {"sky", "sea"}),
        (".txt", b"sky, \0, sea", set()),
        (".json", json.dumps({"tags": ["a\0b"]}).encode("utf-16"), {"a b"}),
    ],
)
def test_sidecars_become_tags_and_a_broken_one_is_no_reason_to_refuse_the_picture(
    tmp_path: Path, engine: Engine, suffix: str, content: Any, tags: set[str]
) -> None:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path = write(tmp_path / "beside", text if isinstance(text, bytes) else text.encode())
    sidecar = sources.read_sidecars([sources.SidecarFile("a" + suffix, path)])
    with sessions.writing(engine) as session:
        image = Image(sha256="0" * 64, kind="file", name="a", source_group="a")
        session.add(image)
        session.flush()
        images.add_tags(session, image.id, sidecar.tags)
    with sessions.reading(engine) as session:
        assert set(session.exec(select(Tag.tag))) == tags


def test_sidecars_are_found_by_name_beside_files_and_among_uploads(desk: Desk) -> None:
    desk.put("one.png", png(1))
    desk.put("one.txt", "sky")
    desk.put("one.png.json", '{"tags": ["cloud"]}')
    desk.put("two.png", png(2))
    desk.put("THREE.PNG", png(4))
    desk.put("THREE.JSON", '{"tags": ["tree"]}')
    desk.put("THREE.PNG.txt", "wood")
    desk.put("THREE.PNG.TXT", "left out, as its own name is there")
    desk.put("four.PNG", png(5))
    desk.put("Four.Txt", "sea")
    desk.bring_in()
    assert desk.tags(png(5)) == {"sea"}
    assert desk.tags(png(1)) == {"sky", "cloud"} and desk.tags(png(2)) == set()
    assert desk.tags(png(4)) == {"tree", "wood"}
    desk.upload(
        ("three.png", png(3)), ("three.json", b'{"tags": ["tree"], "source": "s"}'),
        ("three.txt", b"wood"),
    )  # fmt: skip
    assert desk.tags(png(3)) == {"tree", "wood"}
    assert desk.image(png(3)).source_group == "source:s"


@pytest.mark.parametrize(
    ("sent", "given", "unsure"),
    [
        ("a.png a.txt a.png a.txt", {0: [1], 2: [3]}, []),
        ("a.png a.png a.txt a.txt", {0: [2], 1: [3]}, []),
        ("a.png a.txt a.jpg a.txt", {0: [1], 2: [3]}, []),
        ("a.png a.jpg a.txt", {0: [2], 1: [2]}, []),
        ("a.png a.png a.txt", {}, ["a.txt"]),
        ("a.png a.txt a.txt", {}, ["a.txt"]),
        ("a.txt b.png", {}, []),
        ("a.png A.png a.txt A.txt", {0: [2], 1: [3]}, []),
        ("A.PNG a.png a.txt", {1: [2]}, []),
        ("IMG.JPG img.TXT", {0: [1]}, []),
        ("A.png a.txt a.TXT", {0: [1, 2]}, []),
        ("cafe\u0301.png caf\u00e9.txt", {0: [1]}, []),
        ("caf\u00e9.png cafe\u0301.png caf\u00e9.json cafe\u0301.json", {0: [2], 1: [3]}, []),
        ("a.png a.png.json a.txt a.json", {0: [2, 3, 1]}, []),
        ("x/a.png y/a.png y/a.txt", {1: [2]}, []),
    ],
)
def test_each_sidecar_goes_to_its_picture_or_is_told(
    sent: str, given: dict[int, list[int]], unsure: list[str]
) -> None:
    names = sent.split()
    files = [(Path(str(number)), name) for number, name in enumerate(names)]
    beside, skipped = sources.pair_sidecars(files)
    got = {int(p.name): [int(s.path.name) for s in listed] for p, listed in beside.items()}
    assert {n: set(listed) for n, listed in got.items()} == {
        n: set(listed) for n, listed in given.items()
    }
    assert sorted(one.label for one in skipped) == sorted(unsure)


def test_a_sidecar_that_could_be_of_two_pictures_is_told_and_gives_no_tags(desk: Desk) -> None:
    result = desk.upload(("a.png", png(1)), ("a.png", png(2)), ("a.txt", b"sky"))
    assert (result["added"], result["set_aside"]) == (2, 1)
    assert "nobody can tell" in desk.reasons()["a.txt"]
    assert desk.tags(png(1)) == desk.tags(png(2)) == set()


def test_people_who_send_files_of_the_same_names_at_once_get_their_own(desk: Desk) -> None:
    """Six forms arrive at the same moment through the real reception, each with two pictures of one
    name and the tags of each; a seventh picture is in all of them."""
    app = create_app(desk.settings)
    gate = threading.Barrier(6)

    def send(number: int) -> int:
        mine = [
            ("same.png", png(2 * number)), ("same.png", png(2 * number + 1)),
            ("same.txt", f"first of {number}".encode()),
            ("same.txt", f"second of {number}".encode()), (f"shared-{number}.png", png(99)),
        ]  # fmt: skip
        gate.wait()
        answer = client_of(app).post(
            f"/projects/{desk.project.id}/add/files", files=[("files", file) for file in mine]
        )
        return answer.status_code

    with ThreadPoolExecutor(6) as people:
        assert list(people.map(send, range(6))) == [303] * 6
    for job in desk.all(Job, Job.kind == "import"):
        desk.run(job.id)
    assert len(desk.all(Image)) == 13
    for number in range(6):
        assert desk.tags(png(2 * number)) == {f"first of {number}"}
        assert desk.tags(png(2 * number + 1)) == {f"second of {number}"}
    with sessions.reading(desk.engine) as session:
        image = desk.image(png(99))
        names = [image.name, *images.other_names(session, image)]
    assert sorted(names) == [f"shared-{number}.png" for number in range(6)]


def test_an_image_keeps_every_name_it_was_sent_under(desk: Desk) -> None:
    desk.upload(("first.png", png(1)))
    desk.upload(("second.png", png(1)), ("cafe\u0301.png", png(1)))
    desk.upload(("third.png", png(1)), ("first.png", png(1)))
    with sessions.reading(desk.engine) as session:
        (image,) = session.exec(select(Image))
        assert image.name == "first.png"
        assert images.other_names(session, image) == ["café.png", "second.png", "third.png"]
        found = References(session, desk.folder)
        for name in ("first.png", "second.png", "cafe\u0301.png", "third.png"):
            assert found.find(name).id == image.id
        wanted = resolve(session, desk.project, LibraryFilter(name="THIRD"), desk.settings)
        assert list(session.exec(select(Image.id).where(name_like(wanted, Image)))) == [image.id]


def test_relatives_share_a_group_strangers_do_not(desk: Desk) -> None:
    original, other = noise(1, 256), noise(2, 256)
    for name, content in {
        "a.png": encoded(original),
        "b.jpg": encoded(original, "JPEG", quality=60),
        "c.webp": encoded(original.resize((200, 200)), "WEBP", quality=80),
        "d.png": encoded(other),
        "flat1.png": encoded(Picture.new("RGB", (40, 40), "red")),
        "flat2.png": encoded(Picture.new("RGB", (50, 40), "blue")),
        "crop1.png": png(11),
        "crop2.png": png(12),
    }.items():
        desk.put(name, content)
    for name in ("crop1", "crop2"):
        desk.put(f"{name}.json", '{"source": "one photograph"}')
    desk.bring_in()
    group = {Path(i.name).stem: i.source_group for i in desk.all(Image)}
    assert group["a"] == group["b"] == group["c"]
    assert group["crop1"] == group["crop2"] == "source:one photograph"
    assert len(set(group.values())) == 5


# --- score-named folders -----------------------------------------------------------------------


def test_score_named_folders_give_scores_by_a_proxy_annotator(desk: Desk) -> None:
    for seed, name in enumerate(
        [
            "00/a.png",
            "7/b.png",
            "10_best of all/c.png",
            "03-x/deeper/d.png",
            "loose.png",
            "2021/e.png",
        ]
    ):
        desk.put(name, png(seed))
    result = desk.bring_in(scores_from_folders=True)
    assert (result["added"], result["scored"]) == (6, 4)
    names = {image.id: image.name for image in desk.all(Image)}
    assert {names[label.image_id]: label.value for label in desk.all(Label)} == {
        "a.png": 0, "b.png": 7, "c.png": 10, "d.png": 3,
    }  # fmt: skip
    assert [(a.name, a.proxy) for a in desk.all(Annotator)] == [("imported", True)]
    assert desk.bring_in(scores_from_folders=True)["scored"] == 0, "they say nothing new"
    with sessions.writing(desk.engine) as session:
        me = projects.annotator(session, "me")
        scores.record(session, desk.project, desk.image(png(0)).id, me, "set", 8)
    desk.bring_in(scores_from_folders=True)
    mine = next(label for label in desk.all(Label) if label.image_id == desk.image(png(0)).id)
    assert mine.value == 8, "what a person said stands above what the files say"


def test_a_folder_whose_number_is_no_score_refuses_the_whole_and_changes_nothing(
    desk: Desk,
) -> None:
    desk.put("05_ok/a.png", png(1))
    desk.put("12_x/b.png", png(2))
    with pytest.raises(Invalid, match="“12” is not a score"):
        desk.bring_in(scores_from_folders=True)
    assert desk.all(Image) == desk.all(Label) == desk.all(Collection) == []
    assert desk.bring_in(collection="Again")["added"] == 2, "without scores they are welcome"


def npy(array: Any, **options: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_vectors_stand_under_their_hash_and_a_declared_encoder_and_bad_ones_are_set_aside(
    desk: Desk,
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4, 16)).astype(np.float32)
    desk.put("03_x/a.npy", npy(rows[0][None]))
    desk.put("08/b.npy", npy(rows[1]))
    desk.put("08/same as b.npy", npy(rows[1][None]))
    desk.put("08/half.npy", npy(rows[2].astype(np.float16)))
    desk.put("08/wide.npy", npy(random.normal(size=17)))
    desk.put("08/two.npy", npy(rows[:2]))
    desk.put("08/nan.npy", npy(np.full(16, np.nan)))
    desk.put("08/huge.npy", npy(np.full(16, 1e30)))
    desk.put("08/whole.npy", npy(np.arange(16)))
    desk.put("08/text.npy", "no array")
    desk.put("08/empty.npy", b"")
    desk.put("08/claims.npy", npy(rows[3])[:60].replace(b"(16,)", b"(9999999999999,)"))
    desk.put("08/pickled.npy", npy(np.array([Evil()], object), allow_pickle=True))
    Evil.ran = False
    result = desk.bring_in(scores_from_folders=True, project=desk.elsewhere)
    assert not Evil.ran, "a pickle was opened"
    assert (result["added"], result["known"], result["scored"]) == (3, 1, 3)
    assert desk.reasons().keys() == {
        "wide.npy", "two.npy", "nan.npy", "huge.npy", "whole.npy", "text.npy", "empty.npy",
        "claims.npy", "pickled.npy",
    }  # fmt: skip
    assert "17 values" in desk.reasons()["wide.npy"]
    (encoder,) = desk.all(EncoderRow)
    assert (encoder.declared, encoder.dim, encoder.name) == (True, 16, ELSEWHERE)
    with sessions.reading(desk.engine) as session:
        ids, x = matrix(session, encoder.id)
        assert projects.get(session, desk.elsewhere.id).encoder_id == encoder.id
    assert sorted(x[:, 0].tolist()) == sorted(rows[:3, 0].astype(np.float16).tolist())
    assert {image.kind for image in desk.all(Image)} == {"vector"} and len(ids) == 3


@pytest.mark.parametrize("normalised_first", [True, False])
def test_raw_and_normalised_vectors_never_mix(desk: Desk, normalised_first: bool) -> None:
    random = np.random.default_rng(0)
    raw = [20 * random.normal(size=16) for _ in range(4)]
    unit = [vector / np.linalg.norm(vector) for vector in raw]
    first, then = (unit, raw) if normalised_first else (raw, unit)
    desk.put("03/a.npy", npy(first[0]))
    desk.bring_in(scores_from_folders=True, project=desk.elsewhere)
    (encoder,) = desk.all(EncoderRow)
    assert encoder.details["l2_normalised"] is normalised_first
    desk.put("08/b.npy", npy(then[1]))
    desk.put("08/c.npy", npy(first[2].astype(np.float16)))
    assert desk.bring_in(scores_from_folders=True, project=desk.elsewhere)["added"] == 1
    assert "never mix" in desk.reasons()["b.npy"] and len(desk.reasons()) == 1
    with sessions.writing(desk.engine) as session:  # another project may hold the other kind
        other = projects.create(session, "Other", encoder=ELSEWHERE)
        row = declare_encoder(session, other, then[3].astype(np.float32))
        assert row.id != encoder.id and is_normalised(session, row) is not normalised_first


def test_vectors_of_another_width_than_the_projects_encoder_gives_are_refused(desk: Desk) -> None:
    desk.put("05/a.npy", npy(np.ones(768)))
    with pytest.raises(TastemakerError, match=r"768 values; efficientnet_lite0/.* gives 1280"):
        desk.bring_in(scores_from_folders=True)
    assert desk.all(EncoderRow) == [] and desk.all(Image) == []


def test_pictures_are_embedded_within_the_limits_of_the_settings(desk: Desk) -> None:
    desk.put("small.png", png(1))
    large = desk.put("large.png", encoded(noise(2, 1100)))
    desk.bring_in()
    (job,) = desk.all(Job, Job.kind == "embed")
    desk.settings.max_image_megapixels = 1
    work = work_on(desk.settings, desk.engine, job.id)
    work.attempt = 3  # as after two children that died: a picture at a time
    assert embed_project(work, desk.project.id) == {
        "embedded": 1,
        "set_aside": 1,
        "encoder": desk.project.encoder,
    }
    assert "more than the 1 million pixels" in desk.reasons()[large.name]


def test_where_nothing_is_left_to_embed_no_encoder_is_loaded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import asks for it a second time when it ends: loading a network takes seconds."""
    desk.put("a.png", png(1))
    desk.bring_in()
    (job,) = desk.all(Job, Job.kind == "embed")
    work = work_on(desk.settings, desk.engine, job.id)
    assert embed_project(work, desk.project.id)["embedded"] == 1
    monkeypatch.setattr(embeddings, "load", lambda spec: pytest.fail(f"{spec} was loaded"))
    assert embed_project(work, desk.project.id) == {
        "embedded": 0,
        "set_aside": 0,
        "encoder": desk.project.encoder,
    }


def test_an_embedding_gives_way_once_it_stored_something_and_never_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("broken.png", b"no picture")
    for n in (1, 2):
        desk.put(f"{n}.png", png(n))
    desk.bring_in()
    monkeypatch.setattr(embeddings, "CHUNK", 1)
    (job,) = desk.all(Job, Job.kind == "embed")
    work = work_on(desk.settings, desk.engine, job.id)
    work._turn_is_over = lambda: True  # from the first moment on
    with pytest.raises(jobs.TurnOver):
        embeddings.run(work)
    assert len(desk.all(Embedding)) == 1
    assert embeddings.run(work)["embedded"] == 1, "nothing is left to come back for"


def test_large_pictures_come_last_and_one_that_ended_an_earlier_try_is_set_aside(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system ends a process by a signal where memory runs out; nothing in it can prevent it."""
    fatal = desk.put("fatal.png", png(1))
    desk.put("small.png", encoded(noise(2, 20)))
    desk.put("large.png", png(3))
    desk.bring_in()
    monkeypatch.setattr(embeddings, "LARGE_PIXELS", 20 * 20)
    (job,) = desk.all(Job, Job.kind == "embed")
    work = work_on(desk.settings, desk.engine, job.id)
    work.died_on = [desk.image(fatal.read_bytes()).id]
    names, held = {image.id: image.name for image in desk.all(Image)}, []
    embed = embeddings._embed

    def watched(job: Any, encoder: Any, pictures: Any, *more: Any) -> Any:
        (row,) = desk.all(Job, Job.kind == "embed")
        stored = {names[row.image_id] for row in desk.all(Embedding)}
        held.append(([names[i] for i, _ in pictures], row.result.get("in_hand"), stored))
        return embed(job, encoder, pictures, *more)

    monkeypatch.setattr(embeddings, "_embed", watched)
    result = embed_project(work, desk.project.id)
    assert (result["embedded"], result["set_aside"]) == (2, 1)
    assert "memory ran out" in desk.reasons()[fatal.name]
    (usual, in_hand, _), (large, large_in_hand, stored) = held
    assert (usual, in_hand) == (["small.png"], None)
    assert large == ["large.png"] and names[large_in_hand] == "large.png"
    assert stored == {"small.png"}, "written before the large one is begun"
    (row,) = desk.all(Job, Job.kind == "embed")
    assert "in_hand" not in row.result


def test_a_sidecar_of_a_picture_is_not_taken_for_one_that_differs_in_capitals(
    desk: Desk,
) -> None:
    desk.put("A.png", png(1))
    desk.put("a.png", png(2))
    desk.put("B.png", png(3))
    desk.put("a.txt", "small")
    desk.put("b.TXT", "any")
    desk.bring_in()
    assert [desk.tags(png(seed)) for seed in (1, 2, 3)] == [set(), {"small"}, {"any"}]


def test_a_link_out_of_the_folder_is_no_sidecar_even_if_it_is_put_there_after_the_scan(
    desk: Desk, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("root, hash of the password")
    picture = desk.put("a.png", png(1))
    linked = picture.with_suffix(".txt")
    linked.symlink_to(secret)
    beside = desk.put("b.png", png(2)).with_suffix(".txt")
    beside.write_text("tree, sky")
    picture.with_name("a.png.txt").symlink_to(beside)  # within the folder it may lead anywhere
    assert sources.read_sidecars(sources.SidecarsOnDisk().of(picture)).tags == ("tree", " sky")
    found = sources.SidecarsOnDisk().of(beside.with_suffix(".png"))
    beside.unlink()
    beside.symlink_to(secret)
    assert sources.read_sidecars(found).tags == ()
    desk.bring_in()
    assert desk.all(Tag) == []


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Evil, "ran", True))


def test_vectors_never_mix_with_those_the_project_makes_itself(desk: Desk) -> None:
    desk.put("05/a.npy", npy(np.ones(16)))
    with sessions.writing(desk.engine) as session:
        own = EncoderRow(fingerprint="own", name="efficientnet_lite0/bundled", dim=16)
        session.add(own)
        session.flush()
        projects.pin_encoder(session, projects.get(session, desk.project.id), own)
    with pytest.raises(Conflict, match="never mix"):
        desk.bring_in(scores_from_folders=True)
    assert desk.all(Image) == []


# --- uploads and zips --------------------------------------------------------------------------


def test_uploads_keep_their_names_and_their_bytes_even_when_two_share_one(desk: Desk) -> None:
    result = desk.upload(
        ("IMG_1.png", png(1)), ("IMG_1.png", png(2)), ('"><img onerror=x>.png', png(3)),
        ("../../up.png", png(4)), ("bad.png", b"bad"), ("notes.doc", b"?"),
    )  # fmt: skip
    assert (result["added"], result["set_aside"]) == (4, 1)
    assert sorted(image.name for image in desk.all(Image)) == sorted(
        ["IMG_1.png", "IMG_1.png", Path('"><img onerror=x>.png').name, "up.png"]
    )
    assert desk.reasons().keys() == {"bad.png"}
    assert {image.kind for image in desk.all(Image)} == {"upload"}
    with sessions.reading(desk.engine) as session:
        for seed in range(1, 5):
            image = desk.image(png(seed))
            path = images.source_path(session, desk.settings, image)
            assert path.read_bytes() == png(seed)
            assert desk.settings.images in path.parents
            assert images.shown_path(session, image) == image.name
    assert not (desk.settings.incoming / "staged").exists()


def test_an_upload_of_a_scanned_file_is_that_image_and_is_kept_once_the_file_is_gone(
    desk: Desk,
) -> None:
    path = desk.put("a.png", png(1))
    desk.bring_in()
    assert desk.upload(("b.png", png(1)))["known"] == 1
    assert not list(desk.settings.images.rglob("*.png"))
    path.unlink()
    desk.upload(("b.png", png(1)))
    with sessions.reading(desk.engine) as session:
        assert images.source_path(session, desk.settings, desk.image(png(1))).is_file()


def test_what_uploads_leave_behind_is_swept_once_no_job_needs_it(desk: Desk) -> None:
    incoming, day = desk.settings.incoming, 24 * 3600.0

    def left(name: str, age: float) -> Path:
        (incoming / name).mkdir(parents=True)
        file = incoming / name / "000000"
        file.write_bytes(png(1))
        for path in (file, file.parent):
            os.utime(path, (time.time() - age, time.time() - age))
        return file.parent

    def job(state: str, days: float, payload: dict[str, Any]) -> int:
        with sessions.writing(desk.engine) as session:
            row = jobs.enqueue(session, "import", "Import", payload)
            row.state, row.finished_at = state, now() - timedelta(days=days)
            return row.id

    refused, under_way = left("refused", 2 * day), left("under-way", 60.0)
    waiting, failed = left("waiting", 2 * day), left("failed", 2 * day)
    run, forgotten = left("run", 2 * day), left("forgotten", 9 * day)
    unpacked = left("unpacked-99999", 2 * day)
    job("queued", 0, {"staging": "waiting"})
    job("queued", 0, {"import": {"staging": "run"}})
    job("failed", 1, {"staging": "failed"})
    old = job("failed", 8, {"staging": "forgotten"})
    assert leftovers.sweep_incoming(desk.settings, desk.engine) == 3
    assert [p.exists() for p in (under_way, waiting, failed, run)] == [True] * 4
    assert not any(path.exists() for path in (refused, forgotten, unpacked))
    with sessions.writing(desk.engine) as session:
        jobs.retry(session, old)
    with pytest.raises(Invalid, match="no longer kept"):
        imports.run(work_on(desk.settings, desk.engine, old))


def test_an_upload_job_that_had_finished_before_the_crash_loses_nothing(desk: Desk) -> None:
    assert desk.upload(("a.png", png(1)))["added"] == 1
    with sessions.writing(desk.engine) as session:  # its staging is gone; its end was never written
        job = desk.all(Job, Job.kind == "import")[0]
        again = jobs.enqueue(session, "import", job.title, job.payload, job.project_id).id
    assert desk.run(again)["set_aside"] == 0
    assert desk.reasons() == {} and len(desk.all(Image)) == 1


def test_a_zip_comes_in_with_its_sidecars_and_writes_nothing_outside(
    desk: Desk, tmp_path: Path
) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../../escaped.png", png(1))
        file.writestr("/absolute.png", png(2))
        file.writestr("07/c.png", png(3))
        file.writestr("07/c.json", '{"tags": ["sky"]}')
        file.writestr("readme.md", "hello")
    before = sorted(tmp_path.rglob("*escaped*"))
    result = desk.bring_in(archive)
    assert result["added"] == 3 and sorted(tmp_path.rglob("*escaped*")) == before
    assert sorted(image.name for image in desk.all(Image)) == [
        "absolute.png", "c.png", "escaped.png",
    ]  # fmt: skip
    assert desk.tags(png(3)) == {"07", "sky"}, "its folder in the zip, and its sidecar"
    assert list(desk.settings.incoming.iterdir()) == [], "nothing unpacked is left"
    with sessions.reading(desk.engine) as session:
        assert images.source_path(session, desk.settings, desk.image(png(3))).is_file()


def test_a_zip_with_a_link_is_set_aside_whole_and_its_neighbours_come_in(
    desk: Desk, tmp_path: Path
) -> None:
    desk.put("good.png", png(1))
    with zipfile.ZipFile(desk.folder / "evil.zip", "w") as file:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("honest.png", png(2))
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (1, 1)
    assert "link" in desk.reasons()["evil.zip"]


def test_every_member_of_a_zip_comes_in_or_is_counted_as_set_aside(
    desk: Desk, tmp_path: Path
) -> None:
    archive = tmp_path / "pictures.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "w") as file:
        warnings.simplefilter("ignore")  # two of one name
        for number, tag in ((1, "sky"), (2, "sea")):
            file.writestr("a.png", png(number))
            file.writestr("a.txt", tag)
        file.writestr("b.png", png(3))
        file.writestr("packed.png", png(4), zipfile.ZIP_BZIP2)
        file.writestr("notes.exe", b"MZ")
    raw = bytearray(archive.read_bytes())
    raw[raw.index(png(3)) + 50] ^= 0xFF
    write(desk.folder / "pictures.zip", bytes(raw))
    result = desk.bring_in()
    assert (result["added"], result["set_aside"]) == (2, 2)
    assert desk.tags(png(1)) == {"sky"} and desk.tags(png(2)) == {"sea"}
    assert desk.reasons() == {
        "b.png": "It is damaged inside the archive.",
        "packed.png": "It is packed by a method other than deflate.",
    }


def test_a_job_in_which_nothing_can_be_used_fails_with_the_first_reason(desk: Desk) -> None:
    desk.put("bad.png", b"bad")
    with pytest.raises(
        Invalid, match=r"The only file cannot be used\. bad\.png: The file is not a picture"
    ):
        desk.bring_in()
    desk.put("worse.png", b"bad")
    with pytest.raises(Invalid, match=r"None of the 2 files could be used"):
        desk.bring_in()


def test_embedding_is_asked_for_once_and_only_where_a_project_is_named(desk: Desk) -> None:
    for seed in range(9):
        desk.put(f"{seed}.png", png(seed))
    desk.bring_in()
    assert [job.kind for job in desk.all(Job)] == ["import", "embed"]
    with sessions.writing(desk.engine) as session:
        job = request_import(session, desk.settings, [desk.folder], collection="Bare")
    desk.run(job.id)
    assert [job.kind for job in desk.all(Job)].count("embed") == 1


# --- killed ------------------------------------------------------------------------------------

IMPORT = """
import sys
from pathlib import Path
from tastemaker.importing import imports, requests
from tastemaker.config import Settings
from tastemaker.database.migration import migrate
from tests.conftest import work_on

if __name__ == "__main__":
    settings = Settings(home=Path(sys.argv[1]), min_free_gb=0, _env_file=None)
    imports.BATCH = 8
    imports.run(work_on(settings, migrate(settings), int(sys.argv[2])))
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_it_gives_the_same_set(
    desk: Desk, tmp_path: Path
) -> None:
    for seed in range(150):
        desk.put(f"{seed:03d}.png", png(seed))
    script = write(tmp_path / "import.py", IMPORT.encode())
    with sessions.writing(desk.engine) as session:
        job_id = request_import(session, desk.settings, [desk.folder], project=desk.project).id

    def known() -> int:
        with sessions.reading(desk.engine) as session:
            return session.exec(select(func.count()).select_from(Image)).one()

    here = environment(desk.settings.root, PYTHONPATH=str(Path(__file__).parent.parent))
    process = subprocess.Popen([sys.executable, script, desk.settings.root, str(job_id)], env=here)
    until(lambda: known() >= 4, 60, "for the first images")
    process.kill()
    process.wait()
    half = known()
    assert 4 <= half < 150, "it was to be killed in the middle"
    with sessions.writing(desk.engine) as session:
        assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        jobs.requeue_orphans(session)
    result = desk.run(job_id)
    assert result["kept"] + result["added"] == 150 and result["in_project"] == 0
    assert known() == len(desk.all(CollectionImage)) == len(desk.all(ImagePath)) == 150
    assert {image.name for image in desk.all(Image)} == {f"{n:03d}.png" for n in range(150)}
    assert len(desk.read) <= 150 - half, "what was known was not read again"
    assert len(list(desk.settings.thumbs.rglob("*.webp"))) == 300


@pytest.mark.slow
def test_temporary_files_may_have_a_longer_path_than_sockets(desk: Desk, tmp_path: Path) -> None:
    """Processes that begin as copies are asked for through a socket."""
    desk.put("0.png", png(0))
    (temporary := tmp_path / ("t" * 100)).mkdir()
    called = subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", "import", str(desk.folder)],
        env=environment(desk.settings.root, TMPDIR=str(temporary)), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (called.returncode, called.stderr) == (0, "") and "1 new image" in called.stdout
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_interrupted_on_the_command_line_it_says_what_is_kept_leaves_nothing_and_goes_on(
    desk: Desk, tmp_path: Path
) -> None:
    for seed in range(150):
        desk.put(f"{seed:03d}.png", png(seed))

    def known() -> int:
        with sessions.reading(desk.engine) as session:
            return session.exec(select(func.count()).select_from(Image)).one()

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "import", str(desk.folder)],
        env=environment(desk.settings.root, TMPDIR=str(temporary)), stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    until(lambda: known() or process.poll() is not None, 60, "for the first images")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.split()) == (130, (
        f"Stopped. What was done is kept; job 1 (Import “{desk.folder.name}”) goes on with the "
        "next worker (`tastemaker serve`), unless `tastemaker jobs cancel 1` gives it up."
    ).split())  # fmt: skip
    assert not list(temporary.iterdir())
    half = known()
    assert 0 < half < 150, "it was to be interrupted in the middle"
    with sessions.reading(desk.engine) as session:
        assert jobs.get(session, 1).state == "queued"
    desk.run(1)
    assert known() == 150
