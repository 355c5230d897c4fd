"""Scores of many images take a few statements, and are what they would be one after another."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlmodel import Session, col, select

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database import migration, sessions
from tastemaker.database.tables import (
    Annotator,
    Image,
    ImagePath,
    Label,
    Project,
    ScoreEvent,
    SyntheticImage,
)
from tastemaker.errors import Conflict, NotFound
from tastemaker.library import bulk
from tastemaker.scores import answer_files, batches, score_files
from tastemaker.scores.references import References
from tests.conftest import add_images

FEW, MANY = 20, 200


class Desk(NamedTuple):
    """A project of `MANY` images with a file each, and whoever scores there."""

    engine: Engine
    project_id: int
    person_id: int
    images: list[Image]

    def said(self) -> list[tuple[Any, ...]]:
        """The events in their order, and the labels."""
        with sessions.reading(self.engine) as session:
            return said(session, self.project_id)


@pytest.fixture
def desk(engine: Engine) -> Desk:
    with sessions.writing(engine) as session:
        project = projects.create(session, "Bulk", holdout_share=0.5)
        made = add_images(session, MANY, project=project)
        session.add_all(
            ImagePath(image_id=image.id, path=f"/pictures/{image.id}.jpg", size=1, mtime_ns=1)
            for image in made
        )
        return Desk(engine, project.id, projects.annotator(session, "me").id, made)


def said(session: Session, project_id: int) -> list[tuple[Any, ...]]:
    """The events of a project in their order, each named by its place, and the labels."""
    events = session.exec(
        select(ScoreEvent).where(ScoreEvent.project_id == project_id).order_by(col(ScoreEvent.id))
    ).all()
    place = {one.id: n for n, one in enumerate(events)}
    labels = session.exec(select(Label).where(Label.project_id == project_id)).all()
    rows: list[tuple[Any, ...]] = [
        (one.image_id, one.annotator_id, one.kind, one.value, place.get(one.undoes or 0),
         one.origin, one.event_group, one.key)
        for one in events
    ]  # fmt: skip
    return rows + sorted(
        (one.image_id, one.value, one.annotators, place[one.event_id], one.holdout, one.measures)
        for one in labels
    )


@contextmanager
def statements_of(engine: Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


Act = Callable[[Desk, Session, Project, list[Image], Path], Any]


def in_the_library(
    desk: Desk, session: Session, project: Project, some: list[Image], _: Path
) -> Any:
    person = session.get_one(Annotator, desk.person_id)
    return bulk.score(session, project, person, [image.id for image in some], 7, "group")


def as_one_selection(
    desk: Desk, session: Session, project: Project, some: list[Image], _: Path
) -> Any:
    person = session.get_one(Annotator, desk.person_id)
    chosen = [batches.BatchItem(image.id, sha256=image.sha256) for image in some]
    return batches.record_batch(session, project, person, chosen, "at_least", 6, "key")


def undone(desk: Desk, session: Session, project: Project, some: list[Image], _: Path) -> Any:
    person = session.get_one(Annotator, desk.person_id)
    return scores.undo(session, project, person)


@pytest.mark.parametrize("act", [in_the_library, as_one_selection])
def test_many_images_take_a_few_statements_and_so_does_taking_them_back(
    desk: Desk, act: Act, tmp_path: Path
) -> None:
    sent: dict[int, list[int]] = {}
    for count in (FEW, MANY):
        some = desk.images[:count]
        for again in (False, True):  # what is there already is looked at, and left
            with sessions.writing(desk.engine) as session, statements_of(desk.engine) as seen:
                act(desk, session, session.get_one(Project, desk.project_id), some, tmp_path)
            sent.setdefault(count, []).append(len(seen))
            assert again or len(desk.said()) >= count
        with sessions.writing(desk.engine) as session, statements_of(desk.engine) as seen:
            undone(desk, session, session.get_one(Project, desk.project_id), some, tmp_path)
        sent[count].append(len(seen))
        with sessions.reading(desk.engine) as session:
            assert not session.exec(select(Label)).all()
            assert not session.exec(scores.standing_events()).all()
        with sessions.writing(desk.engine) as session:  # another time under another key
            for one in session.exec(select(ScoreEvent)):
                one.key = None
    assert sent[MANY] == sent[FEW] and max(sent[MANY]) < 16, sent


@pytest.mark.parametrize("name", ["sha256", "path"])
def test_a_table_takes_a_few_statements_however_many_rows_it_has(
    desk: Desk, name: str, tmp_path: Path
) -> None:
    sent: dict[int, list[int]] = {}
    for count in (FEW, MANY):
        file = tmp_path / "table.csv"
        with file.open("w", newline="") as opened:
            table = csv.writer(opened)
            table.writerow([name, "score", "annotator", "scored_at"])
            for n, image in enumerate(desk.images[:count]):
                named = image.sha256 if name == "sha256" else f"/pictures/{image.id}.jpg"
                table.writerow([named, (n + count) % 11, "Ada", "2026-03-01T12:00:00+00:00"])
        for recorded in (count, 0):
            with statements_of(desk.engine) as seen:
                told = score_files.import_scores(desk.engine, "Bulk", file)
            assert (told.recorded, told.unchanged) == (recorded, count - recorded)
            sent.setdefault(count, []).append(len(seen))
    assert all(m <= f + 3 for m, f in zip(sent[MANY], sent[FEW], strict=True)), sent


def test_a_table_of_sweeps_takes_a_few_statements(desk: Desk, tmp_path: Path) -> None:
    sent = []
    for count in (FEW, MANY):
        file = tmp_path / "sweeps.csv"
        rows = [
            f"at_least,{image.sha256},{5 + (count == MANY)},Ada" for image in desk.images[:count]
        ]
        file.write_text("\n".join(["said,sha256,bound,annotator", *rows]))
        with statements_of(desk.engine) as seen:
            assert answer_files.import_answers(desk.engine, "Bulk", file).recorded == count
        sent.append(len(seen))
    assert sent[1] <= sent[0] + 3, sent


# What is said of four images, the last synthetic, by three people, the last a proxy.
GIVEN = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.integers(1, 4),
    st.sampled_from(["set", "set", "set", "rated", "at_least"]),
    st.sampled_from([None, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)]),
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = Settings(home=tmp_path_factory.mktemp("bulk"), min_free_gb=0, _env_file=None)
    engine = migration.migrate(settings)
    with sessions.writing(engine) as session:
        made = add_images(session, 4)
        twin, clean = made[3].id, made[0].id
        session.add(SyntheticImage(image_id=twin, source_id=clean, damage={"kind": "blur"}))
    yield engine
    engine.dispose()


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(GIVEN, max_size=20), cut=st.integers(0, 20), taken=st.booleans())
def test_what_is_recorded_at_once_is_what_it_would_be_one_after_another(
    shared: Engine, rows: list[Any], cut: int, taken: bool
) -> None:
    with Session(shared.execution_options(begin="IMMEDIATE")) as session:  # and never commit
        ids = list(session.exec(select(Image.id).order_by(col(Image.id))))
        people = [projects.annotator(session, name, proxy=name == "c") for name in ("a", "b", "c")]
        kept = []
        for how in ("once", "each"):
            project = projects.create(session, how, holdout_share=0.5)
            project.seed = 3
            pool = session.exec(select(projects.Collection)).first()
            assert pool is not None
            projects.add_collection(session, project, pool)
            wanted = [
                scores.Given(ids[image], people[who].id, value, kind, at)
                for image, who, value, kind, at in rows
            ]
            for part, group in ((wanted[:cut], None), (wanted[cut:], "g")):
                if how == "once":
                    scores.record_many(
                        session, project, part, origin=scores.Origin.IMPORT, group=group
                    )
                else:
                    for one in part:
                        scores.record_for(
                            session, project.id, one.image_id, one.annotator_id, one.kind,
                            one.value, origin=scores.Origin.IMPORT, group=group, at=one.at,
                            unless_same=True,
                        )  # fmt: skip
            if taken:
                scores.undo_group(session, project, people[0], "g")
            now = said(session, project.id)
            assert scores.rebuild_labels(session, project) >= 0
            assert said(session, project.id) == now
            kept.append(now)
        assert kept[0] == kept[1]


def test_an_image_that_cannot_be_scored_leaves_the_others_of_a_selection_saved(desk: Desk) -> None:
    with sessions.writing(desk.engine) as session:
        project = session.get_one(Project, desk.project_id)
        person = session.get_one(Annotator, desk.person_id)
        first, second, third = desk.images[:3]
        older = scores.record(session, project, second.id, person, "set", 2)
        chosen = [
            batches.BatchItem(first.id), batches.BatchItem(second.id, expected=older.id + 7),
            batches.BatchItem(third.id, sha256="0" * 64), batches.BatchItem(desk.images[3].id),
        ]  # fmt: skip
        batch = batches.record_batch(session, project, person, chosen, "set", 9, "key")
        again = batches.record_batch(session, project, person, chosen, "set", 9, "key")
    assert [one.image_id for one in batch.events] == [first.id, desk.images[3].id]
    assert [one.id for one in batch.events] == [one.id for one in again.events]
    assert batch.stale == [second.id] and set(batch.refused) == {second.id, third.id}
    with sessions.reading(desk.engine) as session:
        values = session.execute(select(Label.image_id, Label.value)).tuples().all()
    assert dict(values) == {first.id: 9.0, second.id: 2.0, desk.images[3].id: 9.0}


def test_what_is_looked_up_for_many_rows_at_once_is_what_each_would_find(
    desk: Desk, tmp_path: Path
) -> None:
    one, other = desk.images[:2]
    with sessions.writing(desk.engine) as session:
        session.add(ImagePath(image_id=one.id, path=f"{tmp_path}/beside.jpg", size=1, mtime_ns=1))
        session.get_one(Image, other.id).name = "twice.jpg"
        session.get_one(Image, desk.images[2].id).name = "twice.jpg"
    named = [
        one.sha256, f"  {other.sha256.upper()} ", f"/pictures/{other.id}.jpg", "beside.jpg",
        f"file:///pictures/{one.id}.jpg", "twice.jpg", "nowhere.jpg", "", "a\0b", "\ud800",
        f"../{tmp_path.name}/beside.jpg", one.name,
    ]  # fmt: skip

    def found(references: References, name: str) -> Any:
        try:
            return references.find(name).id
        except (NotFound, Conflict) as error:
            return error.message

    with sessions.reading(desk.engine) as session:
        together = References(session, tmp_path)
        at_once = [found(together, name) for name in together.ahead(named, lambda name: [name])]
        assert at_once == [found(References(session, tmp_path), name) for name in named]
    assert at_once[:5] == [one.id, other.id, other.id, one.id, one.id]
