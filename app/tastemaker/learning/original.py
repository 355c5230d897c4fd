"""The original author's own recipe, as described, to compare with: one image at a time.

AdamW at 7e-6 with torch's other settings, the rate falling by half a cosine to nothing over
100,000 steps, L1 between (tanh z + 1)/2 and the score ÷ 10, inputs as the encoder gives them,
single precision, dropout as in the layout; no average of the weights and no early stop. The one
thing left out is a flaw: the original stretches the scores that happen to be present over 0-1.

Each step moves four million weights and twice as many numbers of optimiser state through memory,
for the sake of one image, so a head takes minutes where `descent` takes seconds.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.learning.checkpoints import Array
from tastemaker.learning.folds import Split, TrainingSet
from tastemaker.learning.heads import City96, Scorer, tensors_of, training_logit
from tastemaker.learning.linear import out_of_fold_predictions
from tastemaker.learning.lockstep import Stopped, descend
from tastemaker.learning.recipes import Fit, Progress, Recipe, silent
from tastemaker.learning.sgd import batches, loss_of


def fit_original(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = silent
) -> Fit:
    """The head of `recipe.samples` steps, and a member for each fold that never saw it."""
    x, y, fold = data.x[split.train], data.y[split.train], split.fold[split.train]
    folds = int(fold.max()) + 1
    inputs, targets = torch.from_numpy(x), torch.from_numpy(np.asarray(y, np.float32))
    learners = []
    for k in range(folds + 1):
        rows = np.flatnonzero(fold != k)  # no row has the fold of the last: it sees everything
        judged = np.flatnonzero(fold == k)[:256]
        learners.append(OneByOne(recipe, inputs, targets, rows, judged, recipe.seed + k))
    message = "Training one image at a time, as the original"
    curve = descend(learners, recipe.samples, 1, progress, message)
    *members, final = [learner.kept for learner in learners]
    scorers = tuple(Scorer(tensors) for tensors in members)
    oof = out_of_fold_predictions(scorers, x, fold)
    return Fit("original", replace(recipe, folds=folds), final, oof, oof, scorers, curve)


def city96_logit(w: dict[str, Tensor], x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> 2z (B,) of the city96 head, with dropout where there is a generator."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    return training_logit(layer, x, noise)


class OneByOne:
    """One head that sees one image a step, of `rows` of inputs (n, D) and targets (n,) in 0-1."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Tensor,
        targets: Tensor,
        rows: NDArray[np.intp],
        judged: NDArray[np.intp],
        seed: int,
    ) -> None:
        self.recipe, self.inputs, self.targets = recipe, inputs, targets
        self.judged = torch.from_numpy(judged)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = City96(inputs.shape[1])
        self.weights: dict[str, Tensor] = dict(self.head.named_parameters())
        self.random = torch.Generator().manual_seed(seed)
        self.order = batches(torch.from_numpy(rows), 1, self.random)
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=recipe.lr)
        self.seen, self.stopped = 0, False
        self.recent: list[float] = []
        self.inner: list[float] = []
        self.kept: dict[str, Array] = {}

    def rate(self, step: int) -> float:
        return 0.5 * self.recipe.lr * (1 + math.cos(math.pi * step / self.recipe.samples))

    def walk(self, start: int, stop: int) -> None:
        self.recent.clear()
        with torch.enable_grad():
            for step in range(start, stop):
                if self.stopped:
                    raise Stopped
                row = next(self.order)
                logit = city96_logit(self.weights, self.inputs[row], self.random)
                loss = loss_of(logit, self.targets[row], self.recipe.loss)
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.param_groups[0]["lr"] = self.rate(step)
                self.optimiser.step()
                self.recent.append(float(loss.detach()))
                self.seen += 1
        if len(self.judged):
            self.inner.append(self.error_on(self.judged))

    def error_on(self, rows: Tensor) -> float:
        """Mean |score − label| (0-1) on rows that it does not learn from."""
        with torch.no_grad():
            logit = city96_logit(self.weights, self.inputs[rows], None)
            return float(loss_of(logit, self.targets[rows], "l1"))

    def keep(self) -> None:
        self.kept = tensors_of(self.head)
