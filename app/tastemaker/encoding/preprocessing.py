"""A picture becomes the input of a network: resized and cut, whatever its shape."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.pictures.pictures import Limits, decode, own_faults

LONG = 64  # how often the short side goes into the long one of a picture that is cut first
REACH = 3  # pixels that the widest filter (Lanczos) looks to each side, before it is stretched


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input: resized by `interpolation` (to `resize_to` pixels
    on its shortest edge, then cut to the central `size` × `size`; or `squash`ed to that square),
    divided by 255, minus `mean`, divided by `std`."""

    size: int
    resize_to: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_fitted(
    item: tuple[int, Path | bytes], views: tuple[Preprocessing, ...], limits: Limits | None
) -> NDArray[np.uint8]:
    """A numbered file → (pixels,) uint8. For a child of `DecodePool`. Raises `BadImage`."""
    return fitted_views(decode(item[1], limits), views)


def fitted_views(picture: Image.Image, views: tuple[Preprocessing, ...]) -> NDArray[np.uint8]:
    """A picture, decoded once, in each of these ways behind one another → (pixels,) uint8. Raises
    `BadImage`."""
    return np.concatenate([fitted(picture, how).reshape(-1) for how in views])


def fitted(picture: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """A picture → (size, size, 3) uint8, with the roundings of torchvision, which these networks
    were trained with. The mode is converted before resizing: a palette picture would be resized by
    nearest neighbour. Raises `BadImage`, whatever goes wrong."""
    with own_faults("The picture cannot be made ready for the encoder"):
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        return np.array(_fitted(picture, how))


def _fitted(picture: Image.Image, how: Preprocessing) -> Image.Image:
    filter = Image.Resampling[how.interpolation.upper()]
    if how.resize_mode == "squash":
        return picture.resize((how.size, how.size), filter)
    short = min(picture.size)
    width, height = (int(how.resize_to * side / short) for side in picture.size)
    left, top = round((width - how.size) / 2), round((height - how.size) / 2)
    if max(picture.size) > LONG * short:
        return _cut_first(picture, (width, height), (left, top), how.size, filter)
    resized = picture.resize((width, height), filter)
    return resized.crop((left, top, left + how.size, top + how.size))


def _cut_first(
    picture: Image.Image,
    full: tuple[int, int],
    corner: tuple[int, int],
    size: int,
    filter: Image.Resampling,
) -> Image.Image:
    """What resizing to `full` and then cutting `size` × `size` at `corner` gives, without the
    pixels that would be cut away: of one row of 9,000,000 they would be gigabytes.

    Pillow takes the part to resize in single precision, so a value may be off by one; pictures of
    ordinary shapes do not come here. Whole pixels are cut first, with what the filter looks at
    beyond the part, so that the coordinates left are small.
    """
    crop, box = [], []
    for side, resized, begin in zip(picture.size, full, corner, strict=True):
        scale = side / resized
        margin = math.ceil(REACH * max(scale, 1.0)) + 1
        low = max(0, math.floor(begin * scale) - margin)
        high = min(side, math.ceil((begin + size) * scale) + margin)
        crop.append((low, high))
        box.append((max(0.0, begin * scale - low), min((begin + size) * scale, side) - low))
    (left, right), (top, bottom) = crop
    (x0, x1), (y0, y1) = box
    return picture.crop((left, top, right, bottom)).resize(
        (size, size), filter, box=(x0, y0, x1, y1)
    )
