"""Whether what an audit promises of a filter holds, and how many keys it takes.

    python -m bench promise [--filters 1000] [--people FILE.npz] [--keys 200] [--seed 0]

Filters are simulated on labelled sets of real pictures (those of `bench.replay`), and on real
people: a line is taught some labels, what is left is cut somewhere, and a scripted person answers
an audit of it by the labels that are there. One in ten of the models is reversed and one in ten is
shuffled. FILE holds `ratings` (P, N) of people on 1–7, −1 where there is none; what the line reads
of an image is then what the other people say of it, in 20 directions. It is not part of the
program.

A bound that held after the last key held after every key before it, since bounds only ever get
tighter: so the shares below are those of a person who stops where it looks best.

What is compared: the bound of the program (error spent over the draws, counted exactly), a betting
martingale over the same draws (Waudby-Smith & Ramdas 2024, a mixture of stakes, without
replacement), the same with the model's predictions as a control variate (as in prediction-powered
inference), and the fixed interval of Clopper & Pearson for the number of draws at which the first
one would do, which must not be looked at before.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.stats import beta

from tastemaker.errors import NotTrainable
from tastemaker.learning import audits
from tastemaker.learning.audits import Findings, Side
from tastemaker.learning.ridge import fit_ridge
from tastemaker.learning.sequential_bounds import allowed, upper_bound

SETS = ("digits", "photographs", "stamps", "clip-art", "emoji")
GOAL, CONFIDENCE, SHARE_BELOW = 0.9, 0.95, 0.2
STAKES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9)  # shares of what may be staked at most
FAR = 10**6


@dataclass(frozen=True)
class Filter:
    """A simulated filter of (n,) images: the model's scores, what the person would say, the least
    score that is good, the cut, and how the model was spoiled, if it was."""

    source: str
    scores: np.ndarray
    points: np.ndarray
    good_from: int
    cut: float
    spoiled: str
    seed: int

    @property
    def good(self) -> np.ndarray:
        return self.points >= self.good_from

    @property
    def kept(self) -> np.ndarray:
        return self.scores >= self.cut


# --- filters -----------------------------------------------------------------------------------


def filters_of(
    source: str, x: np.ndarray, y: np.ndarray, count: int, seed: int, taught: tuple[int, ...]
) -> Iterator[Filter]:
    """Filters on images x (n, D) with labels y (n,) in 0–1."""
    random = np.random.default_rng((seed, len(source), len(y)))
    made = 0
    while made < count:
        n = int(random.choice(taught))
        learned = random.permutation(len(y))[:n]
        rest = np.setdiff1d(np.arange(len(y)), learned)
        try:
            scores = fit_ridge(x[learned], y[learned]).predict(x[rest]).astype(np.float64)
        except NotTrainable:
            continue
        points = np.round(10 * y[rest]).astype(int)
        good_from = int(random.choice([g for g in range(1, 11) if (points >= g).any()]))
        if not 0.1 <= (points >= good_from).mean() <= 0.8:
            continue
        spoiled = random.choice(["", "reversed", "shuffled"], p=[0.8, 0.1, 0.1])
        if spoiled == "reversed":
            scores = 1 - scores
        elif spoiled == "shuffled":
            scores = random.permutation(scores)
        fewest = max(audits.FEWEST_KEPT, int(0.05 * len(scores)))
        most = int(0.7 * len(scores))
        if most <= fewest:
            continue
        cut = float(np.sort(scores)[-int(random.integers(fewest, most))])
        made += 1
        yield Filter(source, scores, points, good_from, cut, str(spoiled), made)


def of_people(file: Path, count: int, seed: int) -> Iterator[Filter]:
    """One filter for each of so many draws of a person."""
    ratings = np.load(file, allow_pickle=False)["ratings"].astype(np.float64)
    ratings[ratings < 0] = np.nan
    random = np.random.default_rng(seed)
    for number in range(count):
        person = int(random.integers(len(ratings)))
        others = np.delete(ratings, person, axis=0)
        centred = others - np.nanmean(others, axis=1, keepdims=True)
        mean = np.nanmean(centred, axis=0)
        filled = np.where(np.isfinite(centred), centred, mean) - mean
        directions = np.linalg.svd(filled, full_matrices=False)[2][:20]
        x = np.column_stack([4 * mean, directions.T * math.sqrt(len(mean))]).astype(np.float32)
        mine = np.flatnonzero(np.isfinite(ratings[person]))
        y = (ratings[person][mine] - 1) / 6
        if np.ptp(y) > 0:
            yield from filters_of("people", x[mine], y, 1, seed + number, (40, 60, 80))


# --- one audit -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audited:
    """An audit answered to the last key: what it found after 150 keys and after all, the answers
    on the side that is kept (n,), what the model expected of them, and each one's key."""

    after_150: Findings
    after_all: Findings
    kept_good: np.ndarray
    expected: np.ndarray
    all_expected: np.ndarray
    key: np.ndarray


def audit(one: Filter, keys: int, share_below: float = SHARE_BELOW) -> Audited:
    rows = np.array(audits.draw(one.scores, one.cut, one.seed, share_below)[:keys])
    spread = np.full(len(one.scores), 0.12)
    expected = audits.chance_of(one.scores, spread, one.good_from)
    cuts = audits.stricter_cuts(one.scores[one.kept], one.cut)

    def found(after: int) -> Findings:
        def side(inside: np.ndarray) -> Side:
            mine = rows[:after][inside[rows[:after]]]
            return Side(
                int(inside.sum()), one.scores[mine], expected[rows][inside[rows]],
                one.good[mine].astype(np.int8),
            )  # fmt: skip

        return audits.findings(
            side(one.kept), side(~one.kept), cuts, goal=GOAL, confidence=CONFIDENCE,
            share_below=share_below,
        )  # fmt: skip

    mine = one.kept[rows]
    return Audited(
        found(min(150, len(rows))), found(len(rows)), one.good[rows[mine]], expected[rows[mine]],
        expected[one.kept], np.flatnonzero(mine) + 1,
    )  # fmt: skip


# --- after how many draws the goal is shown ----------------------------------------------------


def by_spending(good: np.ndarray, size: int) -> int:
    shown = np.cumsum(~good) <= allowed(size, 1 - CONFIDENCE, (GOAL,), len(good))[0, 1:]
    return int(shown.argmax()) + 1 if shown.any() else FAR


def by_betting(good: np.ndarray, size: int, expected: np.ndarray, every: np.ndarray,
               helps: tuple[float, ...]) -> int:  # fmt: skip
    """Wealth 1 ÷ 0.05 against “less than the goal is good”: a factor 1 + λ(Z − m) for each draw,
    where m is the share that the rest would have, and Z = Y − b(p − mean p of the rest) the answer
    corrected by what the model expected. The mean over the stakes, and over the b of `helps`."""
    null = math.ceil(GOAL * size) - 1
    left, left_good, left_expected = size, float(null), float(every.sum())
    wealth = np.ones((len(helps), len(STAKES)))
    b, stakes = np.array(helps)[:, None], np.array(STAKES)[None]
    for n, (answer, chance) in enumerate(zip(good, expected, strict=True), 1):
        mean, usual = left_good / left, left_expected / left
        if mean > 1 or mean < 0:
            return n if mean < 0 else FAR
        lowest = mean + b * max(float(every.max()) - usual, 0.0)
        z = float(answer) - b * (float(chance) - usual)
        wealth = wealth * (1 + stakes / np.maximum(lowest, 1e-9) * (z - mean))
        if wealth.mean() >= 1 / (1 - CONFIDENCE):
            return n
        left, left_good, left_expected = left - 1, left_good - answer, left_expected - chance
    return FAR


def fixed(share: float) -> int:
    """Draws at which a fixed one-sided interval of Clopper & Pearson shows the goal in every second
    case, if it is looked at there and never before."""
    for n in range(10, 2000):
        bad = round((1 - share) * n)
        if beta.ppf(1 - CONFIDENCE, n - bad, bad + 1) >= GOAL:
            return n
    return FAR


# --- what is printed -----------------------------------------------------------------------------


def coverage(runs: list[tuple[Filter, Audited]], keys: int) -> None:
    claims: dict[str, Callable[[Filter, Findings], bool | None]] = {
        "at least so many of the kept are good": lambda f, found: (
            found.precision_low <= f.good[f.kept].mean() + 1e-9
        ),
        "at most so many of those below are good": lambda f, found: (
            found.omitted_high >= f.good[~f.kept].mean() - 1e-9
        ),
        "at most so many of the good are below": lambda f, found: (
            found.lost_high >= f.good[~f.kept].sum() / max(f.good.sum(), 1) - 1e-9
        ),
        "the cut that holds 90 % does": lambda f, found: (
            None
            if found.found_cut is None
            else bool(f.good[f.scores >= found.found_cut.cut].mean() >= GOAL - 1e-9)
        ),
    }
    sources = sorted({one.source for one, _ in runs})
    print(f"Held, after {keys} keys and so at every key before; at least 95 % is promised:\n")
    print(f"| | all | {' | '.join(sources)} |")
    print(f"|---|--:|{'--:|' * len(sources)}")
    for name, holds in claims.items():
        cells = []
        for source in (None, *sources):
            told = [holds(one, run.after_all) for one, run in runs if source in (None, one.source)]
            said = [value for value in told if value is not None]
            cells.append(f"{100 * np.mean(said):.1f} % of {len(said):,}" if said else "–")
        print(f"| {name} | {' | '.join(cells)} |")


def keys_taken(runs: list[tuple[Filter, Audited]]) -> None:
    print("\nKeys until 90 % is promised, those below the cut among them (one in five):\n")
    print("| what is kept is good | filters | median | ≤ 150 keys | betting, draws ÷ ours "
          "| betting with the model ÷ ours |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|")
    for low, high in ((0.92, 0.94), (0.94, 0.96), (0.96, 0.98), (0.98, 1.001), (0.95, 1.001)):
        those = [
            (one, run)
            for one, run in runs
            if low <= one.good[one.kept].mean() < high and not one.spoiled
        ]
        if not those:
            continue
        ours, bets, helped = [], [], []
        for one, run in those:
            size = int(one.kept.sum())
            n = by_spending(run.kept_good, size)
            ours.append(n)
            words = run.kept_good, size, run.expected, run.all_expected
            bets.append(by_betting(*words, (0.0,)))
            helped.append(by_betting(*words, (0.0, 0.5, 1.0)))
        keys = np.array([
            FAR if n > len(run.key) else run.key[n - 1]
            for n, (_, run) in zip(ours, those, strict=True)
        ])  # fmt: skip
        both = [np.array(ours) < FAR, np.array(bets) < FAR, np.array(helped) < FAR]
        shown = both[0] & both[1] & both[2]

        def ratio(other: list[int], ours: list[int] = ours, shown: np.ndarray = shown) -> str:
            if not shown.any():
                return "–"
            return f"{np.mean(np.array(other)[shown]) / np.mean(np.array(ours)[shown]):.2f}"

        median, soon = np.median(keys), 100 * np.mean(keys <= 150)
        print(f"| {100 * low:.0f}–{min(100, 100 * high):.0f} % | {len(those)} | "
              f"{'more' if median >= FAR else f'{median:.0f}'} | {soon:.0f} % "
              f"| {ratio(bets)} | {ratio(helped)} |")  # fmt: skip


def large(seed: int) -> None:
    """Draws from a filter that keeps a million images, by the share that is good."""
    random, size = np.random.default_rng(seed), 10**6
    print("\nDraws from a million kept images until 90 % is shown, median of 400 (share that ever "
          "gets there in 480):\n")  # fmt: skip
    print("| good | error spent over the draws | betting | fixed, looked at once |")
    print("|--:|--:|--:|--:|")
    for share in (0.94, 0.95, 0.96, 0.97, 0.98, 0.99):
        draws = random.random((400, 480)) < share
        even = np.full(480, share)
        every = np.array([share, float(size - 1) * share])
        ours = np.array([by_spending(row, size) for row in draws])
        bets = np.array([by_betting(row, size, even, every * 0, (0.0,)) for row in draws])

        def told(n: np.ndarray) -> str:
            there = f"({100 * np.mean(n < FAR):.0f} %)"
            return f"{'–' if np.median(n) >= FAR else f'{np.median(n):.0f}'} {there}"

        print(f"| {100 * share:.0f} % | {told(ours)} | {told(bets)} | {fixed(share)} |")


def strata(filters: list[Filter], seed: int) -> None:
    """Whether finer strata below the cut would bound what is lost better."""
    random, error = np.random.default_rng(seed), (1 - CONFIDENCE) / 2
    large = [one for one in filters if not one.spoiled and (~one.kept).sum() >= 300][:150]
    print(f"\nBelow the cut: the mean bound of what is good, {len(large)} filters, by how the keys "
          "are drawn (the error is shared out among the strata):\n")  # fmt: skip
    print("| keys | one stratum | halves by score | a fifth and four fifths, half the keys each |")
    print("|--:|--:|--:|--:|")
    for keys in (30, 60, 120):
        bounds: list[list[float]] = [[], [], []]
        for one in large:
            ranked = np.flatnonzero(~one.kept)[np.argsort(-one.scores[~one.kept])]
            for into, parts in zip(bounds, ((1.0,), (0.5, 0.5), (0.2, 0.8)), strict=True):
                ends = np.round(np.cumsum((0.0, *parts)) * len(ranked)).astype(int)
                most = 0.0
                for first, last in pairwise(ends.tolist()):
                    drawn = random.permutation(ranked[first:last])[: keys // len(parts)]
                    share = upper_bound(one.good[drawn], last - first, error / len(parts))
                    most += share * (last - first) / len(ranked)
                into.append(most)
        print(f"| {keys} | {' | '.join(f'{100 * np.mean(each):.1f} %' for each in bounds)} |")


def refusals(runs: list[tuple[Filter, Audited]]) -> None:
    print("\nWhat is told after 150 keys:\n")
    print("| model | filters | no promise, with the reason | surely below 90 % | either "
          "| a promise of 90 % | of these, true |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in ("", "reversed", "shuffled"):
        those = [(one, run.after_150) for one, run in runs if one.spoiled == name]
        reason = [bool(found.doubt) for _, found in those]
        below = [found.precision_high < GOAL for _, found in those]
        told = [a or b for a, b in zip(reason, below, strict=True)]
        holds = [(one.good[one.kept].mean() >= GOAL) for one, found in those if found.holds]
        true = f"{100 * np.mean(holds):.0f} % of {len(holds)}" if holds else "–"
        print(f"| {name or 'as it is'} | {len(those)} | {100 * np.mean(reason):.0f} % | "
              f"{100 * np.mean(below):.0f} % | {100 * np.mean(told):.0f} % | "
              f"{100 * len(holds) / len(those):.0f} % "
              f"| {true} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=1000)
    parser.add_argument("--people", type=Path)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    args = parser.parse_args()
    from bench.replay import load  # brings torch

    sources = len(args.sets) + 2 * (args.people is not None)
    share = math.ceil(args.filters / sources)
    filters: list[Filter] = []
    for name in args.sets:
        data = load(name)
        known = np.isfinite(data.scores)
        taught = (60, 150, 400)
        filters += filters_of(name, data.x[known], data.scores[known], share, args.seed, taught)
    if args.people:
        filters += of_people(args.people, args.filters - len(filters), args.seed)
    runs = [(one, audit(one, args.keys)) for one in filters]
    print(f"{len(runs):,} filters, {sum(bool(one.spoiled) for one, _ in runs)} of them spoiled; "
          f"they keep {min(int(f.kept.sum()) for f, _ in runs)} to "
          f"{max(int(f.kept.sum()) for f, _ in runs):,} images.\n")  # fmt: skip
    coverage(runs, args.keys)
    refusals(runs)
    keys_taken(runs)
    strata(filters, args.seed)
    large(args.seed)


if __name__ == "__main__":
    main()
