"""The sample library: real photographs, spoiled in measured ways, and a scripted rater.

So that a newcomer sees full pages within two minutes and without a download, the photographs that
come inside scikit-image and scikit-learn are cut and treated: blurred, made noisy, compressed,
written over, exposed wrongly. Every picture knows its source photograph, because variants of one
photograph must stay on one side of a hold-out or the numbers would flatter.

The rater is a formula and is called so wherever its scores are shown.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from tastemaker.errors import Unavailable
from tastemaker.files import write_atomic

LONG_SIDE = 640  # pixels at most: large enough to see a fault, small enough to be quick
SMALLEST_CUT = 0.75  # of a photograph's side
RATER = "scripted rater"
RATER_NOISE = 0.6  # standard deviation in points; people's own is about 1


# How much the rater likes what a faultless picture shows, in points of 0–10.
APPEAL = {
    "portrait": 9.5,
    "animal": 9.5,
    "space": 9.0,
    "nature": 9.0,
    "place": 8.5,
    "thing": 7.0,
    "texture": 4.5,
    "microscope": 4.0,
    "document": 2.0,
}


@dataclass(frozen=True)
class Photograph:
    """A photograph that comes with a library: its files there, and what it shows (see APPEAL)."""

    name: str
    subject: str
    files: tuple[str, ...]


PHOTOGRAPHS = (
    Photograph("astronaut", "portrait", ("skimage/data/astronaut.png",)),
    Photograph("brick", "texture", ("skimage/data/brick.png",)),
    Photograph("camera", "portrait", ("skimage/data/camera.png",)),
    Photograph("cell", "microscope", ("skimage/data/cell.png",)),
    Photograph("chelsea", "animal", ("skimage/data/chelsea.png",)),
    Photograph("china", "place", ("sklearn/datasets/images/china.jpg",)),
    Photograph("clock", "thing", ("skimage/data/clock_motion.png",)),
    Photograph("coffee", "thing", ("skimage/data/coffee.png",)),
    Photograph("coins", "thing", ("skimage/data/coins.png",)),
    Photograph("flower", "nature", ("sklearn/datasets/images/flower.jpg",)),
    Photograph("grass", "texture", ("skimage/data/grass.png",)),
    Photograph("gravel", "texture", ("skimage/data/gravel.png",)),
    Photograph("hubble", "space", ("skimage/data/hubble_deep_field.jpg",)),
    Photograph("moon", "space", ("skimage/data/moon.png",)),
    Photograph(
        "motorcycle",
        "thing",
        ("skimage/data/motorcycle_left.png", "skimage/data/motorcycle_right.png"),
    ),
    Photograph("page", "document", ("skimage/data/page.png",)),
    Photograph("retina", "microscope", ("skimage/data/retina.jpg",)),
    Photograph("rocket", "space", ("skimage/data/rocket.jpg",)),
    Photograph("text", "document", ("skimage/data/text.png",)),
    Photograph("tissue", "microscope", ("skimage/data/ihc.png",)),
)

# What each treatment at full strength takes away, as a share of the appeal.
HARM = {"original": 0.0, "exposure": 0.45, "jpeg": 0.9, "noise": 1.0, "text": 1.0, "blur": 1.0}

# The variants of one photograph, in the order they are made: treatment and range of its degree.
PLAN = (
    ("original", 0.0, 0.0),
    ("blur", 0.55, 1.0),
    ("noise", 0.1, 0.4),
    ("original", 0.0, 0.0),
    ("jpeg", 0.5, 1.0),
    ("text", 0.1, 0.5),
    ("blur", 0.05, 0.25),
    ("exposure", 0.1, 0.5),
    ("original", 0.0, 0.0),
    ("noise", 0.6, 1.0),
    ("text", 0.6, 1.0),
    ("blur", 0.25, 0.55),
    ("jpeg", 0.1, 0.5),
    ("original", 0.0, 0.0),
    ("exposure", 0.6, 1.0),
    ("noise", 0.3, 0.7),
)


@dataclass(frozen=True)
class Facts:
    """All that the scripted rater looks at. `degree` is 0 (untouched) to 1 (worst)."""

    subject: str
    treatment: str
    degree: float


@dataclass(frozen=True)
class Sample:
    """One picture of the sample library and the scripted rater's score of it (0–10)."""

    path: Path
    source: str
    subject: str
    treatment: str
    degree: float
    score: int


def scripted_rater(facts: Facts, rng: np.random.Generator) -> int:
    """A pretended taste: round(appeal × (1 − harm × degree) + noise), kept within 0–10.

    It likes people, animals and space, cares little for textures and less for documents, and
    dislikes every treatment in proportion to its degree. The noise is normal with RATER_NOISE
    points, so even this rater does not agree with itself, as no person does.
    """
    liked = APPEAL[facts.subject] * (1 - HARM[facts.treatment] * facts.degree)
    return int(np.clip(round(liked + rng.normal(0, RATER_NOISE)), 0, 10))


def make_sample_library(
    folder: Path,
    count: int = 320,
    progress: Callable[[int, int], object] | None = None,
    seed: int = 0,
) -> list[Sample]:
    """Write `count` pictures into `folder` and return them with the rater's scores.

    A name tells source, treatment, degree in percent and number: `chelsea-blur-62-103.jpg`. Beside
    each lies a sidecar of the same stem: {"tags": [subject, treatment], "source": photograph}. The
    same seed and library versions give the same bytes. Takes about 20 ms a picture. `progress` is
    called with (done, count).
    """
    prints = [(photograph, _prints(photograph)) for photograph in PHOTOGRAPHS]
    prints = [(photograph, pictures) for photograph, pictures in prints if pictures]
    if not prints:
        raise Unavailable(
            "The sample photographs are missing: neither scikit-image nor scikit-learn has them.",
            "Reinstall both, or start with a folder of your own pictures.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        photograph, pictures = prints[number % len(prints)]
        variant = number // len(prints)
        treatment, low, high = PLAN[variant % len(PLAN)]
        degree = round(float(rng.uniform(low, high)), 2)
        cut = _cut(pictures[variant % len(pictures)], rng)
        name = f"{photograph.name}-{treatment}-{round(100 * degree):02d}-{number:03d}"
        path = folder / f"{name}.jpg"
        write_atomic(path, _treated(cut, treatment, degree, rng))
        sidecar = {"tags": [photograph.subject, treatment], "source": photograph.name}
        write_atomic(path.with_suffix(".json"), json.dumps(sidecar).encode())
        score = scripted_rater(Facts(photograph.subject, treatment, degree), rng)
        samples.append(Sample(path, photograph.name, photograph.subject, treatment, degree, score))
        if progress:
            progress(number + 1, count)
    return samples


def _prints(photograph: Photograph) -> list[Image.Image]:
    """The files of a photograph that are really inside the installed libraries, opened, no larger
    than its cuts need. Read as files, because the libraries' own loaders may try to download what
    is missing."""
    pictures, enough = [], round(LONG_SIDE / SMALLEST_CUT)
    for file in photograph.files:
        package, _, rest = file.partition("/")
        spec = importlib.util.find_spec(package)
        for root in (spec and spec.submodule_search_locations) or ():
            if (path := Path(root) / rest).is_file():
                with Image.open(path) as image:
                    picture = image.convert("RGB")
                picture.thumbnail((enough, enough), Image.Resampling.LANCZOS)
                pictures.append(picture)
    return pictures


def _cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of 75–100 % of the frame per side, at another place every time, never enlarged."""
    width, height = (round(side * rng.uniform(SMALLEST_CUT, 1.0)) for side in picture.size)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    cut = picture.crop((left, top, left + width, top + height))
    cut.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return cut


def _treated(
    picture: Image.Image, treatment: str, degree: float, rng: np.random.Generator
) -> bytes:
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
