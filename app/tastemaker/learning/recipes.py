"""Recipes: what to train and how, and what one leaves behind, a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from tastemaker.errors import Invalid
from tastemaker.learning.city96 import Array, Tensors
from tastemaker.learning.prior import Trust

Kind = Literal["ridge", "mlp", "city96", "blend", "original"]
Name = Literal["auto", "ridge", "mlp", "city96", "original"]
Member = Callable[[NDArray[Any]], Array]
Curve = list[dict[str, float]]

NAMES: tuple[str, ...] = get_args(Name)
IN_WORDS: dict[Name, str] = {
    "auto": "Automatic (linear + network)",
    "ridge": "Ridge: a linear head, for few scores",
    "mlp": "Small network beside the linear head",
    "city96": "City96: the network of the original",
    "original": "Original: to compare, 40 minutes or more",
}
SUBNETWORKS = (1, 2, 4, 8, 16)  # the narrowest layer of 32 is two wide at least, for the lane

# What differs from the defaults of `Recipe`. Two folds, because a head takes so long.
OWN: dict[str, dict[str, Any]] = {
    "original": {
        "batch": 1, "lr": 7e-6, "passes": 100_000, "ema": 0.0, "noise": 0.0, "early_stop": False,
        "subnetworks": 1, "folds": 2,
    },
    "mlp": {"subnetworks": 1},
}  # fmt: skip


class Progress(Protocol):
    """Called with how far the training is, in any unit; `curve` is the loss curve so far, whenever
    it has grown. What it raises ends the training."""

    def __call__(
        self, done: int, total: int, message: str, curve: Curve | None = None, /
    ) -> None: ...


def ignore_progress(done: int, total: int, message: str, curve: Curve | None = None) -> None:
    """The progress callback of a training that nobody watches."""


@dataclass(frozen=True)
class Recipe:
    """What to train and how; recorded with every version.

    `samples` counts the images each member sees, repeats included; small sets see fewer (`passes`
    of all their labels). `lr` and `batch` belong together: they stand for the original's batch of 1
    at 7e-6, at equal samples; smaller batches have a smaller rate, and narrower networks a larger
    one. (Of a version, what counts is recorded: samples seen, the batch and its rate.) `noise` is
    the standard deviation of what is added to every feature, whose own is 1 on average. `ema` is
    the span of the average of the weights, as a share of the steps; with `early_stop` those weights
    of the final head count that it had when the members predicted best what they left out, once the
    rate has risen and that span has passed (at once, if it began with a line). The
    city96 layout is shared out among `subnetworks`, each as much narrower (see `network`). Without
    `folds`, the number of labels says how many there are.
    """

    name: Name = "auto"
    samples: int = 100_000
    passes: int = 70
    batch: int = 1024
    lr: float = 2e-3
    weight_decay: float = 0.01
    beta2: float = 0.999
    noise: float = 0.5
    subnetworks: int = 4
    ema: float = 0.1
    early_stop: bool = True
    folds: int | None = None
    loss: Literal["l1", "huber"] = "l1"
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_named(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, with some values changed. Invalid names the alternatives."""
    if name not in NAMES:
        raise Invalid(
            f"There is no recipe “{name}”.", f"Choose {', '.join(NAMES[:-1])} or {NAMES[-1]}."
        )
    if unknown := changes.keys() - {f.name for f in fields(Recipe)}:
        raise Invalid(f"A recipe has no setting {sorted(unknown)[0]!r}.")
    recipe = Recipe(name=name, **(OWN.get(name, {}) | changes))  # type: ignore[arg-type]  # fields of a Recipe
    too_few = recipe.folds is not None and recipe.folds < 2
    if too_few or min(recipe.samples, recipe.batch) < 1 or recipe.lr <= 0:
        raise Invalid("A recipe needs two folds or more, and positive samples, batch and lr.")
    if recipe.noise < 0:
        raise Invalid("The noise of a recipe is a standard deviation: 0 or more.")
    if recipe.subnetworks not in SUBNETWORKS:
        raise Invalid(f"A head holds 1, 2, 4, 8 or 16 subnetworks, not {recipe.subnetworks}.")
    if name in ("mlp", "original") and recipe.subnetworks != 1:
        raise Invalid(f"The network of the recipe “{name}” cannot be divided.")
    return recipe


@dataclass(frozen=True)
class Fit:
    """One fitted architecture, before it is known whether it is published.

    `oof` (trained,) scores by heads that never saw the label nor its group; `members[k]` never saw
    fold k, and `by_members` are their scores of their own folds: the same as `oof`, except where
    that comes from an exact formula and rests on more labels. Fits are compared by `by_members`.
    `trust` is how far the labels bear out each prior that it starts from.
    """

    kind: Kind
    recipe: Recipe
    tensors: Tensors
    oof: Array
    by_members: Array
    members: tuple[Member, ...]
    loss_curve: Curve
    trust: tuple[Trust, ...] = ()
