"""What other programs noted of images is found, shown, and recorded by a rule that one sees."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from PIL import Image as Picture
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker import jobs, projects, scores
from tastemaker.database.backups import _matches_its_name
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Job, Label, ScoreEvent
from tastemaker.errors import BadImage, Invalid, NotFound
from tastemaker.files.xmp import MOST_BYTES, Packet
from tastemaker.importing import imports, stars
from tastemaker.importing.mark_rules import DEFAULT_RULE, parse_rule
from tastemaker.importing.marks import MarkedFile, Marks, marks_of_file, marks_of_packet
from tastemaker.importing.stars import StarsRequest, request_stars
from tastemaker.pages.app import create_app
from tastemaker.pictures import formats
from tastemaker.pictures.pictures import Limits
from tastemaker.scores.answers import RATED, answers_at
from tastemaker.scores.scales import Scale
from tastemaker.scores.score_files import ColumnNames, import_scores
from tests import pictures
from tests.command_line import Run
from tests.conftest import work_on
from tests.desk import Desk, noise, png
from tests.pictures import encoded, write
from tests.web_world import client_of

HEAD = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
)
TAIL = "</rdf:RDF></x:xmpmeta>"
NS = {
    "xmp": 'xmlns:xmp="http://ns.adobe.com/xap/1.0/"',
    "digiKam": 'xmlns:digiKam="http://www.digikam.org/ns/1.0/"',
    "darktable": 'xmlns:darktable="http://darktable.sf.net/"',
    "xmpDM": 'xmlns:xmpDM="http://ns.adobe.com/xmp/1.0/DynamicMedia/"',
    "MicrosoftPhoto": 'xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"',
    "tastemaker": 'xmlns:tastemaker="http://tastemaker.invalid/ns/1.0/"',
}


def xmp(**properties: str) -> bytes:
    """A packet with these properties as attributes: `xmp_Rating="4"`."""
    pairs = [[*name.split("_", 1), value] for name, value in properties.items()]
    spaces = " ".join(NS[prefix] for prefix in dict.fromkeys(p for p, _, _ in pairs))
    values = " ".join(f'{prefix}:{name}="{value}"' for prefix, name, value in pairs)
    return f"{HEAD}{spaces} {values}/>{TAIL}".encode()


def rated(stars: object) -> bytes:
    return xmp(xmp_Rating=str(stars))


def marks_beside(folder: Path, **files: bytes) -> Marks:
    """What is noted of `a.jpg`, with these files beside it: `a_jpg_xmp=…`."""
    picture = folder / "a.jpg"
    if not picture.exists():
        write(picture, encoded(pictures.scene(), "JPEG"))
    for name, content in files.items():
        write(folder / name.replace("_", "."), content)
    return marks_of_file(MarkedFile(picture, Limits()))


# --- what is read --------------------------------------------------------------------------------

DARKTABLE = f"""{HEAD} {NS["xmp"]} {NS["darktable"]} xmp:Rating="-1" darktable:xmp_version="4">
<darktable:colorlabels><rdf:Seq><rdf:li>0</rdf:li><rdf:li>3</rdf:li></rdf:Seq></darktable:colorlabels>
</rdf:Description>{TAIL}""".encode()
AS_ELEMENTS = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{HEAD}
xmlns:xap="http://ns.adobe.com/xap/1.0/"><xap:Rating>3</xap:Rating><xap:Label>To  Do</xap:Label>
</rdf:Description>{TAIL}<?xpacket end="w"?>""".encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (rated(4), Marks(stars=4)),
        (rated("3.5"), Marks(stars=3.5)),
        (rated(0), Marks()),
        (rated(-1), Marks(flag=-1)),
        (DARKTABLE, Marks(flag=-1, labels=("red", "blue"))),
        (AS_ELEMENTS, Marks(stars=3, labels=("to do",))),
        (AS_ELEMENTS.decode().encode("utf-16"), Marks(stars=3, labels=("to do",))),
        (xmp(xmpDM_pick="1", xmp_Label="Red"), Marks(flag=1, labels=("red",))),
        (xmp(digiKam_PickLabel="1", digiKam_ColorLabel="4"), Marks(flag=-1, labels=("green",))),
        (xmp(digiKam_PickLabel="3"), Marks(flag=1)),
        (xmp(MicrosoftPhoto_Rating="75"), Marks(stars=4)),
        (xmp(MicrosoftPhoto_Rating="0"), Marks()),
        (xmp(MicrosoftPhoto_Rating="20"), Marks(stars=2)),
        (xmp(MicrosoftPhoto_Rating="100"), Marks(stars=5)),
        (xmp(xmp_Rating="4", tastemaker_Stars="4"), Marks()),
        (xmp(xmp_Rating="2", tastemaker_Stars="4"), Marks(stars=2)),
    ],
)  # fmt: skip
def test_each_programs_way_of_noting_is_understood(content: bytes, expected: Marks) -> None:
    assert marks_of_packet(content, "a.xmp") == expected


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>""" + rated("&b;")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", r"a\.xmp is damaged: it is not XML"),
        (b"", r"a\.xmp is damaged: it is not XML"),
        (rated(4)[:-20], r"a\.xmp is damaged: it is not XML"),
        (b"<html/>", r"a\.xmp holds no XMP"),
        (BOMB, "declares entities"),
        (BOMB.decode().encode("utf-16"), "declares entities"),
        (b" " * 100 + b"x" * (MOST_BYTES + 1), "has 16 MB; XMP of at most 16 MB is read"),
        (rated(7), r"The rating of a\.xmp is “7”, which is not between -1 and 5"),
        (rated("many"), "“many”, which is not between"),
        (rated("1e999"), "which is not between"),
        (xmp(MicrosoftPhoto_Rating="150"), "percent of .* is “150”, which is not betw"),
        (HEAD.encode() + b"><a>" * 2000, "not XML"),
    ],
)
def test_what_cannot_be_believed_is_said_in_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        marks_of_packet(content, "a.xmp")


def test_fifty_megabytes_of_sidecar_are_refused_without_reading_them(tmp_path: Path) -> None:
    with (tmp_path / "a.xmp").open("wb") as file:
        file.truncate(50 * 2**20)
    with pytest.raises(BadImage, match="of at most 16 MB is read"):
        marks_beside(tmp_path)


def test_a_sidecar_goes_before_what_is_inside_and_xmp_before_exif(tmp_path: Path) -> None:
    exif = Picture.Exif()
    exif[0x4746] = 2
    write(tmp_path / "a.jpg", encoded(pictures.scene(), "JPEG", exif=exif))
    assert marks_beside(tmp_path) == Marks(stars=2)
    write(tmp_path / "a.jpg", encoded(pictures.scene(), "JPEG", exif=exif, xmp=rated(3)))
    assert marks_beside(tmp_path) == Marks(stars=3)
    assert marks_beside(tmp_path, a_xmp=rated(4)) == Marks(stars=4)
    # What the sidecar says nothing about is still asked of the picture.
    assert marks_beside(tmp_path, a_xmp=xmp(xmp_Label="Red")) == Marks(stars=3, labels=("red",))


@pytest.mark.parametrize(
    ("tag", "value", "sentence"),
    [
        (0x4746, 7, "EXIF rating of a.jpg is “7”, which is not between 0 and 5"),
        (0x4746, 1200, "EXIF rating of a.jpg is “1200”, which is not between 0 and 5"),
        (0x4749, 150, "rating in percent of a.jpg is “150”, which is not between 0 and 100"),
    ],
)
def test_a_rating_in_exif_that_there_is_not_is_told(
    tag: int, value: int, sentence: str, tmp_path: Path
) -> None:
    exif = Picture.Exif()
    exif[tag] = value
    write(tmp_path / "a.jpg", encoded(pictures.scene(), "JPEG", exif=exif))
    with pytest.raises(BadImage, match=sentence):
        marks_beside(tmp_path)


def test_two_sidecars_that_agree_are_one_and_that_disagree_are_none(tmp_path: Path) -> None:
    assert marks_beside(tmp_path, a_xmp=rated(4), a_jpg_xmp=rated(4)) == Marks(stars=4)
    with pytest.raises(BadImage) as caught:
        marks_beside(tmp_path, a_xmp=rated(1))
    assert caught.value.message == (
        "“a.jpg.xmp” says 4 stars, and “a.xmp” says 1 star: neither was taken."
    )
    # One that says nothing of the kind disagrees with nobody.
    assert marks_beside(tmp_path, a_xmp=xmp(xmp_Label="Red")) == Marks(stars=4, labels=("red",))


def test_two_sidecars_in_json_that_disagree_are_none_either(tmp_path: Path) -> None:
    assert marks_beside(tmp_path, a_json=b'{"score": 9}', a_jpg_json=b'{"rating": "s"}') == Marks(
        points=9, rating="safe"
    ), "they speak of different things"
    with pytest.raises(BadImage, match=r"“a\.json” says 9 points, and “a\.jpg\.json” says 2 p"):
        marks_beside(tmp_path, a_jpg_json=b'{"score": 2}')
    with pytest.raises(BadImage, match=r"says 4 stars, and .* says 2 stars: neither"):
        marks_beside(tmp_path, a_json=b'{"stars": 4}', a_jpg_json=b'{"rating": "4/10"}')


@pytest.mark.parametrize("typed", ['"6/5"', "9", "-1", '"7.5"'])
def test_stars_in_json_that_there_are_not_are_told_unless_xmp_has_them(
    typed: str, tmp_path: Path
) -> None:
    with pytest.raises(BadImage, match=r"The rating in a\.json is .*, which is not between"):
        marks_beside(tmp_path, a_json=f'{{"rating": {typed}}}'.encode())
    assert marks_beside(tmp_path, a_xmp=rated(4)) == Marks(stars=4), "JSON is asked last"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_stars_inside_of_pictures_of_other_formats(format: str, tmp_path: Path) -> None:
    formats.readable()
    tags: dict[str, Any] = {"xmp": rated(5)}
    if format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", rated(5).decode())
        tags = {"pnginfo": info}
    if format == "TIFF":
        tags = {"tiffinfo": {700: rated(5)}}
    path = write(tmp_path / "a.bin", encoded(pictures.scene(), format, **tags))
    assert marks_of_file(MarkedFile(path, Limits())) == Marks(stars=5)


def test_a_name_too_long_for_a_sidecar_is_told_and_ends_nothing(tmp_path: Path) -> None:
    picture = tmp_path / ("a" * 250 + ".png")
    picture.write_bytes(png(1))
    with pytest.raises(BadImage, match="name too long"):
        marks_of_file(MarkedFile(picture, Limits()))


def test_a_damaged_picture_says_nothing_and_a_link_beside_it_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"no picture")
    assert marks_beside(tmp_path, a_XMP=rated(5)) == Marks(stars=5), "in capitals as well"
    (tmp_path / "a.XMP").unlink()
    write(tmp_path / "elsewhere", rated(5))
    (tmp_path / "a.xmp").symlink_to(tmp_path / "elsewhere")
    assert marks_beside(tmp_path) == Marks()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"score": 125, "rating": "s"}, Marks(points=125, rating="safe")),
        ({"score": {"up": 9, "total": 7}, "rating": "e"}, Marks(points=7, rating="explicit")),
        ({"rating": "4/5"}, Marks(stars=4)),
        ({"rating": 3}, Marks(stars=3)),
        ({"stars": 5, "tags": ["a"]}, Marks(stars=5)),
        ({"rating": None, "score": "?"}, Marks()),
        ({"rating": 0, "stars": "0/5"}, Marks()),
        ({"ratings": {"a": 4, "b": None, "c": True}}, Marks(stars=4, flag=1)),
        ({"ratings": {"a": False, "b": None, "c": 0}}, Marks(flag=-1)),
        ({"ratings": {"a": 2, "b": 5, "c": True, "d": False}}, Marks()),
        ([1], Marks()),
    ],
)  # fmt: skip
def test_the_notes_of_boorus_and_hydrus(content: Any, expected: Marks, tmp_path: Path) -> None:
    assert marks_beside(tmp_path, a_json=json.dumps(content).encode()) == expected


# --- the rule ------------------------------------------------------------------------------------


def test_the_usual_rule_is_two_points_a_star_and_nothing_for_the_rejected() -> None:
    assert [DEFAULT_RULE.score(Marks(stars=n)) for n in range(1, 6)] == [2, 4, 6, 8, 10]
    assert DEFAULT_RULE.score(Marks(stars=5, flag=-1)) == 0, "rejected goes before stars"
    for nothing in (Marks(flag=1), Marks(labels=("red",)), Marks(points=99), Marks()):
        assert DEFAULT_RULE.score(nothing) is None
    assert parse_rule("") is DEFAULT_RULE and parse_rule(str(DEFAULT_RULE)) == DEFAULT_RULE


def test_a_rule_of_ones_own() -> None:
    rule = parse_rule("5 = 9, pick=7; To Do=3, rating:explicit=0, points=0-200")
    assert rule.score(Marks(stars=4.6)) == 9
    assert rule.score(Marks(stars=4, flag=1)) == 7, "four stars mean nothing here"
    assert rule.score(Marks(labels=("blue", "to do"))) == 3
    assert rule.score(Marks(rating="explicit", points=200)) == 0
    assert [rule.score(Marks(points=p)) for p in (-5, 100, 900)] == [0, 5, 10]
    assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize("typed", ["5", "5=11", "5=x", "=3", "6=10", "0=1", ",", "points=x"])
def test_what_is_no_rule_is_refused(typed: str) -> None:
    with pytest.raises(Invalid):
        parse_rule(typed)


# --- into a project ------------------------------------------------------------------------------


@pytest.fixture
def starred(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Six images: five with stars in sidecars, of which one is in doubt, and one without."""
    monkeypatch.setattr(stars, "DecodePool", imports.DecodePool)
    for number in range(6):
        desk.put(f"{number}.png", png(number))
    for number in range(4):
        desk.put(f"{number}.png.xmp", rated(number + 1))
    desk.put("4.png.xmp", rated(1))
    desk.put("4.xmp", rated(5))
    desk.bring_in()
    return desk


def look(desk: Desk, **request: Any) -> dict[str, Any]:
    with writing(desk.engine) as session:
        project = projects.get(session, desk.project.id)
        job_id = request_stars(session, project, StarsRequest(**request)).id
    return stars.run(work_on(desk.settings, desk.engine, job_id))


def take_back(engine: Engine, project_id: int) -> int:
    """The newest, by its name."""
    with reading(engine) as session:
        newest = stars.newest_recording(session, projects.get(session, project_id))
    return stars.take_back(engine, project_id, stars.recording_of(newest[0]) if newest else "")


def test_looking_records_nothing_and_shows_what_would_be(starred: Desk) -> None:
    told = look(starred)
    assert (told["looked_at"], told["marked"], told["scored"], told["recorded"]) == (6, 4, 4, 0)
    assert told["counts"] == {"1": 1, "2": 1, "3": 1, "4": 1}
    assert (str(starred.folder / "0.png"), "1 star", 2) in told["rows"]
    [(name, sentence)] = told["problems"]
    assert (
        name.endswith("4.png") and "“4.png.xmp” says 1 star, and “4.xmp” says 5 stars" in sentence
    )
    assert not starred.all(ScoreEvent)
    json.dumps(told)


def standing(starred: Desk) -> dict[int, int]:
    """Image id → the hint that stands."""
    with reading(starred.engine) as session:
        events = session.exec(scores.standing_events().order_by(ScoreEvent.id)).all()
    return {event.image_id: event.value for event in events if event.kind == RATED}


def test_hints_are_no_labels_and_are_taken_back_together(
    starred: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stars, "BATCH", 2)
    told = look(starred, record=True)
    assert (told["recorded"], told["unchanged"]) == (4, 0)
    assert look(starred, record=True)["unchanged"] == 4
    assert sorted(standing(starred).values()) == [2, 4, 6, 8]
    assert not starred.all(Label), "and so the queues go on asking, and nothing is measured"
    with reading(starred.engine) as session:
        assert answers_at(session, projects.get(session, starred.project.id)) == []

    image = starred.image(png(0)).id
    starred.put("0.png.xmp", rated(5))  # rated again in the other program
    assert look(starred, record=True)["recorded"] == 1 and standing(starred)[image] == 10
    assert take_back(starred.engine, starred.project.id) == 1
    assert standing(starred)[image] == 2
    starred.put("0.png.xmp", rated(5))
    assert look(starred, record=True)["recorded"] == 1 and standing(starred)[image] == 10
    starred.put("0.png.xmp", rated(1))
    assert look(starred, record=True)["recorded"] == 1, "back to what it was before the last"
    assert take_back(starred.engine, starred.project.id) == 1
    assert take_back(starred.engine, starred.project.id) == 1
    assert standing(starred)[image] == 2
    assert take_back(starred.engine, starred.project.id) == 4
    with pytest.raises(NotFound):
        take_back(starred.engine, starred.project.id)
    assert standing(starred) == {}


def test_what_is_taken_back_is_named_and_a_second_request_takes_back_no_other(
    starred: Desk,
) -> None:
    older = look(starred, record=True)["recording"]
    starred.put("0.png.xmp", rated(5))
    newer = look(starred, record=True)["recording"]
    assert older != newer and look(starred)["recording"] is None, "nothing was recorded"
    client, at = client_of(create_app(starred.settings)), f"/projects/{starred.project.id}/stars"
    form = {"of": newer}
    refused = client.delete(f"/api/v1{at}")
    assert refused.status_code == 422 and newer in refused.json()["hint"]
    assert client.delete(f"/api/v1{at}?of={older}").status_code == 409
    assert client.post(f"{at}/undo", data=form).status_code == 303
    left = standing(starred)
    assert len(left) == 4
    assert client.post(f"{at}/undo", data=form).status_code == 409
    assert client.delete(f"/api/v1{at}?of={newer}").status_code == 409
    assert standing(starred) == left, "a double click takes back one recording"
    assert client.delete(f"/api/v1{at}?of={older}").json() == {"undone": 4}


def test_as_scores_they_count_until_a_person_scores(starred: Desk) -> None:
    look(starred, record=True, as_scores=True, rule="1=1,2=2,3=3,4=4")
    image = starred.image(png(3)).id
    labels = {label.image_id: label.value for label in starred.all(Label)}
    assert sorted(labels.values()) == [1, 2, 3, 4] and labels[image] == 4
    with writing(starred.engine) as session:
        project = projects.get(session, starred.project.id)
        scores.record(session, project, image, projects.annotator(session, "me"), "set", 9)
        assert session.exec(select(Label.value).where(Label.image_id == image)).one() == 9
    assert take_back(starred.engine, starred.project.id) == 4
    assert [label.value for label in starred.all(Label)] == [9], "what the person said stands"


def test_stars_are_taken_back_also_where_scores_of_a_file_came_after_them(starred: Desk) -> None:
    look(starred, record=True, as_scores=True)
    first, second = (starred.image(png(number)).id for number in (0, 1))
    with writing(starred.engine) as session:
        project = projects.get(session, starred.project.id)
        imported = projects.annotator(session, projects.IMPORTED, proxy=True)
        scores.record(session, project, first, imported, "set", 7, group="file:1")
    assert take_back(starred.engine, starred.project.id) == 4
    assert [(label.image_id, label.value) for label in starred.all(Label)] == [(first, 7)]
    with pytest.raises(NotFound):
        take_back(starred.engine, starred.project.id)
    look(starred, record=True, as_scores=True)
    assert {label.image_id for label in starred.all(Label)} >= {first, second}


def test_ratings_of_a_table_are_hints_where_that_is_asked_for(
    starred: Desk, tmp_path: Path
) -> None:
    """Beside stars of files: each is taken back by itself, the newest first."""
    look(starred, record=True)
    table = tmp_path / "ratings.csv"
    table.write_text(f"file,stars\n{starred.folder}/0.png,5\n{starred.folder}/5.png,1\n")
    columns = ColumnNames("file", "stars")
    for _ in range(2):
        told = import_scores(
            starred.engine, "Desk", table, scale=Scale(0, 5), columns=columns, as_hints=True
        )
    assert (told.recorded, told.unchanged) == (0, 2), "the second time"
    first, last = (starred.image(png(number)).id for number in (0, 5))
    assert len(standing(starred)) == 5 and standing(starred)[first] == 10
    assert standing(starred)[last] == 2 and not starred.all(Label), "no label, no hold-out"
    assert take_back(starred.engine, starred.project.id) == 2
    assert standing(starred)[first] == 2 and last not in standing(starred)
    assert take_back(starred.engine, starred.project.id) == 4


def test_the_command_tells_what_it_takes_back_and_asks(
    starred: Desk, tmp_path: Path, run: Run
) -> None:
    """Which recording, of what, when and of how many images; one that is named is not asked for."""
    look(starred, record=True)
    table = tmp_path / "ratings.csv"
    table.write_text(f"path,score\n{starred.folder}/5.png,1\n")
    import_scores(starred.engine, "Desk", table, as_hints=True)
    starred.engine.dispose()
    undo = ("scores", "stars", "Desk", "--undo")
    asked = run(*undo)
    assert asked.code == 1 and "nothing was changed" in asked.sentence
    told = r"Recording (\S+) of “Desk”, from the table ratings.csv, \S+ \S+ UTC: hints of 1 image\."
    (name,) = re.findall(told, asked.sentence)
    assert run(*undo, "--of", name).out == "1 taken back.\n"
    again = run(*undo, "--of", name)
    assert again.code == 1 and "no such recording" in again.sentence
    asked = run(*undo, "--yes")
    assert "from the marks of the pictures" in asked.sentence and "of 4 images" in asked.sentence
    assert asked.out == "4 taken back.\n"
    assert "No stars of other programs are recorded here" in run(*undo).sentence


def test_sidecars_of_uploads_are_kept_beside_the_apps_own_copy(
    starred: Desk,
) -> None:
    content = png(77)
    starred.upload(("up.png", content), ("up.xmp", rated(5)), ("up.txt", b"a tag, another"))
    assert starred.tags(content) == {"a tag", "another"}
    booru, tagged = png(78), png(79)
    starred.upload(
        ("b.png", booru),
        ("b.json", b'{"score": 12}'),
        ("t.png", tagged),
        ("t.json", b'{"tags": []}'),
    )
    kept = {path.name.partition(".")[2] for path in starred.settings.images.rglob("*.*")}
    assert kept == {"png", "xmp", "json"}, "what notes nothing is not kept"
    assert len(list(starred.settings.images.rglob("*.json"))) == 1
    rows = {Path(path).name: score for path, _, score in look(starred)["rows"]}
    assert rows["up.png"] == 10
    twice = png(80)
    starred.upload(("u.png", twice), ("u.xmp", rated(1)), ("u.png.xmp", rated(5)))
    assert "says 5 stars, and" in dict(look(starred)["problems"])["u.png"], "neither is lost"
    assert _matches_its_name("images/ab/cd.xmp", "anything")


def test_the_page_shows_ten_before_anything_is_recorded(starred: Desk) -> None:
    client = client_of(create_app(starred.settings))
    at = f"/projects/{starred.project.id}/stars"

    def run_newest() -> str:
        with writing(starred.engine) as session:
            waiting = session.exec(select(Job).where(Job.kind == "stars", Job.state == "queued"))
            job_id = waiting.one().id
        assert 'hx-trigger="every 1s"' in client.get(f"{at}/found").text
        work = work_on(starred.settings, starred.engine, job_id)
        result = stars.run(work)
        with writing(starred.engine) as session:
            jobs.finish(session, work.claim, result)
        return client.get(at).text

    assert "Nobody has looked yet" in client.get(at).text
    answer = client.post(at, data={"one": "12", "others": "red=3"})
    assert answer.status_code == 422 and "“1=12” is no part of a rule" in answer.text
    assert 'name="one" value="12"' in answer.text and 'value="red=3"' in answer.text
    assert client.post(at, data={}).status_code == 422, "a rule that gives nothing a score"

    fields = {"one": "1", "four": "9", "others": "pick=7"}
    assert client.post(at, data=fields).status_code == 303
    page = run_newest()
    assert "<b>4</b> of 6 images have such marks; 2 of them count" in page
    assert page.count("does not count</span>") == 2 and "neither was taken" in page
    assert 'name="four" value="9"' in page and 'value="pick=7"' in page
    assert not starred.all(ScoreEvent)

    rule = {"rule": "1=1, 4=9, pick=7", "what": "hints"}
    assert client.post(f"{at}/record", data=rule).status_code == 303
    assert "<b>2</b> recorded" in run_newest()
    assert {event.value for event in starred.all(ScoreEvent)} == {1, 9}
    with reading(starred.engine) as session:
        image = session.exec(select(ScoreEvent.image_id).where(ScoreEvent.value == 9)).one()
    shown = client.get(f"/projects/{starred.project.id}/images/{image}").text
    assert "noted elsewhere: 9" in shown and "other programs" in shown
    assert "Take them back" in client.get(at).text
    table = {"file": ("r.jsonl", json.dumps({"sha256": starred.image(png(5)).sha256, "score": 9}))}
    client.post(f"{at.removesuffix('stars')}add/scores", files=table, data={"as_hints": "true"})
    page = client.get(at).text
    assert "They were taken back" not in page and "Take back the newest" in page, "a table's"
    assert client.post(f"{at}/undo").status_code == 422, "it names none"

    def named() -> dict[str, str]:
        return {"of": re.search(r'name="of" value="([^"]+)"', client.get(at).text)[1]}

    assert client.post(f"{at}/undo", data=named()).status_code == 303
    assert "<b>2</b> recorded" in client.get(at).text, "it was the table's"
    last = named()
    assert client.post(f"{at}/undo", data=last).status_code == 303
    assert "They were taken back" in client.get(at).text
    assert client.post(f"{at}/undo", data=last).status_code == 404

    api = client.post(f"/api/v1{at}", json={"record": True, "as_scores": True})
    assert api.status_code == 202 and api.json()["kind"] == "stars"
    assert "<b>4</b> recorded" in run_newest()

    def ask(state: str, **fields: str) -> str:
        client.post(at if not fields else f"{at}/record", data=fields or {"five": "10"})
        if state == "done":
            return run_newest()
        with writing(starred.engine) as session:
            job = session.exec(select(Job).where(Job.kind == "stars", Job.state == "queued")).one()
            job.state = state
            session.add(job)
        return client.get(at).text

    page = ask("done")
    assert "Take back the newest" in page, "also after somebody only looked"
    page = ask("cancelled", rule="1=3")
    assert "It was stopped. Nothing was recorded." in page and "Nobody has looked" not in page
    page = ask("done", rule="reject=0")
    assert "<b>0</b> recorded" in page and "taken back" not in page
    assert client.delete(f"/api/v1{at}?of={named()['of']}").json() == {"undone": 4}


def test_stars_that_exiftool_writes_are_read(tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("ExifTool is not installed.")

    def exiftool(*words: str) -> None:
        subprocess.run(["exiftool", "-q", "-overwrite_original", *words], cwd=tmp_path, check=True)

    write(tmp_path / "a.jpg", encoded(noise(1), "JPEG"))
    exiftool("-XMP-xmp:Rating=4", "-XMP-xmp:Label=Green", "a.jpg")
    assert marks_beside(tmp_path) == Marks(stars=4, labels=("green",))
    exiftool("-all=", "-IFD0:Rating=2", "a.jpg")
    assert marks_beside(tmp_path) == Marks(stars=2)
    exiftool("-all=", "-RatingPercent=99", "a.jpg")
    assert marks_beside(tmp_path) == Marks(stars=5)
    exiftool("-XMP-xmp:Rating=1", "-XMP-digiKam:PickLabel=3", "-o", "a.jpg.xmp")
    assert marks_beside(tmp_path) == Marks(stars=1, flag=1)


def test_what_is_written_is_read_as_it_was() -> None:
    packet = Packet(DARKTABLE)
    packet.put("xmp", "Rating", "3")
    packet.put("tastemaker", "Score", "6.25")
    again = Packet(packet.content())
    assert (again.get("xmp", "Rating"), again.get("tastemaker", "Score")) == ("3", "6.25")
    assert again.items("darktable", "colorlabels") == ["0", "3"]
    again.drop("tastemaker", "Score")
    again.put("xmp", "Rating", "-1")
    canonical = (
        etree.tostring(etree.fromstring(content), method="c14n", exclusive=True)
        for content in (again.content(), DARKTABLE)
    )
    assert len(set(canonical)) == 1, "nothing else was touched"
