"""Injected slips found again, beside cleanlab's regression method.

    python -m bench doubtful [LABELS] [SEEDS]

A tenth of the labels of a set of real pictures is replaced by another score, drawn uniformly. Both
sides rank the labels with the same regressor (the live ridge) on the same folds (five, shuffled by
the seed); `live` is what the program really does: without the label's own group, which has no
folds to be compared on. Average precision, mean over seeds with its 95 % interval; the last column
pairs the seeds. The estimator was made on digits, photographs and stamps; nothing was chosen by the
sets marked *. cleanlab comes with `pip install -e .[bench]`.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import average_precision_score
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from bench import fresh, labelled
from tastemaker.learning.label_issues import label_issues
from tastemaker.learning.posterior import project
from tastemaker.learning.ridge import fit_ridge

JUDGES = ("handwriting", "emoji")
LABELS, SEEDS, SLIPS, FOLDS = 1000, 8, 0.1, 5
METHODS = ("residual", "cleanlab", "ours", "live")


class LiveRidge(BaseEstimator, RegressorMixin):
    """The regressor of both sides, as cleanlab wants it: targets of any range (it also predicts
    residuals with it), brought into 0–1 and back."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> LiveRidge:
        self.low, self.width = float(y.min()), max(float(np.ptp(y)), 1e-9)
        target = (y - self.low) / self.width
        self.ridge = fit_ridge(x, target, link="identity") if np.ptp(target) else None
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        if self.ridge is None:
            return np.full(len(x), self.low)
        return self.ridge.predict(x).astype(float) * self.width + self.low


def sets() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Every set that can be made here: name, x (n, D), y (n,) in [0, 1], groups (n,)."""
    for name in labelled.available():
        made = labelled.load(name)
        yield name, made.x, made.y, made.groups
    for name in JUDGES:
        if missing := fresh.available()[name]:
            print(f"| {name}* | not made: {missing} | | | | | |")
            continue
        judge = fresh.load(name)
        yield f"{name}*", judge.x, judge.scores, judge.groups


def with_slips(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, labels: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """So many rows of a set, a tenth of them with a wrong score: x, y, groups, which are wrong."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(y))[:labels])
    scores = np.round(10 * y[rows]).astype(int)
    wrong = rng.permutation(len(rows))[: round(SLIPS * len(rows))]
    scores[wrong] = (scores[wrong] + rng.integers(1, 11, len(wrong))) % 11
    slipped = np.zeros(len(rows), bool)
    slipped[wrong] = True
    return x[rows], scores / 10, groups[rows], slipped


def rank(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """How doubtful each label is, by every method."""
    from cleanlab.regression.learn import CleanLearning

    folds = np.empty(len(y), int)
    for number, (_, held) in enumerate(KFold(FOLDS, shuffle=True, random_state=seed).split(x)):
        folds[held] = number
    features = project(x).features
    by_fold, by_group = (fit_ridge(x, y, g, link="identity") for g in (folds, groups))
    theirs = CleanLearning(LiveRidge(), cv_n_folds=FOLDS, seed=seed).find_label_issues(x, y)
    return {
        "residual": np.abs(by_fold.out_of_group - y),
        "cleanlab": -theirs.label_quality.to_numpy(),
        "ours": -label_issues(features, y, folds, by_fold).quality,
        "live": -label_issues(features, y, groups, by_group).quality,
    }


def interval(values: np.ndarray) -> str:
    """Mean and its 95 % interval over seeds, by Student's t."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = values.mean()
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def seconds(labels: int = 3000, features: int = 1280) -> float:
    """Processor time, the best of three runs on as many labels as the original had."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(labels, features)).astype(np.float32)
    x *= np.arange(1, features + 1) ** -0.5
    y = np.clip(0.5 + 0.05 * x[:, :20].sum(1) + rng.normal(0, 0.1, labels), 0, 1)
    seen, ridge = project(x).features, fit_ridge(x, y, link="identity")
    took = []
    for _ in range(3):
        start = time.process_time()
        label_issues(seen, y, np.arange(labels), ridge)
        took.append(time.process_time() - start)
    return min(took)


def main(words: list[str]) -> None:
    warnings.filterwarnings("ignore")
    labels = int(words[0]) if words else LABELS
    seeds = int(words[1]) if len(words) > 1 else SEEDS
    print("| set | labels | " + " | ".join(METHODS) + " | ours − cleanlab |")
    print("|---|--:" + "|--:" * (len(METHODS) + 1) + "|")
    for name, x_all, y_all, groups_all in sets():
        precisions: dict[str, list[float]] = {method: [] for method in METHODS}
        for seed in range(seeds):
            x, y, groups, slipped = with_slips(x_all, y_all, groups_all, labels, seed)
            for method, doubt in rank(x, y, groups, seed).items():
                precisions[method].append(average_precision_score(slipped, doubt))
        means = {method: np.array(values) for method, values in precisions.items()}
        row = " | ".join(interval(means[method]).lstrip("+") for method in METHODS)
        paired = interval(means["ours"] - means["cleanlab"])
        print(f"| {name} | {labels} | {row} | {paired} |", flush=True)
    print(
        f"\n{seeds} seeds; nothing was chosen by the sets marked *. Beyond the fit, 3,000 labels × "
        f"1,280 features take {seconds():.2f} s of one processor."
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main(sys.argv[1:])
