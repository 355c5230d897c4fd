"""A picture becomes the input of a network: resized and cut, whatever its shape."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.pictures.frames import FrameRule
from tastemaker.pictures.pictures import Limits, Source, decode_frames, own_faults

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


@dataclass(frozen=True)
class Tile(Preprocessing):
    """One of five parts of a picture, each an input of its own: number `place` of the corners (0–3,
    row by row) and the centre (4).

    By the way “full-size” a tile is `size` × `size` pixels as they are: nothing is resized, and a
    picture too small for it is mirrored at its edges. By the way “original” tiles are those of the
    CityClassifiers: of twice the encoder's size, then fitted like a picture; where the short side
    of the picture is no more than that, the whole of it; and one with a long side above 1536 is
    resized to 1536 on its *short* side first, which enlarges some.
    """

    place: int = 0
    way: str = "full-size"


TILES = 5
ORIGINAL_SIDE = 1536  # pixels


def read_fitted(
    item: tuple[int, Source],
    views: tuple[Preprocessing, ...],
    limits: Limits | None,
    frames: FrameRule,
) -> NDArray[np.uint8]:
    """A numbered file → (frames, pixels) uint8, one frame for a still picture. For a child of
    `DecodePool`. Raises `BadImage`."""
    return np.stack(decode_frames(item[1], lambda p: fitted_views(p, views), limits, frames))


def fitted_views(picture: Image.Image, views: tuple[Preprocessing, ...]) -> NDArray[np.uint8]:
    """A picture, decoded once, in each of these ways behind one another → (pixels,) uint8. Raises
    `BadImage`."""
    resized: Resized = {}
    return np.concatenate([fitted(picture, how, resized).reshape(-1) for how in views])


Resized = dict[int, Image.Image]  # short side → the picture, for the tiles that share it


def fitted(
    picture: Image.Image, how: Preprocessing, resized: Resized | None = None
) -> NDArray[np.uint8]:
    """A picture → (size, size, 3) uint8, with the roundings of torchvision, which these networks
    were trained with. The mode is converted before resizing: a palette picture would be resized by
    nearest neighbour. Raises `BadImage`, whatever goes wrong."""
    with own_faults("The picture cannot be made ready for the encoder"):
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        if isinstance(how, Tile):
            return _tile(picture, how, {} if resized is None else resized)
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


def _tile(picture: Image.Image, how: Tile, resized: Resized) -> NDArray[np.uint8]:
    if how.way == "full-size":
        size = tuple(max(side, how.size) for side in picture.size)
        left, top = _corner(size, how.size, how.place)
        if size == picture.size:
            return np.array(picture.crop((left, top, left + how.size, top + how.size)))
        missing = [(0, wanted - had) for wanted, had in zip(size, picture.size, strict=True)]
        mirrored = np.pad(np.asarray(picture), [*reversed(missing), (0, 0)], mode="symmetric")
        return np.array(mirrored[top : top + how.size, left : left + how.size])
    side = 2 * how.resize_to
    if min(picture.size) <= side:
        return np.array(_fitted(picture, how))
    if max(picture.size) <= ORIGINAL_SIDE:
        left, top = _corner(picture.size, side, how.place)
        part = picture.crop((left, top, left + side, top + side))
        return np.array(_fitted(part, how))
    short = min(picture.size)
    width, height = (int(ORIGINAL_SIDE * edge / short) for edge in picture.size)
    left, top = _corner((width, height), side, how.place)
    smooth = Image.Resampling.BILINEAR  # torchvision's own choice, which the original leaves to it
    if max(picture.size) > LONG * short:
        return np.array(
            _fitted(_cut_first(picture, (width, height), (left, top), side, smooth), how)
        )
    if ORIGINAL_SIDE not in resized:
        resized[ORIGINAL_SIDE] = picture.resize((width, height), smooth)
    part = resized[ORIGINAL_SIDE].crop((left, top, left + side, top + side))
    return np.array(_fitted(part, how))


def _corner(size: tuple[int, ...], side: int, place: int) -> tuple[int, int]:
    """(left, top) of the tile at a place of a picture of this (width, height)."""
    right, bottom = size[0] - side, size[1] - side
    if place == TILES - 1:
        return round(right / 2), round(bottom / 2)
    return right * (place % 2), bottom * (place // 2)


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
