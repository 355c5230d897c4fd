"""From fits to one head: blend two, and stretch scores that bunch in the middle.

*Blend.* A line and a network err on different images, so that between them they usually err less
than the better one alone; and where one is much the better, the shares say so. They are fitted on
the fold members' scores of folds that they never saw, and the weighted sum of both logits is again
one head, exactly (`side_by_side`).

With thirty labels the share that errs least is a lottery: it was 0 or 0.9 on the same digits, by
the draw. So every share has a vote that falls with its error, and the mean of the votes counts:
exponential weights, whose rate falls with √n (Cesa-Bianchi & Lugosi, *Prediction, Learning, and
Games*, 2006). Few labels leave it near a half; many, at the best share.

On most sets the network is the better of the two, by less than few labels can show. So its share
has credit, as if there were a few more labels that it alone had right: much with thirty, next to
nothing with a thousand. How sharp the votes are, how much credit there is and how small a share may
be was chosen by trial (docs/decisions/0018, 0019); what else was tried is in 0054.

*Calibrate.* A fitted head errs towards the middle, because that is where it is punished least.
Platt scaling stretches the logit, ℓ → a·ℓ + c, with a and c fitted on out-of-fold scores; it folds
into the last layer without loss. Whether it helps is judged by predictions that had no part in a
and c: each fold is stretched by what the other folds need. It is kept only where that shows a gain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from tastemaker.learning import metrics
from tastemaker.learning.city96 import Array, fold_platt, side_by_side
from tastemaker.learning.folds import Split, TrainingSet
from tastemaker.learning.recipes import Fit, Member
from tastemaker.learning.version_metrics import BracketBias, Comparison

SHARES = np.linspace(0, 1, 41)
SHARPNESS = 40.0  # over √n: a vote falls to 1/e where n errors add up to √n / 4 points more
CREDIT = 6.0  # labels, as if the network had no error on so many more
LEAST = 0.15  # a smaller share costs more than it brings
BLEND_EDGE = 1e-6  # scores this near to 0 or 1 have no useful logit: in a blend
STRETCH_EDGE = 1e-4  # and in a stretch
SOFT = 0.01  # below a tenth of a point, an error counts by its square: |e| has no slope at 0


def logit_of(scores: ArrayLike, edge: float) -> NDArray[np.float64]:
    """Logits of scores in 0-1, which are clipped to `edge` from both ends."""
    clipped = np.clip(np.asarray(scores, np.float64), edge, 1 - edge)
    return np.asarray(logit(clipped), np.float64)


# ---------------------------------------------------------------- blending


@dataclass(frozen=True)
class Blended:
    """A member of each kind, with `share` of the logit for the network's."""

    network: Member
    line: Member
    share: float

    def __call__(self, x: NDArray[Any]) -> Array:
        return blended(self.network(x), self.line(x), self.share)


def blended(network: ArrayLike, line: ArrayLike, share: float) -> Array:
    """sigmoid(share · logit(network) + (1 − share) · logit(line)) of scores (n,) in 0-1."""
    mixed = share * logit_of(network, BLEND_EDGE) + (1 - share) * logit_of(line, BLEND_EDGE)
    return np.asarray(expit(mixed), np.float32)


def share_of_network(network: ArrayLike, line: ArrayLike, y: ArrayLike) -> float:
    """The network's share of the logit, in hundredths, by the errors of all shares on scores and
    labels (n,) in 0-1: 0, 1, or between LEAST and 1 − LEAST."""
    shares = SHARES[:, None]
    mixed = shares * logit_of(network, BLEND_EDGE) + (1 - shares) * logit_of(line, BLEND_EDGE)
    errors = np.abs(expit(mixed) - np.asarray(y, np.float64)).sum(axis=1)
    n = mixed.shape[1]
    errors -= CREDIT * errors.min() / n * SHARES
    votes = np.exp(-SHARPNESS / np.sqrt(n) * (errors - errors.min()))
    share = round(float(votes @ SHARES / votes.sum()), 2)
    return 0.0 if share < LEAST else 1.0 if share > 1 - LEAST else share


@dataclass(frozen=True)
class BlendFacts:
    """The share of the network, and how the blend compares with either alone on labels that none
    of them had seen."""

    share: float
    versus_network: Comparison
    versus_line: Comparison

    def as_json(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "blend_minus_city96": self.versus_network.as_dict(),
            "blend_minus_ridge": self.versus_line.as_dict(),
        }


def blend(data: TrainingSet, split: Split, network: Fit, line: Fit) -> tuple[Fit, BlendFacts]:
    """Both as one fit, and the facts about it.

    `network` and `line` are fits on the same split. The share of a fold's member is fitted on the
    other folds. Where one of the two gets nothing, the other is published as it is.
    """
    y, groups = data.y[split.train], split.groups[split.train]
    fold = split.fold[split.train]
    wide, straight = network.by_members, line.by_members
    share = share_of_network(wide, straight, y)
    members, out_of_fold = [], np.empty(len(y), np.float32)
    for k, pair in enumerate(zip(network.members, line.members, strict=True)):
        mine = fold == k
        own = share_of_network(wide[~mine], straight[~mine], y[~mine])
        members.append(Blended(*pair, own))
        out_of_fold[mine] = blended(wide[mine], straight[mine], own)
    error = np.abs(out_of_fold - y)
    facts = BlendFacts(
        share,
        versus_network=metrics.compare(error, np.abs(wide - y), groups),
        versus_line=metrics.compare(error, np.abs(straight - y), groups),
    )
    if share in (0, 1):
        return (network if share else line), facts
    tensors = side_by_side(
        fold_platt(network.tensors, share, 0), fold_platt(line.tensors, 1 - share, 0)
    )
    used = replace(network.recipe, name="auto")
    both = replace(
        network, kind="blend", recipe=used, tensors=tensors, oof=out_of_fold,
        by_members=out_of_fold, members=tuple(members),
    )  # fmt: skip
    return both, facts


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class LogitScaling:
    """Score → sigmoid(slope · logit(score) + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, scores: ArrayLike) -> Array:
        stretched = self.slope * logit_of(scores, STRETCH_EDGE) + self.intercept
        return np.asarray(expit(stretched), np.float32)


@dataclass(frozen=True)
class Calibrated:
    """A member behind a stretch."""

    member: Member
    stretch: LogitScaling

    def __call__(self, x: NDArray[Any]) -> Array:
        return self.stretch(self.member(x))


def fit_logit_scaling(scores: ArrayLike, y: ArrayLike) -> LogitScaling:
    """The stretch with the smallest mean error on scores (n,) and labels (n,) in 0-1."""
    at = logit_of(scores, STRETCH_EDGE)
    target = np.asarray(y, np.float64)

    def error(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_slope, intercept = parameters
        stretched = expit(np.exp(log_slope) * at + intercept)
        apart = stretched - target
        size = np.sqrt(apart**2 + SOFT**2)
        steep = apart / size * stretched * (1 - stretched)
        # A touch of pull towards "as it is", so that ten labels cannot demand the absurd.
        value = size.mean() + (log_slope**2 + intercept**2) / (2 * len(target))
        down = np.array([(steep * np.exp(log_slope) * at).mean(), steep.mean()])
        return float(value), down + parameters / len(target)

    best = minimize(error, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-1, 1.5), (-2, 2)])
    return LogitScaling(float(np.exp(best.x[0])), float(best.x[1]))


@dataclass(frozen=True)
class StretchFacts:
    """The stretch, whether the scores were `kept` stretched and `why`; `mae` and
    `error_at_threshold` compare with the scores as they were. All of it is out-of-fold."""

    stretch: LogitScaling
    kept: bool
    why: str
    mae: Comparison
    error_at_threshold: Comparison
    brackets_before: tuple[BracketBias, ...]
    brackets_after: tuple[BracketBias, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "slope": self.stretch.slope,
            "intercept": self.stretch.intercept,
            "kept": self.kept,
            "why": self.why,
            "mae": self.mae.as_dict(),
            "error_at_threshold": self.error_at_threshold.as_dict(),
            "brackets_before": [row.as_json() for row in self.brackets_before],
            "brackets_after": [row.as_json() for row in self.brackets_after],
        }


def calibrate(
    fit: Fit, y: Array, groups: NDArray[np.integer], fold: NDArray[np.integer], threshold: float
) -> tuple[Fit, StretchFacts]:
    """The fit with its scores stretched where that helps, and the facts about it.

    y, groups, fold (trained,) belong to `fit.oof`. It is kept if the mean error, or the error at
    the threshold, is shown to fall, and the other is not shown to rise.
    """
    each = {
        k: fit_logit_scaling(fit.oof[fold != k], y[fold != k]) for k in np.unique(fold).tolist()
    }
    stretched = np.empty_like(fit.oof)
    for k, stretch in each.items():
        stretched[fold == k] = stretch(fit.oof[fold == k])
    duel = metrics.compare(np.abs(stretched - y), np.abs(fit.oof - y), groups)
    wrong, was_wrong = (((p >= threshold) != (y >= threshold)) / 10 for p in (stretched, fit.oof))
    sides = metrics.compare(wrong, was_wrong, groups)  # ÷ 10: rates, where `compare` has points
    verdicts = {duel.verdict, sides.verdict}
    kept = "better" in verdicts and "worse" not in verdicts
    whole = fit_logit_scaling(fit.oof, y)
    facts = StretchFacts(
        stretch=whole,
        kept=kept,
        why=(
            f"out-of-fold, the mean error is {_in_words(duel.verdict)} and the error at the "
            f"threshold is {_in_words(sides.verdict)}"
        ),
        mae=duel,
        error_at_threshold=sides,
        brackets_before=metrics.bracket_errors(y, fit.oof),
        brackets_after=metrics.bracket_errors(y, stretched),
    )
    if not kept:
        return fit, facts
    members = tuple(
        Calibrated(member, each[k]) if k in each else member for k, member in enumerate(fit.members)
    )
    tensors = fold_platt(fit.tensors, whole.slope, whole.intercept)
    fit = replace(fit, tensors=tensors, oof=stretched, by_members=stretched, members=members)
    return fit, facts


def _in_words(verdict: str) -> str:
    return {"better": "smaller", "worse": "larger"}.get(verdict, "not shown to change")
