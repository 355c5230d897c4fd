"""Nothing a person typed is lost, and the labels are always what the events say."""

import contextlib
import errno
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session, col, delete, func, select
from web_world import make_world

from tastemaker import images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database import migration, sessions
from tastemaker.database.tables import Annotator, Image, Label, Project, ScoreEvent
from tastemaker.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotWritable,
    StorageFull,
    Unavailable,
    of_the_disk,
)
from tests.conftest import add_images


class Desk:
    """A project with ten images and two people, and short words for what they do."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with sessions.writing(engine) as session:
            self.project = projects.create(session, "Desk", holdout_share=0.5)
            self.project.seed = 3  # or else one day all images would fall on one side
            self.me = projects.annotator(session, "me")
            self.other = projects.annotator(session, "other")
            self.images = [image.id for image in add_images(session, 10, project=self.project)]

    def say(self, image: int, value: int | None, by: Annotator | None = None, **more: Any) -> Any:
        kind = more.pop("kind", "set")
        with sessions.writing(self.engine) as session:
            return scores.record(
                session, self.project, self.images[image], by or self.me, kind, value, **more
            )

    def undo(self, by: Annotator | None = None, **more: Any) -> Any:
        with sessions.writing(self.engine) as session:
            return scores.undo(session, self.project, by or self.me, **more)

    def label(self, image: int) -> Label | None:
        with sessions.reading(self.engine) as session:
            return session.get(Label, (self.project.id, self.images[image]))

    def value(self, image: int) -> float | None:
        label = self.label(image)
        return None if label is None else label.value

    def events(self) -> int:
        with sessions.reading(self.engine) as session:
            return session.exec(select(func.count()).select_from(ScoreEvent)).one()


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine)


# --- recording ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", range(11))
def test_every_whole_score_from_0_to_10_is_kept_as_it_is(desk: Desk, value: int) -> None:
    desk.say(0, value)
    assert desk.value(0) == value


NOT_SCORES = [11, -1, 3.5, "abc", True, False, "", " ", None, "nan", "inf", "1_0", "5 6", [5]]


@pytest.mark.parametrize("value", NOT_SCORES)
def test_what_is_no_score_is_refused_with_a_sentence_and_changes_nothing(
    desk: Desk, value: Any
) -> None:
    with pytest.raises(Invalid, match=r"score|value"):
        desk.say(0, value)
    assert desk.events() == 0 and desk.label(0) is None


@pytest.mark.parametrize("text", ["7", " 7 ", "7.0", 7, 7.0])
def test_a_score_may_be_typed_as_a_number_or_as_text(text: Any) -> None:
    assert scores.parse_score(text) == 7


def test_the_newest_score_counts_and_the_older_stays_on_record(desk: Desk) -> None:
    desk.say(0, 3)
    desk.say(0, 8)
    assert (desk.value(0), desk.events()) == (8, 2)


@pytest.mark.parametrize("kind", ["skip", "flag"])
def test_a_skip_or_a_flag_makes_no_label_and_takes_none_away(desk: Desk, kind: str) -> None:
    desk.say(0, None, kind=kind)
    assert desk.label(0) is None
    desk.say(1, 4)
    desk.say(1, None, kind=kind)
    assert desk.value(1) == 4


@pytest.mark.parametrize(
    ("kind", "value"), [("skip", 3), ("flag", 0), ("set", None), ("undo", None), ("shout", None)]
)
def test_a_kind_and_a_value_that_do_not_fit_are_refused(
    desk: Desk, kind: str, value: int | None
) -> None:
    with pytest.raises(Invalid):
        desk.say(0, value, kind=kind)
    assert desk.events() == 0


def test_an_unknown_image_cannot_be_scored(desk: Desk) -> None:
    desk.images.append(999_999)
    with pytest.raises(NotFound, match="not in the library"):
        desk.say(-1, 5)


@pytest.mark.parametrize(
    ("kind", "value"), [("at_least", 11), ("set", -1), ("set", None), ("skip", 5), ("shout", None)]
)
def test_the_database_itself_refuses_an_impossible_event(
    desk: Desk, kind: str, value: int | None
) -> None:
    with pytest.raises(IntegrityError), sessions.writing(desk.engine) as session:
        session.add(
            ScoreEvent(
                project_id=desk.project.id, image_id=desk.images[0], annotator_id=desk.me.id,
                kind=kind, value=value,
            )
        )  # fmt: skip
    assert desk.events() == 0


def test_the_database_refuses_an_undo_of_nothing_and_a_second_undo(desk: Desk) -> None:
    said = desk.say(0, 5).event
    desk.undo()
    for undoes in (None, said.id):
        with pytest.raises(IntegrityError), sessions.writing(desk.engine) as session:
            session.add(
                ScoreEvent(
                    project_id=desk.project.id, image_id=desk.images[0],
                    annotator_id=desk.me.id, kind="undo", undoes=undoes,
                )
            )  # fmt: skip


# --- twice, and at once ------------------------------------------------------------------------


def at_once(tasks: list[Callable[[], Any]]) -> list[Any]:
    """The outcome of each task, all started at the same moment in threads of their own."""
    start = threading.Barrier(len(tasks))
    outcomes: list[Any] = [None] * len(tasks)

    def run(at: int) -> None:
        start.wait(10)
        try:
            outcomes[at] = tasks[at]()
        except Exception as error:
            outcomes[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def test_ten_submits_under_one_key_are_one_event_and_one_answer(desk: Desk) -> None:
    answers = at_once([lambda: desk.say(0, 6, key="k")] * 10)
    assert len({answer.event.id for answer in answers}) == 1
    assert sum(answer.fresh for answer in answers) == 1
    assert desk.events() == 1


def test_a_repeated_submit_is_harmless_even_after_the_score_was_changed(desk: Desk) -> None:
    first = desk.say(0, 6, key="k", expected=0)
    desk.say(0, 2)
    again = desk.say(0, 6, key="k", expected=0)
    assert (again.event.id, again.fresh, desk.value(0)) == (first.event.id, False, 2)


def test_a_key_used_for_something_else_is_a_conflict(desk: Desk) -> None:
    desk.say(0, 6, key="k")
    for attempt in (
        lambda: desk.say(0, 7, key="k"),
        lambda: desk.say(1, 6, key="k"),
        lambda: desk.say(0, 6, desk.other, key="k"),
        lambda: desk.say(0, None, kind="skip", key="k"),
        lambda: desk.undo(key="k"),
    ):
        with pytest.raises(Conflict, match="key was used"):
            attempt()
    assert (desk.value(0), desk.events()) == (6, 1)


def test_a_repeated_undo_under_one_key_takes_back_one_score(desk: Desk) -> None:
    desk.say(0, 1)
    desk.say(1, 2)
    answers = at_once([lambda: desk.undo(key="k")] * 5)
    assert len({answer.event.id for answer in answers}) == 1
    assert (desk.value(0), desk.value(1)) == (1, None)
    with pytest.raises(Conflict, match="key was used"):
        desk.undo(desk.other, key="k")


def test_of_two_tabs_one_wins_and_the_other_is_told_both_values(desk: Desk) -> None:
    seen = desk.say(0, 5).event.id
    outcomes = at_once([lambda v=v: desk.say(0, v, expected=seen) for v in (2, 9)])  # type: ignore[misc]
    lost = next(o for o in outcomes if isinstance(o, Conflict))
    won = next(o for o in outcomes if not isinstance(o, Exception)).event.value
    assert desk.value(0) == won
    assert lost.status == 409
    assert f"{won} there" in str(lost) and f"{11 - won} here" in str(lost)


def test_the_precondition_knows_of_skips_and_undos_and_of_nobody_else(desk: Desk) -> None:
    desk.say(0, 5, desk.other)
    said = desk.say(0, 4, expected=0).event.id  # the other's score is none of mine
    skipped = desk.say(0, None, kind="skip", expected=said).event.id
    with pytest.raises(Conflict, match="nothing there, 3 here"):
        desk.say(0, 3, expected=said)
    desk.undo(event_id=skipped)
    desk.say(0, 3, expected=said)
    assert desk.value(0) == 4  # the median of 5 and 3


def test_a_reading_session_can_write_nothing_and_its_connection_can_again(engine: Engine) -> None:
    """The next who gets the connection writes: in a session, and plainly."""
    for _ in range(3):
        with (
            sessions.reading(engine) as session,
            pytest.raises(DBAPIError, match=r"read-?only"),
        ):
            projects.create(session, "Never there")
            session.flush()
    with sessions.writing(engine) as session:
        project = projects.create(session, "There")
    with engine.begin() as connection:
        connection.execute(delete(Project).where(col(Project.id) == project.id))
    with sessions.reading(engine) as session:
        assert session.exec(select(func.count()).select_from(Project)).one() == 0


@pytest.mark.sqlite
def test_a_database_locked_by_somebody_else_saves_nothing_and_says_so(
    desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "BUSY_SECONDS", 0.2)
    impatient = sessions.make_engine(settings)
    with contextlib.closing(sessions.sqlite.connect(settings.root / "tastemaker.db")) as somebody:
        somebody.isolation_level = None
        somebody.execute("BEGIN IMMEDIATE")
        desk.engine, patient = impatient, desk.engine
        with pytest.raises(Unavailable, match="nothing was saved") as refused:
            desk.say(0, 5)
        somebody.execute("ROLLBACK")
    assert refused.value.status == 503
    assert desk.events() == 0
    desk.say(0, 5)  # and then it works, over the same connection
    desk.engine = patient
    assert desk.value(0) == 5
    impatient.dispose()


@pytest.mark.sqlite
def test_twenty_who_wait_for_a_locked_database_wait_no_longer_than_one(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bound for all that stand in line, inside this process and before the file."""
    monkeypatch.setattr(sessions, "BUSY_SECONDS", 0.5)
    waited: list[float] = []

    def begin(_: int) -> None:
        began = time.monotonic()
        with pytest.raises(Unavailable), sessions.writing(engine) as session:
            session.connection()
        waited.append(time.monotonic() - began)

    with contextlib.closing(sessions.sqlite.connect(settings.root / "tastemaker.db")) as somebody:
        somebody.isolation_level = None
        somebody.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(begin, range(20)))
        somebody.execute("ROLLBACK")
    assert len(waited) == 20 and max(waited) < 10 * 0.5 / 2, "not one after the other: that is 10 s"


@pytest.mark.sqlite
def test_a_disk_that_takes_no_more_is_said_so_and_nothing_saved_is_lost(
    tmp_path: Path,
) -> None:
    """SQLite's own limit on the pages of a file gives the error that a full disk gives."""

    world = make_world(tmp_path)

    def say(image_id: int, note: str = "") -> httpx.Response:
        body = {"image_id": image_id, "kind": "flag", "note": note}
        return world.client.post(f"/api/v1{world.at}/scores", json=body)

    assert say(1).status_code == 200

    @event.listens_for(world.engine, "checkout")
    def fill(connection: Any, *_: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    answers = [say(1 + n % 12, "a long note " * 150) for n in range(40)]
    full = [answer for answer in answers if answer.status_code != 200]
    assert full and {answer.status_code for answer in full} == {507}
    assert "disk is full" in full[0].json()["error"] and "safe" in full[0].json()["error"]
    event.remove(world.engine, "checkout", fill)
    with sessions.reading(world.engine) as session:
        stored = session.exec(select(func.count()).select_from(ScoreEvent)).one()
    assert stored == 1 + len(answers) - len(full)
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert isinstance(of_the_disk(OSError(number, "no space")), StorageFull)
    assert isinstance(of_the_disk(OSError(errno.EROFS, "read-only")), NotWritable)
    assert of_the_disk(OSError(errno.ENOENT, "gone")) is None


# --- undo --------------------------------------------------------------------------------------


def test_undo_goes_back_step_by_step_and_then_says_that_there_is_nothing(desk: Desk) -> None:
    desk.say(0, 3)
    desk.say(0, 8)
    desk.say(1, None, kind="skip")
    desk.undo()
    desk.undo()
    assert desk.value(0) == 3
    desk.undo()
    assert desk.label(0) is None
    with pytest.raises(NotFound, match="Nothing more to take back"):
        desk.undo()
    assert desk.events() == 6  # three said, three taken back; none forgotten


def test_undo_survives_a_restart(desk: Desk, settings: Settings) -> None:
    desk.say(0, 3)
    desk.say(0, 8)
    desk.engine.dispose()
    desk.engine = migration.migrate(settings)
    desk.undo()
    assert desk.value(0) == 3


def test_nobody_undoes_what_somebody_else_said(desk: Desk) -> None:
    said = desk.say(0, 3, desk.other).event.id
    with pytest.raises(Forbidden) as refused:
        desk.undo(event_id=said)
    assert refused.value.status == 403
    with pytest.raises(NotFound):
        desk.undo()
    assert desk.value(0) == 3


def test_only_the_newest_can_be_undone_by_its_number(desk: Desk) -> None:
    old, new = desk.say(0, 3).event.id, desk.say(1, 4).event.id
    with pytest.raises(Conflict, match="newer"):
        desk.undo(event_id=old)
    with pytest.raises(NotFound):
        desk.undo(event_id=999_999)
    desk.undo(event_id=new)
    assert (desk.value(0), desk.value(1)) == (3, None)
    with pytest.raises(Conflict, match="taken back already"):
        desk.undo(event_id=new)


def test_an_undo_of_another_project_does_not_reach_over(desk: Desk) -> None:
    said = desk.say(0, 3).event.id
    with sessions.writing(desk.engine) as session:
        elsewhere = projects.create(session, "Elsewhere")
    with pytest.raises(NotFound), sessions.writing(desk.engine) as session:
        scores.undo(session, elsewhere, desk.me, said)
    assert desk.value(0) == 3


def test_a_bulk_action_is_undone_as_one(desk: Desk) -> None:
    desk.say(0, 1)
    desk.say(3, 9, desk.other, group="bulk")
    for image in (0, 1, 2):
        desk.say(image, 7, group="bulk")
    desk.undo()
    assert [desk.value(image) for image in range(4)] == [1, None, None, 9]


# --- labels ------------------------------------------------------------------------------------


def test_two_people_on_one_image_are_both_kept_and_the_label_is_their_median(desk: Desk) -> None:
    desk.say(0, 3)
    desk.say(0, 8, desk.other)
    label = desk.label(0)
    assert label is not None and (label.value, label.annotators) == (5.5, 2)
    desk.undo(desk.other)
    assert desk.value(0) == 3


def test_a_proxy_counts_only_while_no_person_has_spoken(desk: Desk) -> None:
    with sessions.writing(desk.engine) as session:
        proxy = projects.annotator(session, "imported", proxy=True)
    desk.say(0, 2, proxy, origin="import")
    assert desk.value(0) == 2
    desk.say(0, 9)
    assert desk.value(0) == 9
    desk.undo()
    assert desk.value(0) == 2


@pytest.mark.parametrize(
    ("origin", "measures"),
    [("control", True), ("import", True), ("queue", False), ("review", False), ("api", False)],
)
def test_only_what_was_drawn_without_a_look_may_measure_and_a_later_correction_changes_nothing(
    desk: Desk, origin: str, measures: bool
) -> None:
    for image in range(10):
        desk.say(image, 5, origin=origin)
        desk.say(image, 6, origin="review" if origin == "control" else "control")
    labels = [desk.label(image) for image in range(10)]
    sides = {label.holdout for label in labels if label}
    assert sides == {True, False}, "a share of one half puts some on each side"
    assert all(label and label.measures == (measures and label.holdout) for label in labels)


def test_the_holdout_side_is_frozen_shared_by_a_group_and_of_about_its_share(desk: Desk) -> None:
    project = Project(name="p", seed=7, holdout_share=0.1)
    sides = [projects.on_holdout_side(project, f"group {n}") for n in range(20_000)]
    assert 0.094 < statistics.fmean(sides) < 0.106
    renamed = Project(name="other", id=5, seed=7, holdout_share=0.1, threshold=0.3)
    assert sides[:500] == [projects.on_holdout_side(renamed, f"group {n}") for n in range(500)]
    larger = Project(name="p", seed=7, holdout_share=0.3)
    assert all(projects.on_holdout_side(larger, f"group {n}") for n in range(20_000) if sides[n])
    reseeded = Project(name="p", seed=8, holdout_share=0.1)
    other = [projects.on_holdout_side(reseeded, f"group {n}") for n in range(20_000)]
    assert 0.005 < statistics.fmean(a and b for a, b in zip(sides, other, strict=True)) < 0.015
    with sessions.writing(desk.engine) as session:
        for image in add_images(session, 4, project=desk.project):
            image.source_group = "one photograph"
            desk.images.append(image.id)
    for image in range(10, 14):
        desk.say(image, image - 10, origin="control")
    assert len({desk.label(image).holdout for image in range(10, 14)}) == 1  # type: ignore[union-attr]


def test_a_share_of_nothing_holds_nothing_out() -> None:
    project = Project(name="p", seed=7, holdout_share=0.0)
    assert not any(projects.on_holdout_side(project, str(n)) for n in range(1000))


# What three people (the last a proxy) may do to four images.
ACTION = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["set", "set", "set", "skip", "flag", "undo"]),
    st.integers(0, 3),
    st.integers(0, 10),
    st.sampled_from(["queue", "control", "review", "import"]),
    st.sampled_from([None, None, "a", "b"]),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, list[int]]]:
    settings = Settings(home=tmp_path_factory.mktemp("scores"), min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migration.migrate(settings)
    with sessions.writing(engine) as session:
        ids = [image.id for image in add_images(session, 4)]
    yield engine, ids
    engine.dispose()


@pytest.mark.slow
@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTION, max_size=25), cut=st.integers(0, 25))
def test_labels_kept_up_to_date_are_those_derived_anew_and_those_one_would_expect(
    shared: tuple[Engine, list[int]], actions: list[Any], cut: int
) -> None:
    engine, ids = shared
    with Session(engine.execution_options(begin="IMMEDIATE")) as session:  # and never commit
        project = projects.create(session, "Sequence", holdout_share=0.5)
        project.seed = 3
        people = [projects.annotator(session, name, proxy=name == "c") for name in ("a", "b", "c")]
        projects.add_collection(session, project, images.find_collection(session, "Pictures"))
        groups = {image: session.get(Image, image).source_group for image in ids}  # type: ignore[union-attr]
        said: list[dict[str, Any]] = []  # what stands, as a plain list
        then: tuple[int, Any] = (0, {})
        for step, (who, kind, image, value, origin, group) in enumerate(actions):
            mine = [event for event in said if event["who"] == who]
            if kind == "undo":
                if not mine:
                    with pytest.raises(NotFound):
                        scores.undo(session, project, people[who])
                    continue
                together = mine[-1]["group"]
                gone = [e for e in mine if together and e["group"] == together] or [mine[-1]]
                said = [event for event in said if event not in gone]
                scores.undo(session, project, people[who])
            else:
                scores.record(
                    session, project, ids[image], people[who], kind,
                    value if kind == "set" else None, origin=origin, group=group,
                )  # fmt: skip
                said.append(
                    {"step": step, "who": who, "kind": kind, "image": ids[image], "value": value,
                     "origin": origin, "group": group}
                )  # fmt: skip
            if step == cut:
                then = (scores.highest_event(session, project), expected(project, said, groups))
        kept = as_plain(session.exec(select(Label).where(Label.project_id == project.id)))
        high = scores.highest_event(session, project)
        derived = as_plain(scores.labels_at(session, project, high).values())
        assert kept == derived
        assert {i: label[:4] for i, label in kept.items()} == expected(project, said, groups)
        back_then = as_plain(scores.labels_at(session, project, then[0]).values())
        assert {i: label[:4] for i, label in back_then.items()} == then[1]
        assert scores.rebuild_labels(session, project) == len(kept)
        assert as_plain(session.exec(select(Label).where(Label.project_id == project.id))) == kept
        assert sum(scores.histogram(session, project)) == len(kept)


def as_plain(labels: Any) -> dict[int, tuple[Any, ...]]:
    return {
        label.image_id: (
            label.value, label.annotators, label.holdout, label.measures, label.event_id,
        )
        for label in labels
    }  # fmt: skip


def expected(project: Project, said: list[dict[str, Any]], groups: Any) -> dict[int, Any]:
    """The rule in plain words: people before the proxy, each one's newest, the median."""
    labels = {}
    sets = [event for event in said if event["kind"] == "set"]
    for image, events in itertools.groupby(
        sorted(sets, key=lambda e: (e["image"], e["step"])), key=lambda e: e["image"]
    ):
        every = list(events)
        counting = [e for e in every if e["who"] != 2] or every
        newest = {e["who"]: e["value"] for e in counting}
        holdout = projects.on_holdout_side(project, groups[image])
        measures = holdout and every[0]["origin"] in ("control", "import")
        labels[image] = (
            float(statistics.median(newest.values())), len(newest), holdout, measures,
        )  # fmt: skip
    return labels


def test_a_score_and_the_job_it_causes_are_saved_together_or_not_at_all(desk: Desk) -> None:
    with pytest.raises(RuntimeError), sessions.writing(desk.engine) as session:
        scores.record(session, desk.project, desk.images[0], desk.me, "set", 5)
        jobs.enqueue(session, "train", "Train", {}, desk.project.id)
        raise RuntimeError("the machine stumbles")
    with sessions.reading(desk.engine) as session:
        assert jobs.recent(session) == []
    assert desk.events() == 0 and desk.label(0) is None


# --- the histogram -----------------------------------------------------------------------------


def test_the_histogram_is_drawn_as_the_original_draws_it() -> None:
    counts = [31, 162, 533, 675, 690, 576, 228, 95, 54, 29, 7]
    assert scores.histogram_text(counts, 0).splitlines() == [
        "3080 images in dataset.",
        "  0 -   31 |",
        "  1 -  162 |||||",
        "  2 -  533 |||||||||||||||||",
        "  3 -  675 |||||||||||||||||||||",
        "  4 -  690 ||||||||||||||||||||||",
        "  5 -  576 ||||||||||||||||||",
        "  6 -  228 |||||||",
        "  7 -   95 |||",
        "  8 -   54 |",
        "  9 -   29",
        " 10 -    7",
        "raw -    0",
    ]


def test_an_empty_histogram_is_drawn_too() -> None:
    lines = scores.histogram_text([0] * 11, 0).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("0 images in dataset.", 13, "raw -    0")
