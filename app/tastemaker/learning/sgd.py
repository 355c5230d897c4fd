"""Heads fitted by stochastic gradient descent: the fold members and the final head side by side.

Four things make it fast. Batches are large: at batch 1, every sample moves all four million
weights and their optimiser state through memory. A head learns in the dimensions that its images
lie in, not in all of their features (`subspace`). The large matrices are multiplied in bfloat16
where the processor has matrix units for it (AMX, `matrix_type`), from a copy of the weights that is
made once a step. And every member has a core to itself: its matrix products need nobody else's, and
while one core waits for memory in the optimiser, another one multiplies.

Two things make it good with few labels. The inputs are in the units of the linear head
(`half_scale`), not each feature in its own: full standardisation makes as much of the features that
hardly vary as of those that do. And every image is seen with noise on its features, another one
each time, which for small noise is a penalty on the slope of the head (Bishop, *Training with noise
is equivalent to Tikhonov regularization*, 1995).

The recipe of the original author is here too, to compare with: one image at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from tastemaker.learning.city96 import (
    Array,
    Tensors,
    fold_standardisation,
    linear_head,
    side_by_side,
)
from tastemaker.learning.folds import Split, TrainingSet, out_of_fold_predictions
from tastemaker.learning.heads import Head, matrix_type
from tastemaker.learning.network import (
    LAST,
    NETWORKS,
    City96,
    Network,
    Weights,
    city96_logit,
    tensors_of,
)
from tastemaker.learning.parallel_training import train_together
from tastemaker.learning.prior import Prior, Trust
from tastemaker.learning.recipes import Curve, Fit, Progress, Recipe, ignore_progress
from tastemaker.learning.ridge import from_link, half_scale, ridge_or_none, to_link
from tastemaker.learning.subspace import MOST, Subspace, subspace_of

LARGE = 1 << 15  # weights of at least this many numbers are multiplied in the fast format
EMA_EVERY = 4  # steps; an average of every step would cost a tenth of the time
FEWEST_PASSES = 3  # through a set so large that the recipe's samples do not go round
FULL_RATE = 256  # images in a batch from which on the learning rate is that of the recipe
NOISES = 1 << 22  # random numbers that all noise is cut from
EDGE, PULL = 6.0, 0.1  # a logit of 6 is 0.025 points short of 10; the loss per unit beyond it
RISE = 0.05  # of the steps, in which the learning rate rises
FEW_TO_BEGIN = 40  # labels; of more a network begins nearer to 5
MOST_LEFT_OUT = 256  # rows of the fold left out that the loss curve is measured on


# ---------------------------------------------------------------- the story


def fit_by_sgd(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = ignore_progress
) -> Fit:
    """Train the recipe's network: one member per fold without that fold, and the final head on
    everything."""
    assert recipe.name in NETWORKS
    network = NETWORKS[recipe.name]
    x, y, fold = data.x[split.train], data.y[split.train], split.fold[split.train]
    groups = split.groups[split.train]
    mean = x.mean(axis=0)
    unit = math.sqrt(x.shape[1])  # so that a feature's variance is 1 on average
    scale = half_scale(x) / np.float32(unit)
    standard = (x - mean) / scale
    targets = torch.from_numpy(np.asarray(y, np.float32))

    batch, steps = schedule_for(recipe, len(y))
    on_inputs = tuple(prior.standardised(mean, scale) for prior in data.priors)
    spaces = _spaces(standard, fold, recipe.seed, network)
    learners, besides = [], []
    trust: tuple[Trust, ...] = ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        noises = torch.randn(NOISES + batch * x.shape[1]).to(matrix_type())
        for k, (rows, left_out) in enumerate(_members_and_final(fold)):
            start = beside = None
            if network.starts_linear or on_inputs:
                start = ridge_or_none(standard[rows], y[rows], groups[rows], unit, on_inputs)
                trust = start.trust if start else ()
            if not network.starts_linear:
                start, beside = None, _beside(on_inputs, trust)
            if k == 0 or spaces[k] is not spaces[k - 1]:
                seen = spaces[k].coordinates(standard)
                inputs = torch.from_numpy(seen).to(matrix_type())
            weights = network.begin(recipe, inputs.shape[1], start)
            line = None if beside is None else standard @ beside
            if not network.starts_linear:
                level = _level(y[rows], line if line is None else line[rows])
                _begin_at(level, network, weights, inputs.shape[1])
            own = replace(recipe, noise=recipe.noise / spaces[k].unit)
            learners.append(
                BatchLearner(network, weights, own, steps, batch, inputs, targets, noises, rows,
                             left_out, recipe.seed + k, line)
            )  # fmt: skip
            besides.append(beside)

    curve = train_together(learners, steps, batch, progress, f"Training the {recipe.name} head")

    fitted = []
    for learner, space, beside in zip(learners, spaces, besides, strict=True):
        head = space.unfold(network.export(learner.kept))
        if beside is not None:
            head = side_by_side(head, linear_head(beside, 0.0, 0 * beside, 0 * beside + 1))
        fitted.append(fold_standardisation(head, mean, scale))
    final = learners[-1]
    used = replace(recipe, samples=steps * batch, batch=batch, lr=float(f"{final.rate_max:.4g}"))
    return replace(_judged(used, fitted, x, fold, curve), trust=trust)


def _spaces(
    standard: Array, fold: NDArray[np.integer], seed: int, network: Network
) -> list[Subspace]:
    """The dimensions that each member and the final head learn in. Few labels are each an axis of
    their own, so no member knows those of the fold that it leaves out, nor its mean: they would
    look more familiar to it than any other image does. A network that starts from a
    line has all features, since the line of a prior lies in all of them."""
    learners = list(_members_and_final(fold))
    if network.starts_linear:
        return [Subspace()] * len(learners)
    if len(fold) > MOST:
        return [subspace_of(standard, seed)] * len(learners)
    return [subspace_of(standard[rows], seed + k) for k, (rows, _) in enumerate(learners)]


def _begin_at(level: float, network: Network, weights: Weights, features: int) -> None:
    """Let each subnetwork give that logit at the centre of its inputs, by its last bias. By chance
    its weights give half a logit to either side there, and every image unlike the labelled ones
    would be off by that."""
    by_chance = network.logit(weights, torch.zeros(1, features), None)
    bias = weights[f"{LAST}.bias"]
    bias += (level - by_chance).view_as(bias) / 2


def _level(y: Array, beside: Array | None) -> float:
    """The logit at which a network begins. An image unlike all labelled ones is near their centre
    in their dimensions, where a network learns little, and keeps much of what it began with. The
    one score for all that errs least on labels y (n,) is their median, beyond a line that is there
    already. But a network moves there by itself too, and would end beyond it where scores differ.
    So it begins at that share of the median's logit by which the median errs less than 5 does: most
    of it for one who gives hardly anything but zeros, little for one who gives all scores. Of more
    labels it learns more, so it begins nearer to 5 (docs/decisions/0034)."""
    line = np.zeros(len(y)) if beside is None else beside
    usual = float(np.median(to_link(y, "logit") - line))
    without, there = (float(np.abs(from_link(line + at, "logit") - y).mean()) for at in (0, usual))
    share = max(0.0, 1 - there / without) if without else 0.0
    return usual * share * min(1.0, FEW_TO_BEGIN / len(y))


def _beside(priors: Sequence[Prior], trust: Sequence[Trust]) -> Array | None:
    """The line (D,) that a network with a silent lane learns the rest of: the priors, each as far
    as a ridge on the same labels trusts it. None without priors, or where nothing told."""
    if not trust:
        return None
    lines = [t.slope * p.line("logit") for p, t in zip(priors, trust, strict=True)]
    beside: Array = np.sum(lines, axis=0).astype(np.float32)
    return beside


def fit_original(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = ignore_progress
) -> Fit:
    """The original author's own recipe, as described: `recipe.samples` steps of one image each.

    AdamW at 7e-6 with torch's other settings, the rate falling by half a cosine to nothing over
    100,000 steps, L1 between (tanh z + 1)/2 and the score ÷ 10, inputs as the encoder gives them,
    single precision, dropout as in the layout; no average of the weights and no early stop. The one
    thing left out is a flaw: the original stretches the scores that happen to be present over 0-1.

    Each step moves four million weights and twice as many numbers of optimiser state through
    memory, for the sake of one image, so a head takes minutes where `fit_by_sgd` takes seconds.
    """
    x, y, fold = data.x[split.train], data.y[split.train], split.fold[split.train]
    inputs, targets = torch.from_numpy(x), torch.from_numpy(np.asarray(y, np.float32))
    learners = [
        OneByOne(recipe, inputs, targets, rows, left_out, recipe.seed + k)
        for k, (rows, left_out) in enumerate(_members_and_final(fold))
    ]
    message = "Training one image at a time, as the original"
    curve = train_together(learners, recipe.samples, 1, progress, message)
    return _judged(recipe, [learner.kept for learner in learners], x, fold, curve)


def _members_and_final(
    fold: NDArray[np.integer],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each member, then for the final head: the rows it learns from, and some of the fold that
    it leaves out. No row has the fold of the last, so it learns from everything."""
    for k in range(int(fold.max()) + 2):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)[:MOST_LEFT_OUT]


def _judged(
    recipe: Recipe, heads: Sequence[Tensors], x: Array, fold: NDArray[np.integer], curve: Curve
) -> Fit:
    """The last of the heads as a fit, judged by the others on the folds they never saw."""
    assert recipe.name != "auto"
    *others, final = heads
    members = tuple(Head(tensors) for tensors in others)
    oof = out_of_fold_predictions(members, x, fold)
    used = replace(recipe, folds=len(members))
    return Fit(recipe.name, used, final, oof, oof, members, curve)


# ---------------------------------------------------------------- schedules


def schedule_for(recipe: Recipe, n: int) -> tuple[int, int]:
    """Batch and number of steps for n labels. Small sets need the steps, so a quarter of them is
    the largest batch; large ones are seen at least a few times."""
    batch = min(recipe.batch, max(32, n // 4), n)
    samples = max(min(recipe.samples, recipe.passes * n), FEWEST_PASSES * n)
    return batch, max(1, round(samples / batch))


def largest_rate(recipe: Recipe, batch: int) -> float:
    """The largest learning rate: the recipe's for a network of full width in large batches.

    Narrower ones take larger steps, in proportion (Yang et al., *Tensor Programs V*, 2022). Batches
    below 256 take smaller ones, by the root of their size: a small batch has a noisier gradient,
    and Adam takes steps of one length whatever the gradient (Malladi et al., *On the SDEs and
    scaling rules for adaptive gradient algorithms*, 2022)."""
    return recipe.lr * recipe.subnetworks * min(1.0, math.sqrt(batch / FULL_RATE))


def share_of_rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short linear rise, then half a cosine down to 0."""
    rise = max(1, int(RISE * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


# ---------------------------------------------------------------- one head in training


class BatchLearner:
    """One head in training: float32 weights, their working copy, and where it is.

    It learns from `rows` of inputs (n, D) and targets (n,) in 0-1, and leaves out `left_out`.
    `beside` (n,) are logits of a line that is there already, and to which its own are added. A
    network that begins with a line may end there; one that begins with nothing has settled once the
    learning rate has risen and the average of its weights has left the beginning behind.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        recipe: Recipe,
        steps: int,
        batch: int,
        inputs: Tensor,
        targets: Tensor,
        noises: Tensor,
        rows: NDArray[np.intp],
        left_out: NDArray[np.intp],
        seed: int,
        beside: Array | None = None,
    ) -> None:
        self.network, self.recipe, self.steps = network, recipe, steps
        self.beside = None if beside is None else torch.from_numpy(beside)
        self.inputs, self.targets, self.noises = inputs, targets, noises
        self.left_out = torch.from_numpy(left_out)
        self.random = torch.Generator().manual_seed(seed)
        self.batches = batches(torch.from_numpy(rows), batch, self.random)
        self.master = weights
        self.average: Weights | None = None
        self.working = {
            name: value.to(_working_type(weights, name)).detach() for name, value in weights.items()
        }
        for value in self.working.values():
            value.requires_grad_()
        self.optimiser = _AdamW(list(weights.values()), recipe)
        self.rate_max = largest_rate(recipe, batch)
        begun = beside is not None or network.starts_linear
        self.settled = 0 if begun else min(steps, math.ceil((RISE + recipe.ema) * steps))
        self.kept: dict[str, Array] = {}

    def rate(self, step: int) -> float:
        return self.rate_max * share_of_rate(step, self.steps)

    def step(self, step: int) -> tuple[float, int]:
        rows = next(self.batches)
        logit = self._logit(self.working, self._noisy(rows), rows, self.random)
        loss = loss_of(logit, self.targets[rows], self.recipe.loss)
        gradients = torch.autograd.grad(loss + beyond_edge(logit), list(self.working.values()))
        with torch.no_grad():
            self.optimiser.step(gradients, self.rate(step))
            for name, narrow in self.working.items():
                if narrow.dtype != torch.float32:  # else it is the master itself
                    narrow.copy_(self.master[name])
            self._average(step)
        return float(loss.detach()), len(rows)

    def _logit(
        self, weights: Weights, x: Tensor, rows: Tensor, random: torch.Generator | None
    ) -> Tensor:
        """The logits (subnetworks, B) of some rows, whose inputs are x (B, D)."""
        logit = self.network.logit(weights, x, random)
        return logit if self.beside is None else logit + self.beside[rows]

    def _noisy(self, rows: Tensor) -> Tensor:
        """The inputs of some rows (B, D) with noise, cut from the stock at a random place: to draw
        that many random numbers anew would cost a tenth of the time."""
        seen = self.inputs[rows]
        if self.recipe.noise:
            at = int(torch.randint(NOISES, (1,), generator=self.random))
            seen.add_(self.noises[at : at + seen.numel()].view_as(seen), alpha=self.recipe.noise)
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
        held = self.average or self.master
        narrow = {name: held[name].to(self.working[name].dtype) for name in held}
        with torch.no_grad():
            logit = self._logit(narrow, self.inputs[rows], rows, None).mean(dim=0)
            return float(F.l1_loss(torch.sigmoid(logit), self.targets[rows]))

    def keep(self) -> None:
        held = self.average or self.master
        self.kept = {name: np.array(value.numpy()) for name, value in held.items()}


class OneByOne:
    """One head of the original's recipe: it sees one image a step, of `rows` of inputs (n, D) and
    targets (n,) in 0-1, and leaves out `left_out`."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Tensor,
        targets: Tensor,
        rows: NDArray[np.intp],
        left_out: NDArray[np.intp],
        seed: int,
    ) -> None:
        self.recipe, self.inputs, self.targets = recipe, inputs, targets
        self.left_out = torch.from_numpy(left_out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = City96(inputs.shape[1])
        self.weights: Weights = dict(self.module.named_parameters())
        self.random = torch.Generator().manual_seed(seed)
        self.order = batches(torch.from_numpy(rows), 1, self.random)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=recipe.lr)
        self.settled = 0
        self.kept: Tensors = {}

    def rate(self, step: int) -> float:
        return 0.5 * self.recipe.lr * (1 + math.cos(math.pi * step / self.recipe.samples))

    def step(self, step: int) -> tuple[float, int]:
        row = next(self.order)
        logit = city96_logit(self.weights, self.inputs[row], self.random)
        loss = loss_of(logit, self.targets[row], self.recipe.loss)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.param_groups[0]["lr"] = self.rate(step)
        self.optimiser.step()
        return float(loss.detach()), 1

    def error_on(self, rows: Tensor) -> float:
        with torch.no_grad():
            logit = city96_logit(self.weights, self.inputs[rows], None)
            return float(loss_of(logit, self.targets[rows], "l1"))

    def keep(self) -> None:
        self.kept = tensors_of(self.module)


class _AdamW:
    """AdamW by torch's function, whose class would load torch's compiler first: two seconds and
    more for every training."""

    def __init__(self, weights: list[Tensor], recipe: Recipe) -> None:
        self.weights, self.recipe = weights, recipe
        self.means, self.squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in weights]

    def step(self, gradients: Iterable[Tensor], rate: float) -> None:
        adamw(
            self.weights, [gradient.float() for gradient in gradients], self.means, self.squares,
            [], self.steps, fused=True, amsgrad=False, maximize=False, lr=rate, eps=1e-8, beta1=0.9,
            beta2=self.recipe.beta2, weight_decay=self.recipe.weight_decay,
        )  # fmt: skip


def _working_type(weights: Weights, name: str) -> torch.dtype:
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
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=random)]])
        yield queue[:size]
        queue = queue[size:]
