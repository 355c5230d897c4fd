"""Several heads in training at once, each on a core of its own, and the loss curve they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tastemaker.learning.recipes import Curve, Progress, Recipe

POINTS = 20  # of the loss curve, at most; after each the best moment so far is looked for


class Stopped(Exception):
    """The training was cancelled from outside."""


class Learner(Protocol):
    """One head in training. Deterministic on its own: its batches and dropout come from its own
    generator, so it does not matter which core runs it, nor what the others do."""

    recipe: Recipe
    left_out: Tensor  # rows of the fold it never sees; the final head has none
    settled: int  # steps before which it is not worth keeping

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        ...

    def step(self, step: int) -> tuple[float, int]:
        """Take one step; its loss and the number of images in its batch."""
        ...

    def error_on(self, rows: Tensor) -> float:
        """Mean |score − label| (0-1) on rows that it does not learn from."""
        ...

    def keep(self) -> None:
        """Remember the weights as they are now."""
        ...


@dataclass
class Lane:
    """A learner on its way: images seen, losses since the last point of the curve, and one error on
    the fold left out for each point."""

    learner: Learner
    seen: int = 0
    losses: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def run(self, start: int, stop: int, stopped: Event) -> None:
        """Take the steps from `start` up to `stop`, then judge by the fold left out."""
        self.losses.clear()
        with torch.enable_grad():
            for step in range(start, stop):
                if stopped.is_set():
                    raise Stopped
                loss, images = self.learner.step(step)
                self.losses.append(loss)
                self.seen += images
        if len(self.learner.left_out):
            self.errors.append(self.learner.error_on(self.learner.left_out))


def train_together(
    learners: Sequence[Learner], steps: int, batch: int, progress: Progress, message: str
) -> Curve:
    """Let all learners take their steps, the fold members first and the final head last. Each then
    has kept its weights. Returns the loss curve."""
    lanes = [Lane(learner) for learner in learners]
    threads = torch.get_num_threads()
    cores = min(threads, len(lanes))
    share = max(1, threads // cores)
    total = steps * batch * len(lanes)
    every = max(1, -(-steps // POINTS))
    curve: Curve = []

    def report(points: Curve | None = None) -> None:
        progress(sum(lane.seen for lane in lanes), total, message, points)

    try:
        with ThreadPoolExecutor(
            cores, initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            for start in range(0, steps, every):
                stop, stopped = min(start + every, steps), Event()
                running = [pool.submit(lane.run, start, stop, stopped) for lane in lanes]
                _watch(running, stopped, report)
                curve.append(_point(lanes, stop))
                _keep_the_best(lanes, curve)
                report(list(curve))
            for member in learners[:-1]:
                member.keep()
    finally:
        torch.set_num_threads(threads)  # else threads started later would inherit the lanes' share
    return curve


def _watch(running: list[Future[None]], stopped: Event, report: Callable[[], None]) -> None:
    """Wait, and report progress eight times a second. What `report` raises ends the work."""
    try:
        left: set[Future[None]] = set(running)
        while left:
            finished, left = wait(left, timeout=0.125)
            for future in finished:
                future.result()
            if left:
                report()
    except BaseException:
        stopped.set()
        wait(running)
        raise


def _point(lanes: Sequence[Lane], step: int) -> dict[str, float]:
    """One point of the loss curve, in points of 0-10: the mean training loss over the learners, and
    the mean error of the members on the folds they never saw."""
    train = float(np.mean([np.mean(lane.losses) for lane in lanes]))
    inner = float(np.mean([lane.errors[-1] for lane in lanes[:-1]]))
    rate = lanes[0].learner.rate(step - 1)
    return {"step": step, "train": 10 * train, "inner": 10 * inner, "lr": rate}


def _keep_the_best(lanes: Sequence[Lane], curve: Curve) -> None:
    """Let the final head remember its weights if this was the best moment so far, by the members'
    errors on the folds they left out. Moments before it has settled do not count: with thirty
    labels these errors are so uncertain that often the best seemed to be to have learned nothing.

    The members themselves are kept as they are at the end. What could stop one earlier? Not the
    fold that will judge it, nor the other members: each has seen that fold, and would hand on what
    it learned there. To keep rows of its own apart for that costs more than it brings, up to 300
    labels (docs/decisions/0017).
    """
    final = lanes[-1].learner
    errors = [point["inner"] for point in curve if point["step"] >= final.settled]
    if errors and (not final.recipe.early_stop or errors[-1] <= min(errors)):
        final.keep()
