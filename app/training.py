"""Training: labels in, a head and honest numbers out.

    1. unite near-duplicates, so that no image is judged by a head that saw its twin
    2. withhold the hold-out, and whatever is a near-duplicate of it
    3. deal the remaining groups into folds
    4. fit: one head per fold without that fold, and the final head on everything
    5. write the final head as the 16 tensors of the export, and measure *those*

What comes back predicts each label by a head that never saw it: trained labels out-of-fold, the
others by the final head.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from app import metrics
from app.checkpoints import Array, Tensors
from app.errors import Invalid, NotTrainable
from app.folds import Rows, Split, fold_of_group, split_rows
from app.heads import City96, Scorer, fold_standardisation, linear_head, tensors_of
from app.ridge import fit_ridge

Member = Callable[[NDArray[Any]], Array]
Curve = list[dict[str, float]]

FEWEST_FOR_CITY96 = 300  # below this many labels linear heads win: do not even try
UNCERTAINTY_FLOOR = 0.01  # a tenth of a point


class Progress(Protocol):
    """Hears how far the training is; `curve` is the loss curve so far, whenever it has grown."""

    def __call__(
        self, done: int, total: int, message: str, curve: Curve | None = None, /
    ) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """What to train and how; recorded with every version.

    `samples` counts the images each member sees, repeats included; small sets see fewer (see
    `samples_for`). `lr` and `batch` belong together: they stand for the original's batch of 1 at
    7e-6, at equal samples.
    """

    name: Literal["auto", "ridge", "city96"] = "auto"
    samples: int = 100_000
    batch: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.01
    folds: int = 5
    loss: Literal["l1"] = "l1"
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_named(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, with some values changed. Invalid names the alternatives."""
    if name not in ("auto", "ridge", "city96"):
        raise Invalid(f"There is no recipe {name!r}.", "Choose auto, ridge or city96.")
    if unknown := changes.keys() - {f.name for f in fields(Recipe)}:
        raise Invalid(f"A recipe has no setting {sorted(unknown)[0]!r}.")
    recipe = Recipe(name=name, **changes)  # type: ignore[arg-type]
    if recipe.folds < 2 or min(recipe.samples, recipe.batch) < 1 or recipe.lr <= 0:
        raise Invalid("A recipe needs two folds or more, and positive samples, batch and lr.")
    return recipe


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images as the numeric code wants them, all in the same order.

    image_ids (n,); x (n, D) float32 embeddings; y (n,) scores in 0-1; groups (n,) integers, equal
    for images of one source; holdout (n,) True where the label only ever measures.
    """

    image_ids: NDArray[Any]
    x: Array
    y: Array
    groups: NDArray[np.integer]
    holdout: Rows

    def __post_init__(self) -> None:
        n = len(self.y)
        lengths = (len(self.image_ids), len(self.x), len(self.groups), len(self.holdout))
        if any(length != n for length in lengths) or (n and self.x.ndim != 2):
            raise Invalid("The parts of a training set differ in length.")


@dataclass(frozen=True)
class Fit:
    """One fitted architecture, before it is known whether it is published.

    `oof` (trained,) out-of-fold scores; `members[k]` never saw fold k.
    """

    kind: Literal["ridge", "city96"]
    recipe: Recipe
    tensors: Tensors
    oof: Array
    members: tuple[Member, ...]
    loss_curve: Curve


@dataclass(frozen=True)
class Trained:
    """A head ready to publish, and what is known about it.

    `oof` (n,) is the out-of-fold score of a trained label and NaN elsewhere; `final` (n,) is what
    the exported tensors say of every row (honest only where the row did not train).
    `fold_of_group` maps the caller's group numbers to the fold that was left out for them.
    """

    kind: Literal["ridge", "city96"]
    recipe: Recipe
    tensors: Tensors
    split: Split
    oof: Array
    final: Array
    fold_of_group: dict[int, int]
    members: tuple[Member, ...]
    noise: float
    loss_curve: Curve
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def honest(self) -> Array:
        """(n,) for every label, the score by a head that never saw it nor a near-duplicate."""
        return np.where(self.split.train, self.oof, self.final)

    def predict(self, x: NDArray[Any], groups: NDArray[np.integer]) -> tuple[Array, Array, Array]:
        """(score, out-of-fold score, uncertainty) of N other images, each (N,) in score units.

        The score is that of the exported tensors. Images of a trained group (a crop of a labelled
        photograph, say) also have the score by the member that never saw that group; the others
        have NaN there. The uncertainty is a standard deviation of label − score, never below 0.01:
        the members' disagreement, scaled as a jackknife over folds (they share most of their
        labels, so their plain spread is too small), plus the noise of the labels themselves.
        """
        said = np.stack([member(x) for member in self.members])
        fold = np.array([self.fold_of_group.get(group, -1) for group in groups.tolist()], np.intp)
        out_of_fold = np.where(fold >= 0, said[fold, np.arange(len(x))], np.nan)
        disagreement = (len(said) - 1) * said.var(axis=0)
        spread = np.maximum(np.sqrt(disagreement + self.noise**2), UNCERTAINTY_FLOOR)
        return self._scorer(x), out_of_fold, spread.astype(np.float32)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self.tensors)


def _silent(done: int, total: int, message: str, curve: Curve | None = None) -> None:
    pass


# ---------------------------------------------------------------- the story


def train(
    data: TrainingSet,
    recipe: Recipe | None = None,
    *,
    progress: Progress = _silent,
    threshold: float = 0.5,
) -> Trained:
    """Train a head on a data set by a recipe.

    `progress` is called several times a second, with samples as the unit, and may raise, which
    stops the training. Raises NotTrainable with a sentence for the person. The same data, recipe
    and machine give the same bytes.
    """
    recipe = recipe or Recipe()
    check(data)
    progress(0, 1, "Looking for near-duplicates")
    split = split_rows(
        data.x, data.y, data.groups, data.holdout, folds=recipe.folds, seed=recipe.seed
    )

    fit, choice = _fit(data, split, recipe, progress)

    oof = np.full(len(data.y), np.nan, np.float32)
    oof[split.train] = fit.oof
    final = Scorer(fit.tensors)(data.x)
    trained = Trained(
        kind=fit.kind,
        recipe=fit.recipe,
        tensors=fit.tensors,
        split=split,
        oof=oof,
        final=final,
        fold_of_group=fold_of_group(data.groups, split),
        members=fit.members,
        noise=float(np.sqrt(np.mean((fit.oof - data.y[split.train]) ** 2))),
        loss_curve=fit.loss_curve,
    )
    return replace(trained, metrics=_measure(data, trained, choice, threshold))


def check(data: TrainingSet) -> None:
    """NotTrainable if these labels cannot train anything."""
    more = "Score a few more images, then train again."
    if len(data.y) == 0:
        raise NotTrainable("No image is scored yet, so there is nothing to learn from.", more)
    if len(data.y) == 1:
        raise NotTrainable("Only one image is scored; training needs two or more.", more)
    if not np.isfinite(data.x).all():
        bad = int((~np.isfinite(data.x).all(axis=1)).sum())
        raise NotTrainable(
            f"The embeddings of {bad} scored images hold values that are not numbers.",
            "Embed these images again.",
        )
    if not (np.isfinite(data.y).all() and data.y.min() >= 0 and data.y.max() <= 1):
        raise NotTrainable("Some scores are outside their range of 0 to 10.", "Correct them first.")
    if data.y.min() == data.y.max():
        raise NotTrainable(
            f"All {len(data.y)} scored images have the same score of {10 * data.y[0]:g}, "
            "so there is nothing to tell apart.",
            "Score images that you like more, or less.",
        )


def _measure(
    data: TrainingSet, trained: Trained, choice: dict[str, Any], threshold: float
) -> dict[str, Any]:
    """Counts, and the metrics on the hold-out and out-of-fold, ready for JSON."""
    split = trained.split

    def measured(rows: Rows, scores: Array) -> dict[str, Any]:
        return metrics.summary(
            data.y[rows], scores[rows], split.groups[rows], threshold=threshold
        )  # fmt: skip

    return {
        "trained_on": int(split.train.sum()),
        "holdout_size": int(split.holdout.sum()),
        "aside": int(split.aside.sum()),
        "groups": len(np.unique(split.groups)),
        "folds": len(trained.members),
        "noise": trained.noise,
        "choice": choice,
        "holdout": measured(split.holdout, trained.final),
        "out_of_fold": measured(split.train, trained.oof),
    }


# ---------------------------------------------------------------- which architecture


def _fit(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress
) -> tuple[Fit, dict[str, Any]]:
    """The fit to publish, and why it was chosen.

    `auto` takes the linear head unless the large one is better beyond doubt on out-of-fold errors.
    The hold-out has no say: a number that chose the winner could not measure it.
    """
    n = int(split.train.sum())
    chosen: dict[str, Any] = {"asked": recipe.name}
    if recipe.name == "ridge":
        return fit_linear(data, split, recipe, progress), {**chosen, "why": "asked for"}
    if recipe.name == "city96":
        return fit_city96(data, split, recipe, progress), {**chosen, "why": "asked for"}

    linear = fit_linear(data, split, recipe, progress)
    if n < FEWEST_FOR_CITY96:
        why = f"{n} labels; below {FEWEST_FOR_CITY96} the linear head is the safer one"
        return linear, {**chosen, "why": why}
    large = fit_city96(data, split, recipe, progress)
    y, groups = data.y[split.train], split.groups[split.train]
    duel = metrics.compare(np.abs(large.oof - y), np.abs(linear.oof - y), groups)
    winner = large if duel.verdict == "better" else linear
    why = f"city96 against ridge, out-of-fold: {duel.verdict}"
    return winner, {**chosen, "why": why, "city96_minus_ridge": duel.as_dict()}


# ---------------------------------------------------------------- the linear head


def fit_linear(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = _silent
) -> Fit:
    """Closed-form ridge; its out-of-fold scores are exact leave-one-group-out."""
    x, y, groups = data.x[split.train], data.y[split.train], split.groups[split.train]
    fold = split.fold[split.train]
    folds = int(fold.max()) + 1
    progress(0, folds + 1, "Fitting the linear head")
    ridge = fit_ridge(x, y, groups)
    members: list[Member] = []
    for k in range(folds):
        progress(k + 1, folds + 1, "Fitting the linear head")
        members.append(_linear_member(x[fold != k], y[fold != k], groups[fold != k]))
    progress(folds + 1, folds + 1, "Fitted the linear head")
    tensors = linear_head(ridge.weights, ridge.bias, ridge.mean, ridge.scale, link=ridge.link)
    used = replace(recipe, name="ridge", folds=folds)
    return Fit("ridge", used, tensors, ridge.out_of_group, tuple(members), [])


def _linear_member(x: Array, y: Array, groups: NDArray[np.intp]) -> Member:
    """A ridge without one fold; where too little is left to fit, the mean of what is left."""
    if len(np.unique(groups)) < 2 or y.min() == y.max():
        return Constant(float(y.mean()))
    return fit_ridge(x, y, groups).predict


@dataclass(frozen=True)
class Constant:
    """The head that says the same of every image."""

    value: float

    def __call__(self, x: NDArray[Any]) -> Array:
        return np.full(len(x), self.value, np.float32)


# ---------------------------------------------------------------- the city96 head


def samples_for(recipe: Recipe, n: int) -> int:
    """Samples per member for n labels: 60 passes, at most what the recipe says."""
    return min(recipe.samples, 60 * n)


def fit_city96(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = _silent
) -> Fit:
    """The original's head and loss at large batches in bfloat16; folds and final head in step.

    Large batches are what makes it fast: at batch 1 every sample moves all four million weights
    and their optimiser state through memory.
    """
    x, y = data.x[split.train], data.y[split.train]
    fold = split.fold[split.train]
    folds = int(fold.max()) + 1
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-6 * np.abs(mean) + 1e-12] = 1  # a constant feature teaches nothing
    inputs = torch.from_numpy((x - mean) / scale)
    targets = torch.from_numpy(np.asarray(y, np.float32))

    samples = samples_for(recipe, len(y))
    batch = min(recipe.batch, max(32, len(y) // 2), len(y))  # small sets need the steps
    steps = max(1, round(samples / batch))
    total = steps * batch * (folds + 1)
    tick = _Ticker(progress, total, "Training the city96 head")

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        heads = [City96(x.shape[1]) for _ in range(folds + 1)]
        seen = [torch.from_numpy(np.flatnonzero(fold != k)) for k in range(folds)]
        seen.append(torch.arange(len(y)))  # the final head sees everything
        optimisers = [
            torch.optim.AdamW(h.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay,
                              fused=True)
            for h in heads
        ]  # fmt: skip
        order = [_batches(rows, batch, steps, recipe.seed + k) for k, rows in enumerate(seen)]
        curve = _LossCurve(steps)
        for step in range(steps):
            lr = recipe.lr * schedule(step, steps)
            for head, optimiser, batches in zip(heads, optimisers, order, strict=True):
                optimiser.param_groups[0]["lr"] = lr
                rows = next(batches)
                loss = _loss(head, inputs[rows], targets[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                curve.saw(float(loss.detach()))
                tick(batch)
            if curve.due(step):
                curve.add(step, lr, _inner_loss(heads[:-1], inputs, targets, fold))
                tick.show(list(curve.points))

    fitted = [fold_standardisation(tensors_of(h), mean, scale) for h in heads]
    members = tuple(Scorer(tensors) for tensors in fitted[:-1])
    oof = np.empty(len(y), np.float32)
    for k, member in enumerate(members):
        oof[fold == k] = member(x[fold == k])
    used = replace(recipe, name="city96", samples=steps * batch, batch=batch, folds=folds)
    return Fit("city96", used, fitted[-1], oof, members, curve.points)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a short linear rise, then half a cosine down to 0."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _loss(head: City96, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean |score − label|; the matrices in bfloat16, the score and the loss in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        z = head(x)[:, 0]
    return F.l1_loss(torch.sigmoid(2 * z.float()), y)


def _batches(rows: torch.Tensor, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """`steps` batches of row numbers: whole shuffled passes, end to end."""
    random = torch.Generator().manual_seed(seed)
    queue = rows[:0]
    for _ in range(steps):
        while len(queue) < batch:
            queue = torch.cat([queue, rows[torch.randperm(len(rows), generator=random)]])
        yield queue[:batch]
        queue = queue[batch:]


def _inner_loss(
    members: list[City96], inputs: torch.Tensor, targets: torch.Tensor, fold: NDArray[np.intp]
) -> float:
    """Mean error on up to 256 labels of the fold that each member never saw."""
    errors = []
    with torch.inference_mode():
        for k, head in enumerate(members):
            rows = torch.from_numpy(np.flatnonzero(fold == k)[:256])
            head.eval()
            errors.append(float(_loss(head, inputs[rows], targets[rows])))
            head.train()
    return float(np.mean(errors))


class _LossCurve:
    """The loss curve, at most 40 points; losses in points of 0-10."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, -(-steps // 40))
        self.last = steps - 1
        self.points: Curve = []
        self.recent: list[float] = []

    def saw(self, loss: float) -> None:
        self.recent.append(loss)

    def due(self, step: int) -> bool:
        return step % self.every == self.every - 1 or step == self.last

    def add(self, step: int, lr: float, inner: float) -> None:
        train = 10 * float(np.mean(self.recent))
        self.recent.clear()
        self.points.append({"step": step + 1, "train": train, "inner": 10 * inner, "lr": lr})


class _Ticker:
    """Adds up samples and reports them, at most eight times a second; the curve at once."""

    def __init__(self, progress: Progress, total: int, message: str) -> None:
        self.progress, self.total, self.message = progress, total, message
        self.done, self.last = 0, 0.0

    def __call__(self, samples: int) -> None:
        self.done += samples
        if time.monotonic() - self.last >= 0.125 or self.done >= self.total:
            self.show(None)

    def show(self, curve: Curve | None) -> None:
        self.last = time.monotonic()
        self.progress(self.done, self.total, self.message, curve)


def recipe_from(record: Mapping[str, Any]) -> Recipe:
    """The recipe of a recorded version; settings this program does not know are ignored."""
    known = {f.name for f in fields(Recipe)}
    return Recipe(**{key: value for key, value in record.items() if key in known})
