"""Bursts and copies are found by time and likeness, and the best of each is named, and why."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from sqlmodel import select

from tastemaker import projects, versions
from tastemaker.database import sessions
from tastemaker.database.tables import Image, ImagePath, Job, Tag
from tastemaker.embeddings import store_vectors
from tastemaker.library import series
from tastemaker.library.series import Member, Series, choose
from tests import pictures
from tests.command_line import Run
from tests.conftest import work_on
from tests.desk import Desk, noise
from tests.trained_world import Trained, encoder_of, open_trained, trained_home, vectors

SECOND = 10**9


@pytest.fixture
def shoot(tmp_path: Path) -> tuple[Trained, dict[str, int]]:
    """Seven shots in one folder and one in another: `a1` to `a3` are a burst, `b1` comes right
    after and shows something else, `a4` shows the same an hour later, `c1` and `c2` are two files
    of one picture."""
    home = open_trained(trained_home(tmp_path / "home"))
    base, other, third = vectors(3, 5)
    jitter = 0.02 * vectors(8, 6)
    shots = {
        "day/a1.jpg": (base, 0), "day/a2.jpg": (base, 2), "day/a3.jpg": (base, 9),
        "day/b1.jpg": (other, 11), "day/a4.jpg": (base, 3600), "day/c1.jpg": (third, 7200),
        "day/c2.jpg": (third, 9999), "away/a5.jpg": (base, 1),
    }  # fmt: skip
    x = np.stack([vector for vector, _ in shots.values()]) + jitter
    ids = dict(zip(shots, home.add(len(shots), "Shoot", "pool", seed=11, x=x), strict=True))
    with sessions.writing(home.engine) as session:
        for (path, (_, at)), image_id in zip(shots.items(), ids.values(), strict=True):
            session.add(ImagePath(path=f"/{path}", image_id=image_id, size=1, mtime_ns=at * SECOND))
        copies = [session.get_one(Image, ids[f"day/c{n}.jpg"]) for n in (1, 2)]
        copies[1].source_group = copies[0].source_group
        copies[1].width = 4000
        session.add_all(copies)
    return home, ids


def found(home: Trained, **more: float) -> list[Series]:
    with sessions.reading(home.engine) as session:
        project = home.project(session)
        version = versions.chosen(session, project)
        return list(series.find_series(session, project, version, **more))


def names(one: Series) -> set[str]:
    return {Path(member.path).name for member in (one.keep, *one.rest)}


def test_a_burst_is_what_follows_within_seconds_and_looks_alike(
    shoot: tuple[Trained, dict[str, int]],
) -> None:
    home, _ = shoot
    assert [names(one) for one in found(home)] == [
        {"a1.jpg", "a2.jpg", "a3.jpg"}, {"c1.jpg", "c2.jpg"},
    ]  # fmt: skip
    assert names(found(home, within=3)[0]) == {"a1.jpg", "a2.jpg"}
    assert {"a4.jpg", "a3.jpg"} <= names(found(home, within=5000, alike=0.0)[0])
    assert [names(one) for one in found(home, alike=1.0)] == [{"c1.jpg", "c2.jpg"}]


def photograph(seed: int, at: str = "", **more: str) -> bytes:
    """A picture unlike any other seed's, taken at that time."""
    exif = {"exif": pictures.taken(at, **more)} if at else {}
    return pictures.encoded(noise(seed), "JPEG", **exif)


@pytest.fixture
def folders(desk: Desk) -> Desk:
    """Pairs of pictures that look alike: taken an hour apart and copied within the same second;
    taken within two seconds, and one of them edited the day after; one that says when it was taken
    and one that does not; and two that do not."""
    day = 86_400
    for number, (name, at, written) in enumerate((
        ("copied/1", "2024:05:03 14:00:00", 0), ("copied/2", "2024:05:03 15:00:00", 0),
        ("edited/1", "2024:05:03 14:00:00", day), ("edited/2", "2024:05:03 14:00:02", 0),
        ("either/1", "2024:05:03 14:00:00", 0), ("either/2", "", 0),
        ("silent/1", "", 0), ("silent/2", "", 2),
    )):  # fmt: skip
        path = desk.put(f"{name}.jpg", photograph(number, at))
        os.utime(path, (1_700_000_000 + written,) * 2)
    desk.bring_in()
    look_alike(desk)
    return desk


def look_alike(desk: Desk) -> None:
    """Give all images vectors that hardly differ."""
    with sessions.writing(desk.engine) as session:
        encoder = encoder_of(session, projects.get(session, desk.project.id))
        ids = list(session.exec(select(Image.id)))
        x = vectors(1, 5) + 0.02 * vectors(len(ids), 6)
        store_vectors(session, encoder.id, zip(ids, x, strict=True))


def together(desk: Desk) -> list[tuple[set[str], tuple[str, ...]]]:
    """Of each series the pictures, as “FOLDER/NAME”, and what makes them one."""
    with sessions.reading(desk.engine) as session:
        project = projects.get(session, desk.project.id)
        found = list(series.find_series(session, project, None))
    return [
        ({"/".join(Path(m.path).parts[-2:]) for m in (one.keep, *one.rest)}, one.links)
        for one in found
    ]


BY_CLOCK = [
    ({"edited/1.jpg", "edited/2.jpg"}, ("taken",)),
    ({"silent/1.jpg", "silent/2.jpg"}, ("written",)),
]


def taken_times(desk: Desk) -> dict[str, str | None]:
    with sessions.reading(desk.engine) as session:
        rows = session.exec(select(ImagePath.path, Image.taken_at).join(Image)).all()
    return {"/".join(Path(path).parts[-2:]): at for path, at in rows}


def test_bursts_go_by_when_pictures_were_taken_and_by_their_files_only_where_none_says(
    folders: Desk,
) -> None:
    assert together(folders) == BY_CLOCK


def test_images_that_were_imported_before_are_asked_when_one_looks_for_series(
    folders: Desk, run: Run
) -> None:
    known = taken_times(folders)

    def forget() -> None:
        with sessions.writing(folders.engine) as session:
            for image in session.exec(select(Image)):
                image.taken_at = None
                session.add(image)

    forget()
    moved = folders.folder / "copied" / "2.jpg"
    content = moved.read_bytes()
    moved.unlink()
    with sessions.writing(folders.engine) as session:
        project = projects.get(session, folders.project.id)
        job_id = series.request_series(session, project, series.SeriesRequest()).id
    result = series.run(work_on(folders.settings, folders.engine, job_id))
    assert [one["links"] for one in result["listed"]] == [["taken"], ["written"]]
    assert result["listed"][0]["keep"]["taken_at"] == "2024-05-03T14:00:00"
    assert taken_times(folders) == known | {"copied/2.jpg": None}, "its file is not there"
    moved.write_bytes(content)
    os.utime(moved, (1_700_000_000,) * 2)
    assert "2 series" in run("series", "Desk").out
    assert taken_times(folders) == known, "it is asked again once it is back"

    forget()
    told = run("series", "Desk").out
    assert "; each taken within 10 s of the one before" in told
    assert "; without a camera's time, each file written within 10 s of the one before" in told
    assert taken_times(folders) == known and together(folders) == BY_CLOCK


def test_pictures_sent_from_a_browser_are_in_bursts_if_they_say_when_they_were_taken(
    desk: Desk,
) -> None:
    desk.upload(
        ("a.jpg", photograph(1, "2024:05:03 14:00:00")),
        ("b.jpg", photograph(2, "2024:05:03 14:00:04")),
        ("c.jpg", photograph(3, "2024:05:03 15:00:00")),
        ("d.jpg", photograph(4)),
        ("e.jpg", photograph(5)),
    )
    look_alike(desk)
    assert together(desk) == [({"a.jpg", "b.jpg"}, ("taken",))]


@pytest.mark.parametrize(
    ("stated", "bursts"),
    [
        # the clock is set back in autumn, in the middle of a burst
        (["02:59:58+02:00", "02:00:01+01:00"], [{0, 1}]),
        # the hour that comes twice
        (["02:30:00+02:00", "02:30:01+01:00"], []),
        # one of them states no offset: the clock as it was shown
        (["02:30:00+02:00", "02:30:01", "02:30:02+02:00"], [{0, 1, 2}]),
        (["02:30:00.900000", "02:30:11", "02:30:20.999000"], [{1, 2}]),
    ],
)
def test_clocks_are_compared_as_shown_unless_all_state_their_offset(
    folders: Desk, stated: Sequence[str], bursts: list[set[int]]
) -> None:
    with sessions.writing(folders.engine) as session:
        rows = session.exec(select(ImagePath).order_by(ImagePath.path)).all()
        for row in rows:
            row.state = "missing"
        for number, (row, at) in enumerate(zip(rows, stated, strict=False)):
            row.path, row.state = f"/one/{number}", "present"
            session.get_one(Image, row.image_id).taken_at = f"2024-10-27T{at}"
        session.add_all(rows)
    found = [{int(Path(name).name) for name in names} for names, _ in together(folders)]
    assert found == bursts


def test_copies_are_found_among_uploads_too_and_no_burst_as_no_time_is_known(
    shoot: tuple[Trained, dict[str, int]],
) -> None:
    home, _ = shoot
    x = np.stack([*vectors(2, 5)] * 2)
    ids = home.add(4, "Sent", "pool", seed=12, x=x)
    with sessions.writing(home.engine) as session:
        sent = [session.get_one(Image, image_id) for image_id in ids]
        for image in sent:
            image.kind = "upload"
        sent[2].source_group = sent[0].source_group
        session.add_all(sent)
    *others, copies = found(home)
    assert {copies.keep.image_id, copies.rest[0].image_id} == {ids[0], ids[2]}
    assert [names(one) for one in others] == [
        {"a1.jpg", "a2.jpg", "a3.jpg"}, {"c1.jpg", "c2.jpg"},
    ]  # fmt: skip


def test_the_best_of_each_is_kept_with_its_reason(
    shoot: tuple[Trained, dict[str, int]], run: Run
) -> None:
    home, ids = shoot
    burst, copies = found(home)
    assert burst.reason == "nothing is scored or predicted yet: the largest picture"
    assert Path(copies.keep.path).name == "c2.jpg", "the larger of two files"
    home.score({ids["day/a2.jpg"]: 8, ids["day/a1.jpg"]: 5})
    burst, _ = found(home)
    assert Path(burst.keep.path).name == "a2.jpg" and burst.reason == "scored 8, the others 5"

    told = json.loads(run("series", "Anime", "--tag", "--json").out)
    assert [len(one["rest"]) for one in told] == [2, 1]
    with sessions.reading(home.engine) as session:
        tagged = dict(session.exec(select(Tag.image_id, Tag.tag)).all())
    assert tagged[ids["day/a2.jpg"]] == series.BEST and tagged[ids["day/a3.jpg"]] == series.REST
    assert ids["day/b1.jpg"] not in tagged
    said = run("series", "Anime", "--tag", "--within", "3").out
    assert "a2.jpg: keep (scored 8, the others 5)" in said and "2 series" in said
    with sessions.reading(home.engine) as session:
        tagged = dict(session.exec(select(Tag.image_id, Tag.tag)).all())
    assert ids["day/a3.jpg"] not in tagged, "what is no longer of a series"


def test_the_page_shows_what_to_keep_and_tags_it_to_sweep_by(
    shoot: tuple[Trained, dict[str, int]],
) -> None:
    home, ids = shoot
    home.score({ids["day/a2.jpg"]: 8, ids["day/a1.jpg"]: 5})
    client, at = home.world.client, f"/projects/{home.project_id}/series"

    def finish() -> str:
        assert 'hx-trigger="every 1s"' in client.get(f"{at}/found").text
        with sessions.reading(home.engine) as session:
            waiting = session.exec(select(Job).where(Job.kind == "series", Job.state == "queued"))
            job = waiting.one()
        home.run(job, series.run)
        return client.get(at).text

    assert "Nobody has looked yet" in client.get(at).text
    assert client.get(f"/api/v1{at}").status_code == 404
    refused = client.post(at, data={"within": "soon", "alike": "90"})
    assert refused.status_code == 422 and 'value="soon"' in refused.text
    assert client.post(at, data={"within": "10", "alike": "90 %"}).status_code == 303
    page = finish()
    assert "<b>2</b> series, <b>3</b> images besides the best of each, by your scores" in page
    assert "<b>Keep the first</b> of 3: scored 8, the others 5." in page
    assert "Without a camera&#39;s time, each file written within 10 s of the one before." in page
    assert "Copies of one picture." in page
    assert page.index("Keep: a2.jpg, scored 8") < page.index("Besides: a1.jpg, scored 5")
    assert "Sweep the best" not in page, "nothing is tagged yet"

    assert client.post(at, data={"within": "10", "alike": "90", "tag": "true"}).status_code == 303
    page = finish()
    assert f'library?tag={quote(series.BEST)}">Sweep the best <span class="faint">2' in page
    best = client.get(f"/projects/{home.project_id}/library?tag={quote(series.BEST)}").text
    assert f'id="tile-{ids["day/a2.jpg"]}"' in best and f'id="tile-{ids["day/a1.jpg"]}"' not in best
    listed = client.get(f"/api/v1{at}").json()["listed"]
    assert [one["keep"]["image_id"] for one in listed] == [ids["day/a2.jpg"], ids["day/c2.jpg"]]
    assert client.post(f"{at}/untag").status_code == 303
    assert "Sweep the best" not in client.get(at).text
    assert client.delete(f"/api/v1{at}").json() == {"tagged": False}
    told = client.post(f"/api/v1{at}", json={"within": 3}).json()
    assert told["kind"] == "series"
    assert "It was stopped" not in finish()
    assert len(client.get(f"/api/v1{at}").json()["listed"][0]["rest"]) == 1


def test_an_images_page_and_the_api_tell_when_it_was_taken_if_that_is_known(
    shoot: tuple[Trained, dict[str, int]],
) -> None:
    home, ids = shoot
    one, other, third = (ids[f"day/a{n}.jpg"] for n in (1, 2, 3))
    with sessions.writing(home.engine) as session:
        session.get_one(Image, one).taken_at = "2024-05-03T14:22:05.120000+02:00"
        session.get_one(Image, other).taken_at = ""
    client, project = home.world.client, home.project_id

    def told(image_id: int) -> tuple[bool, str | None]:
        page = client.get(f"/projects/{project}/images/{image_id}").text
        facts = client.get(f"/api/v1/projects/{project}/library/{image_id}").json()
        return " · taken " in page, facts["taken_at"]

    assert told(one) == (True, "2024-05-03T14:22:05.120000+02:00")
    page = client.get(f"/projects/{project}/images/{one}").text
    assert (
        '<time datetime="2024-05-03T14:22:05+02:00" title="14:22:05 by the camera&#39;s clock">'
        "2024-05-03 14:22</time>" in page
    )
    assert told(other) == told(third) == (False, None)


def test_a_persons_score_goes_before_an_equal_prediction_and_equals_by_their_size() -> None:
    def member(number: int, score: float | None, scored: bool = False, pixels: int = 1) -> Member:
        return Member(number, f"{number}.jpg", score, scored, pixels)

    one = choose([member(1, 7.0), member(2, 7.0, True), member(3, None, pixels=9)])
    assert (one.keep.image_id, one.reason) == (2, "scored 7, the others 7")
    one = choose([member(1, 6.25), member(2, 6.25, pixels=5)])
    assert (one.keep.image_id, one.reason) == (
        2,
        "predicted 6.2, as others are: the largest of them",
    )
    one = choose([member(1, 3.0, True), member(2, None, pixels=9)])
    assert (one.keep.image_id, one.reason) == (1, "scored 3, the only one known")
