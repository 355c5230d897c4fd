"""Slices and expectations of a project with classes."""

from pathlib import Path

import numpy as np
import pytest
from class_world import Classes, class_home, open_classes
from sqlmodel import select

from tastemaker import projects
from tastemaker.database import sessions
from tastemaker.database.tables import ClassPrediction, Tag, VersionLabel
from tastemaker.errors import Invalid
from tastemaker.evaluation import expectations, slices
from tastemaker.learning.metrics import estimate
from tastemaker.learning.ratios import ratios
from tastemaker.library import duplication
from tastemaker.publishing import model_card
from tastemaker.publishing.card_blocks import markdown
from tastemaker.scores import class_changes, classes
from tests.command_line import Run

API = "/api/v1/projects/1"


def tagged(made: Classes, ids: list[int], tag: str = "scan") -> None:
    with sessions.writing(made.engine) as session:
        session.add_all(Tag(image_id=image_id, tag=tag, source="user") for image_id in ids)


@pytest.fixture
def made(tmp_path: Path) -> Classes:
    """45 of the 90 images are scans, 30 of them labelled; one slice, one version."""
    made = open_classes(class_home(tmp_path / "home", train=True))
    tagged(made, sorted(made.kinds)[:45])
    answer = made.world.client.post(f"{API}/slices", json={"tag": "scan", "name": "Scans"})
    assert answer.status_code == 201, answer.text
    return made


def report(made: Classes, number: str = "active") -> expectations.Report:
    version = made.version(number)
    with sessions.reading(made.engine) as session:
        return expectations.check(session, version)


def test_many_ratios_at_once_are_those_of_one_at_a_time() -> None:
    random = np.random.default_rng(2)
    tops, bottoms = random.random((60, 3)) < 0.4, random.random((60, 3)) < 0.8
    tops &= bottoms
    groups = random.integers(0, 25, 60)
    found = ratios(tops * 1.0, bottoms * 1.0, bottoms.sum(axis=0), groups)
    for k, one in enumerate(found):
        top, bottom = tops[:, k] * 1.0, bottoms[:, k] * 1.0
        alone = estimate(
            lambda w, t=top, b=bottom: w @ t / (w @ b), groups, int(bottom.sum()),
            resamples=400,
        )  # fmt: skip
        assert one.model_dump() == pytest.approx(alone.model_dump(), abs=1e-9)
    (none, all_of_it) = ratios(
        np.array([[0.0, 1]] * 30), np.array([[0.0, 1]] * 30), np.array([0, 30]), np.arange(30)
    )
    assert none.value is None and none.low is None
    assert (all_of_it.value, all_of_it.high) == (1, 1) and 0.85 < all_of_it.low < 0.9
    (few,) = ratios(np.ones((4, 1)), np.ones((4, 1)), np.array([4]), np.arange(4))
    assert few.value == 1 and few.low is None, "four images tell nothing of the whole"


def test_a_slice_tells_what_its_images_are_taken_for_and_how_often_that_is_right(made) -> None:
    (row,) = report(made).class_slices
    scans = sorted(made.kinds)[:45]
    with sessions.reading(made.engine) as session:
        said = {p.image_id: p.predicted for p in session.exec(select(ClassPrediction))}
    labels = {i: made.labelled(i) for i in scans if made.labelled(i) is not None}
    right = [said[i] == label for i, label in labels.items()]
    assert (row.images, row.labelled) == (45, len(labels))
    assert row.accuracy.value == pytest.approx(np.mean(right)) and row.accuracy.low is not None
    for one in row.classes:
        assert one.images == sum(said[i] == one.number for i in scans)
        hits = sum(said[i] == label == one.number for i, label in labels.items())
        having = sum(label == one.number for label in labels.values())
        told = sum(said[i] == one.number for i in labels)
        assert (one.recall.n, one.precision.n) == (having, told)
        assert one.recall.value == pytest.approx(hits / having)
        assert one.f1.value == pytest.approx(2 * hits / (having + told))


def test_the_page_the_api_and_the_command_show_it_for_classes(made, run: Run) -> None:
    page = made.world.client.get("/projects/1/slices").text
    assert "taken for" in page and "Scans" in page and "mean error" not in page
    told = made.world.client.get(f"{API}/slices").json()["slices"][0]
    (row,) = report(made).class_slices
    assert told["accuracy"] == row.accuracy.value and told["accuracy_n"] == row.labelled
    assert [one["name"] for one in told["classes"]] == ["photo", "drawing", "logo"]
    out = run("slices", "list", "Kinds").out
    assert "photo" in out and "recall" in out


def test_an_expectation_of_one_class_is_held_against_each_training_and_few_labels_block_nothing(
    made,
) -> None:
    client = made.world.client
    form = {"slice_id": "1", "measure": "recall", "of": "0", "bound": "at least", "value": "90"}
    answer = client.post("/projects/1/expectations", data=form | {"blocks": "true"})
    assert answer.status_code == 303, answer.text
    (check,) = report(made).expectations
    assert (check.measure, check.of, check.images) == ("recall:0", "photo", 15)
    assert expectations.wanted(check) == "recall of photo at least 90 %"
    finer = check.model_copy(update={"limit": 0.9995})
    assert expectations.wanted(finer) == "recall of photo at least 99.95 %"
    page = client.get("/projects/1/slices").text
    assert "recall of photo at least 90" in page and "over 15 images" in page
    for typed in ("99.995", "90"):  # the form to change it has every digit that was typed
        changed = form | {"blocks": "true", "value": typed, "expectation_id": str(check.id)}
        assert client.post("/projects/1/expectations", data=changed).status_code == 303
        assert f'name="value" value="{typed}"' in client.get("/projects/1/slices").text

    wrong = [i for i in sorted(made.kinds)[:45] if made.kinds[i] == 0][:12]
    made.label(dict.fromkeys(wrong, 1))  # the scans of photographs are said to be drawings
    newer = made.train()
    (missed,) = newer.metrics.expectations
    with sessions.reading(made.engine) as session:
        frozen = dict(session.exec(select(VersionLabel.image_id, VersionLabel.value).where(
            VersionLabel.version_id == newer.id)).all())  # fmt: skip
        having = [i for i in sorted(made.kinds)[:45] if frozen.get(i) == 0]
    assert missed.images == len(having) == 3 and missed.met is None, "three tell too little"
    assert newer.active, "what cannot be told blocks nothing"


def test_a_version_that_misses_a_blocking_expectation_is_not_activated(made) -> None:
    wanted = {
        "slice_id": 1, "measure": "share:photo", "bound": "at most", "value": 0.05, "blocks": True,
    }  # fmt: skip
    stated = made.world.client.post(f"{API}/expectations", json=wanted).json()
    assert stated["measure"] == "share:0"
    newer = made.train()
    assert not newer.active and "share taken for photo" in newer.activation
    assert newer.classes.slices[0].name == "Scans"
    page = made.world.client.get(f"/versions/{newer.id}").text
    assert "share taken for photo at most 5" in page and "blocks activation" in page
    with sessions.reading(made.engine) as session:
        card = markdown(model_card.card_of(session, made.settings, newer))
    assert "share taken for photo at most 5 %" in card and "| Scans | 45 |" in card


def test_expectations_follow_a_class_that_is_renamed_or_merged_and_tell_nothing_of_a_lost_one(
    made,
) -> None:
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        for measure in ("precision:logo", "accuracy", "f1:1"):
            expectations.expect(session, project, 1, measure, "at least", 0.5)
        class_changes.change(session, project, 0, name="photograph")
        class_changes.merge(session, project, 2, into=0)
    first, whole, third = report(made).expectations
    assert first.of == "photograph" and first.images and whole.of == ""
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        class_changes.add(session, project, "sketch")
        class_changes.delete(session, project, 1)
    third = report(made).expectations[2]
    assert (third.of, third.value, third.met) == ("drawing", None, None)
    assert "drawing" in made.world.client.get("/projects/1/slices").text


def test_a_filter_names_its_classes_and_collection_as_they_are_called_by_now(made, run) -> None:
    client = made.world.client
    asked = {"labelled": 0, "predicted_as": 2, "collection": 1, "scored": True}
    kept = {"kind": "filter", "filter": asked | {"predicted_min": 0.25}, "name": "Some"}
    told = client.post(f"{API}/slices", json=kept).json()
    first = "labelled {}; predicted as {}; collection Pictures; scored yes; predicted min 2.5"
    assert told["what"] == f"library filter: {first.format('photo', 'logo')}"
    with sessions.writing(made.engine) as session:
        class_changes.change(session, made.project(session), 0, name="photograph")
        class_changes.merge(session, made.project(session), 2, into=1)
    words = first.format("photograph", "drawing")
    assert words in client.get("/projects/1/slices").text
    assert words in [row["what"] for row in client.get(f"{API}/slices").json()["slices"]][1]
    assert words in run("slices", "remove", "Kinds", "Some", "--json").out


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [
        ("mean", "cannot be expected of classes"), ("recall", "of which class"),
        ("recall:statue", "is no class"), ("f1:99", "is no class"), ("recall:-1", "is no class"),
    ],
)  # fmt: skip
def test_what_cannot_be_expected_is_refused_in_words(made, measure, sentence) -> None:
    body = {"slice_id": 1, "measure": measure, "bound": "at least", "value": 0.5}
    answer = made.world.client.post(f"{API}/expectations", json=body)
    assert answer.status_code == 422 and sentence in answer.json()["error"]
    with sessions.reading(made.engine) as session:
        assert expectations.listing(session, made.project(session)) == []


def test_one_is_changed_removed_and_goes_along_with_a_copy_of_the_project(made) -> None:
    client = made.world.client
    body = {"slice_id": 1, "measure": "recall:0", "bound": "at least", "value": 0.5}
    made_id = client.post(f"{API}/expectations", json=body).json()["id"]
    with sessions.writing(made.engine) as session:
        copy = duplication.duplicate_project(session, made.project(session), "Copy")
        (row,) = slices.listing(session, copy)
        (same,) = expectations.listing(session, copy)
        assert same.slice_id == row.id and row.definition == {"tag": "scan"}
        assert expectations.measure_of(same) == "recall:0" and same.id != made_id
    changed = body | {"measure": "accuracy"}
    answer = client.put(f"{API}/expectations/{made_id}", json=changed)
    assert answer.json()["measure"] == "accuracy"
    assert client.delete(f"{API}/expectations/{made_id}").status_code == 204
    with sessions.reading(made.engine) as session:
        assert expectations.listing(session, made.project(session)) == []


def test_tags_have_rates_of_their_own_and_a_project_that_scores_keeps_its_measures(
    tmp_path,
) -> None:
    made = open_classes(class_home(tmp_path / "home", train=True, several=True))
    tagged(made, sorted(made.kinds)[:45])
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        slices.add(session, project, "tag", {"tag": "scan"})
        expectations.expect(session, project, 1, "recall:drawing", "at least", 0.5)
        other = projects.create(session, "Plain")
        slices.add(session, other, "tag", {"tag": "scan"})
        with pytest.raises(Invalid, match="mean or pass_rate"):
            expectations.expect(session, other, 2, "accuracy", "at least", 0.5)
    (row,) = report(made).class_slices
    (check,) = report(made).expectations
    drawings = [i for i in sorted(made.kinds)[:45] if made.kinds[i] in (1, 2)]
    labelled = [i for i in drawings if made.labelled(i) is not None]
    assert check.images == len(labelled) == 30 and check.value is not None
    assert {one.name for one in row.classes} == {"photo", "drawing", "logo"}


def test_two_hundred_classes_on_a_slice_are_measured_and_shown(tmp_path) -> None:
    made = open_classes(class_home(tmp_path / "home", train=True))
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        for number in range(197):
            class_changes.add(session, project, f"kind {number}")
        classes.forget(session)
        slices.add(session, project, "filter", {"filter": {"labelled": 0}}, "Labelled photos")
    (row,) = report(made).class_slices
    assert row.labelled == 20 and len(row.classes) <= 3, "the others are in nothing"
    assert made.world.client.get("/projects/1/slices").text.count("kind 196") == 1
