"""Where a head may start from: other heads of the same encoder, as far as the labels bear them out.

Somebody else's head, or one's own of another project, knows much of what ten labels cannot say. How
much of it holds here is learned, by Bayesian model averaging (Hoeting et al. 1999). There are a few
*hypotheses*: that no prior is of use; that a prior's line holds as it is, half of it, or twice (for
what many people say on average differs less than what one of them says); that it holds with a slope
nobody knows, of either sign. Under each the labels have a probability (the evidence: the marginal
likelihood of a Bayesian linear regression with a flat intercept and the noise integrated out,
Bishop 2006, section 3.5), and the heads fitted under them are averaged by it. So a prior that the
labels contradict fades, and a reversed one is turned round.

How likely each hypothesis is before the first label was chosen on ratings of real people, so that a
random or reversed prior costs at most two percent of the error at five labels
(docs/decisions/0031, 0053).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Link = Literal["logit", "identity"]

UNTRUSTED = 0.7  # the probability, before any label, that no prior is of use
SLOPES = (0.5, 1.0, 2.0)  # of a prior's line; 1 is a prior whose line holds as it is
SLOPE_SD = 1.0  # of a slope that nobody knows
NOISE = {"identity": 0.25, "logit": 1.25}  # what labels differ by as a rule, in units of the link
NOISE_WEIGHT = 2.0  # labels that this knowledge counts as
PER_LOGIT = 0.2  # score ≈ 0.5 + 0.2 · logit: within 0.05 from 0.1 to 0.9


@dataclass(frozen=True)
class Prior:
    """Another head as a line on features as the encoder has them: the logit of its score is
    weights (D,) · x + bias."""

    weights: NDArray[np.float32]
    bias: float
    name: str = ""

    def line(self, link: Link) -> NDArray[np.float64]:
        """The weights (D,) in units of the link; for `identity` its straight stand-in."""
        return self.weights.astype(np.float64) * (1.0 if link == "logit" else PER_LOGIT)

    def values(self, x: NDArray[Any], link: Link) -> NDArray[np.float64]:
        """What it says of rows x (N, D), in units of the link: (N,)."""
        level = self.bias if link == "logit" else 0.5 + PER_LOGIT * self.bias
        return np.asarray(x @ self.line(link).astype(np.float32), np.float64) + level

    def standardised(self, mean: NDArray[Any], scale: NDArray[Any]) -> Prior:
        """The same line on (x − mean) / scale, both (D,)."""
        weights = (self.weights.astype(np.float64) * scale).astype(np.float32)
        return Prior(weights, self.bias + float(self.weights.astype(np.float64) @ mean), self.name)


@dataclass(frozen=True)
class Trust:
    """How far labels bear a prior out: the `probability` that it is of use, and the `slope`, how
    much of its line is part of the head, below 0 where it is turned round."""

    probability: float
    slope: float


@dataclass(frozen=True)
class Hypothesis:
    """That the labels follow `slope` times the line of a prior, give or take `sd`; `probability` is
    how likely that is before the first label. Without a `prior`, that none is of use."""

    probability: float
    prior: int | None = None
    slope: float = 0.0
    sd: float = 0.0


def hypotheses(priors: int) -> tuple[Hypothesis, ...]:
    """What may be so of that many priors; their probabilities add up to 1."""
    if not priors:
        return (Hypothesis(1.0),)
    kinds = (*((slope, 0.0) for slope in SLOPES), (0.0, SLOPE_SD))
    each = (1 - UNTRUSTED) / priors / len(kinds)
    return (
        Hypothesis(UNTRUSTED),
        *(Hypothesis(each, number, slope, sd) for number in range(priors) for slope, sd in kinds),
    )


def log_evidence(
    n: int, determinant: NDArray[np.float64], misfit: NDArray[np.float64], link: Link
) -> float:
    """How probable n labels are under a hypothesis, over all penalties: the logarithm, but for what
    all hypotheses have in common. `determinant` (penalties,) is ln |M| and `misfit` (penalties,)
    rᵀM⁻¹r of the labels' covariance M in units of the noise."""
    known = NOISE_WEIGHT * NOISE[link] ** 2
    each = -0.5 * determinant - 0.5 * (NOISE_WEIGHT + n - 1) * np.log(known + misfit)
    return float(np.logaddexp.reduce(each) - np.log(len(each)))


def posterior_probabilities(
    held: Sequence[Hypothesis], evidence: Sequence[float]
) -> NDArray[np.float64]:
    """How likely each hypothesis is once the labels are known: (hypotheses,), adding up to 1."""
    weight = np.log([each.probability for each in held]) + np.asarray(evidence)
    probability = np.exp(weight - weight.max())
    return np.asarray(probability / probability.sum(), np.float64)
