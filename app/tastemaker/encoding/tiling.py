"""Tiles instead of the whole picture, for what is lost when it is made small: compression, noise.

`MODEL+tiles/TAG` sees the four corners and the centre of a picture at full size, and its vector is
the mean of theirs; `tiles-median`, `tiles-max` and `tiles-min` put them together in another way,
number by number. `original-tiles` and its variants cut as the CityClassifiers do
(`preprocessing.Tile`). One vector for each image remains, so everything after it is as ever
(`docs/decisions/0050`).

torch is imported where it is needed: the web process reads this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tastemaker.encoding.preprocessing import TILES, Preprocessing, Tile
from tastemaker.errors import Invalid

if TYPE_CHECKING:
    import torch

WAYS = {"tiles": "full-size", "original-tiles": "original"}
REDUCTIONS = ("mean", "median", "max", "min")
TILINGS = tuple(
    way + ("" if how == "mean" else f"-{how}") for way in WAYS for how in REDUCTIONS
)  # as names of encoders hold them


def taken_out(name: str, named: Sequence[str]) -> tuple[str | None, list[str]]:
    """The tiling among the blocks that a name has, and the others. Raises `Invalid` for two."""
    found = [word for word in named if word in TILINGS]
    others = [word for word in named if word not in TILINGS]
    if len(found) > 1:
        raise Invalid(f"“{name}” names two ways of cutting into tiles.", f"Keep +{found[0]}.")
    if found and "whole" in others:
        raise Invalid(
            f"“{name}” has the block whole, and sees tiles only.", "Leave out one of the two."
        )
    return (found[0] if found else None), others


def views_of(crop: Preprocessing, tiling: str) -> tuple[Preprocessing, ...]:
    """The five views of a picture, each fitted as `crop` says as far as its way resizes at all."""
    way, _ = _parts(tiling)
    return tuple(Tile(**asdict(crop), place=place, way=WAYS[way]) for place in range(TILES))


def reader(
    forward: "Callable[[torch.Tensor], torch.Tensor]", tiling: str
) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What computes the vectors: (n · 5, 3, size, size) normalised pixels → (n, dim)."""
    _, how = _parts(tiling)

    def read(pixels: "torch.Tensor") -> "torch.Tensor":
        of_tiles = forward(pixels).float().unflatten(0, (-1, TILES))
        found: torch.Tensor
        if how == "median":
            found = of_tiles.median(dim=1).values
        elif how == "mean":
            found = of_tiles.mean(dim=1)
        else:
            found = of_tiles.amax(dim=1) if how == "max" else of_tiles.amin(dim=1)
        return found

    return read


def recipe(tiling: str) -> dict[str, object]:
    """What the fingerprint covers of it beyond the views."""
    return {"tiles": TILES, "put_together": _parts(tiling)[1]}


def _parts(tiling: str) -> tuple[str, str]:
    """The way of cutting and of putting together."""
    way = next(way for way in WAYS if tiling == way or tiling.startswith(f"{way}-"))
    return way, tiling.removeprefix(way).removeprefix("-") or "mean"
