"""The city96 layout: 16 tensors that turn an embedding into a score, and their exact algebra.

Every published head, linear or not, has the layout of the original *CityClassifiers* predictor, so
that its loader reads ours:

    u = up.0(x)                                    features -> 1024
    r = ReLU(long(u) + u)                          long: Linear, LeakyReLU(0.1), twice, Linear
    z = down.5(down.4(LeakyReLU(down.1(down.0(r)))))      1024 -> 128 -> 64 -> 32 -> outputs

A score is (tanh z + 1)/2, which is the same as sigmoid(2z); classes are softmax(z). Between down.0
and down.1, and between down.4 and down.5, there is no activation: at inference each pair is one
matrix. That, and the functions below, rest on one remark: what is linear can be folded into the
neighbouring layer without changing the function. There is no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import CheckpointError, Invalid

HIDDEN = 1024
TRUNK_SLOPE = 0.1  # LeakyReLU inside `long`
NECK_SLOPE = 0.01  # LeakyReLU between down.1 and down.4

Array = NDArray[np.float32]
Tensors = dict[str, Array]
Vector = NDArray[np.float64]


# ---------------------------------------------------------------- the 16 tensors


def layout(features: int, outputs: int = 1) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the 16 tensors, in the order of the forward pass."""
    weights = {
        "up.0": (HIDDEN, features),
        "up.1.long.0": (HIDDEN, HIDDEN),
        "up.1.long.2": (HIDDEN, HIDDEN),
        "up.1.long.4": (HIDDEN, HIDDEN),
        "down.0": (128, HIDDEN),
        "down.1": (64, 128),
        "down.4": (32, 64),
        "down.5": (outputs, 32),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in weights.items():
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)
    return shapes


def check_layout(tensors: Mapping[str, Array]) -> tuple[int, int]:
    """(features, outputs) of 16 well-shaped tensors; CheckpointError otherwise."""
    check_names(tensors)
    first, last = tensors["up.0.weight"], tensors["down.5.weight"]
    if first.ndim != 2 or last.ndim != 2 or not first.shape[1] or not last.shape[0]:
        raise CheckpointError("The first and the last weight of a head must be non-empty matrices.")
    features, outputs = first.shape[1], last.shape[0]
    for name, shape in layout(features, outputs).items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"The tensor {name} is {times(tensors[name].shape)}; a head needs {times(shape)} "
                "there."
            )
    return features, outputs


def times(shape: tuple[int, ...]) -> str:
    """A shape in words: “64 × 128”."""
    return " × ".join(map(str, shape)) or "a single number"


def check_names(names: Mapping[str, Any]) -> None:
    wanted = layout(1).keys()
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(
            f"The file lacks {len(missing)} of the 16 tensors of a head, {missing[0]} first."
        )
    if extra := sorted(set(names) - wanted):
        raise CheckpointError(f"The file holds a tensor that no head has: {extra[0][:80]!r}.")


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


MOST_DIRECTIONS = 32  # the neck is 64 wide, and each takes a pair


def classifier_head(
    weights: ArrayLike, bias: ArrayLike, mean: ArrayLike, scale: ArrayLike, *, centred: bool
) -> tuple[Tensors, int]:
    """K lines z = weights (K, features) · (x − mean) / scale + bias (K,) as one head of K outputs,
    and the number of directions it reads.

    With `centred`, for a softmax, which a constant added to all lines does not change, the mean of
    the lines is taken off. What spans at most 32 directions is exact up to rounding; of more, the
    32 that matter most are kept. Each direction t goes through the trunk as ReLU(t) − ReLU(−t) and
    past the LeakyReLU of the neck as in `mlp_head`.
    """
    lines = np.asarray(weights, np.float64) / np.asarray(scale, np.float64)
    offset = np.asarray(bias, np.float64) - lines @ np.asarray(mean, np.float64)
    if centred:
        lines, offset = lines - lines.mean(axis=0), offset - offset.mean()
    size = np.asarray(scale, np.float64)  # directions are compared in the units they were fitted in
    left, lengths, right = np.linalg.svd(lines * size, full_matrices=False)
    rank = max(1, min(MOST_DIRECTIONS, int((lengths > lengths[0] * 1e-9).sum())))
    outer, inner = left[:, :rank] * lengths[:rank], right[:rank] / size
    # Around the mean of the features a direction is small; the last bias makes up for the rest.
    centre = -(inner @ np.asarray(mean, np.float64))
    outputs, features = lines.shape
    tensors = {n: np.zeros(shape, np.float32) for n, shape in layout(features, outputs).items()}
    for j in range(rank):
        up, down = 2 * j, 2 * j + 1
        tensors["up.0.weight"][up], tensors["up.0.weight"][down] = inner[j], -inner[j]
        tensors["up.0.bias"][up], tensors["up.0.bias"][down] = centre[j], -centre[j]
        tensors["down.0.weight"][j, [up, down]] = 1, -1
        tensors["down.1.weight"][[up, down], j] = 1, -1
        tensors["down.4.weight"][j, [up, down]] = 1 / (1 + NECK_SLOPE), -1 / (1 + NECK_SLOPE)
    tensors["down.5.weight"][:, :rank] = outer
    tensors["down.5.bias"][:] = offset - outer @ centre
    return tensors, rank


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

    `line` comes from `linear_head` (with the link 'logit') and `tensors` has a silent lane, or a
    line in it, so that no unit of one meets a unit of the other: the sum of the weights is the sum
    of the functions, and the sum of two lines is one. Weigh the two with `fold_platt` before.
    Raises Invalid where the lane is taken by anything else.
    """
    beyond = {name: np.array(value) for name, value in line.items()}
    silence_lane(beyond)
    if any(value.any() for name, value in beyond.items() if name != "down.5.bias"):
        raise Invalid("These two heads do not fit beside each other: they share units.")
    if any(np.any(tensors[name][part]) for name, parts in LANE.items() for part in parts):
        alone = {name: np.array(value) for name, value in tensors.items()}
        silence_lane(alone)
        sides = [_line_in_lane(tensors), _line_in_lane(line)]
        weights, bias = (sum(parts) for parts in zip(*sides, strict=True))
        none, one = np.zeros(len(weights), np.float32), np.ones(len(weights), np.float32)
        both = linear_head(weights, bias, none, one)
        both["down.5.bias"] = both["down.5.bias"] + line["down.5.bias"]
        tensors, line = alone, both
    return {name: np.asarray(tensors[name] + line[name], np.float32) for name in tensors}


def _line_in_lane(tensors: Mapping[str, Array]) -> tuple[Vector, float]:
    """Weights (features,) and bias of the line that a head's lane holds, as `linear_head` and
    `fold_platt` leave it; Invalid where it holds anything else."""
    gain = 2 * float(tensors["down.5.weight"][0, 0])
    weights = tensors["up.0.weight"][0].astype(np.float64)
    bias = float(tensors["up.0.bias"][0])
    none, one = np.zeros(len(weights), np.float32), np.ones(len(weights), np.float32)
    expected = fold_platt(linear_head(weights, bias, none, one), gain, 0)
    if any(
        not np.allclose(tensors[name][part], expected[name][part])
        for name, parts in LANE.items()
        for part in parts
    ):
        raise Invalid("These two heads do not fit beside each other: they share units.")
    return gain * weights, gain * bias


def _plain_hinges() -> tuple[Vector, Vector, Vector, float]:
    """s = ReLU(s) − ReLU(−s)."""
    return np.zeros(2), np.array([1.0, -1.0]), np.array([1.0, -1.0]), 0.0


def _logit_hinges(intervals: int = 512) -> tuple[Vector, Vector, Vector, float]:
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
