"""Calibration: what it mends, that it is judged honestly, and that it folds without loss."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from tastemaker.learning.blending import Calibrated, LogitScaling, calibrate, fit_logit_scaling
from tastemaker.learning.heads import Head
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import Constant, fit_linear
from tests.test_training import labelled, split_of


def squeezed(n=400, by=0.4, seed=0):
    """Scores that bunch in the middle, and the labels they stand for."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 1.5, n)
    y = expit(truth + random.normal(0, 0.2, n))
    return expit(by * truth).astype(np.float32), y.astype(np.float32)


def test_squeezed_scores_are_stretched_back():
    scores, y = squeezed()
    stretch = fit_logit_scaling(scores, y)
    assert stretch.slope == pytest.approx(2.5, rel=0.1)
    assert stretch.intercept == pytest.approx(0, abs=0.1)
    assert np.abs(stretch(scores) - y).mean() < np.abs(scores - y).mean() / 3


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_few_labels_do_not_ask_for_the_absurd(n, seed):
    random = np.random.default_rng(seed)
    stretch = fit_logit_scaling(random.random(n), random.integers(0, 11, n) / 10)
    assert 0.3 < stretch.slope < 4.5
    assert np.isfinite(stretch(np.array([0.0, 0.5, 1.0]))).all()


def test_a_stretch_keeps_the_order():
    scores = np.linspace(0.01, 0.99, 50)
    assert (np.diff(LogitScaling(1.7, -0.4)(scores)) > 0).all()


def fitted(noise=0.0):
    random = np.random.default_rng(0)
    rule = lambda v: expit(v[:, 0] + noise * random.normal(size=len(v)))  # noqa: E731
    data = labelled(200, holdout=0, truth=rule)
    split = split_of(data, folds=5)
    return data, split, fit_linear(data, split, recipe_named("ridge"))


def test_what_helps_is_folded_into_the_exported_head():
    data, split, fit = fitted()
    worse = replace(fit, oof=expit(0.4 * logit(np.clip(fit.oof, 0.01, 0.99))).astype(np.float32))
    kept, found = calibrate(worse, data.y, split.groups, split.fold, 0.5)
    assert found.kept
    assert found.mae.verdict == "better"
    before, after = Head(fit.tensors)(data.x), Head(kept.tensors)(data.x)
    assert np.abs(after - found.stretch(before)).max() < 1e-4
    assert all(isinstance(member, Calibrated) for member in kept.members)
    brackets = (found.brackets_before, found.brackets_after)
    bias = [[abs(row.bias or 0) for row in rows] for rows in brackets]
    assert max(bias[1]) < max(bias[0])


def test_a_head_that_needs_nothing_is_left_alone():
    """Labels that scatter evenly around what the head says ask for no stretch."""
    data, split, fit = fitted()
    scatter = 0.1 * np.random.default_rng(1).choice([-1, 1], len(data.y))
    y = np.clip(fit.oof + scatter, 0, 1).astype(np.float32)
    same, found = calibrate(fit, y, split.groups, split.fold, 0.5)
    assert not found.kept
    assert same is fit


def test_a_fold_has_no_say_in_how_it_is_stretched():
    data, split, fit = fitted()
    bent = replace(fit, oof=np.clip(0.3 + 0.4 * fit.oof, 0, 1))
    mine = split.fold == 2
    y = np.where(mine, 1 - data.y, data.y).astype(np.float32)
    one = calibrate(bent, data.y, split.groups, split.fold, 0.5)[0]
    other = calibrate(bent, y, split.groups, split.fold, 0.5)[0]
    if other is not bent:
        assert np.array_equal(one.oof[mine], other.oof[mine])
    assert np.array_equal(
        Calibrated(Constant(0.3), LogitScaling())(data.x), np.float32([0.3] * 200)
    )
