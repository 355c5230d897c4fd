"""Training: labels in, a head and honest numbers out.

    1. unite near-duplicates, so that no image is judged by a head that saw its twin
    2. withhold the hold-out, whatever is a near-duplicate of it, and every answer about either
    3. deal the remaining groups into folds
    4. fit: one head per fold without that fold, and the final head on everything
    5. stretch the scores, where that is shown to help
    6. write the final head as the 16 tensors of the export, and measure *those*

What comes back predicts each label by a head that never saw it: trained labels out-of-fold, the
others by the final head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import NotTrainable
from tastemaker.learning import metrics
from tastemaker.learning.blending import BlendFacts, blend, calibrate
from tastemaker.learning.city96 import Array, Tensors
from tastemaker.learning.folds import (
    Rows,
    Split,
    TrainingSet,
    answers_that_train,
    fold_of_group,
    groups_with_answers,
    split_rows,
)
from tastemaker.learning.heads import Head
from tastemaker.learning.prior import Trust
from tastemaker.learning.recipes import (
    Curve,
    Fit,
    Kind,
    Member,
    Progress,
    Recipe,
    ignore_progress,
)
from tastemaker.learning.ridge import fit_linear
from tastemaker.learning.sgd import fit_by_sgd, fit_original
from tastemaker.learning.trainable import why_not
from tastemaker.learning.version_metrics import (
    AnswersUsed,
    LabelMetrics,
    MeasuredOn,
    VersionMetrics,
    VersusConstant,
    VersusConstantOutOfFold,
)

FEWEST_FOR_NETWORK = 20  # with fewer labels nobody measured what a share of the network does
UNCERTAINTY_FLOOR = 0.01  # a tenth of a point
FITS = {
    "ridge": fit_linear,
    "mlp": fit_by_sgd,
    "city96": fit_by_sgd,
    "original": fit_original,
}


@dataclass(frozen=True)
class Choice:
    """Which recipe was asked for, and why this one was taken; where both were, how they blend."""

    asked: str = ""
    why: str = ""
    blend: BlendFacts | None = None

    def as_json(self) -> dict[str, Any]:
        facts = self.blend.as_json() if self.blend else {}
        return {"asked": self.asked, "why": self.why} | facts


@dataclass(frozen=True)
class Trained:
    """A head ready to publish, and what is known about it.

    `oof` (n,) is the out-of-fold score of a trained label and NaN elsewhere; `final` (n,) scores
    every row by the exported tensors (honest only where the row did not train).
    `fold_of_group` maps the caller's group numbers to the fold that was left out for them. `trust`
    is how far the labels bear out each prior, in the order of the priors.
    """

    kind: Kind
    recipe: Recipe
    tensors: Tensors
    split: Split
    oof: Array
    final: Array
    fold_of_group: dict[int, int]
    members: tuple[Member, ...]
    noise: float
    loss_curve: Curve
    metrics: VersionMetrics = field(default_factory=VersionMetrics)
    choice: Choice = Choice()
    trust: tuple[Trust, ...] = ()

    @property
    def honest(self) -> Array:
        """(n,) for every label, the score by a head that never saw it nor a near-duplicate."""
        return np.where(self.split.train, self.oof, self.final)

    def predict(self, x: NDArray[Any], groups: NDArray[np.integer]) -> tuple[Array, Array, Array]:
        """(score, out-of-fold score, uncertainty) of N other images, each (N,) in score units.

        The score is that of the exported tensors. Images of a trained group (a crop of a labelled
        photograph, say) also have the score by the member that never saw that group; the others
        have NaN there. The uncertainty is a standard deviation of label − score, never below 0.01:
        the members' disagreement, scaled as a jackknife over folds (they share most of their
        labels, so their plain spread is too small), plus the noise of the labels themselves.
        """
        scores = np.stack([member(x) for member in self.members])
        fold = np.array([self.fold_of_group.get(group, -1) for group in groups.tolist()], np.intp)
        out_of_fold = np.where(fold >= 0, scores[fold, np.arange(len(x))], np.nan)
        disagreement = (len(scores) - 1) * scores.var(axis=0)
        spread = np.maximum(np.sqrt(disagreement + self.noise**2), UNCERTAINTY_FLOOR)
        return self._head(x), out_of_fold, spread.astype(np.float32)

    @functools.cached_property
    def _head(self) -> Head:
        return Head(self.tensors)


# ---------------------------------------------------------------- the story


def train(
    data: TrainingSet,
    recipe: Recipe | None = None,
    *,
    progress: Progress = ignore_progress,
    threshold: float = 0.5,
) -> Trained:
    """Train a head on a data set by a recipe.

    `progress` is called several times a second, with samples as the unit, and may raise, which
    stops the training. Raises NotTrainable with a sentence for the person. The same data, recipe
    and machine give the same bytes.
    """
    recipe = recipe or Recipe()
    check(data)
    progress(0, 1, "Looking for near-duplicates")
    groups, answers = groups_with_answers(data)
    split = split_rows(data.x, data.y, groups, data.holdout, folds=recipe.folds, seed=recipe.seed)
    if answers is not None:
        split = replace(split, answers=answers_that_train(answers, groups, split))
    fit, choice = _choose(data, split, recipe, progress)
    trained = finish(data, split, fit, threshold)
    return replace(trained, choice=choice)


def finish(data: TrainingSet, split: Split, fit: Fit, threshold: float = 0.5) -> Trained:
    """What is published of a fit: stretched where that helps, and measured as it is exported."""
    fit, stretched = calibrate(
        fit, data.y[split.train], split.groups[split.train], split.fold[split.train], threshold
    )

    oof = np.full(len(data.y), np.nan, np.float32)
    oof[split.train] = fit.oof
    trained = Trained(
        kind=fit.kind,
        recipe=fit.recipe,
        tensors=fit.tensors,
        split=split,
        oof=oof,
        final=Head(fit.tensors)(data.x),
        fold_of_group=fold_of_group(data, split),
        members=fit.members,
        noise=float(np.sqrt(np.mean((fit.oof - data.y[split.train]) ** 2))),
        loss_curve=fit.loss_curve,
        trust=fit.trust,
    )
    measured = _measure(data, trained, threshold)
    return replace(
        trained, metrics=measured.model_copy(update={"calibration": stretched.as_json()})
    )


def check(data: TrainingSet) -> None:
    """NotTrainable if these labels cannot train anything."""
    if reason := why_not(data.y, ~data.holdout):
        raise reason
    if not np.isfinite(data.x).all():
        bad = int((~np.isfinite(data.x).all(axis=1)).sum())
        raise NotTrainable(
            f"The embeddings of {bad} scored images hold values that are not numbers.",
            "Embed these images again.",
        )


# ---------------------------------------------------------------- which architecture


def _choose(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress
) -> tuple[Fit, Choice]:
    """The fit to publish, and why it was chosen.

    `auto` takes both, each with its share of the logit (see `blending`). The shares come from the
    fold members, which saw equally many labels. The hold-out plays no part: a number that
    chose the head could not measure it.
    """
    n = int(split.train.sum())
    if recipe.name != "auto":
        return FITS[recipe.name](data, split, recipe, progress), Choice(recipe.name, "asked for")

    line = fit_linear(data, split, recipe, progress)
    if n < FEWEST_FOR_NETWORK:
        why = f"{n} labels; below {FEWEST_FOR_NETWORK} the linear head is the safer one"
        return line, Choice(recipe.name, why)
    network = fit_by_sgd(data, split, replace(recipe, name="city96"), progress)
    fit, facts = blend(data, split, network, line)
    return replace(fit, trust=line.trust), Choice(recipe.name, _why_blended(facts), facts)


def _why_blended(facts: BlendFacts) -> str:
    """The shares in words, and how the blend compares with either alone."""
    share = round(100 * facts.share)
    network, line = (
        {"better": "errs less than", "worse": "errs more than"}.get(
            versus.verdict, "is not shown to differ from"
        )
        for versus in (facts.versus_network, facts.versus_line)
    )
    return (
        f"the shares, {share} % for the network and {100 - share} % for the linear head, were "
        "fitted on labels that neither had seen; out-of-fold, the blend "
        f"{network} city96 alone and {line} ridge alone"
    )


# ---------------------------------------------------------------- honest numbers


def _measure(data: TrainingSet, trained: Trained, threshold: float) -> VersionMetrics:
    """Counts, and the metrics on the hold-out, on the random sample and out-of-fold."""
    split = trained.split
    rows: dict[MeasuredOn, Rows] = {
        "holdout": split.holdout, "random_sample": data.drawn, "out_of_fold": split.train,
    }  # fmt: skip
    measured = {name: _measured(data, trained, some, threshold) for name, some in rows.items()}
    metrics_of = VersionMetrics(
        images=int(split.train.sum()),
        kind=trained.kind,
        aside=int(split.aside.sum()),
        groups=len(np.unique(split.groups)),
        folds=len(trained.members),
        noise=trained.noise,
        holdout=measured["holdout"],
        random_sample=measured["random_sample"],
        out_of_fold=measured["out_of_fold"],
    )
    if split.answers is not None and trained.kind in ("ridge", "blend"):
        metrics_of = metrics_of.model_copy(update={"answers": AnswersUsed.of(split.answers)})
    on = metrics_of.measured_on or "out_of_fold"
    first, out_of_fold = (
        _against_the_median(data, trained, rows[name]) for name in (on, "out_of_fold")
    )
    versus = VersusConstant(difference=first.difference, verdict=first.verdict, on=on)
    return metrics_of.model_copy(
        update={
            "baseline_mae": first.mae,
            "versus_baseline": versus,
            "out_of_fold_baseline": out_of_fold,
        }
    )


def _measured(data: TrainingSet, trained: Trained, rows: Rows, threshold: float) -> LabelMetrics:
    """Everything on these labels, each predicted by a head that never saw it."""
    y, predicted = data.y[rows], trained.honest[rows]
    found = metrics.summary(y, predicted, trained.split.groups[rows], threshold=threshold)
    strangers = np.full(int(rows.sum()), -1)
    unsure = trained.predict(data.x[rows], strangers)[2] if rows.any() else np.empty(0)
    return found.model_copy(update={"coverage": metrics.coverage(y, predicted, unsure)})


def _against_the_median(data: TrainingSet, trained: Trained, rows: Rows) -> VersusConstantOutOfFold:
    """The error of the constant training median on these labels, and whether the head is better
    than that. A set that teaches nothing shows here."""
    y, median = data.y[rows], np.median(data.y[trained.split.train])
    constant = np.abs(median - y)
    result = metrics.compare(np.abs(trained.honest[rows] - y), constant, trained.split.groups[rows])
    return VersusConstantOutOfFold(
        difference=result.difference, verdict=result.verdict, mae=10 * float(constant.mean())
    )
