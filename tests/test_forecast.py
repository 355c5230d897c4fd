"""What more labels would bring: measured honestly, followed ahead, and told with what it rests
on."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from tastemaker.learning.folds import TrainingSet, split_rows
from tastemaker.learning.forecast import (
    COMMON,
    FALLS,
    FEWEST,
    FEWEST_DRAWN,
    MOST,
    POWERS,
    SizedErrors,
    errors_by_size,
    fit_law,
    forecast,
    gains,
    log_prior,
)
from tastemaker.learning.prior import Prior
from tastemaker.learning.ridge import fit_ridge
from tastemaker.learning.version_metrics import (
    Estimate,
    Forecast,
    Gain,
    LabelMetrics,
    LearningCurve,
    MeasuredSize,
    NoiseFloor,
    VersionMetrics,
)
from tastemaker.versions.outlook import outlook, short

SIZES = np.array([12.5, 25.0, 50.0, 75.0, 90.0])


def measured(fall=1.0, power=0.3, noise=0.02, labels=100, rows=400, seed=0, curve=None):
    """Errors of a taste whose learning is a power law; what one image adds is alike in all."""
    random = np.random.default_rng(seed)
    curve = 0.5 + 2.5 * fall * SIZES**-power if curve is None else 0.5 + curve
    own = random.gamma(2, 0.5, size=(rows, 1)) - 1
    return SizedErrors(
        labels=labels, sizes=SIZES,
        errors=curve + own + noise * random.normal(size=(rows, len(SIZES))),
        constant=2.5 + own[:, 0], groups=np.arange(rows),
    )  # fmt: skip


def world(n=100, features=60, noise=1.0, seed=0, drawn=None, holdout=0.0):
    """A linear taste in features of which a few are loud and most are faint, as an encoder's."""
    random = np.random.default_rng(seed)
    taste = random.normal(size=features)
    loudness = np.arange(1, features + 1) ** -0.6
    x = (random.normal(size=(n, features)) * loudness / np.linalg.norm(loudness)).astype(np.float32)
    y = expit(2 * x @ taste + noise * random.normal(size=n)).astype(np.float32)
    data = TrainingSet(
        image_ids=np.arange(n), x=x, y=y, groups=np.arange(n),
        holdout=np.arange(n) < holdout * n, random=drawn,
    )  # fmt: skip
    return data, split_of(data)


def split_of(data):
    return split_rows(data.x, data.y, data.groups, data.holdout, folds=5, seed=0)


# --- followed ahead ------------------------------------------------------------------------------


@pytest.mark.parametrize(("fall", "power"), [(0.6, 0.3), (1.0, 0.3), (1.3, 0.3), (1.0, 0.2)])
def test_a_power_law_is_followed_to_where_it_leads(fall, power):
    law = fit_law(measured(fall, power))
    for gain in gains(law, 100):
        truth = 2.5 * fall * (100**-power - (100 + gain.more) ** -power)
        assert gain.low < truth < gain.high
        assert gain.value == pytest.approx(truth, rel=0.45)


def test_a_taste_that_fell_faster_is_expected_to_fall_faster():
    each = [gains(fit_law(measured(fall, noise=0.005)), 100)[1].value for fall in (0.4, 1.0, 1.6)]
    assert each == sorted(each) and each[2] > 1.2 * each[0]


def test_what_all_sizes_have_in_common_changes_nothing():
    """An error that every head makes alike is part of the floor, not of the fall."""
    one = measured()
    other = replace(one, errors=one.errors + 0.7)
    for first, second in zip(gains(fit_law(one), 100), gains(fit_law(other), 100), strict=True):
        assert first.value == pytest.approx(second.value, rel=1e-6)
        assert first.high == pytest.approx(second.high, rel=1e-6)


def test_more_labels_bring_more_and_each_of_them_less_the_more_there_are():
    law = fit_law(measured())
    at = {labels: gains(law, labels) for labels in (50, 100, 400)}
    for told in at.values():
        assert sorted(gain.value for gain in told) == [gain.value for gain in told]
        assert all(gain.low < gain.value < gain.high for gain in told)
    values, widths = zip(
        *((told[1].value, told[1].high - told[1].low) for told in at.values()), strict=True
    )
    assert values[0] > values[1] > values[2] > 0 and widths[0] > widths[1] > widths[2] > 0


def test_the_intervals_hold_as_often_as_they_promise():
    """Of tastes as common as they are taken to be; of real ones the bench tells (80 % ± 5)."""
    random = np.random.default_rng(0)
    likely = np.exp(log_prior(COMMON))
    held = []
    for at in random.choice(len(FALLS), 300, p=likely / likely.sum()):
        curve = 2.5 * FALLS[at] * SIZES ** -POWERS[at]
        strayed = 2.5 * COMMON.straying * SIZES ** (-COMMON.settling / 2)
        taste = measured(rows=80, noise=0.5, seed=int(at), curve=curve)
        errors = taste.errors + strayed * random.normal(size=len(SIZES))
        mixture = fit_law(replace(taste, errors=errors)).gain(100, 100)
        truth = 2.5 * FALLS[at] * (100 ** -POWERS[at] - 200 ** -POWERS[at])
        truth += mixture.sd[0] * random.normal()
        held.append(mixture.quantile(0.1) <= truth <= mixture.quantile(0.9))
    assert 0.74 <= np.mean(held) <= 0.87


# --- measured ------------------------------------------------------------------------------------


def test_no_head_is_judged_by_what_it_saw():
    """Labels without sense can be learned by heart, but not foretold."""
    data, _ = world(64, features=100)
    y = np.random.default_rng(1).permutation(data.y)
    data = replace(data, y=y)
    told = errors_by_size(data, split_of(data))
    assert (told.errors.mean(0) > 0.85 * told.constant.mean()).all()
    assert told.sizes.tolist() == pytest.approx([8, 16, 32, 48, 57.6])


def test_only_images_drawn_at_random_and_the_hold_out_measure():
    drawn = np.arange(200) % 2 == 0
    data, split = world(200, drawn=drawn, holdout=0.2)
    told = errors_by_size(data, split)
    assert len(told.errors) == len(told.groups) == 40 + 80
    assert set(told.groups) == set(split.groups[drawn & split.train | split.holdout])


def test_a_head_that_starts_from_another_has_less_to_gain():
    data, split = world(100)
    other, _ = world(400)
    weights, bias = fit_ridge(other.x, other.y).raw()
    informed = replace(data, priors=(Prior(weights, bias),))
    alone, helped = forecast(data, split), forecast(informed, split)
    assert helped.gains[1].value < alone.gains[1].value
    assert helped.measured[0].mae < alone.measured[0].mae


@pytest.mark.parametrize(
    ("n", "drawn", "why"),
    [(FEWEST - 1, 1, f"from {FEWEST} training labels on; there are {FEWEST - 1}"),
     (90, 4, f"from {FEWEST_DRAWN} images drawn at random on; there are 23")],
)  # fmt: skip
def test_too_few_labels_carry_no_forecast_and_it_says_from_how_many_on(n, drawn, why):
    data, split = world(n, drawn=np.arange(n) % drawn == 0)
    told = forecast(data, split)
    assert told.gains == () and told.error is None and told.why == why


def test_many_labels_are_forecast_from_a_part_of_them():
    data, split = world(900, features=8)
    told = forecast(data, split)
    assert told.labels == told.drawn == 900 and told.measured[-1].labels == 0.9 * MOST
    assert told.gains[-1].high < 0.1


def test_every_image_drawn_judges_whichever_labels_are_refitted():
    """Of many labels a few were drawn: all of these measure, and none is missing by chance."""
    refitted = np.random.default_rng(0).permutation(900)[:MOST]
    drawn = np.ones(900, bool)
    drawn[refitted] = False
    drawn[np.flatnonzero(drawn)[FEWEST_DRAWN:]] = False
    data, split = world(900, features=8, drawn=drawn)
    told = forecast(data, split)
    assert told.drawn == FEWEST_DRAWN and len(told.gains) == 3


def test_no_head_is_judged_by_a_twin_of_what_it_saw(monkeypatch):
    """Every picture is there twice, with a score that only its twin tells; not all are refitted."""
    monkeypatch.setattr("tastemaker.learning.forecast.MOST", 90)
    half, _ = world(60, features=100)
    y = np.random.default_rng(1).permutation(half.y)
    data = TrainingSet(
        image_ids=np.arange(120), x=np.tile(half.x, (2, 1)), y=np.tile(y, 2),
        groups=np.tile(half.groups, 2), holdout=np.zeros(120, bool),
    )  # fmt: skip
    told = errors_by_size(data, split_of(data))
    assert len(told.errors) == 120
    assert (told.errors.mean(0) > 0.85 * told.constant.mean()).all()


def test_one_long_burst_among_few_pictures_still_has_a_measure(monkeypatch):
    """Fewer pictures are refitted than there are folds."""
    monkeypatch.setattr("tastemaker.learning.forecast.MOST", 90)
    data, _ = world(900, features=4)
    split = replace(split_of(world(900)[0]), groups=np.maximum(np.arange(900) - 860, 0))
    assert np.isfinite(errors_by_size(data, split).errors).all()


def test_labels_that_are_almost_all_the_same_have_a_forecast_too():
    data, _ = world(60)
    y = np.full(60, 0.5, np.float32)
    y[:2] = 0.6, 0.4
    data = replace(data, y=y)
    assert abs(forecast(data, split_of(data)).gains[-1].value) < 0.05


# --- in words ------------------------------------------------------------------------------------


def told_of(gain=0.05, half=0.04, error=1.3, pairs=24, why="", noise=0.9):
    each = [
        Gain(more=more, value=gain * more / 100, low=gain * more / 100 - half,
             high=gain * more / 100 + half)
        for more in (50, 100, 200)
    ]  # fmt: skip
    mae = Estimate(value=noise, low=0.8 * noise, high=1.3 * noise, n=pairs)
    curve = LearningCurve(
        forecast=Forecast(
            labels=120,
            drawn=80,
            error=error,
            gains=() if why else each,
            why=why,
            measured=(MeasuredSize(labels=15, mae=2.0), MeasuredSize(labels=108, mae=1.35)),
        )
    )
    return outlook(
        VersionMetrics(
            holdout=LabelMetrics(n=60, mae=Estimate(value=error, low=1.1, high=1.5, n=60)),
            learning_curve=curve,
            noise_floor=NoiseFloor(sigma=mae, mae=mae) if pairs else None,
        )
    )


def test_a_figure_stands_beside_what_it_rests_on():
    told = told_of()
    assert "100 more labels would lower the error by about 0.05 points" in told.forecast
    assert "(0.01 to 0.09 with 80 % probability)" in told.forecast
    assert "80 images drawn at random or scored in files" in told.rests_on
    assert told.times_noise == pytest.approx(1.3 / 0.9)
    assert "1.4 × your own noise (1.1 to 1.8), which is 0.90 points" in told.noise
    assert short(told.gain) == "−0.05 ± 0.04"


@pytest.mark.parametrize(
    ("pairs", "so_far"), [(0, "there is none"), (1, "there is 1."), (9, "there are 9")]
)
def test_noise_of_too_few_second_scores_is_no_figure(pairs, so_far):
    told = told_of(pairs=pairs)
    assert told.times_noise is None and told.ask_again
    assert "once 10 images were scored a second time" in told.noise and so_far in told.noise


def test_who_scored_the_same_every_time_is_told_so_and_not_asked_for_more():
    told = told_of(noise=0.0, pairs=25)
    assert told.times_noise is None and not told.ask_again
    assert "25 images got the same scores again" in told.noise and "once" not in told.noise


def test_it_says_when_more_labels_no_longer_help_and_when_they_may_not():
    assert "no longer help" in told_of(gain=0.01, half=0.01).forecast
    assert "It may be nothing" in told_of(gain=0.03, half=0.05).forecast
    assert "nothing" not in told_of().forecast and "no longer" not in told_of().forecast


def test_without_a_forecast_there_is_no_number_and_of_earlier_versions_nothing_is_said():
    told = told_of(why="from 40 training labels on; there are 20")
    assert told.gain is None and not told.rests_on
    assert told.forecast.endswith("is forecast from 40 training labels on; there are 20.")
    assert outlook(VersionMetrics(learning_curve=LearningCurve())) is None
    assert outlook(VersionMetrics()) is None
