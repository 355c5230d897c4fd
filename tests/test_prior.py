"""A head that starts from other heads: much from few labels, nothing lost where they mislead."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.prior import Prior, hypotheses, posterior_probabilities
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import fit_ridge, from_priors, to_link
from tastemaker.learning.training import train

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


def test_of_several_priors_the_right_one_is_found() -> None:
    taste = TASTES[0]
    ridge = fit_ridge(taste.x[:80], taste.y[:80], priors=(taste.random, taste.everybody))
    assert ridge.slopes[1] > 0.3 > abs(ridge.slopes[0])


def test_a_reversed_prior_is_turned_round_by_eighty_labels() -> None:
    taste = TASTES[0]
    assert fit_ridge(taste.x[:80], taste.y[:80], priors=(taste.reversed,)).slopes[0] < -0.3


def test_without_priors_nothing_changes() -> None:
    assert [each.probability for each in hypotheses(0)] == [1.0]
    assert posterior_probabilities(hypotheses(0), [-5.0]).tolist() == [1.0]
    assert sum(each.probability for each in hypotheses(3)) == pytest.approx(1)
    impossible = [0.0, -1e9, -1e9, -1e9]
    assert posterior_probabilities(hypotheses(1), impossible).tolist() == [1, 0, 0, 0]


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


def test_before_the_first_label_the_prior_speaks_and_each_label_moves_its_level() -> None:
    taste = TASTES[2]
    none: NDArray[np.float32] = taste.x[:0]
    start = from_priors((taste.everybody,), none, [], "logit")
    said = 1 / (1 + np.exp(-(taste.x @ taste.everybody.weights)))
    np.testing.assert_allclose(start.predict(taste.x), said, atol=1e-5)
    ten = from_priors((taste.everybody,), taste.x[:10], np.full(10, 1.0), "logit")
    assert (ten.predict(taste.x) > start.predict(taste.x)).all()
    assert np.isfinite(to_link(ten.predict(taste.x), "logit")).all()


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
