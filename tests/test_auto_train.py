"""Training that begins by itself: when it should, once, and never otherwise."""

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker import images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Job, Label, Project, Version
from tastemaker.embeddings import store_vectors
from tastemaker.errors import Invalid
from tastemaker.live.live_model import LIVE_ROW, FitSummary, LiveModel, write_live
from tastemaker.training import auto_train
from tastemaker.training.auto_train import Drift
from tests.conftest import add_images
from tests.flat_metrics import from_flat


class Desk:
    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        with sessions.writing(engine) as session:
            encoder = EncoderRow(fingerprint="f" * 64, name="drawn", dim=4)
            session.add(encoder)
            session.flush()
            self.project = projects.create(session, "Desk", holdout_share=0.0)
            self.project.encoder_id = encoder.id
            self.ids = [image.id for image in add_images(session, 200, project=self.project)]
            vectors = np.random.default_rng(0).normal(size=(200, 4))
            store_vectors(session, encoder.id, zip(self.ids, vectors, strict=True))
            self.me = projects.annotator(session, "me")
        self.said = 0

    def set(self, **fields: object) -> None:
        with sessions.writing(self.engine) as session:
            projects.change(session, projects.get(session, self.project.id), **fields)

    def score(self, count: int, origin: str = "queue") -> None:
        with sessions.writing(self.engine) as session:
            for _ in range(count):
                image_id, value = self.ids[self.said], self.said * 7 % 11
                scores.record(session, self.project, image_id, self.me, "set", value, origin=origin)
                self.said += 1

    def tick(self) -> list[Job]:
        return auto_train.tick(self.settings, self.engine)

    def end(self, job: Job, state: str) -> None:
        with sessions.writing(self.engine) as session:
            jobs.get(session, job.id).state = state

    def publish(self, mae: float = 1.0) -> None:
        with sessions.writing(self.engine) as session:
            session.add(
                Version(
                    project_id=self.project.id, state="ready", active=True, made_by="test",
                    encoder_id=self.project.encoder_id or 0,
                    event_high=scores.highest_event(session, self.project),
                    metrics=from_flat({"out_of_fold": {"mae": mae}}),
                )
            )  # fmt: skip

    def live_is_off_by(self, points: float) -> None:
        """The live model's file, as if it missed every label by so much."""
        with sessions.reading(self.engine) as session:
            labels = session.exec(select(Label).order_by(Label.image_id)).all()  # type: ignore[arg-type]
            high = scores.highest_event(session, self.project)
        rows = np.zeros(len(labels), LIVE_ROW)
        rows["image_id"] = [label.image_id for label in labels]
        rows["score"] = [(label.value + points) / 10 for label in labels]
        rows["labelled"] = True
        live = LiveModel(rows, FitSummary(event_high=high))
        write_live(self.settings, self.project.id, live)


@pytest.fixture
def desk(settings: Settings, engine: Engine) -> Desk:
    return Desk(settings, engine)


def test_training_begins_after_so_many_scores_and_says_why(desk: Desk) -> None:
    desk.set(auto_train_every=20)
    desk.score(19)
    assert desk.tick() == []
    with sessions.reading(desk.engine) as session:
        assert auto_train.streak(session, desk.project) == (19, 0), "the row read before"
        assert auto_train.streak(session, projects.get(session, desk.project.id)) == (19, 20)
    desk.score(1)
    (job,) = desk.tick()
    assert (job.kind, job.payload["note"]) == ("train", "by itself: 20 new scores")
    assert job.payload["event_high"] == 20


def test_never_while_one_is_under_way_and_the_count_begins_anew(desk: Desk) -> None:
    desk.set(auto_train_every=20)
    desk.score(20)
    (job,) = desk.tick()
    desk.score(30)
    assert desk.tick() == [], "one is queued"
    desk.end(job, "running")
    assert desk.tick() == [], "one is running"
    desk.end(job, "done")
    (second,) = desk.tick()
    assert second.payload["note"] == "by itself: 30 new scores"
    desk.end(second, "done")
    with sessions.writing(desk.engine) as session:
        move = jobs.enqueue(session, "migrate", "Move “Desk”", {}, desk.project.id)
    desk.score(20)
    assert desk.tick() == [], "the move to another encoder trains anyway"
    desk.end(move, "done")
    assert len(desk.tick()) == 1


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_training_that_came_to_nothing_is_not_begun_over_and_over(desk: Desk, state: str) -> None:
    desk.set(auto_train_every=20)
    desk.score(20)
    (job,) = desk.tick()
    desk.end(job, state)
    assert desk.tick() == []
    desk.score(20)
    assert len(desk.tick()) == 1


def test_nothing_happens_where_it_is_off_or_nothing_could_be_learned(desk: Desk) -> None:
    desk.score(50)
    assert desk.tick() == [], "off until somebody turns it on"
    with sessions.writing(desk.engine) as session:
        other = projects.create(session, "Flat", holdout_share=0.0)
        other.encoder_id = desk.project.encoder_id
        projects.add_collection(session, other, images.collection_named(session, "Pictures"))
        projects.change(session, other, auto_train_every=5)
        bare = projects.create(session, "Bare")
        projects.change(session, bare, auto_train_every=1)
        for image_id in desk.ids[:10]:
            scores.record(session, other, image_id, desk.me, "set", 5)
    assert desk.tick() == [], "ten equal scores teach nothing"


def test_too_little_room_on_the_disk_waits_without_an_error(desk: Desk) -> None:
    desk.set(auto_train_every=10)
    desk.score(10)
    full = desk.settings.model_copy(update={"min_free_gb": 10**9})
    assert auto_train.tick(full, desk.engine) == []
    assert len(desk.tick()) == 1


@pytest.mark.parametrize(("off", "begins"), [(3.0, True), (1.2, False), (0.0, True)])
def test_a_drift_of_the_live_error_begins_a_training(desk: Desk, off: float, begins: bool) -> None:
    desk.set(auto_train_drift=0.5)
    desk.score(40)
    desk.publish(mae=1.0)
    desk.live_is_off_by(off)
    assert desk.tick() == [], "no new label yet"
    desk.score(30)
    desk.live_is_off_by(off)
    queued = desk.tick()
    assert bool(queued) == begins
    if begins:
        said = f"by itself: the error on 30 new labels is {off:.2f} points, not 1.00 as published"
        assert queued[0].payload["note"] == said
        desk.end(queued[0], "done")
        assert desk.tick() == [], "those labels have been looked at"


def test_a_few_labels_or_a_wide_spread_are_no_drift() -> None:
    assert Drift(live=3.0, recorded=1.0, error=0.2, n=30).exceeds(0.5)
    assert not Drift(live=3.0, recorded=1.0, error=0.2, n=19).exceeds(0.5)
    assert not Drift(live=3.0, recorded=1.0, error=1.5, n=30).exceeds(0.5)
    assert not Drift(live=1.4, recorded=1.0, error=0.01, n=300).exceeds(0.5)
    assert Drift(live=0.2, recorded=1.0, error=0.01, n=300).exceeds(0.5), "better is news too"


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_train_every": -1},
        {"auto_train_every": "many"},
        {"auto_train_every": 2.5},
        {"auto_train_every": 10**9},
        {"auto_train_drift": -0.1},
        {"auto_train_drift": float("nan")},
        {"auto_train_drift": 11},
        {"aggregate": "loudest"},
        {"brackets": []},
        {"brackets": [[0.1, "low"]]},
        {"brackets": [[0, "low"], [0.5, "high"], [0.4, "middle"]]},
        {"brackets": [[0, "low"], [1.0, "none"]]},
        {"brackets": [[0, " "]]},
        {"brackets": "low"},
        {"brackets": [[0, "low", "lower"]]},
    ],
)
def test_settings_that_make_no_sense_are_refused_and_nothing_changes(
    desk: Desk, fields: dict[str, object]
) -> None:
    with pytest.raises(Invalid):
        desk.set(threshold=0.7, **fields)
    with sessions.reading(desk.engine) as session:
        assert projects.get(session, desk.project.id).threshold == 0.5


def test_settings_are_tidied(desk: Desk) -> None:
    desk.set(
        auto_train_every=" 50 ", auto_train_drift="0.5", aggregate="mean",
        brackets=[["0", "  all   the rest "], (0.6, "best")],
    )  # fmt: skip
    with sessions.reading(desk.engine) as session:
        found: Project = projects.get(session, desk.project.id)
        assert (found.auto_train_every, found.auto_train_drift) == (50, 0.5)
        assert found.brackets == [[0.0, "all the rest"], [0.6, "best"]]
        assert found.aggregate == "mean"
