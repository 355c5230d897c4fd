"""A version is published by whoever holds transactions: a job, or a plain engine."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select
from trained_world import Trained, open_trained, trained_home

from tastemaker import jobs, scores, versions
from tastemaker.database.sessions import PlainTransactions, reading, writing
from tastemaker.database.tables import Embedding, EncoderRow, Job, Prediction, Version, now
from tastemaker.errors import NotTrainable, Unavailable
from tastemaker.jobs.progress import Silent
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.publishing import import_head
from tastemaker.training import learners, retrain
from tastemaker.versions import publication


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Trained]:
    """Eighty scored images with v1.0."""
    trained_home(tmp_path / "home")
    made = open_trained(tmp_path / "home")
    yield made
    made.engine.dispose()


def request(home: Trained, made_by: str, **fields: Any) -> retrain.Request:
    with reading(home.engine) as session:
        event_high = scores.highest_event(session, home.project(session))
    usual = {"event_high": event_high, "seed": 5, "recipe": "ridge"}
    return retrain.Request(home.project_id, made_by, **(usual | fields))


def train(home: Trained, made_by: str, **fields: Any) -> Version:
    transactions = PlainTransactions(home.engine)
    return retrain.train_and_publish(transactions, home.settings, request(home, made_by, **fields))


def numbers(home: Trained) -> list[str]:
    with reading(home.engine) as session:
        return [version.number for version in versions.list_ready(session, home.project(session))]


def count_jobs(home: Trained) -> int:
    with reading(home.engine) as session:
        return len(session.exec(select(Job)).all())


def test_a_version_is_trained_and_published_without_a_job(home: Trained) -> None:
    before = count_jobs(home)
    version = train(home, "by hand")
    assert (version.number, version.state, version.made_by) == ("v1.1", "ready", "by hand")
    path = versions.verify(home.settings, version)
    assert path.with_name("Anime-v1.1.config.json").is_file()
    assert version.metrics.versus_parent is not None
    with reading(home.engine) as session:
        rows = session.exec(select(Prediction).where(Prediction.version_id == version.id)).all()
    assert len(rows) == 80 == version.metrics.predicted
    assert count_jobs(home) == before
    assert not list(path.parent.glob(".*.part"))


def test_a_vector_that_went_away_after_the_labels_were_frozen_is_told(home: Trained) -> None:
    frozen = retrain._freeze(PlainTransactions(home.engine), request(home, "by hand"), Silent())
    with writing(home.engine) as session:
        session.delete(session.exec(select(Embedding)).first())
    with pytest.raises(Unavailable, match="1 of the images that it learns from"):
        train(home, "by hand")
    with reading(home.engine) as session:
        assert session.get_one(Version, frozen.id).state == "building"


def test_the_same_maker_is_the_same_version(home: Trained) -> None:
    first, again = train(home, "by hand"), train(home, "by hand", note="once more")
    assert (first.id, first.note) == (again.id, again.note)
    assert numbers(home) == ["v1.1", "v1.0"]


def test_a_training_by_hand_and_one_by_a_job_give_the_same_head(home: Trained) -> None:
    by_job = home.version("v1.0")
    with reading(home.engine) as session:
        event_high = by_job.event_high
        seed = home.project(session).seed
    by_hand = train(home, "by hand", seed=seed, event_high=event_high)
    ours, theirs = (load_checkpoint(versions.verify(home.settings, v)) for v in (by_hand, by_job))
    assert all(np.array_equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    assert by_hand.metrics.holdout == by_job.metrics.holdout


def test_what_cannot_train_is_refused_without_a_job_in_the_same_sentence(home: Trained) -> None:
    with pytest.raises(NotTrainable, match="No image is scored yet"):
        train(home, "too early", event_high=0)
    assert numbers(home) == ["v1.0"]


def test_a_version_takes_no_project_back_that_moved_while_it_was_trained(
    home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, predict = home.version("v1.0"), learners._predict_all

    def moved_meanwhile(*args: Any) -> None:
        with writing(home.engine) as session:
            other = EncoderRow(fingerprint="o" * 16, name="o/ther", dim=8)
            session.add(other)
            session.flush()
            project = home.project(session)
            project.encoder, project.encoder_id = other.name, other.id
        predict(*args)

    monkeypatch.setattr(learners, "_predict_all", moved_meanwhile)
    late = train(home, "too late")
    monkeypatch.undo()
    assert (late.number, late.active) == ("v1.1", False)
    assert late.activation == (
        "not activated: trained on efficientnet_lite0/bundled, and the project works with o/ther "
        "by now"
    )
    with reading(home.engine) as session:
        assert home.project(session).encoder == "o/ther"
        assert versions.active(session, home.project(session)) == before
    back = train(home, "a move", encoder_id=before.encoder_id)
    with reading(home.engine) as session:
        assert home.project(session).encoder_id == before.encoder_id
        assert versions.active(session, home.project(session)) == back


def begin(home: Trained, made_by: str, age: timedelta = timedelta()) -> Version:
    """A version that somebody began and never finished."""
    with reading(home.engine) as session:
        encoder_id = home.project(session).encoder_id
    assert encoder_id is not None
    version = publication.begin(
        PlainTransactions(home.engine), home.project_id, made_by, [],
        encoder_id=encoder_id, event_high=0, seed=0, note="",
    )  # fmt: skip
    with writing(home.engine) as session:
        row = session.get(Version, version.id)
        assert row is not None
        row.created_at = now() - age
        session.add(row)
    return version


def test_what_nobody_will_finish_leaves_no_gap_and_what_somebody_may_is_left_alone(
    home: Trained,
) -> None:
    assert begin(home, "a notebook").number == "v1.1"
    assert begin(home, "another", age=timedelta(days=2)).number == "v1.2", "the first may go on"
    with writing(home.engine) as session:
        ended = jobs.enqueue(session, "train", "Train", {}, home.project_id)
        jobs.cancel(session, ended.id)
        waiting = jobs.enqueue(session, "train", "Train", {"note": "2"}, home.project_id)
    made = begin(home, f"job {ended.id}: first")
    assert made.number == "v1.2", "the one of two days ago is given up"
    assert begin(home, f"job {waiting.id}").number == "v1.2", "and so is that of an ended job"
    assert train(home, "by hand").number == "v1.3", "the waiting job may go on"
    assert numbers(home) == ["v1.3", "v1.0"]


def test_a_head_made_elsewhere_is_published_without_a_job(home: Trained, tmp_path: Path) -> None:
    trained = load_checkpoint(versions.verify(home.settings, home.version()))
    file = tmp_path / "theirs.safetensors"
    save_checkpoint(file, trained.tensors, {"encoder": trained.metadata["encoder"]})
    with reading(home.engine) as session:
        event_high = scores.highest_event(session, home.project(session))
    request = import_head.HeadRequest(home.project_id, "mail", file, file.name, event_high)
    transactions = PlainTransactions(home.engine)
    version = import_head.publish_head(transactions, home.settings, request)
    assert (version.number, version.active) == ("v0.0", False)
    assert version.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert version.metrics.all_labels.n == 80
    assert version.metrics.all_labels.mae.value is not None
