"""How many labels the Mixed queue needs for what random labelling reaches with 600.

    python -m bench.replay [--seeds 10] [--rule-seeds 6] [--first-seed 300] [SET …]

Replays `tastemaker replay` on labelled sets of real pictures. By four of them the queue was chosen:
scikit-learn's digits by value (raw pixels), photographs and stamps spoiled by degree (see
`bench.labelled`), clip-art by subject; here they have seeds of their own. Four only judge: those of
`bench.fresh`, and the pictures of a game, which were looked at once before. The vectors are those
of `efficientnet_lite0/bundled`; clip-art and game are scored by a formula with noise, like a
person's. `highest` and `threshold-greedy` are there as a warning. The trade-off between the error
at the threshold and the error of the scores is printed for every rule and drawn to docs/.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import trade_off
from tastemaker.learning.selection import SHARPNESS, Mix
from tastemaker.replay.report import report
from tastemaker.replay.runs import LabelledSet, Pick, Plan, Run, pick_mixed, planned, replay

CHOSEN_BY = ("digits", "photographs", "stamps", "clip-art")
JUDGES = ("game", "handwriting", "emoji", "wallpapers")
STRATEGIES = ("0/80/20", "0/60/40", "60/20/20", "random", "highest", "threshold-greedy")
ASIDE = "game"
DRAWN = Path(__file__).parents[1] / "docs/trade-off.svg"


# What is traded: shares of the batch (diverse/threshold/control), and how images are drawn.
RULES: dict[str, Pick] = {
    "20/60/20": partial(pick_mixed, mix=Mix(0.2, 0.6, 0.2)),
    "0/80/20, sharpness 2": partial(pick_mixed, sharpness=2.0),
}


def load(name: str) -> LabelledSet:
    """A set by name, with its vectors kept in the temporary folder."""
    # Imported here, because they bring torch, and every process of a replay imports this module.
    from bench import fresh, labelled, liked

    if name in fresh.available():
        return fresh.load(name)
    if name in liked.available():
        return liked.load(name)
    data = labelled.load(name)
    return LabelledSet(data.x, data.y.astype(np.float64), data.groups.astype(np.intp))


def available() -> dict[str, str]:
    """The sets, and for one that cannot be made what would bring its pictures."""
    from bench import fresh, labelled, liked

    missing = fresh.available() | liked.available()
    if "stamps" not in labelled.available():
        missing["stamps"] = "apt-get install tuxpaint-stamps-default"
    return {name: missing.get(name, "") for name in (*CHOSEN_BY, *JUDGES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(available()))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rule-seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=300)
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--svg", type=Path, default=DRAWN)
    args = parser.parse_args()
    wanted = Plan(STRATEGIES, args.seeds, args.budget, first_seed=args.first_seed)
    print(
        f"{args.seeds} seeds, {wanted.start} to {args.budget} labels, the head refitted every "
        f"{wanted.batch}; a quarter of each set tests. “Half” is the error at the threshold with "
        "half the labels ÷ random's with all. 95 % intervals over seeds in brackets. The queue was "
        f"chosen by {', '.join(CHOSEN_BY)}, on other seeds; nothing was chosen by the sets marked "
        "*.\n\n"
        "| set | strategy | MAE | error at threshold | MAE area ÷ random's | "
        "labels to reach random's last error | half |\n|---|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    runs: dict[str, list[Run]] = {}
    for name in args.sets:
        if missing := available()[name]:
            print(f"| {name} | not made: {missing} | | | | | |")
            continue
        data = load(name)
        plan = planned(data, wanted)
        runs[name] = _with_progress(name, replay(data, plan, processes=args.processes))
        result = report(data, plan, runs[name])
        title = f"{name}*" if name in JUDGES else name
        for strategy in STRATEGIES:
            own = result["strategies"][strategy]
            row = f"| {title} ({len(data.x):,}) | {strategy} | {_cells(own, result)} |"
            print(row, flush=True)
            print(row, file=sys.stderr)
    for name in runs:  # last, so that a run that is cut short has the table
        data = load(name)
        rules = replace(planned(data, wanted), strategies=tuple(RULES), seeds=args.rule_seeds)
        runs[name] += _with_progress(
            f"{name}, rules", replay(data, rules, processes=args.processes, more=RULES)
        )
    kinds = {"chosen by": CHOSEN_BY, "fresh": JUDGES}
    points = {
        kind: trade_off.points({name: runs[name] for name in sets if name in runs})
        for kind, sets in kinds.items()
    }
    print(
        f"\n### trade-off\n\nMeans over the sets of a kind; {args.seeds} seeds for the strategies "
        f"above, {args.rule_seeds} for the rules below them. In bold: no other rule is better in "
        "one error and no worse in the other. Shares are diverse/threshold/control, drawn by "
        f"gain^{SHARPNESS:g} unless said. Drawn in docs/trade-off.svg.\n"
    )
    print(trade_off.table({kind: made for kind, made in points.items() if made}, args.budget))
    args.svg.write_text(trade_off.chart(points))


def _with_progress(name: str, runs: Iterator[tuple[int, int, Run]]) -> list[Run]:
    """The runs, with a line of progress."""
    start, made = time.monotonic(), []
    for done, total, run in runs:
        made.append(run)
        left = (time.monotonic() - start) / done * (total - done)
        print(f"\r{name}: {done} of {total} runs, {left:4.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return made


def _cells(own: dict[str, Any], result: dict[str, Any]) -> str:
    ratio, reached = own["mae_area_ratio"], own["labels_to_reach_random"]
    beyond = f"over {result['budget']}"
    ends = [beyond if reached[end] is None else reached[end] for end in ("low", "high")]
    value = beyond if reached["value"] is None else reached["value"]
    half = np.interp(result["budget"] / 2, own["labels"], own["error_at_threshold"])
    half /= result["strategies"]["random"]["error_at_threshold"][-1]
    return " | ".join(
        (
            f"{np.mean(own['mae']):.2f}",
            f"{np.mean(own['error_at_threshold']):.3f}",
            f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
            f"{value} [{ends[0]}, {ends[1]}]",
            f"{half:.2f}",
        )
    )


if __name__ == "__main__":
    main()
