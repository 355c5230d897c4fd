"""What is shown next: who may be picked, how often, and why."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tastemaker.learning.posterior import posterior_sd, project
from tastemaker.learning.ridge import fit_ridge
from tastemaker.learning.selection import (
    Mix,
    cold_start,
    disagreements,
    diverse,
    gains,
    mixed,
    near_threshold,
    suspected,
)


def library(n=400, k=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)).astype(np.float32), rng.uniform(size=n), np.full(n, 0.15)


def mask(n, rows):
    out = np.zeros(n, bool)
    out[list(rows)] = True
    return out


# --------------------------------------------------------------------------- near the threshold


def test_the_threshold_draw_follows_its_probabilities():
    scores, sd = np.array([0.5, 0.65, 0.8, 0.1]), np.array([0.15, 0.15, 0.15, 0.1])
    expected = np.exp(-(np.array([0, 1, 2, -4]) ** 2) / 2) + 0.1
    rng = np.random.default_rng(0)
    everyone = np.ones(4, bool)
    first = [
        near_threshold(scores, sd, everyone, 1, 0.5, rng, width=1.0, floor=0.1)[0]
        for _ in range(4000)
    ]
    counts = np.bincount(first, minlength=4)
    assert chisquare(counts, 4000 * expected / expected.sum()).pvalue > 0.001


def test_the_threshold_draw_is_stochastic_and_reaches_everything():
    scores, sd = np.linspace(0, 1, 200), np.full(200, 0.1)
    draws = [
        set(near_threshold(scores, sd, np.ones(200, bool), 20, 0.5, np.random.default_rng(s)))
        for s in range(150)
    ]
    assert len(set().union(*draws)) > 180  # the floor: no image is out of reach
    assert max(len(a & b) for a, b in pairwise(draws)) < 20
    near = np.mean([np.mean([abs(scores[r] - 0.5) < 0.1 for r in draw]) for draw in draws])
    assert near > 0.45  # 20 % of the images lie there


def test_without_a_floor_far_images_come_last_and_none_is_lost():
    scores = np.concatenate([np.full(10, 0.5), np.full(30, 1.0)])
    drawn = near_threshold(
        scores, np.full(40, 0.01), np.ones(40, bool), 40, 0.5, np.random.default_rng(0), floor=0.0
    )
    assert set(drawn[:10]) == set(range(10)) and len(set(drawn)) == 40


# --------------------------------------------------------------------------- what a label gains


def test_a_gain_is_what_a_label_is_expected_to_save_at_the_threshold():
    """Against the definition, by drawing labels: |f − t| of the images whose side changes."""
    rng = np.random.default_rng(0)
    points, _, _ = library(60, 4)
    labelled, rows, sd = np.arange(20), np.array([30, 41, 52]), np.full(60, 0.2)
    scores = 0.5 + 0.1 * rng.normal(size=60)
    found = gains(points, labelled, scores, sd, rows, rng, penalty=2.0, threshold=0.5)

    x = points - points[labelled].mean(0)
    covariance = np.linalg.inv(x[labelled].T @ x[labelled] + 2.0 * np.eye(4))
    in_doubt = np.argsort(np.abs(scores - 0.5))[:30]
    for row, gain in zip(rows, found, strict=True):
        shared = x[in_doubt] @ covariance @ x[row]
        surprise = rng.normal(size=(40_000, 1)) / np.sqrt(1 + x[row] @ covariance @ x[row])
        after = scores[in_doubt] + 0.2 * shared * surprise - 0.5
        saved = np.where(after * (scores[in_doubt] - 0.5) < 0, np.abs(after), 0).mean()
        assert gain == pytest.approx(saved, rel=0.05)


def test_strangers_twins_of_labels_and_the_certain_gain_less_than_those_who_speak_for_many():
    rng = np.random.default_rng(3)
    doubtful = 3 * np.eye(8)[1] + 0.3 * rng.normal(size=(150, 8))
    certain = 3 * np.eye(8)[2] + 0.3 * rng.normal(size=(150, 8))
    around = 0.3 * rng.normal(size=(100, 8))
    points = np.concatenate([around, doubtful, certain]).astype(np.float32)
    points[99] = 3 * np.eye(8)[5]  # alone in its direction
    points[98] = points[0]
    scores = np.repeat([0.5, 0.5, 0.95], [100, 150, 150])
    found = gains(
        points, np.arange(50), scores, np.full(400, 0.1), np.array([98, 99, 350, 150]), rng,
        penalty=1.0, threshold=0.5,
    )  # fmt: skip
    assert found[3] > 3 * found[:3].max() and found.min() > 0


def test_a_mixed_batch_prefers_what_gains_more_by_its_sharpness():
    rng = np.random.default_rng(3)
    crowd = 3 * np.eye(8)[1] + 0.3 * rng.normal(size=(100, 8))
    points = np.concatenate([0.3 * rng.normal(size=(200, 8)), crowd]).astype(np.float32)
    free = mask(300, range(50, 300))
    call = {"labelled": np.arange(50), "scores": np.full(300, 0.5), "sd": np.full(300, 0.1)}
    share = []
    for sharpness in (0.0, 4.0):
        picks = mixed(
            points, free, free, 40, mix=Mix(0, 1, 0), penalty=1.0, sharpness=sharpness, **call
        )
        share.append(np.mean([pick.row >= 200 for pick in picks]))
    assert share[1] > 0.8 > 0.6 > share[0]


def test_a_teaching_draw_is_proportional_to_the_gain():
    points, scores, sd = library(12, 3)
    free, labelled = mask(12, range(8, 12)), np.arange(8)
    call = {"labelled": labelled, "scores": scores, "sd": sd, "penalty": 1.0, "mix": Mix(0, 1, 0)}
    first = [
        mixed(points, free, free, 1, seed=seed, sharpness=1.0, **call)[0].row - 8
        for seed in range(1000)
    ]
    gain = gains(
        points, labelled, scores, sd, np.arange(8, 12), np.random.default_rng(0),
        penalty=1.0, threshold=0.5,
    )  # fmt: skip
    counts = np.bincount(first, minlength=4)
    expected = 1000 * gain.astype(float) / gain.sum(dtype=float)
    assert chisquare(counts, expected).pvalue > 0.001


def test_a_large_library_is_weighed_by_a_part_of_it():
    points, scores, sd = library(25_000, 4)
    everyone = mask(25_000, range(50, 25_000))
    picks = mixed(
        points, everyone, everyone, 50, labelled=np.arange(50), scores=scores, sd=sd, penalty=1.0
    )
    assert len({pick.row for pick in picks}) == 50


# --------------------------------------------------------------------------- diverse


def lcmd_from_scratch(points, centres, candidates, count):
    """The definition, with every distance computed anew for every pick."""
    centres, picked = list(centres), []
    for _ in range(count):
        left = [row for row in candidates if row not in picked]
        to_centres = np.square(points[left][:, None] - points[centres][None]).sum(2)
        own, distance = to_centres.argmin(1), to_centres.min(1)
        sums = np.bincount(own, distance, minlength=len(centres))
        best = max(
            (i for i in range(len(left)) if own[i] == sums.argmax()), key=lambda i: distance[i]
        )
        picked.append(left[best])
        centres.append(left[best])
    return picked


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 12))
def test_diverse_picks_are_lcmd_by_its_definition(seed, count):
    points, _, _ = library(60, 3, seed)
    centres, candidates = np.arange(5), np.arange(10, 60)
    picked = diverse(points, centres, mask(60, candidates), count, np.random.default_rng(seed))
    assert picked.tolist() == lcmd_from_scratch(points, centres, candidates, count)


def test_diverse_picks_visit_the_clusters_without_a_label():
    rng = np.random.default_rng(0)
    home = np.repeat(np.arange(10), 40)
    points = (20 * np.eye(10)[home] + rng.normal(size=(400, 10))).astype(np.float32)
    labelled = np.flatnonzero(home < 4)[::8]
    picked = diverse(points, labelled, home >= 0, 6, rng)
    assert set(home[picked]) == {4, 5, 6, 7, 8, 9}


def test_copies_of_one_image_are_still_picked_once_each():
    points = np.zeros((30, 4), np.float32)
    picked = diverse(points, np.array([0]), mask(30, range(1, 30)), 40, np.random.default_rng(0))
    assert sorted(picked) == list(range(1, 30))


def test_a_large_library_is_sampled():
    points, _, _ = library(3000, 4)
    picked = diverse(
        points, np.arange(3), mask(3000, range(3, 3000)), 50, np.random.default_rng(0), sample=100
    )
    assert len(set(picked)) == 50 and picked.min() >= 3


# --------------------------------------------------------------------------- cold start


def test_a_cold_start_shows_every_kind_of_image_by_a_typical_one():
    rng = np.random.default_rng(2)
    home = np.repeat(np.arange(6), [10, 20, 40, 80, 160, 320])
    points = (30 * np.eye(6)[home] + rng.normal(size=(len(home), 6))).astype(np.float32)
    seen = [set(home[cold_start(points, home >= 0, 24, np.random.default_rng(s))])
            for s in range(5)]  # fmt: skip
    assert all(len(kinds) >= 5 for kinds in seen)
    picked = cold_start(points, home >= 0, 24, rng)
    off_centre = np.linalg.norm(points - 30 * np.eye(6)[home], axis=1)
    assert off_centre[picked].mean() < off_centre.mean()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_a_cold_start_never_repeats_an_image(n, count, seed):
    points = np.round(library(n, 2, seed)[0])  # many exact copies: some clusters are empty
    picked = cold_start(points, np.ones(n, bool), count, np.random.default_rng(seed))
    assert len(picked) == len(set(picked)) == min(n, count)


# --------------------------------------------------------------------------- mixed


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    count=st.integers(0, 60),
    candidates=st.sets(st.integers(20, 79), max_size=60),
    control=st.sets(st.integers(20, 99), max_size=60),
    trained=st.booleans(),
)
def test_only_the_control_reaches_outside_the_candidates(seed, count, candidates, control, trained):
    points, scores, sd = library(100, 5, seed)
    picks = mixed(
        points, mask(100, candidates), mask(100, control), count, labelled=np.arange(20),
        scores=scores if trained else None, sd=sd if trained else None, penalty=1.0, seed=seed,
    )  # fmt: skip
    rows = [pick.row for pick in picks]
    assert len(rows) == len(set(rows)) == min(count, len(candidates | control))
    for pick in picks:
        assert pick.row in (control if pick.reason == "control" else candidates)
    reasons = {pick.reason for pick in picks}
    allowed = {"diverse", "teaching"} if trained else {"cold_start"}
    assert reasons <= allowed | {"control"}


def test_a_batch_has_its_shares_and_is_the_same_for_the_same_seed():
    points, scores, sd = library()
    everyone = mask(400, range(50, 400))
    call = {
        "labelled": np.arange(50), "scores": scores, "sd": sd, "penalty": 1.0,
        "mix": Mix(0.5, 0.3, 0.2),
    }  # fmt: skip
    picks = mixed(points, everyone, everyone, 60, seed=7, **call)
    reasons = [pick.reason for pick in picks]
    counts = {reason: reasons.count(reason) for reason in set(reasons)}
    assert counts == {"diverse": 30, "teaching": 18, "control": 12}
    assert picks == mixed(points, everyone, everyone, 60, seed=7, **call)
    assert picks != mixed(points, everyone, everyone, 60, seed=8, **call)


def test_the_order_within_a_batch_tells_nothing():
    points, scores, sd = library()
    everyone = np.ones(400, bool)
    places: dict[str, list[int]] = {"diverse": [], "teaching": [], "control": []}
    with_order = []
    for seed in range(80):
        picks = mixed(
            points, everyone, everyone, 30, labelled=np.arange(9), scores=scores, sd=sd, seed=seed,
            mix=Mix(0.4, 0.4, 0.2), penalty=1.0,
        )  # fmt: skip
        for place, pick in enumerate(picks):
            places[pick.reason].append(place)
        with_order.append(np.corrcoef(np.arange(30), [scores[pick.row] for pick in picks])[0, 1])
    for found in places.values():
        assert np.mean(found) == pytest.approx(14.5, abs=1.5)
    assert abs(np.mean(with_order)) < 0.08


def test_the_control_is_uniform_and_blind_to_the_model():
    points, scores, sd = library(40)
    everyone, counts = np.ones(40, bool), np.zeros(40)
    for seed in range(600):
        call = {"labelled": np.arange(2), "seed": seed, "penalty": 1.0}
        seen = mixed(points, everyone, everyone, 20, scores=scores, sd=sd, **call)
        other = mixed(points, everyone, everyone, 20, scores=1 - scores**2, sd=sd, **call)
        drawn = {pick.row for pick in seen if pick.reason == "control"}
        assert drawn == {pick.row for pick in other if pick.reason == "control"}
        counts[list(drawn)] += 1
    assert chisquare(counts).pvalue > 0.001


def test_shares_that_cannot_be_met_are_refused():
    with pytest.raises(ValueError, match="positive"):
        Mix(-1, 1, 1).counts(10)
    assert Mix(1, 1, 1).counts(10) == {"diverse": 4, "teaching": 3, "control": 3}


# --------------------------------------------------------------------------- disagreement


def test_an_image_beside_a_twin_with_the_opposite_score_is_the_first_suspect():
    points, scores, sd = library()
    labelled = np.arange(100)
    labels = scores[:100].copy()
    scores[300], labels[40] = 0.78, 0.2
    points[300], scores[40] = points[40] + 0.001, 0.77
    found = suspected(
        "fp", points, scores, sd, mask(400, range(100, 400)), labelled=labelled, labels=labels
    )
    assert found.rows[0] == 300
    assert found.neighbour[0] == 40
    assert found.probability[0] > 0.95 and found.closeness[0] > 0.99
    assert (np.diff(found.probability) <= 0).all()
    assert (scores[found.rows] >= 0.5).all() and (found.rows >= 100).all()

    mirrored = suspected(
        "fn", points, 1 - scores, sd, mask(400, range(100, 400)), labelled=labelled,
        labels=1 - labels, threshold=0.5,
    )  # fmt: skip
    assert mirrored.rows[0] == 300 and mirrored.neighbour[0] == 40


def test_far_from_every_label_only_the_prediction_counts():
    points, scores, sd = library()
    points[200:] += 1000
    found = suspected(
        "fn", points, scores, sd, mask(400, range(200, 400)), labelled=np.arange(100),
        labels=np.ones(100), limit=10,
    )  # fmt: skip
    below = np.flatnonzero(scores[200:] < 0.5) + 200
    assert found.rows.tolist() == below[np.argsort(-scores[below])][:10].tolist()
    assert (found.closeness == 0).all() and (found.probability < 0.5).all()


def test_suspects_are_wrong_more_often_than_other_images():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(900, 6)).astype(np.float32)
    truth = 1 / (1 + np.exp(-2 * points[:, 0] - 2 * np.sin(3 * points[:, 1])))
    labelled, rest = np.arange(300), mask(900, range(300, 900))
    ridge = fit_ridge(points[:300], truth[:300])
    scores = ridge.predict(points)
    sd = posterior_sd(project(points), labelled, ridge, scores)
    for side in ("fp", "fn"):
        found = suspected(
            side, points, scores, sd, rest, labelled=labelled, labels=truth[:300], limit=60
        )
        wrong = (truth >= 0.5) != (scores >= 0.5)
        same_side = rest & ((scores >= 0.5) == (side == "fp"))
        assert wrong[found.rows].mean() > 1.4 * wrong[same_side].mean()


def test_without_labels_or_candidates_nothing_is_suspected():
    points, scores, sd = library(20)
    everyone, empty = np.ones(20, bool), np.zeros(20, bool)
    none = np.empty(0, int)
    assert len(suspected("fp", points, scores, sd, everyone, labelled=none, labels=[]).rows) == 0
    assert len(suspected("fp", points, scores, sd, empty, labelled=[1], labels=[1.0]).rows) == 0


def test_disagreements_are_signed_and_ranked_by_error_over_uncertainty():
    labels = np.array([0.1, 0.4, 0.5, 0.9, 0.6, 0.2])
    left_out = np.array([0.5, 0.9, 0.5, 0.2, 0.4, 0.3])
    assert disagreements("fp", left_out, labels, 0.1).tolist() == [1, 0]
    assert disagreements("fn", left_out, labels, 0.1).tolist() == [3, 4]
    uncertainty = np.array([0.1, 0.9, 0.1, 0.9, 0.1, 0.1])
    assert disagreements("fp", left_out, labels, uncertainty).tolist() == [0, 1]
    assert disagreements("fn", left_out, labels, uncertainty).tolist() == [4, 3]
    assert disagreements("fp", left_out, labels, 0.1, threshold=0.35).tolist() == [0]
