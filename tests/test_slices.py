"""Slices are measured on what a version says and must agree with a count by hand; expectations
are held against every version, and one that blocks keeps it from becoming active."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select
from web_world import World, add_version, make_world, score_some

from tastemaker import images, versions
from tastemaker.cli.slices import of_scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Expectation,
    Prediction,
    RemovedImage,
    Slice,
    Tag,
    Version,
    VersionLabel,
)
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.evaluation import evaluate, expectations, slices
from tastemaker.learning.version_metrics import Estimate, ExpectationCheck, VersusVersion

PREDICTED = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.2, 5: 0.1, 6: 0.6, 7: 0.4, 8: 0.3, 9: 0.5, 10: 0.05}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Ten images; 1 to 4 are tagged “photo”, 5 and 6 “manga”; 1 to 6 are labelled, the first four
    of them trained."""
    world = make_world(tmp_path, images=10)
    score_some(world, [2, 9, 8, 1, 0, 9])
    add_version(world, 0, {})
    version_id = add_version(world, 1, PREDICTED)
    with writing(world.engine) as session:
        for image_id in range(1, 7):
            images.add_tags(session, image_id, ["photo" if image_id <= 4 else "manga"])
        for image_id, value in enumerate([2, 9, 8, 1, 0, 9], 1):
            side = "train" if image_id <= 4 else "holdout"
            session.add(
                VersionLabel(version_id=version_id, image_id=image_id, value=value, side=side)
            )
    return world


def add(world: World, tag: str = "photo", name: str = "") -> int:
    with writing(world.engine) as session:
        return slices.add(session, world.project(session), "tag", {"tag": tag}, name).id


def report(world: World, session: Session) -> expectations.Report:
    version = versions.active(session, world.project(session))
    assert version is not None
    return expectations.check(session, version)


# --- what a version makes of a slice --------------------------------------------------------------


def test_every_number_of_a_slice_is_what_a_count_by_hand_gives(world: World) -> None:
    add(world)
    with reading(world.engine) as session:
        (row,) = report(world, session).slices
    assert (row.name, row.images, row.library_share) == ("photo", 4, 0.4)
    assert (row.training, row.training_share) == (4, 1.0)
    assert row.mean == pytest.approx((0.9 + 0.8 + 0.7 + 0.2) / 4)
    assert row.pass_rate == 0.75
    assert row.labelled == 4
    assert row.mae.value == pytest.approx((7 + 1 + 1 + 1) / 4)
    rates = (row.fp_rate.value, row.fn_rate.value)
    assert rates == (pytest.approx(1 / 3), 0.0)  # image 1: 90 %, labelled 2
    assert (row.mae.n, row.fp_rate.n, row.fn_rate.n) == (4, 3, 2)


def test_a_rate_over_fewer_than_ten_images_is_withheld_and_its_n_stays(world: World) -> None:
    add(world)
    page = world.client.get(f"{world.at}/slices").text
    for rate, n in (("false positives", 3), ("false negatives", 2)):
        (cell,) = re.findall(rf'data-of="{rate}">(.*?)</td>', page)
        assert "too few" in cell and f"n {n}" in cell and "%" not in cell
    with reading(world.engine) as session:
        rows = [row.as_json() | {"what": ""} for row in report(world, session).slices]
    table = [list(column.cells) for column in of_scores(rows).columns]
    assert table[-2:] == [["too few (3)"], ["too few (2)"]]
    enough = Estimate(value=0.5, low=None, high=None, n=10)
    assert enough.finding == enough and enough.model_copy(update={"n": 9}).finding.value is None


def test_a_label_is_judged_by_the_head_that_never_saw_it(world: World) -> None:
    add(world)
    with writing(world.engine) as session:
        version = session.exec(select(Version).where(Version.active)).one()
        said = session.get(Prediction, (version.id, 1))
        assert said is not None
        said.score, said.out_of_fold = 0.2, 0.9  # the file has learned image 1 by heart
    with reading(world.engine) as session:
        (row,) = report(world, session).slices
    assert row.mean == pytest.approx(0.65) and row.fp_rate.value == pytest.approx(1 / 3)


def test_images_removed_from_the_project_count_nowhere(world: World) -> None:
    add(world)
    with writing(world.engine) as session:
        session.add(RemovedImage(project_id=world.project_id, image_id=1))
    with reading(world.engine) as session:
        (row,) = report(world, session).slices
    assert row.images == 3 and row.library_share == pytest.approx(3 / 9) and row.fp_rate.value == 0


def test_an_empty_slice_has_no_numbers_and_blocks_nothing(world: World) -> None:
    slice_id = add(world)
    with writing(world.engine) as session:
        project = world.project(session)
        expectations.expect(session, project, slice_id, "mean", "at most", 0.1, blocks=True)
        for tag in session.exec(select(Tag).where(Tag.tag == "photo")):
            session.delete(tag)
    with reading(world.engine) as session:
        told = report(world, session)
    (row,), (check,) = told.slices, told.expectations
    assert (row.images, row.mean, row.mae.value, row.fp_rate.value) == (0, None, None, None)
    assert check.met is None and check.value is None
    assert told.missed == told.blocking == []


def test_a_saved_filter_is_a_slice_and_one_that_means_nothing_any_more_is_empty(
    world: World,
) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        row = slices.add(session, project, "filter", {"filter": {"tags": ["manga"]}}, "comics")
        assert slices.members(session, project, row).tolist() == [5, 6]
        assert slices.in_words(session, row) == "library filter: tags manga"
        row.definition = {"filter": {"collection": 4711}}
        assert slices.members(session, project, row).tolist() == []


def test_a_slice_by_text_holds_the_images_that_were_found(world: World) -> None:
    with writing(world.engine) as session:
        found = {"prompt": "a castle", "share": 0.25, "image_ids": [9, 2, 2]}
        row = slices.add(session, world.project(session), "prompt", found)
        assert row.name == "a castle"
        assert slices.members(session, world.project(session), row).tolist() == [2, 9]
        assert slices.in_words(session, row) == "the 25 % nearest to “a castle”"


@given(st.floats(0, 1), st.integers(0, 400), st.integers(0, 400))
@example(1.0, 0, 1)
def test_only_slices_with_less_than_half_their_share_are_named_as_lacking(
    share: float, training: int, more: int
) -> None:
    everything = training + more
    if slices.is_under_represented(share, training, everything):
        assert share >= slices.NOTICED and training < 0.5 * share * everything
        assert everything >= 8, "with so few labels nothing is known to lack"
    assert not slices.is_under_represented(share, round(share * everything + 0.5), everything)


def test_a_slice_with_few_labels_is_found(tmp_path: Path) -> None:
    """“male characters: 2 % of the labels, 11 % of the library”"""
    assert slices.is_under_represented(0.11, training=6, all_training=300)
    assert not slices.is_under_represented(0.11, training=30, all_training=300)
    assert not slices.is_under_represented(0.11, training=0, all_training=10), (
        "chance would often bring that"
    )


@pytest.mark.slow
def test_a_large_tag_with_few_labels_is_named_without_being_a_slice(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=120)
    version_id = add_version(world, 0, {i: 0.1 if i <= 30 else 0.7 for i in range(1, 121)})
    with writing(world.engine) as session:
        for image_id in range(1, 121):
            images.add_tags(session, image_id, ["male" if image_id <= 30 else "female"])
        for image_id in (1, 2, *range(40, 98)):
            label = {"version_id": version_id, "image_id": image_id, "value": 5, "side": "train"}
            session.add(VersionLabel(**label))
    with reading(world.engine) as session:
        project, version = world.project(session), versions.get(session, version_id)
        (row,) = slices.unmeasured(session, project, version)
    told = (row.name, row.id, row.library_share, row.training, row.pass_rate)
    assert told == ("male", 0, 0.25, 2, 0.0)
    page = world.client.get(f"{world.at}/slices").text
    sentence = (
        r"male</span>: 3\.3\s% of the training labels, 25\s% of the library, pass rate 0\s%\."
    )
    assert re.search(sentence, page)
    told = world.client.get(f"/api/v1{world.at}/slices").json()
    assert [row["name"] for row in told["under_represented"]] == ["male"] and not told["slices"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    st.lists(st.integers(0, 40), max_size=40),
)
def test_membership_is_that_of_sets(honest: list[float], ids: list[int]) -> None:
    n = len(honest)
    seen = slices.SlicePredictions(
        np.arange(n, dtype=np.int64), np.array(honest), np.zeros(n, bool), np.full(n, np.nan),
        np.arange(n), np.ones(n, bool),
    )  # fmt: skip
    inside = seen.among(np.unique(np.array(ids, np.int64)))
    assert set(np.flatnonzero(inside)) == set(ids) & set(range(n))


# --- defining them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "definition", "sentence"),
    [
        ("tag", {"tag": "nowhere"}, "No image carries the tag"),
        ("tag", {}, "No tag was given"),
        ("filter", {"filter": {}}, "This filter is empty"),
        ("filter", {"filter": {"colour": "red"}}, "no “colour”"),
        ("prompt", {"prompt": "", "image_ids": [1]}, "A text of 1 to 200 characters"),
        ("prompt", {"prompt": "x", "share": 0.9, "image_ids": [1]}, "at most 50 %"),
        ("prompt", {"prompt": "x", "share": 0.1}, "the images that it found"),
        ("magic", {}, "no slice of kind"),
    ],
)
def test_what_means_nothing_is_refused(
    world: World, kind: str, definition: dict, sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence), writing(world.engine) as session:
        slices.add(session, world.project(session), kind, definition, "A name")
    with reading(world.engine) as session:
        assert session.exec(select(Slice)).all() == []


def test_a_name_is_taken_once(world: World) -> None:
    add(world, name="Real life")
    with pytest.raises(Conflict, match="“real life” already"):
        add(world, "manga", "real life")


def test_removing_a_slice_removes_what_was_expected_of_it_and_no_image(world: World) -> None:
    slice_id = add(world)
    with writing(world.engine) as session:
        project = world.project(session)
        expectations.expect(session, project, slice_id, "mean", "at most", 0.1)
        before = images.count(session)
        slices.remove(session, slices.get(session, project, slice_id))
    with reading(world.engine) as session:
        assert session.exec(select(Expectation)).all() == []
        assert images.count(session) == before
        with pytest.raises(NotFound):
            slices.get(session, world.project(session), slice_id)


# --- expectations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "bound", "value", "met"),
    [
        ("mean", "at most", 0.65, True),
        ("mean", "at most", 0.64, False),
        ("mean", "at least", 0.65, True),
        ("pass_rate", "at most", 0.7, False),
        ("pass_rate", "at least", 0.75, True),
    ],
)
def test_an_expectation_is_met_or_missed(
    world: World, measure: str, bound: str, value: float, met: bool
) -> None:
    slice_id = add(world)
    with writing(world.engine) as session:
        expectations.expect(session, world.project(session), slice_id, measure, bound, value)
    with reading(world.engine) as session:
        (check,) = report(world, session).expectations
    assert check.met is met and (expectations.missed(check) == "") == met


@pytest.mark.parametrize(
    "fields",
    [("median", "at most", 0.1), ("mean", "about", 0.1), ("mean", "at most", 1.5),
     ("mean", "at most", float("nan"))],
)  # fmt: skip
def test_what_cannot_be_expected_is_refused(world: World, fields: tuple[str, str, float]) -> None:
    slice_id = add(world)
    with pytest.raises(Invalid), writing(world.engine) as session:
        expectations.expect(session, world.project(session), slice_id, *fields)


def test_a_changed_expectation_is_the_same_one(world: World) -> None:
    slice_id, other = add(world), add(world, "manga")
    with writing(world.engine) as session:
        project = world.project(session)
        stated = expectations.expect(session, project, slice_id, "mean", "at most", 0.1, True)
        expectations.expect(session, project, other, "mean", "at least", 0.2, False, stated.id)
    with reading(world.engine) as session:
        (row,) = expectations.listing(session, world.project(session))
    assert (row.id, row.slice_id, row.bound, row.value, row.blocks) == (
        stated.id, other, "at least", 0.2, False,
    )  # fmt: skip


def missed(blocks: bool, met: bool | None = False) -> expectations.Report:
    check = ExpectationCheck(
        id=1, slice_id=1, slice="photo", measure="mean", bound="at most", limit=0.1,
        blocks=blocks, value=0.14, images=9, met=met,
    )  # fmt: skip
    return expectations.Report([], [check])


def test_a_missed_expectation_that_blocks_keeps_a_version_from_becoming_active() -> None:
    later, first = Version(parent_id=1), Version(parent_id=None)
    error = Estimate(value=-0.2, low=-0.3, high=-0.1, n=60)
    better = VersusVersion(difference=error, verdict="better", version="v1.0")
    assert evaluate.activation(later, better, missed(blocks=True).blocking) == (
        False, "not activated: “photo”: mean prediction 1.4, expected at most 1 point",
    )  # fmt: skip
    assert evaluate.activation(later, better, missed(blocks=False).blocking)[0]
    assert evaluate.activation(later, better, missed(blocks=True, met=None).blocking)[0]
    assert evaluate.activation(first, None, missed(blocks=True).blocking) == (True, "first version")
