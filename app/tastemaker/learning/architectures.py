"""What descent can train: how a head begins, what it computes, and how it becomes 16 tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.learning import ensemble
from tastemaker.learning.checkpoints import Array, Tensors
from tastemaker.learning.ensemble import Weights
from tastemaker.learning.heads import mlp_head
from tastemaker.learning.recipes import Recipe
from tastemaker.learning.ridge import Ridge

HIDDEN = 256  # units of the small MLP


@dataclass(frozen=True)
class Architecture:
    """How a head is begun, what it computes and how it becomes 16 tensors.

    `begin(recipe, features, start)` gives named float32 weights from torch's global random state,
    and from a linear head on the same inputs where the architecture `starts_linear`;
    `logit(weights, x, noise)` maps (B, features) to the logits (subnetworks, B), with dropout where
    there is a generator; that of the head is their mean;
    `export(weights)` is the head in the city96 layout, on standardised inputs.
    """

    begin: Callable[[Recipe, int, Ridge | None], Weights]
    logit: Callable[[Weights, Tensor, torch.Generator | None], Tensor]
    export: Callable[[dict[str, Array]], Tensors]
    starts_linear: bool = False


def mlp_logit(w: Weights, x: Tensor, noise: torch.Generator | None) -> Tensor:
    """The logit (1, B) of the small MLP: a linear head, and hidden units that correct it."""
    hidden = F.relu_(F.linear(x.to(w["in.weight"].dtype), w["in.weight"], w["in.bias"]))
    line = x.float() @ w["line.weight"] + w["line.bias"]
    return (line + hidden.float() @ w["out.weight"]).unsqueeze(0)


def _begin_city96(recipe: Recipe, features: int, start: Ridge | None) -> Weights:
    return ensemble.initial_weights(features, recipe.subnetworks)


def _begin_mlp(recipe: Recipe, features: int, start: Ridge | None) -> Weights:
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
    "city96": Architecture(_begin_city96, ensemble.logit, ensemble.as_one_head),
    "mlp": Architecture(_begin_mlp, mlp_logit, _export_mlp, starts_linear=True),
}
