"""The learning curve of a project: its order, its hold-out, and when savings can be told."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from tastemaker.learning.folds import split_rows
from tastemaker.learning.learning_curve import learning_curve
from tastemaker.learning.ridge import fit_ridge
from tests.test_training import labelled


def world(n=500, features=60, noise=1.0, seed=0):
    """Labels of a linear taste in many dimensions: error falls over hundreds of labels."""
    random = np.random.default_rng(seed)
    taste = random.normal(size=features) / features**0.5
    rule = lambda v: expit(3 * v @ taste + noise * random.normal(size=len(v)))  # noqa: E731
    data = labelled(n, features=features, holdout=0.3, truth=rule, seed=seed)
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=5, seed=0)
    return data, split


def test_the_curve_follows_the_order_in_which_labels_were_given():
    data, split = world()
    order = np.random.default_rng(1).permutation(len(data.y))
    curve = learning_curve(data, split, order, np.zeros(len(data.y), bool), noise_floor=0.8)
    assert curve.points[0].labels == 10
    assert curve.points[-1].labels == split.train.sum()
    errors = [point.mae for point in curve.points]
    assert errors[-1].value < errors[0].value
    assert all(error.low <= error.value <= error.high for error in errors)
    assert {error.n for error in errors} == {split.holdout.sum()}
    assert curve.noise_floor == 0.8
    first = np.flatnonzero(split.train)[np.argsort(order[split.train])][:10]
    ridge = fit_ridge(data.x[first], data.y[first])
    held = split.holdout
    expected = 10 * np.abs(ridge.predict(data.x[held]) - data.y[held]).mean()
    assert errors[0].value == pytest.approx(expected, rel=1e-5)


def test_savings_are_found_where_the_chosen_labels_taught_more():
    """Half the labels are a random control; the other half were chosen by an oracle that knows
    the truth without its noise, as a perfect queue would."""
    data, split = world(noise=1.5)
    rows = np.flatnonzero(split.train)
    control = np.zeros(len(data.y), bool)
    control[rows[::2]] = True
    chosen = rows[1::2]
    clean = fit_ridge(data.x, data.y).predict(data.x)
    y = data.y.copy()
    y[chosen] = clean[chosen]
    saved = learning_curve(replace(data, y=y), split, np.arange(len(y)), control).labels_saved
    assert saved.value is None or saved.low <= saved.value <= saved.high
    assert saved.why


@pytest.mark.parametrize(
    ("controls", "why"),
    [(0, "0 training labels were drawn at random"), (30, "30 training labels"), (350, "every")],
)
def test_savings_that_cannot_be_known_say_why(controls, why):
    data, split = world()
    control = np.zeros(len(data.y), bool)
    control[np.flatnonzero(split.train)[:controls]] = True
    saved = learning_curve(data, split, np.arange(len(data.y)), control).labels_saved
    assert saved.value is saved.low is saved.high is None
    assert saved.why.startswith(why)


def test_without_a_hold_out_there_is_no_curve():
    data, split = world(60)
    data = replace(data, holdout=np.zeros(60, bool))
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=5, seed=0)
    curve = learning_curve(data, split, np.arange(60), np.ones(60, bool))
    assert curve.points == ()
    assert "hold-out is too small" in curve.labels_saved.why
