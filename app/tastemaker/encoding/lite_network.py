"""EfficientNet-Lite0 in torch alone (Tan & Le 2019; the Lite variant has neither squeezing nor
swish). timm has it too, but whoever imports timm waits for hundreds of other networks and for
torch's compiler, some three seconds; this loads in none.

Its parameters have the names that timm gives them, because fingerprints cover names, and every
operation is the one timm does: so its vectors are timm's to the last bit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Separable(nn.Module):
    """The block of the first stage: depthwise, then pointwise."""

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
