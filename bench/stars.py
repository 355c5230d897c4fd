"""Stars of another program and fifty keys: whether both beat either alone, for real people.

    python -m bench stars FILE.npz [--people 40] [--keys 50] [--stars 300] [--seeds 1]

FILE is that of `python -m bench people`. A quarter of a person's images tests; of the rest `--keys`
are scored, drawn at random, and up to `--stars` others have stars, of three kinds: the person's own
ratings in five steps with a deviation of half a star; fifths of the mean of all others; those of
one stranger. The stars come in by the usual rule (2, 4, 6, 8, 10), as hints (the line of a head of
the stars alone is a prior) or as scores beside the keys. All heads are the straight line.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.people import Values, paired, shown
from tastemaker.learning.prior import Prior
from tastemaker.learning.ridge import fit_ridge
from tastemaker.replay.labelled_sets import read_people
from tastemaker.replay.people import People, rank_correlation

KINDS = {
    "own": "the person's own, ± 0.5",
    "others": "fifths of all others' mean",
    "stranger": "a stranger's",
}
WAYS = {
    "keys": "keys alone", "stars": "stars alone", "scores": "as scores", "hints": "as hints",
}  # fmt: skip
FEWEST_TESTED = 20

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Draw:
    """Which images test, which are scored, and which may have stars."""

    test: Rows
    keys: Rows
    free: Rows


def draw(people: People, person: int, keys: int, seed: int) -> Draw | None:
    """None for a person who rated too few."""
    random = np.random.default_rng((seed, person))
    order = random.permutation(people.x.shape[0])
    rated = np.isfinite(people.scores[person])
    test = order[: len(order) // 4]
    rest = order[len(order) // 4 :]
    test, own = test[rated[test]], rest[rated[rest]]
    if len(test) < FEWEST_TESTED or len(own) < keys + FEWEST_TESTED:
        return None
    chosen = own[:keys]
    return Draw(test, chosen, np.setdiff1d(rest, chosen, assume_unique=True))


def stars_of(
    kind: str, people: People, person: int, drawn: Draw, most: int, seed: int
) -> tuple[Rows, Floats]:
    """(n,) images and the scores in [0, 1] that follow from their stars."""
    random = np.random.default_rng((seed, person, *kind.encode()))
    everybody = people.scores
    if kind == "others":
        theirs = np.delete(everybody, person, 0)[:, drawn.free]
        rows = drawn.free[np.isfinite(theirs).any(0)]
        rows = random.permutation(rows)[:most]
        mean = np.nanmean(np.delete(everybody, person, 0)[:, rows], 0)
        stars = 1 + np.searchsorted(np.quantile(mean, [0.2, 0.4, 0.6, 0.8]), mean)
        return rows, stars / 5
    whose = person
    if kind == "stranger":
        strangers = np.flatnonzero(np.arange(len(everybody)) != person)
        whose = int(random.choice(strangers))
    rows = drawn.free[np.isfinite(everybody[whose, drawn.free])]
    rows = random.permutation(rows)[:most]
    spread = 0.5 if kind == "own" else 0.0
    exact = 1 + 4 * everybody[whose, rows] + random.normal(0, spread, len(rows))
    return rows, np.clip(np.rint(exact), 1, 5) / 5


def predictions(
    x: NDArray[np.float32], drawn: Draw, y: Floats, starred: Rows, told: Floats
) -> dict[str, Floats]:
    """Way → scores in [0, 1] of the images that test."""
    of_stars = fit_ridge(x[starred], told)
    weights, bias = of_stars.raw()
    both = np.concatenate([drawn.keys, starred])
    made = {
        "stars": of_stars,
        "scores": fit_ridge(x[both], np.concatenate([y, told])),
        "hints": fit_ridge(x[drawn.keys], y, priors=(Prior(weights, bias, "stars"),)),
    }
    return {way: np.asarray(ridge.predict(x[drawn.test]), float) for way, ridge in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--people", type=int, default=40, help="drawn at random")
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--stars", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    people = read_people(args.file)
    ranks: dict[tuple[str, str], Values] = defaultdict(dict)
    errors: dict[tuple[str, str], Values] = defaultdict(dict)
    counts: dict[str, list[int]] = defaultdict(list)
    done = 0
    for person in np.random.default_rng(0).permutation(len(people.scores)).tolist():
        draws = [draw(people, person, args.keys, seed) for seed in range(args.seeds)]
        if done == args.people or None in draws:
            continue
        said: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for seed, drawn in enumerate(filter(None, draws)):
            truth, y = people.scores[person][drawn.test], people.scores[person][drawn.keys]
            keys = fit_ridge(people.x[drawn.keys], y).predict(people.x[drawn.test])
            for kind in KINDS:
                starred, told = stars_of(kind, people, person, drawn, args.stars, seed)
                counts[kind].append(len(starred))
                found = predictions(people.x, drawn, y, starred, told) | {"keys": keys}
                for way, predicted in found.items():
                    rank = rank_correlation(truth, predicted)
                    error = 10 * float(np.abs(truth - predicted).mean())
                    said[kind, way].append((rank if rank is not None else np.nan, error))
        for which, values in said.items():
            rank, error = np.mean(values, 0).tolist()
            if np.isfinite(rank):
                ranks[which][person] = rank
            errors[which][person] = error
        done += 1
        print(f"\r{done} of {args.people} people ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{done} people, {args.keys} keys, {args.seeds} seed{'s' * (args.seeds > 1)}, features: "
          f"{people.x.shape[1]:,}. In brackets 95 % intervals over people; the last two columns "
          "compare with the better of keys alone and stars alone, by its mean.\n")  # fmt: skip
    print("| stars (how many) | used | SROCC | error in points | SROCC less the better | "
          "error less the better |")  # fmt: skip
    print("|---|---|--:|--:|--:|--:|")
    for kind, words in KINDS.items():
        for way, name in WAYS.items():
            mine = kind, way
            less = []
            for values, sign, form in ((ranks, 1, "+.3f"), (errors, -1, "+.2f")):
                alone = max(
                    (values[kind, one] for one in ("keys", "stars")),
                    key=lambda of: sign * np.mean(list(of.values())),
                )
                one, other = paired(values[mine], alone)
                less.append(shown(one - other, form) if way in ("scores", "hints") else "")
            told_kind = f"{words} ({np.mean(counts[kind]):.0f})" if way == "keys" else ""
            print(f"| {told_kind} | {name} | {shown(ranks[mine].values(), '.3f')} | "
                  f"{shown(errors[mine].values(), '.2f')} | {less[0]} | {less[1]} |")  # fmt: skip


if __name__ == "__main__":
    main()
