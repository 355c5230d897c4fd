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
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from app.learning.selection import SHARPNESS, Mix
from app.replay.labelled_sets import read_file
from app.replay.report import report
from app.replay.runs import LabelledSet, Pick, Plan, Run, pick_mixed, planned, replay
from bench import fresh, labelled, trade_off
from bench.former_draw import pick_near

CACHE = Path(tempfile.gettempdir()) / "tastemaker-bench"
CLIP_ART = Path("/usr/share/openclipart/png")
GAME = Path("/usr/share/games/wesnoth/1.16/data/core/images")
PACKAGES = {CLIP_ART: "openclipart-png", GAME: "wesnoth-1.16-data"}
CHOSEN_BY = ("digits", "photographs", "stamps", "clip-art")
JUDGES = ("game", "handwriting", "emoji", "wallpapers")
STRATEGIES = ("0/80/20", "0/60/40", "60/20/20", "random", "highest", "threshold-greedy")
DRAWN = Path(__file__).parents[1] / "docs/trade-off.svg"


# What is traded: shares of the batch (diverse/threshold/control), and how images are drawn.
RULES: dict[str, Pick] = {
    "0/80/20, former draw": pick_near,
    "0/80/20, by distance alone": partial(pick_near, by_lesson=False),
    "20/60/20": partial(pick_mixed, mix=Mix(0.2, 0.6, 0.2)),
    "0/80/20, sharpness 2": partial(pick_mixed, sharpness=2.0),
}

# Pretended tastes: how much their bearers like what a folder shows (0–10).
CLIP_ART_TASTE = {
    "animals": 9, "plants": 8, "people": 7, "food": 6.5, "buildings": 6, "recreation": 5,
    "transportation": 4.5, "geography": 5, "decorations": 5, "computer": 2,
    "signs_and_symbols": 1.5, "shapes": 1, "office": 3, "tools": 3.5, "special": 4, "science": 5,
    "education": 4, "electronics": 3, "containers": 4, "unsorted": 5,
}  # fmt: skip
GAME_TASTE = {
    "portraits": 9.5, "units/elves-wood": 8.5, "units/drakes": 8, "units/human-loyalists": 7,
    "units/human-magi": 8, "units/dwarves": 6, "units/monsters": 5, "units/undead": 3,
    "units/undead-skeletal": 2, "units/undead-necromancers": 3, "units/orcs": 2,
    "units/goblins": 1, "units/trolls": 2, "units/nagas": 3, "units/saurians": 4,
    "units/merfolk": 7, "units/dunefolk": 6, "units/human-outlaws": 4, "units/woses": 7,
    "terrain": 4, "items": 5, "attacks": 4.5, "halo": 1, "projectiles": 1, "scenery": 6,
}  # fmt: skip
NOISE = 1.0  # points, as people's own; one more tells the taste for a sub-folder from its folder's
PER_FOLDER = 250
PER_SUBJECT = 3  # frames of one animation in the game resemble each other


def load(name: str) -> LabelledSet:
    """A set by name, with its vectors kept in the temporary folder."""
    if name in fresh.available():
        return fresh.load(name)
    if name in labelled.available():
        made = labelled.load(name)
        return LabelledSet(made.x, made.y.astype(np.float64), made.groups.astype(np.intp))
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        root, taste = (CLIP_ART, CLIP_ART_TASTE) if name == "clip-art" else (GAME, GAME_TASTE)
        _embed(list(_liked(root, taste, alone=name == "clip-art")), kept)
    return read_file(kept)


def available() -> dict[str, str]:
    """The sets, and for one that cannot be made what would bring its pictures."""
    sets = dict.fromkeys((*CHOSEN_BY, *JUDGES), "") | fresh.available()
    if "stamps" not in labelled.available():
        sets["stamps"] = "apt-get install tuxpaint-stamps-default"
    for name, root in (("clip-art", CLIP_ART), ("game", GAME)):
        if not root.is_dir():
            sets[name] = f"apt-get install {PACKAGES[root]}"
    return sets


def _liked(
    root: Path, taste: dict[str, float], *, alone: bool
) -> Iterator[tuple[Path, str, float]]:
    """Files, the group of each, and how much it is liked: the folder's taste and, by a fixed
    draw, one of its sub-folder's own. A group is one drawing, or what shares its name."""
    draw = np.random.default_rng(0)
    for folder, liked in taste.items():
        files = sorted(
            path
            for path in (root / folder).rglob("*")
            if path.suffix in (".png", ".jpg", ".webp") and path.is_file()
            and not path.is_symlink()
        )  # fmt: skip
        seen: Counter[str] = Counter()
        for at in draw.permutation(len(files)):
            path = files[at]
            where = str(path.relative_to(root).parent)
            subject = path.stem.split("-")[0].split("+")[0].rstrip("0123456789_")
            group = str(path) if alone else f"{where}/{subject}"
            if seen[group] < PER_SUBJECT and seen.total() < PER_FOLDER:
                seen[group] += 1
                own = np.random.default_rng(zlib.crc32(where.encode())).normal()
                yield path, group, liked + own


def _embed(liked: list[tuple[Path, str, float]], to: Path) -> None:
    from app.encoding.encode_files import embed_files
    from app.encoding.encoders import BUNDLED, load, parse

    encoder = load(parse(BUNDLED))
    x = np.full((len(liked), encoder.dim), np.nan, np.float32)
    paths = [path for path, _, _ in liked]
    for at, vector in embed_files(encoder, paths, on_error=lambda at, error: None):
        x[at] = vector
    points = np.array([value for _, _, value in liked])
    points = np.clip(np.round(np.random.default_rng(1).normal(points, NOISE)), 0, 10)
    groups = np.array([group for _, group, _ in liked])
    read = np.isfinite(x).all(1)
    np.savez(to, embeddings=x[read].astype(np.float16), scores=points[read], groups=groups[read])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("sets", nargs="*", default=list(available()))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rule-seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=300)
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--svg", type=Path, default=DRAWN)
    asked = parser.parse_args()
    wanted = Plan(STRATEGIES, asked.seeds, asked.budget, first_seed=asked.first_seed)
    print(
        f"{asked.seeds} seeds, {wanted.start} to {asked.budget} labels, the head refitted every "
        f"{wanted.batch}; a quarter of each set tests. “Half” is the error at the threshold with "
        "half the labels ÷ random's with all. 95 % intervals over seeds in brackets. The queue was "
        f"chosen by {', '.join(CHOSEN_BY)}, on other seeds; nothing was chosen by the sets marked "
        "*.\n\n"
        "| set | strategy | MAE | error at threshold | MAE area ÷ random's | "
        "labels to reach random's last error | half |\n|---|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    found: dict[str, list[Run]] = {}
    for name in asked.sets:
        if missing := available()[name]:
            print(f"| {name} | not made: {missing} | | | | | |")
            continue
        data = load(name)
        plan = planned(data, wanted)
        found[name] = _told(name, replay(data, plan, processes=asked.processes))
        said = report(data, plan, found[name])
        shown = f"{name}*" if name in JUDGES else name
        for strategy in STRATEGIES:
            own = said["strategies"][strategy]
            row = f"| {shown} ({len(data.x):,}) | {strategy} | {_cells(own, said)} |"
            print(row, flush=True)
            print(row, file=sys.stderr)
    for name in found:  # last, so that a run that is cut short has the table
        data = load(name)
        rules = replace(planned(data, wanted), strategies=tuple(RULES), seeds=asked.rule_seeds)
        found[name] += _told(
            f"{name}, rules", replay(data, rules, processes=asked.processes, more=RULES)
        )
    kinds = {"chosen by": CHOSEN_BY, "fresh": JUDGES}
    points = {
        kind: trade_off.points({name: found[name] for name in sets if name in found})
        for kind, sets in kinds.items()
    }
    print(
        f"\n### trade-off\n\nMeans over the sets of a kind; {asked.seeds} seeds for the strategies "
        f"above, {asked.rule_seeds} for the rules below them. In bold: no other rule is better in "
        "one error and no worse in the other. Shares are diverse/threshold/control, drawn by "
        f"gain^{SHARPNESS:g} unless said. Drawn in docs/trade-off.svg.\n"
    )
    print(trade_off.table({kind: made for kind, made in points.items() if made}, asked.budget))
    asked.svg.write_text(trade_off.chart(points))


def _told(name: str, runs: Iterator[tuple[int, int, Run]]) -> list[Run]:
    """The runs, with a line of progress."""
    start, made = time.monotonic(), []
    for done, total, run in runs:
        made.append(run)
        left = (time.monotonic() - start) / done * (total - done)
        print(f"\r{name}: {done} of {total} runs, {left:4.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return made


def _cells(own: dict, said: dict) -> str:
    ratio, reached = own["mae_area_ratio"], own["labels_to_reach_random"]
    beyond = f"over {said['budget']}"
    ends = [beyond if reached[end] is None else reached[end] for end in ("low", "high")]
    value = beyond if reached["value"] is None else reached["value"]
    half = np.interp(said["budget"] / 2, own["labels"], own["error_at_threshold"])
    half /= said["strategies"]["random"]["error_at_threshold"][-1]
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
