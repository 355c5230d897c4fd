"""The city96 layout as a packed ensemble: S subnetworks of an S-th of its widths, side by side.

No subnetwork meets another one; each learns the labels by itself, and the logit is the mean of
theirs (Laurent et al., *Packed-Ensembles for Efficient Uncertainty Estimation*, 2023). In the file
that is one head with zeros between the blocks. With four of them a sample costs two fifths of the
whole layout's products, for about the same errors (docs/decisions/0018).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import block_diag
from torch import Tensor

from app.learning.checkpoints import Array, Tensors, layout
from app.learning.heads import silence_lane, training_logit

FIRST, LAST = "up.0", "down.5"  # all subnetworks see every feature, and say one number each

Weights = dict[str, Tensor]


def begin(features: int, subnetworks: int) -> Weights:
    """Weights (S, out, in) and biases (S, 1, out), as torch begins layers of these widths, from its
    global random state. The first subnetwork has a silent lane, so that a linear head can be put
    beside it."""
    weights: Weights = {}
    for name, shape in layout(features).items():
        layer, _, part = name.rpartition(".")
        if part == "bias":
            continue
        rows = shape[0] if layer == LAST else shape[0] // subnetworks
        columns = shape[1] if layer == FIRST else shape[1] // subnetworks
        reach = columns**-0.5
        weights[name] = torch.empty(subnetworks, rows, columns).uniform_(-reach, reach)
        weights[f"{layer}.bias"] = torch.empty(subnetworks, 1, rows).uniform_(-reach, reach)
    first = {name: value[0] for name, value in weights.items()}
    silence_lane({name: v.view(-1) if name.endswith("bias") else v for name, v in first.items()})
    return weights


def logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """x (B, features) -> 2z of every subnetwork (S, B), with dropout where there is a generator.
    Each layer in the type of its weights: the large ones may be narrow, the narrow end not."""

    def layer(name: str, x: Tensor) -> Tensor:
        weight = w[f"{name}.weight"]
        return torch.baddbmm(w[f"{name}.bias"], x.to(weight.dtype), weight.mT)

    return training_logit(layer, x.expand(len(w["up.0.weight"]), -1, -1), noise)


def as_one_head(w: dict[str, Array]) -> Tensors:
    """The 16 tensors of the head whose logit is the mean over the subnetworks, exactly up to
    rounding."""
    head: Tensors = {}
    for name, value in w.items():
        layer, _, part = name.rpartition(".")
        if layer == LAST:
            mean = value / np.float32(len(value))
            head[name] = np.hstack(list(mean)) if part == "weight" else mean.sum(axis=(0, 1))
        elif part == "bias":
            head[name] = value.ravel()
        else:
            head[name] = np.vstack(list(value)) if layer == FIRST else block_diag(*value)
    return head
