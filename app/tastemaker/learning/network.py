"""The networks that gradient descent trains, and how each becomes the 16 tensors of a head.

`City96` is the layout as a torch module, for the recipe of the original. The recipe `city96` trains
the same layout as a packed ensemble: S subnetworks of an S-th of its widths, side by side. No
subnetwork meets another one; each learns the labels by itself, and the logit is the mean of theirs
(Laurent et al., *Packed-Ensembles for Efficient Uncertainty Estimation*, 2023). In the file that is
one head with zeros between the blocks. With four of them a sample costs two fifths of the whole
layout's products, for about the same errors (docs/decisions/0018). The recipe `mlp` trains a linear
head, and hidden units that correct it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import block_diag
from torch import Tensor, nn

from tastemaker.learning.city96 import (
    NECK_SLOPE,
    TRUNK_SLOPE,
    Array,
    Tensors,
    layout,
    mlp_head,
    silence_lane,
)
from tastemaker.learning.recipes import Recipe
from tastemaker.learning.ridge import Ridge

DROPOUT = 0.1  # before the LeakyReLU of the neck, in training
MLP_HIDDEN = 256  # units of the small network
FIRST, LAST = "up.0", "down.5"  # every subnetwork reads all features and gives one number

Weights = dict[str, Tensor]


# ---------------------------------------------------------------- the layout in torch


class Residual(nn.Module):
    """ReLU(long(u) + u), for u (…, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Linear(width, width),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(width, width),
        )

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(self.long(u) + u)


class City96(nn.Module):
    """The trainable form of the layout; its state dict has exactly the 16 names."""

    def __init__(self, features: int, outputs: int = 1) -> None:
        super().__init__()
        hidden, _ = layout(features, outputs)["up.0.weight"]
        self.up = nn.Sequential(nn.Linear(features, hidden), Residual(hidden))
        self.down = nn.Sequential(
            nn.Linear(hidden, 128),
            nn.Linear(128, 64),
            nn.Dropout(DROPOUT),
            nn.LeakyReLU(NECK_SLOPE),
            nn.Linear(64, 32),
            nn.Linear(32, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> z (N, outputs), before the tanh or the softmax."""
        z: Tensor = self.down(self.up(x))
        return z


def tensors_of(module: City96) -> Tensors:
    """A copy of the module's weights as float32 arrays."""
    return {
        name: np.array(value.detach().float().cpu().numpy())
        for name, value in module.state_dict().items()
    }


def forward_logit(
    layer: Callable[[str, Tensor], Tensor], x: Tensor, noise: torch.Generator | None
) -> Tensor:
    """2z (...,) of x (..., features), with dropout where there is a generator; `layer(name, x)` is
    the linear layer of that name, whatever holds its weights.

    Not by way of the module, whose dropout draws from torch's global random state: heads train side
    by side in threads, and each must be the same whatever the others do.
    """
    u = layer("up.0", x)
    h = F.leaky_relu_(layer("up.1.long.0", u), TRUNK_SLOPE)
    h = F.leaky_relu_(layer("up.1.long.2", h), TRUNK_SLOPE)
    r = F.relu_(layer("up.1.long.4", h).add_(u))
    neck = layer("down.1", layer("down.0", r))
    if noise is not None:
        kept = torch.rand(neck.shape, generator=noise) >= DROPOUT
        neck = neck * kept / (1 - DROPOUT)
    z = layer("down.5", layer("down.4", F.leaky_relu(neck, NECK_SLOPE)))
    return 2 * z[..., 0]


def city96_logit(w: Mapping[str, Tensor], x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> 2z (B,) of a module's weights; dropout where there is a generator."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    return forward_logit(layer, x, noise)


# ---------------------------------------------------------------- what the recipes train


@dataclass(frozen=True)
class Network:
    """How a network begins, what it computes and how it becomes 16 tensors.

    `begin(recipe, features, start)` gives named float32 weights from torch's global random state,
    and from a linear head on the same inputs where the network `starts_linear`;
    `logit(weights, x, noise)` maps (B, features) to the logits (subnetworks, B), with dropout where
    there is a generator; that of the head is their mean;
    `export(weights)` is the head in the city96 layout, on standardised inputs.
    """

    begin: Callable[[Recipe, int, Ridge | None], Weights]
    logit: Callable[[Weights, Tensor, torch.Generator | None], Tensor]
    export: Callable[[dict[str, Array]], Tensors]
    starts_linear: bool = False


def begin_packed(recipe: Recipe, features: int, start: Ridge | None) -> Weights:
    """Weights and biases (S, 1, out), as torch begins layers of these widths, from its global
    random state. The first layer is one matrix for all (units, features), of the units in turn;
    the others are S matrices (S, in, out), whose gradients torch computes without a transpose.
    The first subnetwork has a silent lane, so that a linear head can be put beside it.
    """
    subnetworks = recipe.subnetworks
    weights: Weights = {}
    for name, shape in layout(features).items():
        layer, _, part = name.rpartition(".")
        if part == "bias":
            continue
        out = shape[0] if layer in (FIRST, LAST) else shape[0] // subnetworks
        into = shape[1] if layer == FIRST else shape[1] // subnetworks
        reach = into**-0.5
        sizes = (out, into) if layer == FIRST else (subnetworks, into, out)
        weights[name] = torch.empty(sizes).uniform_(-reach, reach)
        bias = (out,) if layer == FIRST else (subnetworks, 1, out)
        weights[f"{layer}.bias"] = torch.empty(bias).uniform_(-reach, reach)
    silence_lane({name: _of_first(name, value) for name, value in weights.items()})
    return weights


def _of_first(name: str, value: Tensor) -> Tensor:
    """The first subnetwork's part, as a view in the shape that the layout has."""
    layer, _, part = name.rpartition(".")
    if layer == FIRST:
        return value
    return value[0].view(-1) if part == "bias" else value[0].mT


def packed_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> 2z of every subnetwork (S, B), with dropout where there is a generator.
    Each layer in the type of its weights: the large ones may be narrow, the small end not."""

    def layer(name: str, x: Tensor) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        x = x.to(weight.dtype)
        if name == FIRST:
            subnetworks = len(w[f"{LAST}.weight"])
            units = F.linear(x, weight, bias).view(len(x), subnetworks, -1)
            return units.transpose(0, 1).contiguous()
        return torch.baddbmm(bias, x, weight)

    return forward_logit(layer, x, noise)


def export_packed(w: dict[str, Array]) -> Tensors:
    """The head whose logit is the mean over the subnetworks, exact up to rounding."""
    head: Tensors = {}
    for name, value in w.items():
        layer, _, part = name.rpartition(".")
        if layer == FIRST:
            head[name] = value
        elif layer == LAST:
            mean = value / np.float32(len(value))
            head[name] = mean.sum(axis=(0, 1)) if part == "bias" else np.vstack(list(mean)).T
        elif part == "bias":
            head[name] = value.ravel()
        else:
            head[name] = block_diag(*value.transpose(0, 2, 1))
    return head


def begin_mlp(recipe: Recipe, features: int, start: Ridge | None) -> Weights:
    """The correction begins at nothing, so the network begins as the linear head."""
    first = torch.nn.Linear(features, MLP_HIDDEN)
    weights, bias = start.raw() if start else (np.zeros(features, np.float32), 0.0)
    return {
        "in.weight": first.weight.detach().clone(),
        "in.bias": first.bias.detach().clone(),
        "out.weight": torch.zeros(MLP_HIDDEN),
        "line.weight": torch.from_numpy(weights),
        "line.bias": torch.tensor(bias),
    }


def mlp_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> the logit (1, B): a linear head, and hidden units that correct it."""
    hidden = F.relu_(F.linear(x.to(w["in.weight"].dtype), w["in.weight"], w["in.bias"]))
    line = x.float() @ w["line.weight"] + w["line.bias"]
    return (line + hidden.float() @ w["out.weight"]).unsqueeze(0)


def export_mlp(w: dict[str, Array]) -> Tensors:
    """The linear part is two more hinges: s = ReLU(s) − ReLU(−s)."""
    line, level = w["line.weight"], float(w["line.bias"])
    inner = np.vstack([w["in.weight"], line, -line])
    inner_bias = np.append(w["in.bias"], [level, -level])
    return mlp_head(inner, inner_bias, np.append(w["out.weight"], [1, -1]), 0.0)


NETWORKS = {
    "city96": Network(begin_packed, packed_logit, export_packed),
    "mlp": Network(begin_mlp, mlp_logit, export_mlp, starts_linear=True),
}
