"""What descent can train: how a head begins, what it computes, and how it becomes 16 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.learning.checkpoints import Array, Tensors
from app.learning.heads import NECK_SLOPE, TRUNK_SLOPE, City96, mlp_head, silence_lane
from app.learning.ridge import Ridge

DROPOUT = 0.1  # of the city96 head
HIDDEN = 256  # units of the small MLP

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """How a head is begun, what it computes and how it becomes 16 tensors.

    `begin(features, start)` gives named float32 weights from torch's global random state, and from
    a linear head on the same inputs where the architecture `starts_linear`;
    `logit(weights, x, noise)` maps (B, features) to (B,), with dropout where there is a generator;
    `export(weights)` is the head in the city96 layout, on standardised inputs.
    """

    begin: Callable[[int, Ridge | None], Weights]
    logit: Callable[[Weights, Tensor, torch.Generator | None], Tensor]
    export: Callable[[dict[str, Array]], Tensors]
    starts_linear: bool = False


def city96_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """2z of the city96 head. The large layers in their own type, the narrow end in float32."""

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x.to(w[f"{name}.weight"].dtype), w[f"{name}.weight"], w[f"{name}.bias"])

    u = layer("up.0", x)
    h = F.leaky_relu_(layer("up.1.long.0", u), TRUNK_SLOPE)
    h = F.leaky_relu_(layer("up.1.long.2", h), TRUNK_SLOPE)
    r = F.relu_(layer("up.1.long.4", h) + u)
    neck = layer("down.1", layer("down.0", r))
    if noise is not None:
        kept = torch.rand(neck.shape, generator=noise) >= DROPOUT
        neck = neck * kept / (1 - DROPOUT)
    z = layer("down.5", layer("down.4", F.leaky_relu(neck, NECK_SLOPE)))
    return 2 * z[:, 0]


def _begin_city96(features: int, start: Ridge | None) -> Weights:
    """With a silent lane, so that a linear head can be put beside it."""
    begun = City96(features).state_dict()
    weights = {name: value.detach().clone() for name, value in begun.items()}
    silence_lane(weights)
    return weights


def mlp_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """The logit of the small MLP: a linear head, and hidden units that correct it."""
    hidden = F.relu_(F.linear(x.to(w["in.weight"].dtype), w["in.weight"], w["in.bias"]))
    return x.float() @ w["line.weight"] + w["line.bias"] + hidden.float() @ w["out.weight"]


def _begin_mlp(features: int, start: Ridge | None) -> Weights:
    """The correction begins at nothing, so the head begins as the linear one."""
    first = torch.nn.Linear(features, HIDDEN)
    weights, bias = start.raw() if start else (np.zeros(features, np.float32), 0.0)
    return {
        "in.weight": first.weight.detach().clone(),
        "in.bias": first.bias.detach().clone(),
        "out.weight": torch.zeros(HIDDEN),
        "line.weight": torch.from_numpy(weights),
        "line.bias": torch.tensor(bias),
    }


def _export_mlp(w: dict[str, Array]) -> Tensors:
    """The linear part is two more hinges: s = ReLU(s) − ReLU(−s)."""
    line, level = w["line.weight"], float(w["line.bias"])
    inner = np.vstack([w["in.weight"], line, -line])
    inner_bias = np.append(w["in.bias"], [level, -level])
    return mlp_head(inner, inner_bias, np.append(w["out.weight"], [1, -1]), 0.0)


ARCHITECTURES = {
    "city96": Architecture(_begin_city96, city96_logit, dict),
    "mlp": Architecture(_begin_mlp, mlp_logit, _export_mlp, starts_linear=True),
}
