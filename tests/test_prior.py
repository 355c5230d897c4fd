"""A head that starts from other heads: much from few labels, nothing lost where they mislead."""

import functools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from tastemaker.errors import Invalid
from tastemaker.learning.city96 import (
    fold_platt,
    linear_head,
    mlp_head,
    side_by_side,
    silence_lane,
)
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Head
from tastemaker.learning.lines import Bends, logit_line
from tastemaker.learning.posterior import posterior_sd, project
from tastemaker.learning.prior import Prior, hypotheses, posterior_probabilities
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import fit_ridge, from_priors, to_link
from tastemaker.learning.selection import Mix, mixed
from tastemaker.learning.training import Trained, train
from tests.conftest import forward

FEATURES = 60
COUNTS = (5, 10, 20, 40, 80, 150)


class Taste:
    """Scores of 400 pictures by somebody whose taste is half everybody's and half their own."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(400, FEATURES)).astype(np.float32)
        common, own = rng.normal(size=(2, FEATURES)) / np.sqrt(FEATURES)
        logit = self.x @ (common + own) + 0.7 * rng.normal(size=400)
        self.y = np.round(10 / (1 + np.exp(-logit))) / 10
        self.everybody = Prior(common.astype(np.float32), 0.0, "everybody")
        self.random = Prior(
            (rng.normal(size=FEATURES) / np.sqrt(FEATURES)).astype(np.float32), 0.0, "random"
        )

        self.reversed = Prior(-self.everybody.weights, 0.0, "reversed")
        self.constant = Prior(np.zeros(FEATURES, np.float32), 3.0, "constant")

    def error(self, n: int, *priors: Prior, link: str = "logit") -> float:
        """Mean error in points of the 200 pictures that no label is of."""
        ridge = fit_ridge(self.x[:n], self.y[:n], priors=priors, link=link)
        return 10 * float(np.abs(ridge.predict(self.x[200:]) - self.y[200:]).mean())


TASTES = [Taste(seed) for seed in range(30)]


def errors(n: int, link: str, *names: str) -> float:
    """The mean over the tastes, from the priors of these names."""
    return float(
        np.mean([taste.error(n, *(getattr(taste, name) for name in names), link=link)
                 for taste in TASTES])
    )  # fmt: skip


@pytest.mark.parametrize("link", ["logit", "identity"])
def test_ten_labels_with_a_good_prior_do_what_twenty_do_without(link: str) -> None:
    assert errors(10, link, "everybody") < errors(20, link)


@pytest.mark.parametrize("link", ["logit", "identity"])
@pytest.mark.parametrize("n", COUNTS)
def test_a_prior_that_misleads_costs_at_most_two_percent(n: int, link: str) -> None:
    alone = errors(n, link)
    for name in ("random", "reversed", "constant"):
        assert errors(n, link, name) <= 1.02 * alone, name


@pytest.mark.parametrize("scale", [0.2, 4.0, -4.0])
def test_a_prior_of_another_scale_is_brought_to_that_of_the_labels(scale: float) -> None:
    """Its spread is a fifth or four times what it should be, its level far from here."""
    ratios = []
    for taste in TASTES[:12]:
        other = Prior(scale * taste.everybody.weights, 3.0, "elsewhere")
        alone, helped = (
            np.abs(
                fit_ridge(taste.x[:40], taste.y[:40], priors=priors).predict(taste.x[200:])
                - taste.y[200:]
            ).mean()
            for priors in ((), (other,))
        )
        ratios.append(helped / alone)
    assert np.mean(ratios) < 1


def test_of_several_priors_the_right_one_is_found() -> None:
    taste = TASTES[0]
    ridge = fit_ridge(taste.x[:80], taste.y[:80], priors=(taste.random, taste.everybody))
    useless, useful = ridge.trust
    assert useful.slope > 0.3 > abs(useless.slope) and useful.probability > useless.probability
    assert useful.probability + useless.probability <= 1


def test_a_reversed_prior_is_turned_round_by_eighty_labels() -> None:
    taste = TASTES[0]
    (trust,) = fit_ridge(taste.x[:80], taste.y[:80], priors=(taste.reversed,)).trust
    assert trust.slope < -0.3 and trust.probability > 0.5


def test_without_priors_nothing_changes() -> None:
    assert [each.probability for each in hypotheses(0)] == [1.0]
    assert posterior_probabilities(hypotheses(0), [-5.0]).tolist() == [1.0]
    assert sum(each.probability for each in hypotheses(3)) == pytest.approx(1)
    others = len(hypotheses(1)) - 1
    impossible = posterior_probabilities(hypotheses(1), [0.0] + others * [-1e9])
    assert impossible.tolist() == [1.0] + others * [0.0]


@pytest.mark.parametrize("link", ["logit", "identity"])
def test_left_out_predictions_with_a_prior_are_those_of_a_real_refit(link: str) -> None:
    """At the penalty and the trust of the whole fit, which one label in thirty hardly moves."""
    taste = TASTES[1]
    groups = np.repeat(np.arange(15), 2)
    x, y = taste.x[:30], taste.y[:30]
    ridge = fit_ridge(x, y, groups, priors=(taste.everybody,), link=link)
    again = np.empty(30)
    for group in range(15):
        seen = groups != group
        part = fit_ridge(
            x[seen], y[seen], groups[seen], priors=(taste.everybody,), scale=ridge.scale,
            penalties=(ridge.penalty,), link=link,
        )  # fmt: skip
        again[~seen] = part.predict(x[~seen])
    assert np.abs(ridge.out_of_group - again).mean() < 0.03
    assert np.corrcoef(ridge.out_of_group, again)[0, 1] > 0.95


def test_before_the_first_label_the_prior_speaks_and_the_first_moves_its_level() -> None:
    taste = TASTES[2]
    none: NDArray[np.float32] = taste.x[:0]
    start = from_priors((taste.everybody,), none, [], "logit")
    said = 1 / (1 + np.exp(-(taste.x @ taste.everybody.weights)))
    np.testing.assert_allclose(start.predict(taste.x), said, atol=1e-5)
    of_one_source = from_priors(
        (taste.everybody,), taste.x[:10], np.full(10, 1.0), "logit", np.zeros(10)
    )
    assert (of_one_source.predict(taste.x) > start.predict(taste.x)).all()
    assert np.isfinite(to_link(of_one_source.predict(taste.x), "logit")).all()
    np.testing.assert_allclose(of_one_source.out_of_group, start.predict(taste.x[:10]), atol=1e-5)
    assert start.trust == of_one_source.trust == (), "nothing has borne it out yet"


@pytest.mark.parametrize("name", ["everybody", "reversed"])
def test_ten_equal_scores_keep_the_order_of_a_prior_and_do_not_bear_it_out(name: str) -> None:
    taste = TASTES[2]
    prior = getattr(taste, name)
    ten = from_priors((prior,), taste.x[:10], np.full(10, 0.7), "logit")
    new = ten.predict(taste.x[200:])
    assert np.corrcoef(new, taste.x[200:] @ prior.weights)[0, 1] > 0.9
    assert ten.trust[0].slope < 0.2
    assert np.abs(new - 0.7).mean() < 0.05


def test_the_exported_head_is_one_line_whatever_it_started_from() -> None:
    taste = TASTES[3]
    data = TrainingSet(
        image_ids=np.arange(40), x=taste.x[:40], y=taste.y[:40].astype(np.float32),
        groups=np.arange(40), holdout=np.zeros(40, bool), priors=(taste.everybody,),
    )  # fmt: skip
    trained = train(data, recipe_named("ridge"))
    ridge = fit_ridge(data.x, data.y, trained.split.groups, priors=(taste.everybody,))
    x = taste.x[200:]
    scored = trained.predict(x, np.full(len(x), -1))[0]
    stretch = trained.metrics.calibration
    assert stretch is not None
    if not stretch["kept"]:
        np.testing.assert_allclose(scored, ridge.predict(x), atol=1e-5)
    assert np.abs(scored - taste.y[200:]).mean() < np.abs(
        train(TrainingSet(data.image_ids, data.x, data.y, data.groups, data.holdout),
              recipe_named("ridge")).predict(x, np.full(len(x), -1))[0] - taste.y[200:]
    ).mean()  # fmt: skip


@functools.cache
def trained(recipe: str, *priors: str) -> Trained:
    """On the first 40 labels of a taste, from the priors of these names."""
    taste = TASTES[3]
    data = TrainingSet(
        np.arange(40), taste.x[:40], taste.y[:40].astype(np.float32), np.arange(40),
        np.zeros(40, bool), priors=tuple(getattr(taste, name) for name in priors),
    )  # fmt: skip
    return train(data, recipe_named(recipe, samples=500, folds=2))


@pytest.mark.parametrize("recipe", ["ridge", "city96", "mlp", "auto"])
def test_every_recipe_learns_from_a_prior_and_leaves_one_head(recipe: str) -> None:
    taste = TASTES[3]
    alone, started = trained(recipe), trained(recipe, "everybody")
    x, y = taste.x[200:], taste.y[200:]
    errors = [np.abs(Head(t.tensors)(x) - y).mean() for t in (alone, started)]
    assert errors[1] < 0.95 * errors[0]
    assert alone.trust == () and started.trust[0].probability > 0.6
    assert started.trust[0].slope > 0.3
    np.testing.assert_allclose(Head(started.tensors)(x), forward(started.tensors, x), atol=1e-5)


def test_a_blend_holds_the_network_and_both_lines_in_one_lane() -> None:
    """The line of the prior, which the network learns the rest of, and that of the linear head."""
    rng = np.random.default_rng(0)
    none, one = np.zeros(8, np.float32), np.ones(8, np.float32)
    first, second = rng.normal(size=(2, 8)).astype(np.float32)
    network = mlp_head(rng.normal(size=(5, 8)), rng.normal(size=5), rng.normal(size=5), 0.3)
    moved = {name: np.zeros_like(value) for name, value in network.items()}
    for name, value in network.items():  # out of the lane: two units on, one neck pair on
        moved[name] = np.roll(value, 2, tuple(n for n, size in enumerate(value.shape) if size > 8))
    silence_lane(moved)
    x = rng.normal(size=(50, 8)).astype(np.float32)
    with_prior = side_by_side(moved, linear_head(first, 0.5, none, one))
    both = side_by_side(
        fold_platt(with_prior, 0.3, 0.1), fold_platt(linear_head(second, -1, none, one), 0.7, 0)
    )
    expected = 0.3 * (logit(forward(moved, x)) + x @ first + 0.5) + 0.1 + 0.7 * (x @ second - 1)
    np.testing.assert_allclose(logit(forward(both, x)), expected, atol=1e-4)
    with pytest.raises(Invalid, match="share units"):
        side_by_side(network, linear_head(second, -1, none, one))


def test_a_head_is_known_to_be_a_line_without_an_image() -> None:
    weights = np.arange(1, 5, dtype=np.float32)
    none, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    line, bias = logit_line(fold_platt(linear_head(weights, 0.5, none, one), 0.8, 0.1))
    np.testing.assert_allclose(line, 0.8 * weights, rtol=1e-4)
    assert bias == pytest.approx(0.5)
    for bent in (linear_head(weights, 0.5, none, one, link="identity"),
                 mlp_head(np.eye(4), none, weights, 0.0)):  # fmt: skip
        with pytest.raises(Bends):
            logit_line(bent)


def test_the_queue_and_the_doubts_of_a_prior_need_no_label() -> None:
    taste = TASTES[4]
    start = from_priors((taste.everybody,), taste.x[:0], [], "identity")
    library, nobody = project(taste.x), np.empty(0, np.intp)
    scores = start.predict(taste.x)
    sd = posterior_sd(library, nobody, start, scores)
    assert np.isfinite(sd).all() and (sd > 0).all()
    everything = np.ones(len(scores), bool)
    batch = mixed(library.features, everything, everything, 20, labelled=nobody, scores=scores,
                  sd=sd, penalty=start.penalty, mix=Mix.after(0, from_prior=True))  # fmt: skip
    chosen = [pick.row for pick in batch if pick.reason == "teaching"]
    assert len(batch) == 20 and len(chosen) == 8
    assert np.abs(scores[chosen] - 0.5).mean() < 0.5 * np.abs(scores - 0.5).mean()
