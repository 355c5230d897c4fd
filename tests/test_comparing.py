"""Two versions side by side agree with a count by hand, also across encoders and without a
hold-out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select
from web_world import World, add_version, make_world, score_some

from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    EncoderRow,
    Label,
    Prediction,
    RemovedImage,
    Version,
    VersionLabel,
)
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import comparison, flips
from tastemaker.learning import metrics, quantiles

OLD = {1: 0.1, 2: 0.9, 3: 0.4, 4: 0.6, 5: 0.45, 6: 0.55, 7: 0.2, 8: 0.8}
API = "/api/v1"
NEW = {1: 0.2, 2: 0.8, 3: 0.9, 4: 0.1, 5: 0.55, 6: 0.45, 7: 0.2, 9: 0.9}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """v1.0 and v1.1 share seven predicted images; v1.1 learned two labels more and one anew."""
    world = make_world(tmp_path, images=10)
    score_some(world, [1, 9, 2, 8, 9])
    first, second = add_version(world, 0, OLD), add_version(world, 1, NEW)
    with writing(world.engine) as session:
        for version_id, labels in (
            (first, {1: (1, "holdout"), 2: (9, "holdout"), 3: (7, "train"), 7: (2, "train")}),
            (second, {1: (1, "holdout"), 2: (9, "holdout"), 3: (2, "train"), 4: (8, "train"),
                      5: (9, "aside")}),
        ):  # fmt: skip
            for image_id, (value, side) in labels.items():
                session.add(
                    VersionLabel(version_id=version_id, image_id=image_id, value=value, side=side)
                )
    return world


def test_without_numbers_the_active_version_is_held_against_its_parent(world: World) -> None:
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        assert (both.a.number, both.b.number) == ("v1.0", "v1.1")
        back = flips.pair(session, world.project(session), "v1.1", "v1.0")
        assert (back.a.number, back.b.number) == ("v1.1", "v1.0")
        with pytest.raises(Invalid, match="same as itself"):
            flips.pair(session, world.project(session), "v1.0", "1.0")
        with pytest.raises(NotFound, match="no version v7"):
            flips.pair(session, world.project(session), "v7", "v1.0")


def test_one_version_cannot_be_compared(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1)
    add_version(world, 0, {})
    with reading(world.engine) as session, pytest.raises(Invalid, match="two are needed"):
        flips.pair(session, world.project(session))


def test_flips_are_the_images_on_the_other_side_furthest_first(world: World) -> None:
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        up = flips.listing(session, both, "up")
        down = flips.listing(session, both, "down")
        assert [flip.image_id for flip in up] == [3, 5]
        assert [flip.image_id for flip in down] == [4, 6]
        assert (up[0].before, up[0].after, up[0].label) == (0.4, 0.9, 2.0)
        assert [f.image_id for f in flips.listing(session, both, "up", after=1, n=5)] == [5]
        # 3 is labelled 2, 5 is labelled 9; 4 is labelled 8, 6 has no label
        assert flips.counts(session, both) == {
            "up": flips.FlipCount(images=2, labelled=2, right=1, held=0),
            "down": flips.FlipCount(images=2, labelled=1, right=0, held=0),
        }
        with pytest.raises(Invalid):
            flips.listing(session, both, "sideways")


def test_what_measures_is_counted_but_not_shown_beside_what_a_version_says(world: World) -> None:
    with writing(world.engine) as session:
        for image_id in (3, 4):
            label = session.get_one(Label, (world.project_id, image_id))
            label.holdout = label.measures = True
            session.add(label)
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        assert [flip.image_id for flip in flips.listing(session, both, "up")] == [5]
        assert [flip.image_id for flip in flips.listing(session, both, "down")] == [6]
        up = flips.counts(session, both)["up"]
        assert up == flips.FlipCount(images=2, labelled=2, right=1, held=1) and up.shown == 1
    page = world.client.get(f"{world.at}/compare?view=up").text
    assert "1 image counts in these figures but is not shown: the hold-out only measures" in page
    assert 'id="card-5"' in page and 'id="card-3"' not in page and "1–1 of 1" in page
    told = world.client.get(f"{API}{world.at}/compare/flips").json()
    assert (told["images"], told["held"], len(told["flips"])) == (2, 1, 1)
    with writing(world.engine) as session:
        session.add(RemovedImage(project_id=world.project_id, image_id=6))
    page = world.client.get(f"{world.at}/compare?view=down").text
    assert "All that flipped this way only measure" in page and 'id="card-' not in page


def test_a_flip_is_gone_with_its_image(world: World) -> None:
    with writing(world.engine) as session:
        session.add(RemovedImage(project_id=world.project_id, image_id=3))
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        assert [f.image_id for f in flips.listing(session, both, "up")] == [5]
        assert comparison.moved(session, both).images == 6


def test_what_moved_counts_the_images_of_both_and_draws_each(world: World) -> None:
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        how = comparison.moved(session, both)
    common = sorted(OLD.keys() & NEW.keys())
    assert how.images == len(common) == sum(how.old) == sum(how.new)
    assert sorted(how.points) == sorted((OLD[i], NEW[i]) for i in common)
    assert how.mean_change == pytest.approx(np.mean([NEW[i] - OLD[i] for i in common]))


def test_a_sample_is_fixed_and_no_larger_than_it_may_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "POINTS", 4)
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        how, again = comparison.moved(session, both), comparison.moved(session, both)
    assert how == again and 0 < len(how.points) <= 4 and how.images == 7


def test_labels_added_corrected_and_taken_back_are_told_apart(world: World) -> None:
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        counts, changes = comparison.label_changes(session, both)
    assert counts == {"corrected": 1, "taken back": 1, "added": 2}
    assert [(c.kind, c.image_id, c.before, c.after) for c in changes] == [
        ("corrected", 3, 7.0, 2.0), ("taken back", 7, 2.0, None),
        ("added", 5, None, 9.0), ("added", 4, None, 8.0),
    ]  # fmt: skip


def test_metrics_are_paired_on_what_neither_saw(world: World) -> None:
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        told = comparison.paired_metrics(session, both)
    assert told.n == 2 and told.why_not == ""
    mae = told.metrics["mae"]
    assert (mae.old, mae.new) == (pytest.approx(0.0), pytest.approx(1.0))
    assert mae.difference.value == pytest.approx(1.0)
    assert mae.verdict == "no difference shown", "two images prove nothing"


def test_versions_that_nothing_measures_say_what_cannot_be_known(world: World) -> None:
    with writing(world.engine) as session:
        for row in session.exec(select(VersionLabel).where(VersionLabel.version_id == 1)):
            row.side = "train"
            session.add(row)
        for seen in session.exec(select(Prediction).where(Prediction.version_id == 1)):
            seen.out_of_fold = None
            session.add(seen)
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        told = comparison.diff(session, both)
    assert told.holdout.n == 0 and told.holdout.metrics == {}
    why = told.holdout.why_not
    assert (
        "v1.0 and v1.1 have no image drawn at random or scored in a file that both can be judged by"
        in why
    )
    assert "cannot be known" in why
    assert told.flips["up"][0].images == 2, "what they say differently is known"
    assert any("cannot be known" in line for line in told.in_words())


def test_versions_of_different_encoders_compare_by_image_and_say_so(world: World) -> None:
    with writing(world.engine) as session:
        other = EncoderRow(fingerprint="b" * 64, name="ViT-L-14-quickgelu/openai", dim=768)
        session.add(other)
        session.flush()
        version = session.get(Version, 2)
        assert version is not None
        version.encoder_id = other.id
    with reading(world.engine) as session:
        told = comparison.diff(session, flips.pair(session, world.project(session)))
    assert "v1.1 through ViT-L-14-quickgelu/openai" in told.encoders_differ
    assert told.flips["up"][0].images == 2 and told.holdout.n == 2


def test_the_largest_tags_are_compared_without_being_made_slices(world: World) -> None:
    from tastemaker import images

    with writing(world.engine) as session:
        for image_id in (3, 4, 5):
            images.add_tags(session, image_id, ["photo"])
    with reading(world.engine) as session:
        both = flips.pair(session, world.project(session))
        (row,) = comparison.slices_moved(session, both)
    assert (row.slice, row.images, row.slice_id) == ("photo", 3, None)
    assert row.mean.old == pytest.approx((0.4 + 0.6 + 0.45) / 3)
    assert row.mean.new == pytest.approx((0.9 + 0.1 + 0.55) / 3)
    # labels 2, 8, 9 on 3, 4, 5: off by 2, 2, 4.5 before and by 7, 7, 3.5 now
    assert row.error.difference.value == pytest.approx(
        10 * (0.7 + 0.7 + 0.35 - 0.2 - 0.2 - 0.45) / 3
    )
    assert row.error.difference.n == 3


# --- the arithmetic ------------------------------------------------------------------------------


@settings(deadline=None)  # importing scipy takes a second
@given(st.integers(1, 3000), st.sampled_from([0.6, 0.9, 0.975, 0.995]))
def test_the_quantiles_are_those_of_scipy(degrees: int, p: float) -> None:
    from scipy import stats

    assert quantiles.t_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-6)


@settings(deadline=None)
@given(st.floats(-8, 8))
def test_the_normal_distribution_is_that_of_scipy(x: float) -> None:
    from scipy import special, stats

    assert quantiles.normal_cdf(x) == pytest.approx(stats.norm.cdf(x), abs=1e-14)
    logistic = quantiles.logistic(np.array([x, 100 * x]))
    assert logistic == pytest.approx(special.expit([x, 100 * x]), abs=1e-15)


def test_paired_metrics_see_a_difference_that_separate_intervals_hide() -> None:
    random = np.random.default_rng(3)
    y = random.uniform(size=300)
    hard = random.normal(0, 0.2, 300)  # what both find hard
    new = np.clip(y + hard * 0.9, 0, 1)
    old = np.clip(y + hard, 0, 1)
    told = metrics.paired(y, new, old, resamples=300)
    mae, spearman = told["mae"], told["spearman"]
    assert mae.verdict == "better" and mae.difference.high is not None and mae.difference.high < 0
    assert spearman.verdict == "better"
    assert spearman.difference.low is not None and spearman.difference.low > 0
    one, other = (
        metrics.mean_error(y, new, resamples=300),
        metrics.mean_error(y, old, resamples=300),
    )
    assert one.high is not None and other.low is not None and one.high > other.low
    same = metrics.paired(y, old, old, resamples=200)
    assert {row.verdict for row in same.values()} == {"no difference shown"}
    assert all(row.difference.value == 0 for row in same.values())
