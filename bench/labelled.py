"""Labelled sets of real pictures for the learning benchmarks, made on this machine.

Photographs are those of scikit-image and scikit-learn, cut into tiles that do not overlap; stamps
are Debian's `tuxpaint-stamps-default`. Each picture is there several times, spoiled in measured
ways (blurred, made noisy, compressed, written over, exposed wrongly), and scored by a formula:
appeal of the subject, less the harm of the treatment, with noise of 0.6 points. Variants of one
picture share a group. Digits are scikit-learn's, scored by their value. The vectors are kept in the
temporary folder.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from sklearn.datasets import load_digits

from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load as load_encoder
from tastemaker.learning.folds import TrainingSet
from tastemaker.sample.samples import installed

CACHE = Path(tempfile.gettempdir()) / "tastemaker-bench"
STAMPS = Path("/usr/share/tuxpaint/stamps")
# How much the scorer likes what a faultless photograph shows, in points of 0–10.
APPEAL = {
    "portrait": 9.5, "animal": 9.5, "space": 9.0, "nature": 9.0, "place": 8.5, "thing": 7.0,
    "texture": 4.5, "microscope": 4.0, "document": 2.0,
}  # fmt: skip
# What each shows, and its file inside an installed library.
PHOTOGRAPHS = (
    ("portrait", "skimage/data/astronaut.png"),
    ("texture", "skimage/data/brick.png"),
    ("portrait", "skimage/data/camera.png"),
    ("microscope", "skimage/data/cell.png"),
    ("animal", "skimage/data/chelsea.png"),
    ("place", "sklearn/datasets/images/china.jpg"),
    ("thing", "skimage/data/clock_motion.png"),
    ("thing", "skimage/data/coffee.png"),
    ("thing", "skimage/data/coins.png"),
    ("nature", "sklearn/datasets/images/flower.jpg"),
    ("texture", "skimage/data/grass.png"),
    ("texture", "skimage/data/gravel.png"),
    ("space", "skimage/data/hubble_deep_field.jpg"),
    ("space", "skimage/data/moon.png"),
    ("thing", "skimage/data/motorcycle_left.png"),
    ("thing", "skimage/data/motorcycle_right.png"),
    ("document", "skimage/data/page.png"),
    ("microscope", "skimage/data/retina.jpg"),
    ("space", "skimage/data/rocket.jpg"),
    ("document", "skimage/data/text.png"),
    ("microscope", "skimage/data/ihc.png"),
)
# What each treatment at full strength takes away, as a share of the appeal.
HARM = {"original": 0.0, "blur": 1.0, "noise": 1.0, "jpeg": 0.9, "text": 1.0, "exposure": 0.45}
NOISE = 0.6  # of the scores: standard deviation in points
LARGEST = 853  # pixels of a photograph's long side
TILE = 120  # pixels

# A pretended taste: how much its bearer likes each subject folder of the stamps (0–10).
TASTE = {
    "animals": 9, "plants": 8, "food": 6, "space": 9.5, "seasonal": 5, "people": 7,
    "household": 3.5, "hobbies": 4, "vehicles": 5, "symbols": 1.5, "naturalforces": 8,
    "clothes": 2.5, "medical": 1.5, "military": 2, "sports": 4, "town": 5.5, "cartoon": 4,
}  # fmt: skip

Picture = tuple[int, float, Image.Image]  # number of the original, how much it is liked, itself


def load(name: str) -> TrainingSet:
    """`digits`, `photographs` or `stamps`; no row is hold-out yet (see `holding_out`)."""
    if name == "digits":
        data = load_digits()
        x, y = data.data / 16, data.target / 9
        return _as_set(x, y, np.arange(len(y)))
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        pictures, variants = SOURCES[name]
        x, y, groups = _spoiled_and_embedded(pictures(), variants)
        np.savez(kept, x=x, y=y, groups=groups)
    with np.load(kept) as file:
        return _as_set(file["x"], file["y"], file["groups"])


def available() -> list[str]:
    return ["digits", "photographs", *(["stamps"] if STAMPS.is_dir() else [])]


def _as_set(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> TrainingSet:
    n = len(y)
    return TrainingSet(
        image_ids=np.arange(n),
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        groups=groups,
        holdout=np.zeros(n, bool),
    )


def _photographs() -> Iterator[Picture]:
    number = 0
    for subject, file in PHOTOGRAPHS:
        picture = installed(file)
        if picture is None:
            continue
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        across, down = (min(7, max(1, side // TILE)) for side in picture.size)
        wide, high = picture.width // across, picture.height // down
        for i in range(across * down):
            left, top = i % across * wide, i // across * high
            yield number, APPEAL[subject], picture.crop((left, top, left + wide, top + high))
            number += 1


def _stamps() -> Iterator[Picture]:
    for number, path in enumerate(sorted(STAMPS.rglob("*.png"))):
        with Image.open(path) as file:
            stamp = file.convert("RGBA")
            stamp.thumbnail((320, 320))
            ground = Image.new("RGBA", stamp.size, "white")
            picture = Image.alpha_composite(ground, stamp).convert("RGB")
        yield number, TASTE.get(path.relative_to(STAMPS).parts[0], 5), picture


# The pictures of a set, and how many variants of each make at least 4,000.
SOURCES: dict[str, tuple[Callable[[], Iterator[Picture]], int]] = {
    "photographs": (_photographs, 12),
    "stamps": (_stamps, 6),
}


def _spoiled_and_embedded(
    pictures: Iterator[Picture], variants: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every picture as it is and in `variants` − 1 spoiled ways: x (n, 1280), y and groups (n,)."""
    encoder = load_encoder(parse(BUNDLED))
    x, y, groups, batch = [], [], [], []
    for number, liked, picture in pictures:
        for variant in range(variants):
            rng = np.random.default_rng((number, variant))
            treatment = list(HARM)[variant % len(HARM)]
            degree = float(rng.uniform(0.05, 1))
            spoiled = treated(picture, treatment, degree, rng)
            with Image.open(io.BytesIO(spoiled)) as read:
                batch.append(encoder.preprocess(read.convert("RGB")))
            score = liked * (1 - HARM[treatment] * degree)
            y.append(np.clip(round(score + rng.normal(0, NOISE)), 0, 10) / 10)
            groups.append(number)
            if len(batch) == 16:
                x.append(encoder.encode(np.stack(batch)))
                batch.clear()
    if batch:
        x.append(encoder.encode(np.stack(batch)))
    return np.concatenate(x).astype(np.float16), np.array(y), np.array(groups)


def holding_out(data: TrainingSet, labels: int, seed: int, share: float = 0.25) -> TrainingSet:
    """`labels` rows that train and a random `share` of the whole set, by groups, that measures.

    The hold-out of a seed is the same however many labels train."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(data.groups))
    held = np.isin(data.groups, names[: round(share * len(names))])
    drawn = rng.permutation(np.flatnonzero(~held))[:labels]
    rows = np.sort(np.concatenate([np.flatnonzero(held), drawn]))
    return TrainingSet(
        image_ids=data.image_ids[rows],
        x=data.x[rows],
        y=data.y[rows],
        groups=data.groups[rows],
        holdout=held[rows],
    )


def treated(picture: Image.Image, treatment: str, degree: float, rng: np.random.Generator) -> bytes:
    """The picture as JPEG bytes, spoiled by `degree` (0–1) in the way named."""
    quality = 92
    if treatment == "blur":
        picture = picture.filter(ImageFilter.GaussianBlur(1 + 9 * degree))
    elif treatment == "noise":
        # Grains of two by two pixels, as of a pushed film: single pixels vanish in any thumbnail.
        height, width = picture.height, picture.width
        grain = rng.normal(0, 8 + 72 * degree, (height // 2 + 1, width // 2 + 1, 3))
        spoiled = np.asarray(picture, float) + grain.repeat(2, 0).repeat(2, 1)[:height, :width]
        picture = Image.fromarray(spoiled.round().clip(0, 255).astype(np.uint8))
    elif treatment == "jpeg":
        quality = round(22 - 20 * degree)
    elif treatment == "text":
        picture = _written_over(picture, degree, rng)
    elif treatment == "exposure":
        stops = (0.7 + 2.0 * degree) * rng.choice((-1, 1))
        picture = ImageEnhance.Brightness(picture).enhance(2.0**stops)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _written_over(picture: Image.Image, degree: float, rng: np.random.Generator) -> Image.Image:
    """The picture under lines of advertising: one modest line at 0, the whole frame at 1."""
    lines = ("SPECIAL OFFER", "ONLY TODAY", "CLICK HERE", "FREE SHIPPING", "BUY NOW", "NEW!")
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=picture.width * (0.05 + 0.08 * degree))
    for _ in range(2 + round(8 * degree)):
        place = rng.uniform(0, 0.6) * picture.width, rng.uniform(0, 0.9) * picture.height
        colour = ("white", "yellow", "red")[rng.integers(3)]
        draw.text(
            place,
            lines[rng.integers(len(lines))],
            colour,
            font,
            stroke_width=2,
            stroke_fill="black",
        )
    return picture
