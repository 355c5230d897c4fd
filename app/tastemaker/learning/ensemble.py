"""The city96 layout as a packed ensemble: S subnetworks of an S-th of its widths, side by side.

No subnetwork meets another one; each learns the labels by itself, and the logit is the mean of
theirs (Laurent et al., *Packed-Ensembles for Efficient Uncertainty Estimation*, 2023). In the file
that is one head with zeros between the blocks. With four of them a sample costs two fifths of the
whole layout's products, for about the same errors (docs/decisions/0018).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import block_diag
from torch import Tensor

from tastemaker.learning.checkpoints import Array, Tensors, layout
from tastemaker.learning.heads import silence_lane, training_logit

FIRST, LAST = "up.0", "down.5"  # all subnetworks see every feature, and say one number each

Weights = dict[str, Tensor]


def initial_weights(features: int, subnetworks: int) -> Weights:
    """Weights and biases (S, 1, out), as torch begins layers of these widths, from its global
    random state. The first layer is one matrix for all (units, features), of the units in turn;
    the others are S matrices (S, in, out), whose slopes torch finds without turning anything round.
    The first subnetwork has a silent lane, so that a linear head can be put beside it.
    """
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


def logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> 2z of every subnetwork (S, B), with dropout where there is a generator.
    Each layer in the type of its weights: the large ones may be narrow, the narrow end not."""

    def layer(name: str, x: Tensor) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        x = x.to(weight.dtype)
        if name == FIRST:
            subnetworks = len(w[f"{LAST}.weight"])
            units = F.linear(x, weight, bias).view(len(x), subnetworks, -1)
            return units.transpose(0, 1).contiguous()
        return torch.baddbmm(bias, x, weight)

    return training_logit(layer, x, noise)


def as_one_head(w: dict[str, Array]) -> Tensors:
    """The 16 tensors of the head whose logit is the mean over the subnetworks, exactly up to
    rounding."""
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
