"""Metrics against plain counting and scipy, and intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from tastemaker.learning import metrics, weighted
from tastemaker.learning.version_metrics import NOTHING

scores = st.lists(
    st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=60
)  # ties on purpose


def columns(pairs):
    y, p = np.array(pairs, float).T / 10
    return y, p


# ---------------------------------------------------------------- each metric


def test_mae_is_in_points_of_ten():
    assert metrics.mae([0.0, 1.0], [0.1, 0.7]) == pytest.approx(2.0)


@given(scores)
def test_rates_are_what_counting_gives(pairs):
    y, p = columns(pairs)
    false_positives = sum(a < 0.5 <= b for a, b in zip(y, p, strict=True))
    false_negatives = sum(b < 0.5 <= a for a, b in zip(y, p, strict=True))
    predicted, labelled = (p >= 0.5).sum(), (y >= 0.5).sum()
    assert metrics.fp_rate(y, p) == (
        pytest.approx(false_positives / predicted) if predicted else None
    )
    assert metrics.fn_rate(y, p) == (
        pytest.approx(false_negatives / labelled) if labelled else None
    )
    wrong = (false_positives + false_negatives) / len(y)
    assert metrics.error_at_threshold(y, p) == pytest.approx(wrong)


@given(scores)
def test_spearman_agrees_with_scipy(pairs):
    y, p = columns(pairs)
    if np.ptp(y) == 0 or np.ptp(p) == 0:
        assert metrics.spearman(y, p) is None
    else:
        assert metrics.spearman(y, p) == pytest.approx(stats.spearmanr(y, p).statistic)


@given(scores)
def test_auc_agrees_with_scikit_learn(pairs):
    y, p = columns(pairs)
    if len({*(y >= 0.5)}) < 2:
        assert metrics.auc(y, p) is None
    else:
        assert metrics.auc(y, p) == pytest.approx(roc_auc_score(y >= 0.5, p))


def test_the_threshold_itself_is_a_pass():
    assert metrics.fp_rate([0.4, 0.5], [0.5, 0.5]) == 0.5
    assert metrics.fn_rate([0.5, 0.5], [0.5, 0.49]) == 0.5


def test_missing_values_are_left_out():
    y, p = [0.0, None, 1.0, 0.5], [0.5, 0.5, np.nan, 0.5]
    assert metrics.mae(y, p) == pytest.approx(2.5)
    assert metrics.summary(y, p).n == 2


def test_an_empty_set_has_no_values_and_no_errors():
    for metric in (
        metrics.mae, metrics.spearman, metrics.auc,
        metrics.fp_rate, metrics.fn_rate, metrics.error_at_threshold,
    ):  # fmt: skip
        assert metric([], []) is None
    summary = metrics.summary([], [], [])
    assert summary.n == 0
    assert summary.mae == NOTHING
    assert summary.labelled_histogram == (0,) * 11


@given(st.lists(st.integers(0, 10)))
def test_the_histogram_counts_every_point_of_the_scale(points):
    counts = metrics.histogram(np.array(points, float) / 10)
    assert counts == tuple(points.count(i) for i in range(11))


def test_the_histogram_rounds_halves_up_and_ignores_missing_values():
    assert metrics.histogram([0.05, 0.949, 0.95, np.nan]) == (0, 1, *[0] * 7, 1, 1)


def test_brackets_show_regression_to_the_mean():
    y = np.repeat([0.05, 0.5, 1.0], 20)
    rows = metrics.bracket_mae(y, np.full(60, 0.5), (0, 0.1, 0.6, 1.0))
    assert [row.mae.n for row in rows] == [20, 20, 20]  # the last one holds its end
    assert [row.bias for row in rows] == pytest.approx([4.5, 0, -5])


@given(scores)
def test_every_label_falls_into_one_bracket(pairs):
    y, p = columns(pairs)
    assert sum(row.mae.n for row in metrics.bracket_mae(y, p)) == len(y)


@settings(max_examples=30)
@given(scores, st.integers(0, 2**31))
def test_an_image_that_weighs_three_counts_as_three_in_whatever_many_weights(pairs, seed):
    y, p = columns(pairs)
    times = np.random.default_rng(seed).integers(0, 4, (3, len(y)))
    for of, alone in (
        (weighted.mae(y, p), metrics.mae),
        (weighted.spearman(y, p), metrics.spearman),
        (weighted.auc(y >= 0.5, p), metrics.auc),
        (weighted.share(y < 0.5, p >= 0.5), metrics.fp_rate),
    ):
        found = of(times * 1.0)
        assert found.shape == (3,)
        for row, value in zip(times, found, strict=True):
            repeated = alone(np.repeat(y, row), np.repeat(p, row))
            assert value == pytest.approx(np.nan if repeated is None else repeated, nan_ok=True)


# ---------------------------------------------------------------- intervals


def test_the_n_of_a_rate_is_its_denominator():
    summary = metrics.summary([0.1, 0.6, 0.7, 0.8], [0.6, 0.7, 0.2, 0.1])
    assert summary.fp_rate.n == 2
    assert summary.fn_rate.n == 3
    assert summary.fp_rate.value == 0.5
    assert summary.mae.n == 4


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(scores)
def test_an_interval_of_the_mean_error_holds_the_value(pairs):
    y, p = np.tile(columns(pairs), 10)
    mae = metrics.summary(y, p).mae
    assert mae.low - 1e-9 <= mae.value <= mae.high + 1e-9


def test_one_group_gives_a_value_without_an_interval():
    mae = metrics.summary([0.1, 0.9], [0.2, 0.4], [7, 7]).mae
    assert mae.value == pytest.approx(3.0)
    assert mae.low is None
    assert mae.high is None


@pytest.mark.parametrize("groups", [1, 5, 6])
def test_a_mean_of_a_few_pictures_has_no_interval(groups):
    y = np.linspace(0.1, 0.9, groups)
    mae = metrics.summary(np.tile(y, 9), np.tile(y**2, 9), np.tile(np.arange(groups), 9)).mae
    assert (mae.low is None) == (groups < metrics.FEWEST_GROUPS)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_a_rate_of_none_or_all_is_as_sure_as_its_pictures_are_many(n):
    """Compared with the exact interval of scipy; copies of a picture count once."""
    y, p = np.append(np.ones(n), 0.0), np.append(np.full(n, 0.9), 0.1)
    exact = stats.binomtest(0, n).proportion_ci(method="exact")
    told = metrics.summary(np.tile(y, 3), np.tile(p, 3), np.tile(np.arange(n + 1), 3))
    for rate in (told.fp_rate, told.fn_rate):
        assert (rate.value, rate.low, rate.n) == (0.0, 0.0, 3 * n)
        assert rate.high == pytest.approx(exact.high)
    worst = metrics.summary(y, 1 - p).fn_rate
    assert worst.value == worst.high == 1.0
    assert worst.low == pytest.approx(1 - exact.high)


def test_copies_of_an_image_do_not_make_the_interval_narrower():
    random = np.random.default_rng(0)
    y, p = random.random(30), random.random(30)
    groups = np.arange(30)
    once = metrics.summary(y, p, groups).mae
    copied = metrics.summary(np.tile(y, 8), np.tile(p, 8), np.tile(groups, 8)).mae
    fooled = metrics.summary(np.tile(y, 8), np.tile(p, 8)).mae
    width, wide, narrow = (m.high - m.low for m in (once, copied, fooled))
    assert wide == pytest.approx(width, rel=1e-6)
    assert narrow < width / 2


def test_the_same_seed_gives_the_same_interval():
    y, p = np.linspace(0, 1, 40), np.linspace(1, 0, 40) ** 2
    assert metrics.summary(y, p, seed=3) == metrics.summary(y, p, seed=3)
    assert metrics.summary(y, p, seed=3).mae != metrics.summary(y, p, seed=4).mae


@pytest.mark.parametrize("groups", [8, 40])
def test_intervals_hold_the_truth_about_as_often_as_they_say(groups):
    random = np.random.default_rng(groups)
    held, trials = 0, 200
    for _ in range(trials):
        means = np.repeat(random.exponential(0.1, groups), 3)
        noise = random.uniform(-0.02, 0.02, groups * 3)
        errors = means + noise
        interval = metrics.compare(
            errors, np.full(groups * 3, 0.1), np.repeat(np.arange(groups), 3), resamples=300
        ).difference
        held += interval.low <= 0 <= interval.high
    assert held / trials > 0.89


# ---------------------------------------------------------------- verdicts


def test_a_clear_improvement_is_better_and_its_reverse_worse():
    random = np.random.default_rng(1)
    old = random.uniform(0.1, 0.3, 80)
    new = old - random.uniform(0.0, 0.1, 80)
    better, worse = metrics.compare(new, old), metrics.compare(old, new)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.difference.value == pytest.approx(10 * np.mean(new - old))
    assert better.difference.value == pytest.approx(-worse.difference.value)
    assert better.difference.high < 0 < worse.difference.low
    assert better.as_dict()["n"] == 80


def test_noise_is_no_verdict():
    random = np.random.default_rng(2)
    a, b = random.random((2, 60)) * 0.2
    assert metrics.compare(a, b).verdict == "no difference shown"


def test_one_photograph_in_many_crops_proves_nothing():
    new, old = np.full(100, 0.1), np.full(100, 0.2)
    assert metrics.compare(new, old, np.zeros(100)).verdict == "no difference shown"
    assert metrics.compare(new, old, np.arange(100) % 5).verdict == "no difference shown"
    assert metrics.compare(new, old, np.arange(100) % 6).verdict == "better"


def test_equal_heads_and_empty_sets_show_no_difference():
    assert metrics.compare(np.full(9, 0.1), np.full(9, 0.1)).verdict == "no difference shown"
    empty = metrics.compare([], [])
    assert empty.verdict == "no difference shown"
    assert empty.difference.value is None


# ---------------------------------------------------------------- what predictions mean


@given(scores)
def test_the_calibration_curve_holds_every_image_once(pairs):
    y, p = columns(pairs)
    curve = metrics.calibration_curve(y, p)
    assert sum(row.n for row in curve) == len(y)
    assert all(row.low - 1e-9 <= row.predicted <= row.high + 1e-9 for row in curve)
    total = sum(row.n * row.labelled for row in curve)
    assert total == pytest.approx(y.sum())


def test_normal_errors_are_covered_as_often_as_promised():
    random = np.random.default_rng(0)
    sigma = random.uniform(0.05, 0.2, 20_000)
    covered = metrics.coverage(random.normal(0, sigma), np.zeros(20_000), sigma)
    assert covered == pytest.approx({"50": 0.5, "80": 0.8, "95": 0.95}, abs=0.01)
    assert metrics.coverage([], [], []) == {"50": None, "80": None, "95": None}


def test_bracket_errors_are_the_brackets_without_their_intervals():
    random = np.random.default_rng(3)
    y, p = random.integers(0, 11, 80) / 10, random.random(80)
    for short, full in zip(metrics.bracket_errors(y, p), metrics.bracket_mae(y, p), strict=True):
        assert short.n == full.mae.n
        assert short.mae == pytest.approx(full.mae.value)
        assert short.bias == pytest.approx(full.bias)


def test_percentiles_rise_from_the_lowest_to_the_highest():
    scores = np.random.default_rng(1).random(500)
    found = metrics.percentiles(scores)
    assert list(found) == ["0", "1", "5", "10", "25", "50", "75", "90", "95", "99", "100"]
    assert list(found.values()) == sorted(found.values())
    assert (found["0"], found["100"]) == (scores.min(), scores.max())
    assert metrics.percentiles([]) == {}
