"""Damage done to clean pictures on purpose, so that a classifier has twins to learn from.

How a twin is damaged follows from a seed and from the content of the clean file alone: the same
picture gives the same twin, whatever else is imported and in whatever order.
"""

import hashlib
import io
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tastemaker.errors import Invalid
from tastemaker.files import write_atomic
from tastemaker.pictures.pictures import Examined, KnownPicture, Limits, decode, ingest, own_faults

KINDS = {
    "jpeg": "JPEG compression at a random quality from 10 to 60",
    "webp": "WebP compression at a random quality from 5 to 60",
    "chromatic": "red and blue shifted apart by 2 to 6 pixels",
    "noise": "noise with a standard deviation of 8 to 32 of 255",
    "blur": "blurred with a radius of 1 to 4 pixels",
}


@dataclass(frozen=True)
class Damage:
    """What was done to a picture: one of `KINDS`, and its parameters by name, all that it needs to
    be done again."""

    kind: str
    parameters: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, kind: str, **parameters: int) -> "Damage":
        return cls(kind, tuple(parameters.items()))

    @property
    def given(self) -> dict[str, int]:
        return dict(self.parameters)

    @property
    def in_words(self) -> str:
        told = (f"{name} {value}" for name, value in self.parameters if name != "seed")
        return f"{self.kind}, {', '.join(told)}"

    @property
    def suffix(self) -> str:
        """Of the file: what compresses is kept as it comes, the rest without further loss."""
        return {"jpeg": ".jpg", "webp": ".webp"}.get(self.kind, ".png")

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Damage":
        return cls.of(**told)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.given}


@dataclass(frozen=True)
class TwinOrder:
    """A twin to be made of a clean file, and where to put it."""

    clean: KnownPicture
    damage: Damage
    to: Path


def validate_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Kinds of damage as somebody named them, in the order of `KINDS`. Raises `Invalid`."""
    named = [kind.strip().lower() for kind in kinds if kind.strip()]
    if wrong := [kind for kind in named if kind not in KINDS]:
        raise Invalid(f"“{wrong[0][:40]}” is no kind of damage.", f"There are: {', '.join(KINDS)}.")
    if not named:
        raise Invalid("No kind of damage was named.", f"There are: {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in named)


def drawn(kinds: tuple[str, ...], sha256: str, seed: int) -> Damage:
    """The damage that the clean file of this hash gets: one of the kinds, with its strength."""
    told = f"{seed}:{','.join(kinds)}:{sha256}"
    dice = random.Random(hashlib.sha256(told.encode()).digest())
    kind = dice.choice(kinds)
    if kind in ("jpeg", "webp"):
        return Damage.of(kind, quality=dice.randint(10 if kind == "jpeg" else 5, 60))
    if kind == "chromatic":
        right, down = 0, 0
        while max(abs(right), abs(down)) < 2:
            right, down = dice.randint(-6, 6), dice.randint(-6, 6)
        return Damage.of(kind, right=right, down=down)
    if kind == "noise":
        return Damage.of(kind, deviation=dice.randint(8, 32), seed=dice.getrandbits(32))
    return Damage.of(kind, tenths=dice.randint(10, 40))


def damaged(picture: Image.Image, damage: Damage) -> bytes:
    """The file of the damaged twin of a picture in mode RGB, without any metadata. Raises
    `BadImage` for a picture that it cannot be done to."""
    with own_faults("It cannot be damaged in this way"):
        given, buffer = damage.given, io.BytesIO()
        if damage.kind == "jpeg":
            picture.save(buffer, "JPEG", quality=given["quality"], subsampling="4:2:0")
        elif damage.kind == "webp":
            picture.save(buffer, "WEBP", quality=given["quality"], method=4, exact=True)
        else:
            _changed(picture, damage).save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()


def _changed(picture: Image.Image, damage: Damage) -> Image.Image:
    given = damage.given
    if damage.kind == "blur":
        return picture.filter(ImageFilter.GaussianBlur(given["tenths"] / 10))
    pixels = np.asarray(picture)
    if damage.kind == "chromatic":
        shift = (given["down"], given["right"])
        back = (-given["down"], -given["right"])
        red, green, blue = (pixels[:, :, channel] for channel in range(3))
        return Image.fromarray(np.dstack([_shifted(red, shift), green, _shifted(blue, back)]))
    noise = np.random.default_rng(given["seed"]).normal(0, given["deviation"], pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))


def _shifted(channel: Any, by: tuple[int, int]) -> Any:
    """(height, width) moved by (down, right) pixels; what comes in at the edges is the edge."""
    rows, columns = (
        np.clip(np.arange(size) - step, 0, size - 1)
        for size, step in zip(channel.shape, by, strict=True)
    )
    return channel[rows[:, None], columns]


def make_twin(order: TwinOrder, thumbs_root: Path, limits: Limits | None = None) -> Examined:
    """Write the twin's file, and its thumbnails; its facts. For a child of `DecodePool`. Raises
    `BadImage`, also where the clean file holds other bytes by now."""
    content = damaged(decode(order.clean, limits), order.damage)
    write_atomic(order.to, content)
    return ingest(order.to, thumbs_root, limits)
