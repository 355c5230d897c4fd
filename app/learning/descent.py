"""Heads fitted by stochastic gradient descent: the fold members and the final head in step.

Three things make it fast. Batches are large: at batch 1, every sample moves all four million
weights and their optimiser state through memory. The large matrices are multiplied in bfloat16
where the processor has it (`precision`), from a copy of the weights that is made once a step. And
every member has a core to itself: its matrix products need nobody else's, and while one core waits
for memory in the optimiser, another one multiplies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from app.learning.checkpoints import Array, Tensors
from app.learning.folds import Split, TrainingSet
from app.learning.heads import (
    NECK_SLOPE,
    TRUNK_SLOPE,
    City96,
    Scorer,
    fold_standardisation,
    mlp_head,
    silence_lane,
)
from app.learning.linear import ridge_or_none, said_of_own_folds
from app.learning.precision import matrix_type
from app.learning.recipes import Curve, Fit, Progress, Recipe, silent
from app.learning.ridge import Ridge

LARGE = 1 << 16  # weights of at least this many numbers are multiplied in the fast format
DROPOUT = 0.1  # of the city96 head
HIDDEN = 256  # units of the small MLP
EMA_EVERY = 4  # steps; an average of every step would cost a tenth of the time
FEWEST_PASSES = 3  # through a set so large that the recipe's samples do not go round
FEWEST_INNER, ENOUGH_INNER = 4, 16  # groups that tell a member when to stop
POINTS = 20  # of the loss curve, at most; and so often is early stopping considered

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """How a head is begun, what it computes and how it becomes 16 tensors.

    `begin(features, start)` gives named float32 weights from torch's global random state, and from
    a linear head on the same inputs where the architecture `starts_linear`;
    `logit(weights, x, noise)` maps (B, features) to (B,), with dropout where there is a generator;
    `export(weights)` is the head in the city96 layout, on standardised inputs.
    """

    begin: Callable[[int, Ridge | None], Weights]
    logit: Callable[[Weights, Tensor, torch.Generator | None], Tensor]
    export: Callable[[dict[str, Array]], Tensors]
    starts_linear: bool = False


def city96_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """2z of the city96 head. The large layers in their own type, the narrow end in float32."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x.to(w[f"{name}.weight"].dtype), w[f"{name}.weight"], w[f"{name}.bias"])

    u = layer("up.0", x)
    h = F.leaky_relu_(layer("up.1.long.0", u), TRUNK_SLOPE)
    h = F.leaky_relu_(layer("up.1.long.2", h), TRUNK_SLOPE)
    r = F.relu_(layer("up.1.long.4", h) + u)
    neck = layer("down.1", layer("down.0", r))
    if noise is not None:
        kept = torch.rand(neck.shape, generator=noise) >= DROPOUT
        neck = neck * kept / (1 - DROPOUT)
    z = layer("down.5", layer("down.4", F.leaky_relu(neck, NECK_SLOPE)))
    return 2 * z[:, 0]


def _begin_city96(features: int, start: Ridge | None) -> Weights:
    """With a silent lane, so that a linear head can be put beside it."""
    begun = City96(features).state_dict()
    weights = {name: value.detach().clone() for name, value in begun.items()}
    silence_lane(weights)
    return weights


def mlp_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """The logit of the small MLP: a linear head, and hidden units that correct it."""
    hidden = F.relu_(F.linear(x.to(w["in.weight"].dtype), w["in.weight"], w["in.bias"]))
    return x.float() @ w["line.weight"] + w["line.bias"] + hidden.float() @ w["out.weight"]


def _begin_mlp(features: int, start: Ridge | None) -> Weights:
    """The correction begins at nothing, so the head begins as the linear one."""
    first = torch.nn.Linear(features, HIDDEN)
    weights, bias = start.raw() if start else (np.zeros(features, np.float32), 0.0)
    return {
        "in.weight": first.weight.detach().clone(),
        "in.bias": first.bias.detach().clone(),
        "out.weight": torch.zeros(HIDDEN),
        "line.weight": torch.from_numpy(weights),
        "line.bias": torch.tensor(bias),
    }


def _export_mlp(w: dict[str, Array]) -> Tensors:
    """The linear part is two more hinges: s = ReLU(s) − ReLU(−s)."""
    line, level = w["line.weight"], float(w["line.bias"])
    inner = np.vstack([w["in.weight"], line, -line])
    inner_bias = np.append(w["in.bias"], [level, -level])
    return mlp_head(inner, inner_bias, np.append(w["out.weight"], [1, -1]), 0.0)


ARCHITECTURES = {
    "city96": Architecture(_begin_city96, city96_logit, dict),
    "mlp": Architecture(_begin_mlp, mlp_logit, _export_mlp, starts_linear=True),
}


# ---------------------------------------------------------------- the story


def fit_by_descent(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = silent
) -> Fit:
    """Train the recipe's architecture: one member per fold without that fold, and the final head
    on everything."""
    assert recipe.name in ("city96", "mlp")
    architecture = ARCHITECTURES[recipe.name]
    x, y, fold = data.x[split.train], data.y[split.train], split.fold[split.train]
    groups = split.groups[split.train]
    folds = int(fold.max()) + 1
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-6 * np.abs(mean) + 1e-12] = 1  # a constant feature teaches nothing
    standard = (x - mean) / scale
    inputs = torch.from_numpy(standard).to(matrix_type())
    targets = torch.from_numpy(np.asarray(y, np.float32))

    batch, steps = schedule_for(recipe, len(y))
    learners = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for k in range(folds + 1):
            rows = np.flatnonzero(fold != k)  # no row has the fold of the last: it sees everything
            inner = rows[:0]
            if k < folds and recipe.early_stop:
                inner = inner_rows(rows, groups, recipe.seed + k)
                rows = np.setdiff1d(rows, inner)
            start = None
            if architecture.starts_linear:
                start = ridge_or_none(standard[rows], y[rows], groups[rows])
            weights = architecture.begin(x.shape[1], start)
            judged = np.flatnonzero(fold == k)[:256]
            learners.append(
                _Learner(architecture, weights, recipe, steps, batch, inputs, targets, rows,
                         inner, judged, recipe.seed + k)
            )  # fmt: skip

    curve = _descend(learners, steps, batch, progress, f"Training the {recipe.name} head")

    fitted = [fold_standardisation(architecture.export(k.kept), mean, scale) for k in learners]
    members = tuple(Scorer(tensors) for tensors in fitted[:-1])
    oof = said_of_own_folds(members, x, fold)
    used = replace(recipe, samples=learners[-1].seen, batch=batch, folds=folds)
    return Fit(recipe.name, used, fitted[-1], oof, oof, members, curve)


def schedule_for(recipe: Recipe, n: int) -> tuple[int, int]:
    """Batch and number of steps for n labels. Small sets need the steps, so a quarter of them is
    the largest batch; large ones are seen at least a few times."""
    batch = min(recipe.batch, max(32, n // 4), n)
    samples = max(min(recipe.samples, recipe.passes * n), FEWEST_PASSES * n)
    return batch, max(1, round(samples / batch))


def inner_rows(rows: NDArray[np.intp], groups: NDArray[np.integer], seed: int) -> NDArray[np.intp]:
    """A tenth of a member's rows, by whole groups, that tells it when to stop. Of small sets up to
    a quarter, because a handful of labels says nothing; none where even that would be one."""
    names = np.unique(groups[rows])
    count = max(len(names) // 10, min(len(names) // 4, ENOUGH_INNER))
    if count < FEWEST_INNER:
        return rows[:0]
    drawn = np.random.default_rng(seed).choice(names, count, replace=False)
    return rows[np.isin(groups[rows], drawn)]


def share_of_rate(step: int, steps: int) -> float:
    """Share of the learning rate: a short linear rise, then half a cosine down to 0."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class _Stopped(Exception):
    """The training was cancelled from outside."""


def _descend(
    learners: list[_Learner], steps: int, batch: int, progress: Progress, message: str
) -> Curve:
    """Let all learners take their steps, each on a core of its own. The curve they leave behind."""
    threads = torch.get_num_threads()
    lanes = min(threads, len(learners))
    total = steps * batch * len(learners)
    every = max(1, -(-steps // POINTS))
    curve: Curve = []
    share = max(1, threads // lanes)
    try:
        with ThreadPoolExecutor(
            lanes, initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            for start in range(0, steps, every):
                stop = min(start + every, steps)
                running = [pool.submit(learner.walk, start, stop) for learner in learners]
                _watch(running, learners, lambda: sum(k.seen for k in learners), total, progress,
                       message)  # fmt: skip
                curve.append(_point(learners, stop, steps))
                _keep_the_best(learners)
                seen = sum(learner.seen for learner in learners)
                over = all(learner.finished for learner in learners[:-1])
                progress(total if over else seen, total, message, list(curve))
                if over:
                    break
    finally:
        torch.set_num_threads(threads)  # else threads started later would inherit the lanes' share
    return curve


def _watch(
    running: list[Future[None]],
    learners: list[_Learner],
    done: Callable[[], int],
    total: int,
    progress: Progress,
    message: str,
) -> None:
    """Wait, and tell how far it is eight times a second. What `progress` raises ends the work."""
    try:
        left: set[Future[None]] = set(running)
        while left:
            finished, left = wait(left, timeout=0.125)
            for future in finished:
                future.result()
            if left:
                progress(done(), total, message)
    except BaseException:
        for learner in learners:
            learner.stopped = True
        wait(running)
        raise


def _point(learners: list[_Learner], step: int, steps: int) -> dict[str, float]:
    """One point of the loss curve, in points of 0-10: the mean over the learners, and over the
    members of what they say of the fold they never saw."""
    train = float(np.mean([np.mean(learner.recent) for learner in learners]))
    inner = float(np.mean([learner.inner[-1] for learner in learners[:-1]]))
    rate = learners[0].recipe.lr * share_of_rate(step - 1, steps)
    return {"step": step, "train": 10 * train, "inner": 10 * inner, "lr": rate}


def _keep_the_best(learners: list[_Learner]) -> None:
    """Let each learner remember its weights if this was the best moment so far.

    A member is told by its own inner rows, and ends once their error has not fallen for a quarter
    of the way. Nothing else may tell it: every other learner has seen the fold that it left out,
    and would hand on what it learned there. The final head, which nobody judges out-of-fold, is
    told by what the members say of the folds they left out.
    """
    *members, final = learners
    for member in members:
        if not member.stops_early or member.own[-1] <= min(member.own):
            member.keep()
        elif len(member.own) - 1 - int(np.argmin(member.own)) >= POINTS // 4:
            member.finished = True
    left_out = np.array([member.inner for member in members]).mean(axis=0)
    if not final.recipe.early_stop or left_out[-1] <= left_out.min():
        final.keep()


class _Learner:
    """One head in training: float32 weights, their working copy, and where it is.

    Deterministic on its own: batches and dropout come from its own generator, so it does not
    matter which core runs it, nor what the others do.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        recipe: Recipe,
        steps: int,
        batch: int,
        inputs: Tensor,
        targets: Tensor,
        rows: NDArray[np.intp],
        own_inner: NDArray[np.intp],
        judged: NDArray[np.intp],
        seed: int,
    ) -> None:
        self.architecture, self.recipe, self.steps = architecture, recipe, steps
        self.inputs, self.targets = inputs, targets
        self.own_inner, self.judged = torch.from_numpy(own_inner), torch.from_numpy(judged)
        self.random = torch.Generator().manual_seed(seed)
        self.batch, self.batches = batch, batches(torch.from_numpy(rows), batch, self.random)
        self.master = weights
        self.average: Weights | None = None
        self.working = {
            name: value.to(_narrow_type(weights, name), copy=True)
            for name, value in weights.items()
        }
        for name, value in weights.items():
            value.grad = torch.zeros_like(value)
            self.working[name].requires_grad_()
        self.optimiser = torch.optim.AdamW(
            list(weights.values()), lr=recipe.lr, weight_decay=recipe.weight_decay,
            betas=(0.9, recipe.beta2), fused=True,
        )  # fmt: skip
        self.seen, self.stopped, self.finished = 0, False, False
        self.recent: list[float] = []
        self.inner: list[float] = []  # errors on the fold left out, and on the inner rows
        self.own: list[float] = []
        self.kept: dict[str, Array] = {}

    def walk(self, start: int, stop: int) -> None:
        """Take the steps from `start` up to `stop`, then look at the fold left out."""
        if self.finished:
            self.inner.append(self.inner[-1])
            self.seen += (stop - start) * self.batch  # as done as if it had walked on
            return
        self.recent.clear()
        with torch.enable_grad():
            for step in range(start, stop):
                if self.stopped:
                    raise _Stopped
                rows = next(self.batches)
                logit = self.architecture.logit(self.working, self.inputs[rows], self.random)
                loss = loss_of(logit, self.targets[rows], self.recipe.loss)
                names = list(self.working)
                slopes = torch.autograd.grad(loss, [self.working[name] for name in names])
                for name, slope in zip(names, slopes, strict=True):
                    self.master[name].grad.copy_(slope)  # type: ignore[union-attr]
                self.optimiser.param_groups[0]["lr"] = self.recipe.lr * share_of_rate(
                    step, self.steps
                )
                self.optimiser.step()
                with torch.no_grad():
                    for name in names:
                        self.working[name].copy_(self.master[name])
                self._average(step)
                self.recent.append(float(loss.detach()))
                self.seen += len(rows)
        if len(self.judged):
            self.inner.append(self.error_on(self.judged))
        if self.stops_early:
            self.own.append(self.error_on(self.own_inner))

    @property
    def stops_early(self) -> bool:
        return len(self.own_inner) > 0

    def _average(self, step: int) -> None:
        """Exponential moving average of the weights over about the last tenth of the steps."""
        if not self.recipe.ema or step % EMA_EVERY != EMA_EVERY - 1:
            return
        if self.average is None:
            self.average = {name: value.detach().clone() for name, value in self.master.items()}
            return
        span = max(1.0, self.recipe.ema * self.steps / EMA_EVERY)
        with torch.no_grad():
            for name, value in self.master.items():
                self.average[name].lerp_(value, 1 / span)

    def error_on(self, rows: Tensor) -> float:
        """Mean |score − label| (0-1) on rows that it does not learn from."""
        held = self.average or self.master
        narrow = {name: held[name].to(self.working[name].dtype) for name in held}
        with torch.no_grad():
            logit = self.architecture.logit(narrow, self.inputs[rows], None)
            return float(F.l1_loss(torch.sigmoid(logit), self.targets[rows]))

    def keep(self) -> None:
        """Remember the weights as they are now."""
        held = self.average or self.master
        self.kept = {name: np.array(value.detach().numpy()) for name, value in held.items()}


def _narrow_type(weights: Weights, name: str) -> torch.dtype:
    """The fast format for the layers whose matrix products are what takes the time."""
    matrix = weights[f"{name.rpartition('.')[0]}.weight"]
    return matrix_type() if matrix.numel() >= LARGE else torch.float32


def loss_of(logit: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean loss of scores sigmoid(logit) against labels in 0-1.

    Huber's loss is the square up to one point and the distance beyond, in the units of the
    distance: nobody's scores are surer than a point.
    """
    score = torch.sigmoid(logit)
    if kind == "huber":
        return F.huber_loss(score, target, delta=0.1) / 0.1
    return F.l1_loss(score, target)


def batches(rows: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Batches of row numbers without end: whole shuffled passes, end to end."""
    queue = rows[:0]
    for _ in itertools.count():
        while len(queue) < size:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=random)]])
        yield queue[:size]
        queue = queue[size:]
