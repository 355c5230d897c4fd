"""A class project from labels to a published version, and what the file and the rows say."""

import json
from pathlib import Path

import numpy as np
import pytest
from class_world import IMAGES, Classes, class_home, looks, open_classes
from sqlmodel import func, select
from test_classifier import strict_forward

from tastemaker import embeddings, versions
from tastemaker.database import sessions
from tastemaker.database.tables import ClassPrediction, Label, Prediction, VersionLabel
from tastemaker.errors import Conflict, NotTrainable
from tastemaker.jobs.progress import Silent
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.publishing.import_head import import_checkpoint
from tastemaker.scores import class_changes
from tastemaker.training import auto_train, retrain, trainable
from tastemaker.versions import class_report, class_rows, deletion, predictions


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def trained(home: Path) -> Classes:
    return open_classes(class_home(home, train=True))


def said(made: Classes, version) -> dict[int, int]:
    with sessions.reading(made.engine) as session:
        rows = session.exec(
            select(ClassPrediction).where(ClassPrediction.version_id == version.id)
        ).all()
    return {row.image_id: row.predicted for row in rows}


def test_a_version_tells_the_classes_apart_and_says_on_what_that_rests(trained):
    version = trained.version()
    record = version.classes
    assert (version.number, version.activation) == ("v1.0", "first version")
    assert (record.names, record.numbers) == (("photo", "drawing", "logo"), (0, 1, 2))
    assert record.labels == (20, 20, 20) and sum(record.predicted) == IMAGES
    assert record.measured_on == "random_sample", "a dozen held out are no hold-out yet"
    assert record.measured.n == 60 and record.measured.accuracy.value > 0.85
    assert version.metrics.kind == "logistic" and version.metrics.images < 60
    told = said(trained, version)
    right = [told[image] == kind for image, kind in trained.kinds.items()]
    assert len(told) == IMAGES and np.mean(right) > 0.85


def test_the_file_is_a_class_file_of_the_original_with_its_labels(trained):
    version = trained.version()
    path = versions.checkpoint_path(trained.settings, version)
    config = json.loads(versions.config_path(trained.settings, version).read_text())
    assert config["arch"] == "class"
    assert config["labels"] == {"0": "photo", "1": "drawing", "2": "logo"}
    assert config["model_params"] == {"features": 24, "hidden": 1024, "outputs": 3}
    assert "threshold" not in config and "brackets" not in config
    with sessions.reading(trained.engine) as session:
        rows = session.exec(select(ClassPrediction).order_by(ClassPrediction.image_id)).all()
        ids, x = embeddings.matrix(session, version.encoder_id, [row.image_id for row in rows])
    own = np.stack([np.frombuffer(row.probabilities, "<f4") for row in rows])
    assert ids.tolist() == [row.image_id for row in rows]
    assert np.abs(strict_forward(path, x.astype(np.float32), softmax=True) - own).max() < 1e-5


def test_what_trained_is_predicted_by_a_head_that_never_saw_it(trained):
    version = trained.version()
    with sessions.reading(trained.engine) as session:
        sides = dict(session.exec(select(VersionLabel.image_id, VersionLabel.side)).all())
        rows = session.exec(select(ClassPrediction)).all()
        scores = {row.image_id: row for row in session.exec(select(Prediction))}
    for row in rows:
        trains = sides.get(row.image_id) == "train"
        assert (row.out_of_fold is not None) == trains
        likeliest = next(iter(class_rows.shares(row, version.classes).items()))
        assert likeliest[0] == row.predicted
        assert scores[row.image_id].honest == pytest.approx(likeliest[1], abs=1e-6)


def test_the_next_version_is_compared_with_the_one_before_which_leaves_with_its_rows(trained):
    second = trained.train()
    versus = second.classes.versus
    assert versus.version == "v1.0" and versus.difference.value == 0
    told = class_report.finding(second.classes)
    assert told.startswith("No difference to v1.0 shown: +0.0 points of error in 100 (")
    assert told.endswith(" images).")
    assert second.active and second.activation.startswith("no significant regression against v1.0")
    first = trained.version("v1.0")
    deletion.delete_version(trained.settings, trained.engine, first.id)
    with sessions.reading(trained.engine) as session:
        left = select(func.count()).where(ClassPrediction.version_id == first.id)
        assert session.exec(left).one() == 0
        row = session.get(type(first), first.id)
        assert row is not None and row.classes == ClassRecord()


def test_renaming_and_merging_leave_the_version_as_it_was(trained):
    with sessions.writing(trained.engine) as session:
        project = trained.project(session)
        class_changes.change(session, project, 0, name="photograph")
        class_changes.merge(session, project, 2, into=1)
    version = trained.version()
    assert version.classes.names == ("photo", "drawing", "logo")
    with sessions.reading(trained.engine) as session:
        frozen = session.exec(select(VersionLabel.value).distinct()).all()
        assert set(frozen) == {0, 1, 2}
        assert set(session.exec(select(Label.value).distinct())) == {0, 1}
    second = trained.train()
    assert second.classes.names == ("photograph", "drawing")
    assert second.classes.versus.version == "v1.0"
    assert second.classes.versus.difference.value <= 0.1, "a logo counts as a drawing now"


def test_a_class_without_a_label_is_left_out_and_named(home):
    made = open_classes(class_home(home))
    with sessions.writing(made.engine) as session:
        class_changes.add(session, made.project(session), "sculpture")
    record = made.train().classes
    assert (record.left_out, record.names) == (("sculpture",), ("photo", "drawing", "logo"))


def test_labels_of_one_class_train_nothing_and_the_page_knows_before(home):
    made = open_classes(class_home(home, labels=0))
    with sessions.reading(made.engine) as session:
        reason = trainable.why_not(trainable.known_now(session, made.project(session)))
    assert reason is not None and "No image is labelled yet" in reason.message
    made.label({image: 0 for image, kind in made.kinds.items() if kind == 0})
    with (
        sessions.writing(made.engine) as session,
        pytest.raises(NotTrainable, match="of one class"),
    ):
        retrain.request_training(session, made.settings, made.project(session))


def test_images_that_come_later_are_predicted_with_the_classes_of_the_version(trained):
    new = trained.add(3, "Later", "pool", seed=9, x=looks(np.array([0, 1, 2]), seed=9))
    version = trained.version()
    done = predictions.predict_missing(
        sessions.PlainTransactions(trained.engine), trained.settings, version, report=Silent()
    )
    assert done == 3
    told = said(trained, version)
    assert [told[image] for image in new] == [0, 1, 2]


def test_a_class_project_trains_by_itself_after_so_many_labels(trained):
    with sessions.writing(trained.engine) as session:
        project = trained.project(session)
        project.auto_train_every = 2
        session.add(project)
    ids = list(trained.kinds)[60:62]
    trained.label({image: trained.kinds[image] for image in ids}, origin="queue")
    with sessions.reading(trained.engine) as session:
        why = auto_train.due_reason(session, trained.settings, trained.project(session))
    assert why == "2 new labels"


def test_tags_are_each_told_by_themselves(home):
    made = open_classes(class_home(home, train=True, several=True))
    version = made.version()
    record = version.classes
    assert record.labelling == "tags" and record.measured.confusion == ()
    assert record.measured.accuracy.value > 0.7
    told = said(made, version)
    expected = {0: 0b001, 1: 0b010, 2: 0b110}
    right = [told[image] == expected[kind] for image, kind in made.kinds.items()]
    assert np.mean(right) > 0.7
    with sessions.reading(made.engine) as session:
        row = session.exec(select(ClassPrediction)).first()
        shares = class_rows.shares(row, record)
    assert set(shares) == {0, 1, 2}


def test_a_head_made_elsewhere_is_refused_where_labels_are_classes(trained):
    path = versions.checkpoint_path(trained.settings, trained.version())
    with pytest.raises(Conflict, match="labels images by classes"):
        import_checkpoint(trained.engine, trained.settings, trained.project_id, path)
