"""How many labels the Mixed queue needs for what random labelling reaches with 600.

    python -m bench.replay [--seeds 10] [--strategies …] [SET …]

Replays `tastemaker replay` on labelled sets of real pictures: scikit-learn's digits by value (raw
pixels), photographs and stamps spoiled by degree (see `bench.labelled`), clip-art by subject, and
the pictures of a game by subject, with the features of `efficientnet_lite0/bundled`. The scores of
the last four are a formula with noise, like a person's. The game was kept aside: nothing in the
queue was chosen by it. `highest` and `threshold-greedy` are there as a warning.
"""

import argparse
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.replay.labelled_sets import read_file
from app.replay.report import report
from app.replay.runs import LabelledSet, Plan, planned, replay
from bench import labelled

CACHE = Path(tempfile.gettempdir()) / "tastemaker-bench"
CLIP_ART = Path("/usr/share/openclipart/png")
GAME = Path("/usr/share/games/wesnoth/1.16/data/core/images")
PACKAGES = {CLIP_ART: "openclipart-png", GAME: "wesnoth-1.16-data"}
ASIDE = "game"
STRATEGIES = ("mixed", "random", "highest", "threshold-greedy", "60/20/20")

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
    """The sets, and for one that cannot be made the package that is missing."""
    sets = dict.fromkeys(("digits", "photographs", "stamps", "clip-art", ASIDE), "")
    if "stamps" not in labelled.available():
        sets["stamps"] = "tuxpaint-stamps-default"
    for name, root in (("clip-art", CLIP_ART), (ASIDE, GAME)):
        if not root.is_dir():
            sets[name] = PACKAGES[root]
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
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    asked = parser.parse_args()
    wanted = Plan(tuple(asked.strategies.split(",")), asked.seeds, asked.budget)
    print(
        f"{asked.seeds} seeds, {wanted.start} to {asked.budget} labels, the head refitted every "
        f"{wanted.batch}; a quarter of each set tests. “Half” is the error at the threshold with "
        "half the labels ÷ random's with all. 95 % intervals over seeds in brackets.\n\n"
        "| set | strategy | MAE | error at threshold | MAE area ÷ random's | "
        "labels to reach random's last error | half |\n|---|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    for name in asked.sets:
        if missing := available()[name]:
            print(f"| {name} | not made: apt-get install {missing} | | | | | |")
            continue
        data = load(name)
        plan = planned(data, wanted)
        runs = [run for _, _, run in replay(data, plan)]
        said = report(data, plan, runs)
        shown = f"{name}, kept aside" if name == ASIDE else name
        for strategy, own in said["strategies"].items():
            row = f"| {shown} ({len(data.x):,}) | {strategy} | {_cells(own, said)} |"
            print(row, flush=True)


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
