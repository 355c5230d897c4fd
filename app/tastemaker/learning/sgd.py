"""Heads fitted by stochastic gradient descent: the fold members and the final head in step.

Three things make it fast. Batches are large: at batch 1, every sample moves all four million
weights and their optimiser state through memory. The large matrices are multiplied in bfloat16
where the processor has it (`precision`), from a copy of the weights that is made once a step. And
every member has a core to itself: its matrix products need nobody else's, and while one core waits
for memory in the optimiser, another one multiplies.

Two things make it good with few labels. The inputs are in the units of the linear head
(`half_scale`), not each feature in its own: full standardisation makes as much of the features that
hardly vary as of those that do. And every image is seen with noise on its features, another one
each time, which for small noise is a penalty on the slope of the head (Bishop, *Training with noise
is equivalent to Tikhonov regularization*, 1995).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from tastemaker.learning.architectures import ARCHITECTURES, Architecture
from tastemaker.learning.checkpoints import Array
from tastemaker.learning.ensemble import Weights
from tastemaker.learning.folds import Split, TrainingSet
from tastemaker.learning.heads import Scorer, fold_standardisation
from tastemaker.learning.linear import out_of_fold_predictions, ridge_or_none
from tastemaker.learning.lockstep import Stopped, descend
from tastemaker.learning.precision import matrix_type
from tastemaker.learning.recipes import Fit, Progress, Recipe, silent
from tastemaker.learning.ridge import half_scale

LARGE = 1 << 15  # weights of at least this many numbers are multiplied in the fast format
EMA_EVERY = 4  # steps; an average of every step would cost a tenth of the time
FEWEST_PASSES = 3  # through a set so large that the recipe's samples do not go round
FULL_RATE = 256  # images in a batch from which on the learning rate is that of the recipe
NOISES = 1 << 22  # random numbers that all noise is cut from
EDGE, PULL = 6.0, 0.1  # a logit of 6 is 0.025 points short of 10; the loss per unit beyond it


# ---------------------------------------------------------------- the story


def fit_by_sgd(data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = silent) -> Fit:
    """Train the recipe's architecture: one member per fold without that fold, and the final head
    on everything."""
    assert recipe.name in ("city96", "mlp")
    architecture = ARCHITECTURES[recipe.name]
    x, y, fold = data.x[split.train], data.y[split.train], split.fold[split.train]
    groups = split.groups[split.train]
    folds = int(fold.max()) + 1
    mean = x.mean(axis=0)
    unit = math.sqrt(x.shape[1])  # so that a feature's variance is 1 on average
    scale = half_scale(x) / np.float32(unit)
    standard = (x - mean) / scale
    inputs = torch.from_numpy(standard).to(matrix_type())
    targets = torch.from_numpy(np.asarray(y, np.float32))

    batch, steps = schedule_for(recipe, len(y))
    learners = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        noises = recipe.noise * torch.randn(NOISES + batch * x.shape[1])
        noises = noises.to(inputs.dtype)
        for k in range(folds + 1):
            rows = np.flatnonzero(fold != k)  # no row has the fold of the last: it sees everything
            start = None
            if architecture.starts_linear:
                start = ridge_or_none(standard[rows], y[rows], groups[rows], unit)
            weights = architecture.begin(recipe, x.shape[1], start)
            judged = np.flatnonzero(fold == k)[:256]
            learners.append(
                _Learner(architecture, weights, recipe, steps, batch, inputs, targets, noises, rows,
                         judged, recipe.seed + k)
            )  # fmt: skip

    curve = descend(learners, steps, batch, progress, f"Training the {recipe.name} head")

    fitted = [fold_standardisation(architecture.export(k.kept), mean, scale) for k in learners]
    members = tuple(Scorer(tensors) for tensors in fitted[:-1])
    oof = out_of_fold_predictions(members, x, fold)
    rate = float(f"{learners[-1].largest_rate:.4g}")
    used = replace(recipe, samples=learners[-1].seen, batch=batch, lr=rate, folds=folds)
    return Fit(recipe.name, used, fitted[-1], oof, oof, members, curve)


def schedule_for(recipe: Recipe, n: int) -> tuple[int, int]:
    """Batch and number of steps for n labels. Small sets need the steps, so a quarter of them is
    the largest batch; large ones are seen at least a few times."""
    batch = min(recipe.batch, max(32, n // 4), n)
    samples = max(min(recipe.samples, recipe.passes * n), FEWEST_PASSES * n)
    return batch, max(1, round(samples / batch))


def largest_rate(recipe: Recipe, batch: int) -> float:
    """The largest learning rate: the recipe's for a network of full width in large batches.

    Narrower ones take larger steps, in proportion (Yang et al., *Tensor Programs V*, 2022). Batches
    below 256 take smaller ones, by the root of their size: a small batch has a noisier slope, and
    Adam takes steps of one length whatever the slope (Malladi et al., *On the SDEs and scaling
    rules for adaptive gradient algorithms*, 2022)."""
    return recipe.lr * recipe.subnetworks * min(1.0, math.sqrt(batch / FULL_RATE))


def share_of_rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short linear rise, then half a cosine down to 0."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class _Learner:
    """One head in training: float32 weights, their working copy, and where it is."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        recipe: Recipe,
        steps: int,
        batch: int,
        inputs: Tensor,
        targets: Tensor,
        noises: Tensor,
        rows: NDArray[np.intp],
        judged: NDArray[np.intp],
        seed: int,
    ) -> None:
        self.architecture, self.recipe, self.steps = architecture, recipe, steps
        self.inputs, self.targets, self.noises = inputs, targets, noises
        self.judged = torch.from_numpy(judged)
        self.random = torch.Generator().manual_seed(seed)
        self.batch, self.batches = batch, batches(torch.from_numpy(rows), batch, self.random)
        self.master = weights
        self.average: Weights | None = None
        self.working = {
            name: value.to(_narrow_type(weights, name)).detach() for name, value in weights.items()
        }
        for value in self.working.values():
            value.requires_grad_()
        self.optimiser = _AdamW(list(weights.values()), recipe)
        self.largest_rate = largest_rate(recipe, batch)
        self.seen, self.stopped = 0, False
        self.recent: list[float] = []
        self.inner: list[float] = []  # errors on the fold left out
        self.kept: dict[str, Array] = {}

    def walk(self, start: int, stop: int) -> None:
        self.recent.clear()
        with torch.enable_grad():
            for step in range(start, stop):
                if self.stopped:
                    raise Stopped
                rows = next(self.batches)
                logit = self.architecture.logit(self.working, self._noisy(rows), self.random)
                loss = loss_of(logit, self.targets[rows], self.recipe.loss)
                slopes = torch.autograd.grad(loss + beyond_edge(logit), list(self.working.values()))
                with torch.no_grad():
                    self.optimiser.step(slopes, self.rate(step))
                    for name, narrow in self.working.items():
                        if narrow.dtype != torch.float32:  # else it is the master itself
                            narrow.copy_(self.master[name])
                    self._average(step)
                self.recent.append(float(loss.detach()))
                self.seen += len(rows)
        if len(self.judged):
            self.inner.append(self.error_on(self.judged))

    def rate(self, step: int) -> float:
        return self.largest_rate * share_of_rate(step, self.steps)

    def _noisy(self, rows: Tensor) -> Tensor:
        """The inputs of some rows (B, D) with noise, cut from the stock at a random place: to draw
        that many random numbers anew would cost a tenth of the time."""
        seen = self.inputs[rows]
        if self.recipe.noise:
            at = int(torch.randint(NOISES, (1,), generator=self.random))
            seen += self.noises[at : at + seen.numel()].view_as(seen)
        return seen

    def _average(self, step: int) -> None:
        """Exponential moving average of the weights over about the last tenth of the steps."""
        if not self.recipe.ema or step % EMA_EVERY != EMA_EVERY - 1:
            return
        if self.average is None:
            self.average = {name: value.clone() for name, value in self.master.items()}
            return
        span = max(1.0, self.recipe.ema * self.steps / EMA_EVERY)
        for name, value in self.master.items():
            self.average[name].lerp_(value, 1 / span)

    def error_on(self, rows: Tensor) -> float:
        """Mean |score − label| (0-1) on rows that it does not learn from."""
        held = self.average or self.master
        narrow = {name: held[name].to(self.working[name].dtype) for name in held}
        with torch.no_grad():
            logit = self.architecture.logit(narrow, self.inputs[rows], None).mean(dim=0)
            return float(F.l1_loss(torch.sigmoid(logit), self.targets[rows]))

    def keep(self) -> None:
        held = self.average or self.master
        self.kept = {name: np.array(value.numpy()) for name, value in held.items()}


class _AdamW:
    """AdamW by torch's function, whose class would load torch's compiler first: two seconds and
    more for every training."""

    def __init__(self, weights: list[Tensor], recipe: Recipe) -> None:
        self.weights, self.recipe = weights, recipe
        self.means, self.squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in weights]

    def step(self, slopes: Iterable[Tensor], rate: float) -> None:
        adamw(
            self.weights, [slope.float() for slope in slopes], self.means, self.squares, [],
            self.steps, fused=True, amsgrad=False, maximize=False, lr=rate, eps=1e-8, beta1=0.9,
            beta2=self.recipe.beta2, weight_decay=self.recipe.weight_decay,
        )  # fmt: skip


def _narrow_type(weights: Weights, name: str) -> torch.dtype:
    """The fast format for the layers whose matrix products are what takes the time."""
    matrix = weights[f"{name.rpartition('.')[0]}.weight"]
    return matrix_type() if matrix.numel() >= LARGE else torch.float32


def loss_of(logit: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean loss of scores sigmoid(logit) (B,), or of several subnetworks (subnetworks, B) each by
    itself, against labels (B,) in 0-1.

    Huber's loss is the square up to one point and the distance beyond, in the units of the
    distance: nobody's scores are surer than a point.
    """
    score = torch.sigmoid(logit)
    target = target.expand_as(score)
    if kind == "huber":
        return F.huber_loss(score, target, delta=0.1) / 0.1
    return F.l1_loss(score, target)


def beyond_edge(logit: Tensor) -> Tensor:
    """What logits beyond ±EDGE cost more. There the sigmoid is flat: an image that one large step
    threw so far would stay for good, at a logit of thousands that outvotes the other subnetworks.
    So it is pulled back, about as hard as a wrong score pulls."""
    return PULL * F.relu(logit.abs() - EDGE).mean()


def batches(rows: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Batches of row numbers without end: whole shuffled passes, end to end."""
    queue = rows[:0]
    for _ in itertools.count():
        while len(queue) < size:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=random)]])
        yield queue[:size]
        queue = queue[size:]
