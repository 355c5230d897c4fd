"""The sample library: photographs and paintings in many lights, and a scripted rater.

So that a newcomer sees full pages within two minutes and without a download, the photographs that
come inside scikit-image and scikit-learn are cut into parts that do not overlap, and shown in
different lights; a program paints the rest. Every picture knows its source: what was cut from one
part of a photograph must stay on one side of a hold-out, or the numbers would flatter.

The rater is a formula and is called so wherever its scores are shown.
"""

import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tastemaker.errors import Unavailable
from tastemaker.files import write_atomic
from tastemaker.files.json_text import json_text
from tastemaker.sample.paintings import MOTIFS, Palette, paint

COUNT = 420  # pictures of the whole library
LONG_SIDE = 448  # pixels at most: large enough to look at, small enough to be quick
SMALLEST_CUT = 0.8  # of a part's side
RATER = "scripted rater"
RATER_NOISE = 0.7  # standard deviation in points; people's own is about 1
LIKES_WARMTH = 3.5  # see `scripted_rater`


@dataclass(frozen=True)
class Photograph:
    """A photograph that comes with a library: its file there, what it shows, and into how many
    parts it is cut, across and down."""

    name: str
    subject: str
    file: str
    parts: tuple[int, int] = (1, 1)


PHOTOGRAPHS = (
    Photograph("astronaut", "portrait", "skimage/data/astronaut.png", (2, 2)),
    Photograph("brick", "texture", "skimage/data/brick.png", (2, 1)),
    Photograph("camera", "portrait", "skimage/data/camera.png", (2, 2)),
    Photograph("cell", "microscope", "skimage/data/cell.png"),
    Photograph("chelsea", "animal", "skimage/data/chelsea.png"),
    Photograph("china", "place", "sklearn/datasets/images/china.jpg", (2, 2)),
    Photograph("clock", "thing", "skimage/data/clock_motion.png"),
    Photograph("coffee", "thing", "skimage/data/coffee.png"),
    Photograph("coins", "thing", "skimage/data/coins.png", (2, 1)),
    Photograph("flower", "nature", "sklearn/datasets/images/flower.jpg"),
    Photograph("grass", "texture", "skimage/data/grass.png", (2, 1)),
    Photograph("gravel", "texture", "skimage/data/gravel.png", (2, 1)),
    Photograph("horse", "animal", "skimage/data/horse.png"),
    Photograph("hubble", "space", "skimage/data/hubble_deep_field.jpg", (3, 2)),
    Photograph("moon", "space", "skimage/data/moon.png", (2, 2)),
    Photograph("motorcycle", "thing", "skimage/data/motorcycle_left.png", (2, 2)),
    Photograph("page", "document", "skimage/data/page.png"),
    Photograph("retina", "microscope", "skimage/data/retina.jpg", (2, 2)),
    Photograph("rocket", "space", "skimage/data/rocket.jpg", (2, 1)),
    Photograph("text", "document", "skimage/data/text.png", (2, 1)),
    Photograph("tissue", "microscope", "skimage/data/ihc.png", (2, 2)),
)

LIGHTS = ("night", "day", "evening")  # the thirds from cold to warm


@dataclass(frozen=True)
class Sample:
    """One picture of the sample library and the scripted rater's score of it (0–10).

    `medium` is photograph, print or painting; `source` the part of a photograph, or the painting
    itself."""

    path: Path
    source: str
    subject: str
    medium: str
    light: str
    score: int


# --- the rater -----------------------------------------------------------------------------------


def warmth(picture: Image.Image) -> float:
    """How much redder than blue the picture is, from -1 to 1, over all its pixels."""
    red, _, blue = np.asarray(picture.convert("RGB").resize((64, 64)), float).mean((0, 1))
    return float(red - blue) / 255


def scripted_rater(picture: Image.Image, random: np.random.Generator) -> int:
    """A pretended taste: warm light. round(5 + 5 × tanh(3.5 × warmth) + noise), within 0–10.

    It looks at the pixels alone, whatever they show. The noise is normal with RATER_NOISE points,
    so even this rater does not agree with itself, as no person does.
    """
    liked = 5 + 5 * np.tanh(LIKES_WARMTH * warmth(picture))
    return int(np.clip(round(liked + random.normal(0, RATER_NOISE)), 0, 10))


# --- the pictures --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a photograph; parts do not overlap."""

    photograph: Photograph
    number: int
    picture: Image.Image

    @property
    def source(self) -> str:
        return f"{self.photograph.name}-{self.number}"


@dataclass(frozen=True)
class Plan:
    """What a picture will be, before it is painted, or cut from a `part` that was shown `again`
    so often; `random` goes on where the plan ended."""

    source: str
    subject: str
    medium: str
    light: float
    random: np.random.Generator
    part: Part | None = None
    again: int = 0


def planned(count: int, seed: int) -> Iterator[Plan]:
    """The pictures of a library, without painting any. Raises `Unavailable` without photographs."""
    parts = [part for photograph in PHOTOGRAPHS for part in _parts(photograph)]
    if not parts:
        raise Unavailable(
            "The sample photographs are missing: neither scikit-image nor scikit-learn has them.",
            "Reinstall both, or start with a folder of your own pictures.",
        )
    # By chance, so that no photograph is all in one light: the parts again and again.
    order = np.random.default_rng((seed, count)).permutation(len(parts))
    cut = 0
    for number in range(count):
        random = np.random.default_rng((seed, number))
        light = float(random.uniform())
        if number % 5 in (0, 2):
            part, again = parts[order[cut % len(parts)]], cut // len(parts)
            cut += 1
            medium = "print" if random.uniform() < 0.3 else "photograph"
            yield Plan(part.source, part.photograph.subject, medium, light, random, part, again)
        else:
            subject = list(MOTIFS)[random.integers(len(MOTIFS))]
            yield Plan(f"{subject}-{number:03d}", subject, "painting", light, random)


def make_sample_library(
    folder: Path,
    count: int = COUNT,
    progress: Callable[[int, int], object] | None = None,
    seed: int = 0,
) -> list[Sample]:
    """Write `count` pictures into `folder` and return them with the rater's scores.

    Two of five are cut from photographs, the others are painted. A name tells number and source:
    `103-chelsea-0.jpg`. Beside each lies a sidecar of the same stem: {"tags": [subject, medium,
    light], "source": …}. The same seed and library versions give the same bytes. Takes about 30 ms
    a picture. `progress` is called with (done, count).
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, plan in enumerate(planned(count, seed)):
        subject, medium, light, random = plan.subject, plan.medium, plan.light, plan.random
        if plan.part is None:
            picture = paint(subject, light, random)
        else:
            picture = _shown(plan.part.picture, medium, light, plan.again, random)
        shade = LIGHTS[min(int(3 * light), 2)]
        stem = plan.source if plan.part is None else f"{number:03d}-{plan.source}"
        path = folder / f"{stem}.jpg"
        write_atomic(path, _jpeg(picture))
        sidecar = {"tags": [subject, medium, shade], "source": plan.source}
        write_atomic(path.with_suffix(".json"), json_text(sidecar, ascii_only=True).encode())
        score = scripted_rater(picture, random)
        samples.append(Sample(path, plan.source, subject, medium, shade, score))
        if progress:
            progress(number + 1, count)
    return samples


def installed(file: str) -> Image.Image | None:
    """The photograph, if it is really inside the installed libraries. Read as a file, because the
    libraries' own loaders may try to download what is missing."""
    package, _, rest = file.partition("/")
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        if (path := Path(root) / rest).is_file():
            with Image.open(path) as image:
                return image.convert("RGB")
    return None


def _parts(photograph: Photograph) -> Iterator[Part]:
    picture = installed(photograph.file)
    if picture is None:
        return
    across, down = photograph.parts
    wide, high = picture.width // across, picture.height // down
    for number in range(across * down):
        left, top = number % across * wide, number // across * high
        yield Part(photograph, number, picture.crop((left, top, left + wide, top + high)))


def _shown(
    picture: Image.Image, medium: str, light: float, again: int, random: np.random.Generator
) -> Image.Image:
    """The picture in that light. A part that is shown `again` is cut elsewhere, mirrored or turned,
    so that no two of it are the same view."""
    width, height = (round(side * random.uniform(SMALLEST_CUT, 1.0)) for side in picture.size)
    left = int(random.integers(0, picture.width - width + 1))
    top = int(random.integers(0, picture.height - height + 1))
    cut = picture.crop((left, top, left + width, top + height))
    cut.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    if again % 2:
        cut = ImageOps.mirror(cut)
    if again > 1:
        cut = cut.rotate(90, expand=True)
    return _print(cut, light, random) if medium == "print" else _lit(cut, light, random)


def _lit(picture: Image.Image, light: float, random: np.random.Generator) -> Image.Image:
    """As under an evening sun (1), at noon (0.5) or by moonlight (0), and over- or underexposed."""
    warm = 2 * light - 1
    gains = np.array([1 + 0.4 * warm, 1 + 0.05 * warm, 1 - 0.45 * warm])
    exposure = 2.0 ** random.uniform(-0.7, 0.3)
    pixels = np.asarray(picture, float) * gains * exposure
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _print(picture: Image.Image, light: float, random: np.random.Generator) -> Image.Image:
    """As a screen print in three to six inks."""
    inks = int(random.integers(3, 7))
    palette = Palette(light, random.uniform(0.6, 1.0), random)
    colours = np.array([palette.colour(0.12 + 0.85 * i / (inks - 1)) for i in range(inks)])
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), float)
    return Image.fromarray(colours[(grey / 256 * inks).astype(int)].astype(np.uint8))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
