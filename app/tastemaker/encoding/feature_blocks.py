"""Blocks of features that an encoder holds beside those its network ends at.

- `crop`: the network's own features of the picture as it was trained to see it, always there;
- `layers`: how layers on the way answered: mean and standard deviation of every channel over the
  positions (the patches of a transformer, the cells of a map), for `LAYERS` layers evenly spaced.
  The same pass gives them;
- `whole`: the features of the whole picture squeezed to a square, a second pass.

The bundled network has `stages` in the place of `layers` (`efficientnet`).

The numbers of one block are many times as large as those of another, and a linear head with one
penalty would hear only the loudest. So each block of each image is scaled to length `LENGTH`: a
rule that needs no data, hence no fitting and no second import. As a power of two in the middle of
float16's range, it costs no precision there.

torch is imported where it is needed: the web process reads this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tastemaker.encoding.preprocessing import Preprocessing
from tastemaker.errors import Invalid

if TYPE_CHECKING:
    import torch

BLOCKS = ("layers", "whole")  # those to add to any network, in the order they are stored
LAYERS = 4
LENGTH = 32.0

# Pixels → the network's features (n, d) and, if asked, what its layers answered on the way:
# (n, channels, height, width) each, of those with these indices or of all.
Answers = Callable[
    ["torch.Tensor", "Sequence[int] | None"], "tuple[torch.Tensor, list[torch.Tensor]]"
]


def ordered(
    network: str, known: Sequence[str], named: Sequence[str], tag: str = "…"
) -> tuple[str, ...]:
    """Blocks as somebody named them, in the order in which they are stored. Raises `Invalid` for
    one that there is not, or that is named twice."""

    def written(blocks: Sequence[str]) -> str:
        return f"{'+'.join((network, *blocks))}/{tag}"

    if wrong := [block for block in named if block not in known]:
        raise Invalid(
            f"{network} has no block “{wrong[0]}”.",
            f"It has {' and '.join(known)}, beside its own features: {written(known)}.",
        )
    chosen = tuple(block for block in known if block in named)
    if len(chosen) < len(named):
        raise Invalid("A block is named twice.", f"Write {written(chosen)}.")
    return chosen


def views_of(name: str, blocks: Sequence[str], crop: Preprocessing) -> tuple[Preprocessing, ...]:
    """The ways in which each picture is fitted for these blocks, that of the network first. Raises
    `Invalid` for `whole` beside a network that squeezes its pictures anyway."""
    if "whole" not in blocks:
        return (crop,)
    if crop.resize_mode == "squash":
        raise Invalid(
            f"The network of {name} sees the whole picture as it is.", "Leave out the block whole."
        )
    return crop, replace(crop, resize_to=crop.size, resize_mode="squash")


def spaced(count: int) -> tuple[int, ...]:
    """Which of so many layers are read: `LAYERS` evenly spaced ones, the last among them."""
    return tuple(
        sorted({max(1, round(count * part / LAYERS)) - 1 for part in range(1, LAYERS + 1)})
    )


def reader(
    answers: Answers, blocks: Sequence[str], layers: Sequence[int]
) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What computes the vectors: (n · views, 3, size, size) normalised pixels, the views of a
    picture behind one another, → (n, dim), the blocks beside one another."""
    count = 1 + ("whole" in blocks)

    def read(pixels: "torch.Tensor") -> "torch.Tensor":
        import torch

        features, maps = answers(pixels, layers if "layers" in blocks else ())
        found = [features[::count]]
        if "layers" in blocks:
            found.append(torch.cat([part for x in maps for part in moments(x[::count])], 1))
        if "whole" in blocks:
            found.append(features[1::count])
        return torch.cat([scaled(block.float()) for block in found], 1)

    return read


def moments(x: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """(n, channels, height, width) → mean and standard deviation over the positions, both
    (n, channels) float32. `torch.std_mean` takes eight times as long, 12 % of the whole pass."""
    flat = x.float().flatten(2)
    mean = flat.mean(2, keepdim=True)
    apart = flat - mean
    return mean[:, :, 0], apart.mul_(apart).mean(2).sqrt()


def scaled(block: "torch.Tensor") -> "torch.Tensor":
    """(n, d) → (n, d) with rows of length `LENGTH`. A row of zeros stays one; a row with a number
    that is not finite holds at least one afterwards too, so its picture is set aside."""
    lengths: torch.Tensor = block.norm(dim=1, keepdim=True)
    return block * (LENGTH / lengths.clamp(min=1e-6))


def recipe(blocks: Sequence[str], layers: Sequence[int] = ()) -> dict[str, Any]:
    """What a composite's fingerprint covers beyond that of the plain encoder."""
    read = {"layers": list(layers)} if "layers" in blocks else {}
    return {"blocks": ["crop", *blocks], "block_length": LENGTH} | read
