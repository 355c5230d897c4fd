"""What a version's page and its card say beyond its row: its metrics in a table, the recipe in
words, how its predictions spread over each collection.

Versions of earlier releases lack some numbers; what is not there is left out.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Integer
from sqlalchemy import cast as sql_cast
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import Select

from tastemaker import projects, versions
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Prediction,
    Project,
    ProjectCollection,
    Version,
)
from tastemaker.files.percentages import percent
from tastemaker.files.texts import enumerated
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.version_metrics import (
    ENOUGH_HELD_OUT,
    BracketErrors,
    Estimate,
    MeasuredOn,
    StoredRecipe,
    VersionMetrics,
)

BARS = 20
SPACE = "\u202f"  # thin, unbreakable: between a number and its unit, and between thousands

# Name in the metrics, what a person calls it, its unit (points of 0–10, share, or a bare number),
# and what it is a share of.
METRICS = (
    ("mae", "mean error", "points", "distance between prediction and label"),
    (
        "error_at_threshold",
        "misclassified at the threshold",
        "share",
        "of all images, at the threshold",
    ),
    ("fp_rate", "false positives", "share", "of predicted passes"),
    ("fn_rate", "false negatives", "share", "of labelled passes"),
    ("spearman", "rank correlation", "number", "1 is the same order, 0 is none"),
    ("auc", "AUC", "number", "chance that a pass is predicted above a fail"),
)
RESTS_ON: dict[MeasuredOn, str] = {  # what the numbers in front rest on: “57 …”
    "holdout": "hold-out images",
    "random_sample": "images drawn at random or scored in files",
    "out_of_fold": "scored images, cross-validated",
    "all_labels": "scored images",
}


# --- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A row of the table: an estimate with its name, unit, and what it is a share of."""

    name: str
    label: str
    unit: str
    of: str
    estimate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """{name, label, unit, of, value, low, high, n}"""
        names = {"name": self.name, "label": self.label, "unit": self.unit, "of": self.of}
        return names | self.estimate.as_json()


def measured_in_words(metrics: VersionMetrics | ClassRecord) -> str:
    """What the numbers in front rest on, in a sentence or two; empty where there are none."""
    n, held = metrics.measured.n, metrics.holdout.n
    images = f"{n} image" if n == 1 else f"{n} images"
    match metrics.measured_on:
        case "holdout":
            return f"Measured on {n} hold-out images, which never trained."
        case "random_sample":
            return (
                f"Cross-validated on {images} drawn at random or scored in files: each was "
                f"predicted by a head that never saw it. {_hold_out_so_far(held)}"
            )
        case "out_of_fold":
            return (
                f"Cross-validated on {images} that a queue or a person picked: take it as a hint. "
                "The Mixed and the Random queue draw some."
            )
        case "all_labels":
            return f"Measured on {images} with a score, none of which it saw."
        case _:
            return ""


def _hold_out_so_far(n: int) -> str:
    """What becomes of the hold-out."""
    return f"The hold-out, of {n} so far, takes over from {ENOUGH_HELD_OUT} on."


def metrics_table(version: Version) -> list[Metric]:
    """The version's metrics, in the order of METRICS."""
    measured = version.metrics.measured
    return [
        Metric(name, label, unit, of, getattr(measured, name))
        for name, label, unit, of in METRICS
        if name in measured.model_fields_set and version.metrics.measured_on
    ]


def baselines(version: Version) -> list[Metric]:
    """Mean errors to hold the version's own against: that of always giving one answer, its own
    on everything that trained, and that of the person who scores."""
    m, noise = version.metrics, version.metrics.noise_floor
    rows: list[tuple[str, str, Estimate]] = []
    rows.append((
        "baseline (always the median)", "mean error of always predicting the median label",
        Estimate(
            value=m.baseline_mae, low=None, high=None,
            n=m.versus_baseline.difference.n if m.versus_baseline else 0,
        ),
    ))  # fmt: skip
    if m.measured_on != "out_of_fold":
        rows.append((
            "mean error, out-of-fold",
            "on the images that trained, each judged by heads that never saw it",
            m.out_of_fold.mae,
        ))  # fmt: skip
    if noise is not None:
        rows.append((
            "your test–retest noise",
            "mean error no model can go below, from scores you were asked "
            f"for again (σ {noise.sigma.value:.2f})", noise.mae,
        ))  # fmt: skip
    return [
        Metric("mae", label, "points", of, mae) for label, of, mae in rows if mae.value is not None
    ]


def caveats(version: Version) -> list[str]:
    """In sentences, what the figures do not show although they may look like it."""
    versus, out_of_fold = version.metrics.versus_baseline, version.metrics.out_of_fold_baseline
    if versus is None:
        return []
    on = f"{versus.difference.n} {RESTS_ON[versus.on]}"
    if versus.verdict == "worse":
        return [f"It errs more than giving one answer every time, on {on}."]
    if versus.verdict != "better":
        return [
            f"Not yet shown to be better than giving one answer every time, on {on}. More scores "
            "may show it; or what you like is not in what the encoder sees."
        ]
    if out_of_fold is not None and out_of_fold.verdict != "better":
        return [
            f"The {versus.difference.n} {RESTS_ON[versus.on]} may flatter it: on the "
            f"{out_of_fold.difference.n} that trained, each judged by heads that never saw it, it "
            "is not shown to be better than giving one answer every time."
        ]
    return []


def scores_within(bracket: BracketErrors) -> str:
    """The hand scores of a bracket, which ends before the next one begins: “0”, “2–3”, “6–10”."""
    low, high = 10 * bracket.low, 10 * bracket.high
    if high < 10 and low == round(low) and high == round(high):
        return f"{low:g}" if high - low == 1 else f"{low:g}–{high - 1:g}"
    return f"{low:g}–{high:g}"


def calibration_sentence(version: Version) -> str:
    """Whether the version's own intervals hold as often as they say: by the 50 or the 80 % ones,
    whichever are further off, within twice the standard error of a share of so many photographs.
    Empty where it was not measured."""
    measured = version.metrics.measured
    shares = {level: share for level, share in measured.coverage.items() if share is not None}
    n = measured.groups or measured.n
    if not n or not version.metrics.measured_on or not {"50", "80"} <= shares.keys():
        return ""
    off = max(
        ((shares[level] - p) / (p * (1 - p) / n) ** 0.5 for level, p in (("50", 0.5), ("80", 0.8))),
        key=abs,
    )
    verdict = "well calibrated" if abs(off) <= 2 else "too wide" if off > 0 else "too narrow"
    parts = [f"{level}{SPACE}% intervals contain {percent(share)}"
             for level, share in sorted(shares.items())]  # fmt: skip
    return f"Prediction intervals are {verdict}: {enumerated(parts)} of the labels."


def recipe_sentence(version: Version) -> str:
    """How the head was trained, as one would explain it to a colleague."""
    recipe, kind = version.recipe, version.metrics.kind or version.recipe.get("name", "")
    choice = recipe.get("choice") or {}
    folds = recipe.get("folds") or version.metrics.folds
    if not recipe.get("name") and not kind:
        return "It was not trained here."
    if recipe.get("name") == "imported":
        return f"It was not trained here, but brought in from {recipe.get('file') or 'a file'}."
    if kind == "ridge":
        sentence = (
            "A linear head (ridge) on the encoder's features, its penalty chosen by "
            "leave-one-out, written into the layout of the original"
        )
    elif kind == "logistic":
        reads = "a sigmoid for each tag" if version.classes.labelling == "tags" else "a softmax"
        sentence = (
            f"A linear head (logistic regression, {reads}) on the encoder's features, its penalty "
            "the one with the least cross-validated loss, written into the layout of the original"
        )
    elif kind in ("city96", "blend", "original", "mlp"):
        sentence = _network_sentence(recipe, kind)
    else:
        sentence = f"Recipe “{kind}”"
    if folds:
        sentence += f"; {folds} more heads, each without one {_fraction(folds)} of the labels, give"
        sentence += " the predictions that never saw their label"
    sentence += "."
    if choice.get("why") and choice["why"] != "asked for" and kind != "logistic":
        sentence += f" Chosen because: {choice['why']}."
    if answers := answers_in_words(version):
        sentence += f" Besides the scores it learned from {answers}."
    return sentence


def answers_in_words(version: Version) -> str:
    """“12 pairs and 30 images of sweeps”: what it learned from besides the scores, or nothing."""
    used = version.metrics.answers
    if used is None:
        return ""
    parts = [
        f"{count:,} {one if count == 1 else many}"
        for count, one, many in (
            (used.pairs, "pair", "pairs"),
            (used.sweeps, "image of a sweep", "images of sweeps"),
            (used.skips, "skip", "skips"),
            (used.repeats, "earlier score of an image", "earlier scores of images"),
        )
        if count
    ]
    return enumerated(parts)


def _network_sentence(recipe: StoredRecipe, kind: str) -> str:
    sentence = "The original's network"
    if kind == "mlp":
        sentence = "A linear head and a small network that corrects it"
    if (parts := recipe.get("subnetworks", 1)) > 1 and kind != "mlp":
        sentence += f", as {parts} narrow ones side by side whose mean counts"
    if kind == "original":
        sentence += ", trained as its author did, one image at a time"
    if recipe.get("samples"):
        samples = f"{recipe['samples']:,}".replace(",", " ")
        sentence += f", {samples} samples"
    if recipe.get("batch") and kind != "original":
        sentence += f" in batches of {recipe['batch']}"
    if rate := recipe.get("lr") or recipe.get("learning_rate"):
        sentence += f", learning rate {rate:g}"
    if recipe.get("loss"):
        sentence += f", {str(recipe['loss']).upper()} loss"
    if kind == "blend":
        sentence += _shares_in_words((recipe.get("choice") or {}).get("share"))
    return sentence


def _shares_in_words(share: float | None) -> str:
    """What a blend is: the network's share of the logit, 0-1, and the linear head's."""
    if share is None:
        return ", and a linear head (ridge) beside it in the same file"
    return (
        ", and a linear head (ridge) beside it in the same file: of the logit, "
        f"{percent(share)} is the network's and {percent(1 - share)} the linear head's"
    )


def _fraction(n: int) -> str:
    names = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 8: "eighth", 10: "tenth"}
    return names.get(n, f"part in {n}")


# --- histograms ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionHistogram:
    """How a version's predictions spread over a set of images: BARS counts from 0 to 1."""

    name: str
    role: str
    images: int
    passes: int
    bars: list[int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def prediction_histograms(
    session: Session, project: Project, version: Version
) -> list[PredictionHistogram]:
    """The whole pool first, then each collection of the project, test runs last."""
    bar = sql_cast(func.floor(col(Prediction.score) * (BARS - 1e-9)), Integer)
    counts = select(bar, func.count()).where(Prediction.version_id == version.id).group_by(bar)
    in_pool = col(Prediction.image_id).not_in(projects.outside_the_pool(project.id))
    histograms = [_histogram(session, project, "Everything", "", counts.where(in_pool))]
    rows = session.execute(
        select(Collection.id, Collection.name, ProjectCollection.role)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project.id)
        .order_by(col(ProjectCollection.role), col(Collection.name))
    ).all()
    for collection_id, name, role in rows if len(rows) > 1 else []:
        inside = counts.join(
            CollectionImage, col(CollectionImage.image_id) == Prediction.image_id
        ).where(CollectionImage.collection_id == collection_id)
        histogram = _histogram(session, project, name, role, inside)
        if histogram.images:
            histograms.append(histogram)
    return histograms


def _histogram(
    session: Session, project: Project, name: str, role: str, query: Select[int, int]
) -> PredictionHistogram:
    bars = [0] * BARS
    for bar, count in session.execute(query):
        bars[bar] = count
    passes = query.with_only_columns(func.count()).group_by(None)
    passing = session.execute(passes.where(col(Prediction.score) >= project.threshold)).scalar_one()
    return PredictionHistogram(name, role, sum(bars), int(passing), bars)


def neighbours(session: Session, project: Project, version: Version) -> dict[str, Version | None]:
    """The version's `parent`, and the ones `before` and `after` it by number."""
    ready = versions.list_ready(session, project)
    at = next((i for i, v in enumerate(ready) if v.id == version.id), 0)
    return {
        "parent": next((v for v in ready if v.id == version.parent_id), None),
        "after": ready[at - 1] if at > 0 else None,
        "before": ready[at + 1] if at + 1 < len(ready) else None,
    }
