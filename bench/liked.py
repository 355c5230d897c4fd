"""Clip-art and the pictures of a game, scored by a pretended taste for their folders, with noise.

Clip-art is Debian's `openclipart-png`, the game is `wesnoth-1.16-data`. The vectors are those of
`efficientnet_lite0/bundled`, kept in the temporary folder.
"""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load as load_encoder
from tastemaker.replay.labelled_sets import read_file
from tastemaker.replay.runs import LabelledSet

CACHE = Path(tempfile.gettempdir()) / "tastemaker-bench"
CLIP_ART = Path("/usr/share/openclipart/png")
GAME = Path("/usr/share/games/wesnoth/1.16/data/core/images")
PACKAGES = {CLIP_ART: "openclipart-png", GAME: "wesnoth-1.16-data"}

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
    """`clip-art` or `game`."""
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        root, taste = (CLIP_ART, CLIP_ART_TASTE) if name == "clip-art" else (GAME, GAME_TASTE)
        _embed(list(_liked(root, taste, alone=name == "clip-art")), kept)
    return read_file(kept)


def available() -> dict[str, str]:
    """The sets, and for one that cannot be made what would bring its pictures."""
    return {
        name: "" if root.is_dir() else f"apt-get install {PACKAGES[root]}"
        for name, root in (("clip-art", CLIP_ART), ("game", GAME))
    }


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
    encoder = load_encoder(parse(BUNDLED))
    x = np.full((len(liked), encoder.dim), np.nan, np.float32)
    paths = [path for path, _, _ in liked]
    for at, vector in embed_files(encoder, paths, on_error=lambda at, error: None):
        x[at] = vector
    points = np.array([value for _, _, value in liked])
    points = np.clip(np.round(np.random.default_rng(1).normal(points, NOISE)), 0, 10)
    groups = np.array([group for _, group, _ in liked])
    read = np.isfinite(x).all(1)
    np.savez(to, embeddings=x[read].astype(np.float16), scores=points[read], groups=groups[read])
