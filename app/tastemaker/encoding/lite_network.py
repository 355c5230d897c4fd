"""EfficientNet-Lite0 in torch alone (Tan & Le 2019; the Lite variant has neither squeezing nor
swish). timm has it too, but whoever imports timm waits for hundreds of other networks and for
torch's compiler, some three seconds; this loads in none.

Its parameters have the names that timm gives them, because fingerprints cover names, and every
operation is the one timm does: so its vectors are timm's to the last bit. `folded` gives the same
to the rounding of float32, and takes half the time.
"""

import copy
import functools
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tastemaker.encoding.bundled_layers import EPSILON, FEATURES, STAGES, STEM, same_padding


class SameConv(nn.Conv2d):
    """A convolution without a bias whose result is ⌈side ÷ stride⌉ long, padded as TensorFlow
    does: what is odd of it to the right and below."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int = 1, depthwise: bool = False
    ) -> None:
        groups = inner if depthwise else 1
        even = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(inner, outer, kernel, stride, even, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            above, below = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
            left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
            x = F.pad(x, (left, right, above, below))
        return super().forward(x)


class Norm(nn.BatchNorm2d):
    """A batch norm, with a ReLU6 behind it or not."""

    def __init__(self, channels: int, relu6: bool = True) -> None:
        super().__init__(channels, eps=EPSILON)
        self.relu6 = relu6

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu6(x, inplace=True) if self.relu6 else x


class Folded(nn.Conv2d):
    """A convolution that holds the norm behind it. What `SameConv` pads an even side with, to the
    right and below alone, is here a row and a column of zeros before the kernel and the same
    padding all around: no copy of the picture is made for its border."""

    def __init__(self, conv: SameConv, norm: Norm) -> None:
        longer = int(conv.stride[0] > 1)
        kernel = conv.kernel_size[0] + longer
        super().__init__(
            conv.in_channels, conv.out_channels, kernel, conv.stride[0], (kernel - 1) // 2,
            groups=conv.groups, device="meta",
        )  # fmt: skip
        assert norm.running_mean is not None and norm.running_var is not None
        parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        mean, var, gain, shift = (part.detach().double() for part in parts)
        weight, bias = fuse_conv_bn_weights(
            conv.weight.detach().double(), None, mean, var, norm.eps, gain, shift
        )
        self.weight = nn.Parameter(F.pad(weight, (longer, 0, longer, 0)).float())
        self.bias = nn.Parameter(bias.float())
        self.relu6 = norm.relu6

    def forward(self, x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
        if on_cpu and (at_once := _at_once()):
            return at_once(
                x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups,
                *(("hardtanh", [0.0, 6.0], "") if self.relu6 else ("none", [], "")),
            )  # fmt: skip
        x = super().forward(x)
        return F.relu6(x, inplace=True) if self.relu6 else x


@functools.cache
def _at_once() -> Callable[..., Tensor] | None:
    """oneDNN's convolution with the ReLU6 behind it, as torch's own compiler calls it: a fifth less
    time. torch does not promise it, so it is tried first; None where there is no such thing."""
    try:
        found: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise.default
        x, weight, bias = torch.full((1, 1, 2, 2), 9.0), torch.ones(1, 1, 1, 1), torch.zeros(1)
        made = found(x, weight, bias, (0, 0), (1, 1), (1, 1), 1, "hardtanh", [0.0, 6.0], "")
        return found if torch.equal(made, torch.full_like(x, 6.0)) else None
    except (AttributeError, RuntimeError):
        return None


class Separable(nn.Module):
    """The block of the first stage: depthwise, then pointwise."""

    PAIRS: ClassVar = (("conv_dw", "bn1"), ("conv_pw", "bn2"))  # which norm follows which

    def __init__(self, inner: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(inner, inner, kernel, stride, depthwise=True)
        self.bn1 = Norm(inner)
        self.conv_pw = SameConv(inner, width, 1)
        self.bn2 = Norm(width, relu6=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv_dw(x))
        found: Tensor = self.bn2(self.conv_pw(x))
        return found


class Inverted(nn.Module):
    """The block of the others: widened, depthwise, narrowed, and its input added where it fits."""

    PAIRS: ClassVar = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))

    def __init__(self, inner: int, width: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        wide = wider * inner
        self.conv_pw = SameConv(inner, wide, 1)
        self.bn1 = Norm(wide)
        self.conv_dw = SameConv(wide, wide, kernel, stride, depthwise=True)
        self.bn2 = Norm(wide)
        self.conv_pwl = SameConv(wide, width, 1)
        self.bn3 = Norm(width, relu6=False)
        self.adds = stride == 1 and inner == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv_pw(x))
        y = self.bn2(self.conv_dw(y))
        found: Tensor = self.bn3(self.conv_pwl(y))
        return found + x if self.adds else found


class LiteNetwork(nn.Module):
    """(n, 3, 224, 224) normalised pixels → (n, 1280) pooled features; no classifier."""

    PAIRS: ClassVar = (("conv_stem", "bn1"), ("conv_head", "bn2"))

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, 3, 2)
        self.bn1 = Norm(STEM)
        stages, inner = [], STEM
        for times, kernel, stride, wider, width in STAGES:
            blocks: list[nn.Module] = []
            for time in range(times):
                step = stride if time == 0 else 1
                blocks.append(
                    Inverted(inner, width, kernel, step, wider) if wider > 1
                    else Separable(inner, width, kernel, step)
                )  # fmt: skip
                inner = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConv(inner, FEATURES, 1)
        self.bn2 = Norm(FEATURES)

    def stem(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.bn1(self.conv_stem(pixels))
        return found

    def head(self, x: Tensor) -> Tensor:
        """What the last stage gives → (n, 1280)."""
        found: Tensor = self.bn2(self.conv_head(x))
        return F.adaptive_avg_pool2d(found, 1).flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(pixels)))


def load(file: str) -> LiteNetwork:
    """The network with the published weights of a file. Raises `ValueError` where they are of
    another network: they bear other names but come in the same order, the classifier last, so they
    are paired by order and every shape is checked."""
    *published, _, _ = torch.load(file, map_location="cpu", weights_only=True).values()
    with torch.device("meta"):  # without weights of its own, which would be drawn in vain
        network = LiteNetwork()
    wanted = network.state_dict()
    if [tensor.shape for tensor in published] != [tensor.shape for tensor in wanted.values()]:
        raise ValueError("the weights are of another network")
    network.load_state_dict(dict(zip(wanted, published, strict=True)), assign=True)
    return network


def folded(network: LiteNetwork) -> LiteNetwork:
    """Another one that computes the same to within some 2·10⁻⁶ of the largest feature, for pictures
    whose sides are multiples of 32: each norm is in the convolution before it."""
    quick = copy.deepcopy(network)
    for module in list(quick.modules()):
        for conv, norm in getattr(module, "PAIRS", ()):
            setattr(module, conv, Folded(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return quick
