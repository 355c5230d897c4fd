"""The head: 16 tensors that turn an embedding into a score, and the algebra that keeps them exact.

Every published head, linear or not, is one file in the layout of the original *CityClassifiers*
predictor, so that its loader reads ours:

    u = up.0(x)                                    features -> 1024
    r = ReLU(long(u) + u)                          long: Linear, LeakyReLU(0.1), twice, Linear
    z = down.5(down.4(LeakyReLU(down.1(down.0(r)))))      1024 -> 128 -> 64 -> 32 -> outputs

A score is (tanh z + 1)/2, which is the same as sigmoid(2z); classes are softmax(z). Between down.0
and down.1, and between down.4 and down.5, there is no activation: at inference each pair is one
matrix. That, and the functions below, rest on one remark: what is linear can be folded into the
neighbouring layer without changing the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tastemaker.errors import Invalid
from tastemaker.learning.checkpoints import (
    HIDDEN,
    Array,
    Checkpoint,
    Tensors,
    check_layout,
    layout,
    times,
)
from tastemaker.learning.precision import matrix_type

TRUNK_SLOPE = 0.1  # LeakyReLU inside `long`
NECK_SLOPE = 0.01  # LeakyReLU between down.1 and down.4
DROPOUT = 0.1  # before that one, in training


class Residual(nn.Module):
    """ReLU(long(u) + u)."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(HIDDEN, HIDDEN),
        )

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(self.long(u) + u)


class City96(nn.Module):
    """The trainable form of the layout; its state dict has exactly the 16 names."""

    def __init__(self, features: int, outputs: int = 1) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Linear(features, HIDDEN), Residual())
        self.down = nn.Sequential(
            nn.Linear(HIDDEN, 128),
            nn.Linear(128, 64),
            nn.Dropout(DROPOUT),
            nn.LeakyReLU(NECK_SLOPE),
            nn.Linear(64, 32),
            nn.Linear(32, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> z (N, outputs), before the tanh or the softmax."""
        return self.down(self.up(x))


def training_logit(
    layer: Callable[[str, Tensor], Tensor], x: Tensor, noise: torch.Generator | None
) -> Tensor:
    """2z (...,) of x (..., features), with dropout where there is a generator; `layer(name, x)` is
    the linear layer of that name, whatever holds its weights.

    Not by way of the module, whose dropout asks torch's global random state: heads train side by
    side in threads, and each must say the same whatever the others do.
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


def tensors_of(module: City96) -> Tensors:
    """A copy of the module's weights as float32 arrays."""
    return {
        name: np.array(value.detach().float().cpu().numpy())
        for name, value in module.state_dict().items()
    }


def module_of(tensors: Mapping[str, Array]) -> City96:
    """The torch module that holds these tensors (in eval mode)."""
    features, outputs = check_layout(tensors)
    module = City96(features, outputs)
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    return module.eval()


# ---------------------------------------------------------------- folding, exactly


def fold_standardisation(tensors: Mapping[str, Array], mean: Array, scale: Array) -> Tensors:
    """The head on raw x that equals `tensors` on (x − mean) / scale.

    W(x − μ)/σ + b = (W/σ)x + (b − (W/σ)μ), so only `up.0` changes. mean, scale: (features,).
    """
    if not np.all(np.asarray(scale) > 0):
        raise Invalid("The scale of an input standardisation must be positive.")
    weight = tensors["up.0.weight"].astype(np.float64) / np.asarray(scale, np.float64)
    bias = tensors["up.0.bias"] - weight @ np.asarray(mean, np.float64)
    return {
        **tensors,
        "up.0.weight": weight.astype(np.float32),
        "up.0.bias": bias.astype(np.float32),
    }


def fold_platt(tensors: Mapping[str, Array], a: float, c: float) -> Tensors:
    """The head whose logit is a·ℓ + c where that of `tensors` is ℓ = 2z: z' = a·z + c/2."""
    return {
        **tensors,
        "down.5.weight": np.asarray(a * tensors["down.5.weight"], np.float32),
        "down.5.bias": np.asarray(a * tensors["down.5.bias"] + c / 2, np.float32),
    }


def linear_head(
    weights: Array,
    bias: float,
    mean: Array,
    scale: Array,
    *,
    link: Literal["logit", "identity"] = "logit",
) -> Tensors:
    """A linear head s = w·(x − μ)/σ + b in the city96 layout.

    `link='logit'`: the score is sigmoid(s); exact up to float32 rounding. `link='identity'`: the
    score is s clipped to [0, 1]; within 1e-5. All vectors have shape (features,).
    """
    if link not in ("logit", "identity"):
        raise Invalid(f"A linear head has the link 'logit' or 'identity', not {link!r}.")
    w = np.asarray(weights, np.float64) / np.asarray(scale, np.float64)
    b = float(bias) - float(w @ np.asarray(mean, np.float64))
    knots, signs, slopes, constant = _logit_hinges() if link == "identity" else _plain_hinges()
    return mlp_head(signs[:, None] * w, signs * (b - knots), slopes, constant)


def mlp_head(
    inner: ArrayLike, inner_bias: ArrayLike, outer: ArrayLike, outer_bias: float
) -> Tensors:
    """The head whose logit is outer·ReLU(inner·x + inner_bias) + outer_bias, exact up to rounding.

    inner (H, features) with H ≤ 1024, inner_bias (H,), outer (H,). `long` stays zero, so the trunk
    is r = ReLU(up.0(x)): a bank of hinges. Their weighted sum t goes through `down.0`, and the pair
    (t, −t) carries it past the LeakyReLU: LeakyReLU(t) − LeakyReLU(−t) = (1 + 0.01)·t.
    """
    used, features = np.shape(inner)
    if used > HIDDEN:
        raise Invalid(f"The layout holds {HIDDEN} hidden units, not {used}.")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in layout(features).items()}
    tensors["up.0.weight"][:used] = inner
    tensors["up.0.bias"][:used] = inner_bias
    tensors["down.0.weight"][0, :used] = outer
    tensors["down.0.bias"][0] = outer_bias
    tensors["down.1.weight"][:2, 0] = 1, -1
    tensors["down.4.weight"][0, :2] = 1 / (1 + NECK_SLOPE), -1 / (1 + NECK_SLOPE)
    tensors["down.5.weight"][0, 0] = 0.5  # z is half the logit
    return tensors


# ---------------------------------------------------------------- two heads in one

# Where `linear_head` writes. A head that is nothing there has a lane to spare for a linear one.
LANE: dict[str, tuple[Any, ...]] = {
    "up.0.weight": (np.s_[:2],),
    "up.0.bias": (np.s_[:2],),
    "up.1.long.0.weight": (np.s_[:, :2],),
    "up.1.long.4.weight": (np.s_[:2],),
    "up.1.long.4.bias": (np.s_[:2],),
    "down.0.weight": (np.s_[0], np.s_[:, :2]),
    "down.0.bias": (np.s_[0],),
    "down.1.weight": (np.s_[:2], np.s_[:, 0]),
    "down.1.bias": (np.s_[:2],),
    "down.4.weight": (np.s_[0], np.s_[:, :2]),
    "down.4.bias": (np.s_[0],),
    "down.5.weight": (np.s_[:, 0],),
}


def silence_lane(weights: Mapping[str, Any]) -> None:
    """Set the lane of a head (arrays or tensors, in place) to nothing: one pair of hidden units,
    one pair of neck units and the two rows between and behind them.

    Training leaves it so: a unit that is 0 hands no slope to what follows, and what follows, being
    0 as well, hands none back. Neither momentum nor decay moves a weight of 0 with a slope of 0.
    """
    for name, parts in LANE.items():
        for part in parts:
            weights[name][part] = 0


def side_by_side(tensors: Mapping[str, Array], line: Mapping[str, Array]) -> Tensors:
    """The head whose logit is the sum of both logits, exact up to rounding.

    `line` comes from `linear_head` (with the link 'logit') and `tensors` has a silent lane, so that
    no unit of one meets a unit of the other: the sum of the weights is the sum of the functions.
    Weigh the two with `fold_platt` before. Raises Invalid where the lane is taken.
    """
    taken = any(np.any(tensors[name][part]) for name, parts in LANE.items() for part in parts)
    beyond = {name: np.array(value) for name, value in line.items()}
    silence_lane(beyond)
    if taken or any(value.any() for name, value in beyond.items() if name != "down.5.bias"):
        raise Invalid("These two heads do not fit beside each other: they share units.")
    return {name: np.asarray(tensors[name] + line[name], np.float32) for name in tensors}


def _plain_hinges() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """s = ReLU(s) − ReLU(−s)."""
    return np.zeros(2), np.array([1.0, -1.0]), np.array([1.0, -1.0]), 0.0


def _logit_hinges(intervals: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """logit(clip(s, 0, 1)) as hinges that open outwards from s = 1/2, where the logit is 0.

    A chord of the logit over a width h around s is off by about h²/8 · |1 − 2s| / (s(1 − s)) once
    it is back on the score scale, so knots at sin²θ with even steps of θ spread the error evenly:
    (π/2 ÷ 512)² ÷ 2 = 5e-6. Hinges that open outwards add up slopes of one sign; all opening to
    the right would subtract huge slopes from one another and lose the middle to rounding.
    """
    steps = np.linspace(np.pi / 4, np.pi / 2, intervals // 2 + 1)
    right = np.sin(steps) ** 2
    right[-1] = 1 - 1e-6  # the logit at 1 is infinite; the score there is 1 within 1e-6
    values = np.log(right) - np.log1p(-right)
    chords = np.append(np.diff(values) / np.diff(right), 0.0)  # flat beyond the last knot
    slopes = np.diff(chords, prepend=0.0)
    knots = np.concatenate([right, 1 - right])
    signs = np.repeat([1.0, -1.0], len(right))
    return knots, signs, signs * np.tile(slopes, 2), 0.0


# ---------------------------------------------------------------- scoring


class Scorer:
    """Scores embeddings with one head: (N, features) float16 or float32 -> (N,) scores in [0, 1].

    With several outputs it gives (N, outputs) class probabilities. Memory stays bounded whatever N
    is (a memory-mapped array is read chunk by chunk). `precision='fast'` computes the trunk in
    bfloat16, where the processor has it, and the collapsed `down` in float32, about 2e-3 off; an
    all-bfloat16 head would also tie most scores of a large set.
    """

    CHUNK = 512  # large enough for the matrix kernels, small enough to stay in cache
    FEW = 256  # rows up to which all threads share each matrix product

    def __init__(
        self,
        head: Checkpoint | Mapping[str, Array],
        precision: Literal["fp32", "fast"] = "fp32",
    ) -> None:
        if precision not in ("fp32", "fast"):
            raise Invalid(f"The precision of scoring is 'fp32' or 'fast', not {precision!r}.")
        tensors = head.tensors if isinstance(head, Checkpoint) else head
        self.features, self.outputs = check_layout(tensors)

        held = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        narrow, narrow_bias = _collapse(held, "down.0", "down.1")
        last, last_bias = _collapse(held, "down.4", "down.5")
        first, first_bias = held["up.0.weight"], held["up.0.bias"]
        # A linear head has a silent `long`: the trunk is then ReLU(up.0(x)), of which `down` reads
        # a few rows. Dropping the others is exact and spares nearly all of the work.
        self._linear = not any(held[f"up.1.long.4.{part}"].any() for part in ("weight", "bias"))
        if self._linear:
            read = narrow.ne(0).any(dim=0)
            first, first_bias, narrow = first[read], first_bias[read], narrow[:, read].contiguous()

        self._dtype = matrix_type() if precision == "fast" and not self._linear else torch.float32
        self._first = _layer(first, first_bias, self._dtype)
        self._long = [
            _layer(held[f"{name}.weight"], held[f"{name}.bias"], self._dtype, slope)
            for name, slope in (
                ("up.1.long.0", TRUNK_SLOPE),
                ("up.1.long.2", TRUNK_SLOPE),
                ("up.1.long.4", None),
            )
        ]
        self._down = [t.float() for t in (narrow, narrow_bias, last, last_bias)]

    def __call__(self, x: NDArray[Any]) -> Array:
        """Scores of the rows of x. A row that is not finite scores NaN."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise Invalid(
                f"This head scores embeddings of {self.features} numbers, "
                f"but these have the shape {times(x.shape)}.",
                "Use the encoder that the head was trained on.",
            )
        scores = np.empty((len(x), self.outputs), np.float32)
        threads = torch.get_num_threads()
        lanes = threads if len(x) > self.FEW else 1
        step = max(1, min(self.CHUNK, -(-len(x) // lanes)))

        def score(start: int) -> None:
            with torch.inference_mode():
                chunk = torch.from_numpy(np.array(x[start : start + step]))
                scores[start : start + step] = self._activate(self._z(chunk)).numpy()

        starts = range(0, len(x), step)
        if lanes == 1:
            for start in starts:
                score(start)
            return self._shaped(scores)
        # Each thread takes whole chunks: where all share every matrix product, they wait for each
        # other at each, and a machine that is busy otherwise loses two thirds of its speed.
        try:
            with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as run:
                list(run.map(score, starts))
        finally:
            torch.set_num_threads(threads)  # else threads started later would inherit the 1
        return self._shaped(scores)

    def _shaped(self, scores: Array) -> Array:
        return scores[:, 0] if self.outputs == 1 else scores

    def _z(self, x: Tensor) -> Tensor:
        # float16 to bfloat16 by way of float32: the same numbers, and four times as fast
        u = self._first(x.float().to(self._dtype))
        if self._linear:
            r = F.relu_(u)
        else:
            h = u
            for layer in self._long:
                h = layer(h)
            r = F.relu_(h.float().add_(u.float()))
        narrow, narrow_bias, last, last_bias = self._down
        neck = F.leaky_relu_(F.linear(r, narrow, narrow_bias), NECK_SLOPE)
        return F.linear(neck, last, last_bias)

    def _activate(self, z: Tensor) -> Tensor:
        return torch.sigmoid(2 * z) if self.outputs == 1 else torch.softmax(z, dim=1)


def as_score(said: Array) -> Array:
    """What a head says as one number per image: (N,) scores as they are; of class probabilities
    (N, K), how sure it is that the image is anything but class 0, the default."""
    return said if said.ndim == 1 else 1 - said[:, 0]


def _layer(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, slope: float | None = None
) -> Callable[[Tensor], Tensor]:
    """x -> weight·x + bias in `dtype`, then a LeakyReLU where it has a slope.

    In bfloat16, oneDNN does all of it in one step with the weight laid out once for all, which is
    a tenth faster. torch offers that to its own compiler only, so it is asked for with care.
    """
    weight, bias = weight.to(dtype), bias.to(dtype)
    if dtype == torch.bfloat16 and _fuses():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, Scorer.CHUNK)
        after = ("none", [], "") if slope is None else ("leaky_relu", [slope], "")
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, *after)
    if slope is None:
        return lambda x: F.linear(x, weight, bias)
    return lambda x: F.leaky_relu_(F.linear(x, weight, bias), slope)


def _fuses() -> bool:
    """Whether this torch offers oneDNN's fused layers."""
    ops = torch.ops.mkldnn
    return all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def _collapse(held: Mapping[str, Tensor], inner: str, outer: str) -> tuple[Tensor, Tensor]:
    """outer(inner(x)) as one weight and one bias, in float64."""
    w1, b1, w2, b2 = (
        held[f"{layer}.{part}"].double() for layer in (inner, outer) for part in ("weight", "bias")
    )
    weight, bias = w2 @ w1, w2 @ b1 + b2
    return weight, bias
