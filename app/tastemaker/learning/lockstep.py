"""Several heads in training at once, each on a core of its own, and what is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
import torch

from tastemaker.learning.recipes import Curve, Progress, Recipe

POINTS = 20  # of the loss curve, at most; so often is it asked whether this is the best moment


class Stopped(Exception):
    """The training was cancelled from outside."""


class Learner(Protocol):
    """One head in training. Deterministic on its own: its batches and dropout come from its own
    generator, so it does not matter which core runs it, nor what the others do."""

    recipe: Recipe
    seen: int  # samples so far
    stopped: bool  # from outside: raise Stopped at the next step
    recent: list[float]  # losses since the last look
    inner: list[float]  # errors on the fold left out, one a look; the final head has none

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        ...

    def walk(self, start: int, stop: int) -> None:
        """Take the steps from `start` up to `stop`, then look at the fold left out."""
        ...

    def keep(self) -> None:
        """Remember the weights as they are now."""
        ...


def descend(
    learners: Sequence[Learner], steps: int, batch: int, progress: Progress, message: str
) -> Curve:
    """Let all learners take their steps, the members first and the final head last. The curve they
    leave behind."""
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
                curve.append(_point(learners, stop))
                _keep_the_best(learners)
                progress(sum(k.seen for k in learners), total, message, list(curve))
            for member in learners[:-1]:
                member.keep()
    finally:
        torch.set_num_threads(threads)  # else threads started later would inherit the lanes' share
    return curve


def _watch(
    running: list[Future[None]],
    learners: Sequence[Learner],
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


def _point(learners: Sequence[Learner], step: int) -> dict[str, float]:
    """One point of the loss curve, in points of 0-10: the mean over the learners, and over the
    members of what they say of the fold they never saw."""
    train = float(np.mean([np.mean(learner.recent) for learner in learners]))
    inner = float(np.mean([learner.inner[-1] for learner in learners[:-1]]))
    rate = learners[0].rate(step - 1)
    return {"step": step, "train": 10 * train, "inner": 10 * inner, "lr": rate}


def _keep_the_best(learners: Sequence[Learner]) -> None:
    """Let the final head remember its weights if this was the best moment so far, by what the
    members say of the folds they left out.

    The members themselves are kept as they are at the end. Who could tell one to stop? Not the
    fold that will judge it, nor the other members: each has seen that fold, and would hand on what
    it learned there. To keep rows of its own apart for that costs more than it brings, up to 300
    labels (docs/decisions/0017).
    """
    *members, final = learners
    left_out = np.array([member.inner for member in members]).mean(axis=0)
    if not final.recipe.early_stop or left_out[-1] <= left_out.min():
        final.keep()
