"""Blends: shares that fit the evidence, that no fold fits for itself, and that export exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from tastemaker.learning import city96, heads
from tastemaker.learning.blending import LEAST, Blended, blend, blended, calibrate, share_of_network
from tastemaker.learning.network import City96, tensors_of
from tastemaker.learning.recipes import Fit, recipe_named
from tastemaker.learning.ridge import Constant, fit_linear
from tests.test_training import labelled, split_of


def two_views(n=600, one=0.4, other=0.4, seed=0):
    """Scores by two heads with errors of their own in the logit, and the labels."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 1.5, n)
    said = [expit(truth + sd * random.normal(size=n)).astype(np.float32) for sd in (one, other)]
    return *said, expit(truth).astype(np.float32)


def error(scores, y):
    return np.abs(scores - y).mean()


def test_two_heads_with_errors_of_their_own_share_evenly_and_beat_both():
    network, line, y = two_views()
    share = share_of_network(network, line, y)
    assert share == pytest.approx(0.5, abs=0.15)
    assert error(blended(network, line, share), y) < 0.8 * min(error(network, y), error(line, y))


@pytest.mark.parametrize(("one", "other", "low", "high"), [(0, 1, 1, 1), (1, 0, 0, 0)])
def test_a_head_that_is_always_right_gets_everything(one, other, low, high):
    assert low <= share_of_network(*two_views(one=one, other=other)) <= high


def test_a_head_that_adds_next_to_nothing_is_left_out():
    assert share_of_network(*two_views(one=0.05, other=1.0)) == 1
    assert share_of_network(*two_views(one=1.0, other=0.05)) == 0


def test_the_better_head_gets_more():
    assert share_of_network(*two_views(one=0.2, other=0.6)) > 0.75


def test_the_same_evidence_from_more_labels_says_more():
    """The network is off by 0.01, the line by 0.02, each to the same side."""

    def share(n):
        y = np.full(n, 0.5, np.float32)
        return share_of_network(y + 0.01, y + 0.02, y)

    assert 0.5 < share(30) < 0.8 < share(3000)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_share_is_a_share_and_few_labels_do_not_take_the_network_away(n, seed):
    random = np.random.default_rng(seed)
    network, line = random.random((2, n))
    y = random.integers(0, 11, n) / 10
    share = share_of_network(network, line, y)
    assert share in (0, 1) or LEAST <= share <= 1 - LEAST
    close = np.clip(network + 0.01, 0, 1)
    assert share_of_network(network, close, y) >= 0.2


def test_where_both_say_the_same_the_network_has_a_little_more():
    """The more, the fewer labels there are; where nobody errs there is nothing to credit."""
    network, _, y = two_views(20)
    assert share_of_network(y, y, y) == 0.5
    many = share_of_network(*(np.tile(said, 50) for said in (network, network, y)))
    assert 0.5 <= many < share_of_network(network, network, y) < 0.85


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_blend_lies_between_the_two(one, other, share):
    said = float(blended(np.array([one]), np.array([other]), share)[0])
    assert min(one, other) - 1e-5 <= said <= max(one, other) + 1e-5


def fits(data, split, sd=(0.4, 0.4), seed=0):
    """A network that nobody trained and a line, with out-of-fold scores as bad as one likes."""
    line = fit_linear(data, split, recipe_named("ridge"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = tensors_of(City96(data.x.shape[1]))
    tensors = city96.fold_platt(tensors, 8.0, 0.2)
    city96.silence_lane(tensors)
    random = np.random.default_rng(seed)
    y = np.clip(data.y, 0.01, 0.99)
    said = [expit(np.log(y / (1 - y)) + s * random.normal(size=len(y))) for s in sd]
    network = Fit(
        "city96", recipe_named("city96", folds=2, samples=7), tensors, said[0], said[0],
        (heads.Head(tensors), Constant(0.3)), [{"step": 1}],
    )  # fmt: skip
    return network, replace(line, by_members=said[1])


@pytest.fixture(scope="module")
def data():
    return labelled(200, holdout=0)


@pytest.fixture(scope="module")
def split(data):
    return split_of(data)


def test_the_exported_blend_is_the_blend_of_the_exported_heads(data, split):
    network, line = fits(data, split)
    both, found = blend(data, split, network, line)
    assert both.kind == "blend"
    assert both.loss_curve == network.loss_curve
    assert (both.recipe.samples, both.recipe.folds) == (7, 2)
    one, other = heads.Head(network.tensors)(data.x), heads.Head(line.tensors)(data.x)
    assert np.abs(one - other).max() > 0.2
    expected = blended(one, other, found.share)
    assert np.abs(heads.Head(both.tensors)(data.x) - expected).max() < 1e-5
    assert found.versus_network.verdict == "better"
    assert found.versus_line.verdict == "better"
    assert found.versus_network.difference.n == 200


def test_members_are_blended_as_their_fold_was(data, split):
    network, line = fits(data, split)
    both, _ = blend(data, split, network, line)
    assert all(isinstance(member, Blended) for member in both.members)
    shares = [member.share for member in both.members]
    for k, share in enumerate(shares):
        mine = split.fold == k
        expected = blended(network.by_members[mine], line.by_members[mine], share)
        assert np.array_equal(both.oof[mine], expected)
        pair = network.members[k](data.x), line.members[k](data.x)
        assert np.array_equal(both.members[k](data.x), blended(*pair, share))
    assert np.array_equal(both.oof, both.by_members)


def test_a_fold_has_no_say_in_its_own_shares(data, split):
    network, line = fits(data, split)
    mine = split.fold == 1
    bent = replace(data, y=np.where(mine, 1 - data.y, data.y))
    before, after = (blend(d, split, network, line)[0] for d in (data, bent))
    assert np.array_equal(before.oof[mine], after.oof[mine])
    assert before.members[1].share == after.members[1].share
    assert before.members[0].share != after.members[0].share


@pytest.mark.parametrize(("sd", "winner"), [((0, 2), "city96"), ((2, 0), "ridge")])
def test_a_head_with_no_share_leaves_the_other_as_it_was(data, split, sd, winner):
    network, line = fits(data, split, sd)
    fit, found = blend(data, split, network, line)
    assert fit is (network if winner == "city96" else line)
    assert fit.kind == winner
    assert found.share == (winner == "city96")


def test_a_blend_can_be_stretched_like_any_head(data, split):
    network, line = fits(data, split)
    both, found = blend(data, split, network, line)
    squeezed = expit(0.4 * np.log(both.oof / (1 - both.oof)))
    kept, told = calibrate(
        replace(both, oof=squeezed.astype(np.float32)), data.y, split.groups, split.fold, 0.5
    )
    assert told.kept
    assert kept.kind == "blend"
    one, other = heads.Head(network.tensors)(data.x), heads.Head(line.tensors)(data.x)
    logit = np.log(blended(one, other, found.share).astype(np.float64))
    logit -= np.log1p(-blended(one, other, found.share).astype(np.float64))
    expected = expit(told.stretch.slope * logit + told.stretch.intercept)
    assert np.abs(heads.Head(kept.tensors)(data.x) - expected).max() < 1e-4
