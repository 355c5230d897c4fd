"""A project once more, under another name or another encoder, with all that was said in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select
from trained_world import Trained, open_trained, trained_home

from tastemaker import jobs, projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Comparison,
    Expectation,
    Label,
    Project,
    RemovedImage,
    ScoreEvent,
    Slice,
)
from tastemaker.errors import Conflict, Invalid
from tastemaker.evaluation import expectations, slices
from tastemaker.library.duplication import duplicate_project
from tastemaker.scores import comparisons
from tastemaker.training import retrain

CLIP = "ViT-B-32-quickgelu/openai"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Trained]:
    """“Anime”, with all that a project can hold."""
    home = open_trained(trained_home(tmp_path / "home"))
    with writing(home.engine) as session:
        project = home.project(session)
        scores.change_project(
            session, project, threshold=0.65, recipe="ridge", aggregate="mean",
            auto_train_every=40, auto_train_drift=0.5, brackets=[[0, "no"], [0.4, "yes"]],
        )  # fmt: skip
        me, ada = (projects.annotator(session, name) for name in ("me", "Ada"))
        scores.record(session, project, 1, ada, "set", 9, origin="review", key="only-once-key")
        scores.record(session, project, 2, ada, "set", 4)
        scores.undo(session, project, ada)
        scores.record(session, project, 3, ada, "skip")
        scores.record(session, project, 4, ada, "flag", note="is this a drawing?")
        scored = [scores.Given(image_id, me.id, 1) for image_id in (5, 6)]
        scores.record_many(session, project, scored, origin=scores.Origin.LIBRARY, group="g")
        first = comparisons.record(session, project, me, 1, 2, "first")
        comparisons.undo(session, project, me)
        comparisons.record(session, project, me, 1, 3, "second")
        assert first is not None
        session.add(RemovedImage(project_id=project.id, image_id=7))
        row = slices.add(session, project, "filter", {"filter": {"label_min": 6.0}}, "Liked")
        expectations.expect(session, project, row.id, "mean", "at least", 0.5, blocks=True)
    yield home
    home.engine.dispose()


def rows(session: Session, table: Any, project: Project, *left_out: str) -> list[dict[str, Any]]:
    found = session.exec(select(table).where(table.project_id == project.id))
    kept = [row.model_dump(exclude={"project_id", *left_out}) for row in found]
    return sorted(kept, key=str)


def test_a_duplicate_holds_everything_but_versions_in_the_same_order(home: Trained) -> None:
    with writing(home.engine) as session:
        project = home.project(session)
        copy = duplicate_project(session, project, "  Anime   again ")
        assert copy.name == "Anime again"
        own = {"id", "name", "created_at"}
        assert copy.model_dump(exclude=own) == project.model_dump(exclude=own)
        assert jobs.unfinished(session) == [], "its images have their vectors already"
    with reading(home.engine) as session:
        project, copy = home.project(session), projects.by_name(session, "Anime again")
        for table in (RemovedImage, Slice, Expectation):
            left_out = ("id", "slice_id", "created_at")
            assert rows(session, table, project, *left_out) == rows(session, table, copy, *left_out)
        for label in session.exec(select(Label).where(Label.project_id == project.id)):
            other = session.get(Label, (copy.id, label.image_id))
            assert other is not None
            same = {"project_id", "event_id"}
            assert label.model_dump(exclude=same) == other.model_dump(exclude=same)
        for table in (ScoreEvent, Comparison):
            both = []
            for of in (project, copy):
                said = session.exec(
                    select(table).where(table.project_id == of.id).order_by(col(table.id))
                ).all()
                place = {row.id: at for at, row in enumerate(said)}
                both.append(
                    [
                        row.model_dump(exclude={"id", "project_id", "key", "undoes"})
                        | {"undoes": place.get(row.undoes)}
                        for row in said
                    ]
                )
            assert both[0] == both[1] and any(row["undoes"] is not None for row in both[0])
        summaries = [projects.summary(session, of) for of in (project, copy)]
        for key in ("images", "labels", "threshold", "recipe"):
            assert summaries[0][key] == summaries[1][key], key
        assert summaries[1]["active_version"] is None


def test_what_is_said_in_the_one_is_not_said_in_the_other(home: Trained) -> None:
    with writing(home.engine) as session:
        project = home.project(session)
        copy = duplicate_project(session, project, "Copy")
        me = projects.annotator(session, "me")
        undone = scores.undo(session, copy, me)
        assert undone.image_id in (5, 6), "the newest thing said can be taken back in the copy"
    with reading(home.engine) as session:
        project, copy = home.project(session), projects.by_name(session, "Copy")
        before, after = scores.histogram(session, project), scores.histogram(session, copy)
        assert before != after


def test_another_encoder_queues_the_embedding_and_pins_nothing(home: Trained) -> None:
    with writing(home.engine) as session:
        copy = duplicate_project(session, home.project(session), "On CLIP", CLIP)
        assert (copy.encoder, copy.encoder_id) == (CLIP, None)
        (job,) = jobs.unfinished(session)
        assert (job.kind, job.project_id) == ("embed", copy.id)


def test_it_works_while_the_project_trains(home: Trained) -> None:
    with writing(home.engine) as session:
        retrain.request_training(session, home.settings, home.project(session))
    with writing(home.engine) as session:
        copy = duplicate_project(session, home.project(session), "Meanwhile")
        assert jobs.unfinished(session, project_id=copy.id) == []
        assert len(jobs.unfinished(session, "train")) == 1


def test_a_taken_name_and_an_encoder_that_is_none_are_refused(home: Trained) -> None:
    for name, encoder, kind in (
        ("ANIME", None, Conflict), ("a/b", None, Invalid), ("New", "no slash", Invalid),
        ("New", "ViT-Z-99/openai", Invalid),
    ):  # fmt: skip
        with pytest.raises(kind), writing(home.engine) as session:
            duplicate_project(session, home.project(session), name, encoder)
    with reading(home.engine) as session:
        assert [project.name for project in projects.list_all(session)] == ["Anime"]


def test_vectors_from_outside_cannot_be_embedded_by_another_encoder(home: Trained) -> None:
    with writing(home.engine) as session:
        for image in session.exec(select(projects.Image)):
            image.kind = "vector"
            session.add(image)
    with pytest.raises(Conflict, match="vectors from outside"), writing(home.engine) as session:
        duplicate_project(session, home.project(session), "On CLIP", CLIP)


@pytest.mark.slow
def test_five_thousand_events_are_copied_in_their_order(home: Trained) -> None:
    with writing(home.engine) as session:
        project, me = home.project(session), projects.annotator(session, "me")
        for value in range(60):
            ids = [image_id for image_id in range(1, 81) if image_id != 7]
            given = [scores.Given(image_id, me.id, value % 11) for image_id in ids]
            scores.record_many(session, project, given, origin=scores.Origin.LIBRARY)
        scores.undo(session, project, me)
        copy = duplicate_project(session, project, "Long")
        assert scores.histogram(session, copy) == scores.histogram(session, project)
