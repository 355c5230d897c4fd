"""What a version's page tells beyond its row: the recipe in words, its metrics in a table, how its
predictions spread over each collection, and the exact set of labels it saw.

Versions of earlier releases lack some numbers; what is not there is left out.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Integer
from sqlalchemy import cast as sql_cast
from sqlmodel import Session, col, func, select

from tastemaker import versions
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    ImagePath,
    Prediction,
    Project,
    ProjectCollection,
    Version,
    VersionLabel,
)
from tastemaker.files import escape_formula

BARS = 20
SPACE = "\u202f"  # thin, unbreakable: between a number and its unit
TRAINING_COLUMNS = ("sha256", "path", "score", "side", "fold")

# Name in `metrics`, what a person calls it, its unit (points of 0–10, share, or a bare number),
# what it is a share of, and whether less of it is better.
METRICS = (
    ("mae", "mean error", "points", "distance between prediction and label", True),
    ("error_at_threshold", "on the wrong side", "share", "of all images, at the threshold", True),
    ("fp_rate", "false positives", "share", "of predicted passes", True),
    ("fn_rate", "false negatives", "share", "of labelled passes", True),
    ("spearman", "rank correlation", "number", "1 is the same order, 0 is none", False),
    ("auc", "AUC", "number", "chance that a pass is predicted above a fail", False),
)


# --- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A measured number with its 95 % interval and what it was measured on."""

    name: str
    label: str
    unit: str
    of: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluated_on(version: Version) -> str:
    """“holdout”, “out_of_fold” while there is no hold-out, or nothing."""
    for where in ("holdout", "out_of_fold"):
        if (version.metrics.get(where) or {}).get("mae") is not None:
            return where
    return ""


def metrics_table(version: Version) -> list[Metric]:
    """The version's metrics, in the order of METRICS."""
    told = version.metrics.get(evaluated_on(version)) or {}
    return [
        Metric(
            name, label, unit, of, told.get(name), told.get(f"{name}_low"),
            told.get(f"{name}_high"), int(told.get(f"{name}_n", told.get("n", 0)) or 0),
        )
        for name, label, unit, of, _ in METRICS
        if name in told
    ]  # fmt: skip


def baselines(version: Version) -> list[Metric]:
    """Mean errors to hold the version's own against: its other one, out-of-fold; that of always
    giving one answer; and that of the person who scores."""
    m, found = version.metrics, []

    def row(label: str, of: str, told: dict[str, Any]) -> None:
        if told.get("mae") is not None:
            low, high, n = told.get("mae_low"), told.get("mae_high"), told.get("n") or 0
            found.append(Metric("mae", label, "points", of, told["mae"], low, high, int(n)))

    if evaluated_on(version) == "holdout":
        row(
            "mean error, out-of-fold",
            "on the images that trained, each judged by heads that never saw it",
            m.get("out_of_fold") or {},
        )
    row(
        "always the same answer", "mean error of saying the middle of the labels every time",
        {"mae": m.get("baseline_mae"), "n": (m.get("versus_baseline") or {}).get("n")},
    )  # fmt: skip
    noise = m.get("noise_floor") or {}
    if noise:
        row(
            "your own noise", "mean error no model can go below, from scores you were asked for "
            f"again (σ {noise['sigma']:.2f})", noise,
        )  # fmt: skip
    return found


def caveats(version: Version) -> list[str]:
    """In sentences, what the figures do not show although they may look like it."""
    told = version.metrics.get("versus_baseline") or {}
    oof = version.metrics.get("out_of_fold_baseline") or {}
    if not told:
        return []
    where = {"holdout": "hold-out images", "out_of_fold": "training images, out-of-fold"}
    if told["verdict"] == "worse":
        return [
            f"It errs more than giving one answer every time, on {told['n']} {where[told['on']]}."
        ]
    if told["verdict"] != "better":
        return [
            "Not yet shown to be better than giving one answer every time, on "
            f"{told['n']} {where[told['on']]}. More scores may show it; or what you like is not in "
            "what the encoder sees."
        ]
    if oof and oof["verdict"] != "better":
        return [
            f"The {told['n']} hold-out images may flatter it: on the {oof['n']} that trained, each "
            "judged by heads that never saw it, it is not shown to be better than giving one "
            "answer every time."
        ]
    return []


def scores_within(bracket: Mapping[str, Any]) -> str:
    """The hand scores of a bracket, which ends before the next one begins: “0”, “2–3”, “6–10”."""
    low, high = 10 * bracket["from"], 10 * bracket["to"]
    if high < 10 and low == round(low) and high == round(high):
        return f"{low:g}" if high - low == 1 else f"{low:g}–{high - 1:g}"
    return f"{low:g}–{high:g}"


def calibration_sentence(version: Version) -> str:
    """Whether the version's own intervals hold as often as they say: by the 50 or the 80 % ones,
    whichever are further off, within twice the standard error of a share of so many photographs.
    Empty where it was not measured."""
    told = version.metrics.get(evaluated_on(version)) or {}
    shares, n = told.get("coverage") or {}, told.get("groups") or told.get("n") or 0
    if not n or not {"50", "80"} <= shares.keys() or None in shares.values():
        return ""
    off = max(
        ((shares[level] - p) / (p * (1 - p) / n) ** 0.5 for level, p in (("50", 0.5), ("80", 0.8))),
        key=abs,
    )
    verdict = "is about right" if abs(off) <= 2 else f"is too {'cautious' if off > 0 else 'bold'}"
    parts = [f"{level}{SPACE}% intervals contain {100 * share:.0f}{SPACE}%"
             for level, share in sorted(shares.items())]  # fmt: skip
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"What it says of its own doubt {verdict}: {listed} of the labels."


def recipe_sentence(version: Version) -> str:
    """How the head was trained, as one would tell a colleague."""
    recipe, kind = version.recipe, version.metrics.get("kind") or version.recipe.get("name", "")
    choice = recipe.get("choice") or {}
    folds = recipe.get("folds") or version.metrics.get("folds")
    if not recipe.get("name") and not kind:
        return "It was not trained here."
    if recipe.get("name") == "imported":
        return f"It was not trained here, but brought in from {recipe.get('file') or 'a file'}."
    if kind == "ridge":
        told = (
            "A linear head (ridge) on the encoder's features, its penalty chosen by "
            "leave-one-out, written into the layout of the original"
        )
    elif kind in ("city96", "blend", "original", "mlp"):
        told = "The original's network"
        if kind == "mlp":
            told = "A linear head and a small network that corrects it"
        if (parts := recipe.get("subnetworks", 1)) > 1 and kind != "mlp":
            told += f", as {parts} narrow ones side by side whose mean counts"
        if kind == "original":
            told += ", trained as its author did, one image at a time"
        if recipe.get("samples"):
            samples = f"{recipe['samples']:,}".replace(",", " ")
            told += f", {samples} samples"
        if recipe.get("batch") and kind != "original":
            told += f" in batches of {recipe['batch']}"
        rate = recipe.get("lr") or recipe.get("learning_rate")
        if rate:
            told += f", learning rate {rate:g}"
        if recipe.get("loss"):
            told += f", {str(recipe['loss']).upper()} loss"
        if kind == "blend":
            told += _shares_in_words(choice.get("share"))
    else:
        told = f"Recipe “{kind}”"
    if folds:
        told += f"; {folds} more heads, each without one {_fraction(folds)} of the labels, give "
        told += "the predictions that never saw their label"
    told += "."
    if choice.get("why") and choice["why"] != "asked for":
        told += f" Chosen because: {choice['why']}."
    return told


def _shares_in_words(share: float | None) -> str:
    """What a blend is: the network's share of the logit, 0-1, and the linear head's."""
    if share is None:
        return ", and a linear head (ridge) beside it in the same file"
    return (
        ", and a linear head (ridge) beside it in the same file: of the logit, "
        f"{share:.0%} is the network's and {1 - share:.0%} the linear head's".replace("%", " %")
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
    """Everything first, then each collection of the project."""
    bar = sql_cast(func.floor(col(Prediction.score) * (BARS - 1e-9)), Integer)
    said = select(bar, func.count()).where(Prediction.version_id == version.id).group_by(bar)
    found = [_spread(session, version, project, "Everything", "", said)]
    rows = session.execute(
        select(Collection.id, Collection.name, ProjectCollection.role)
        .join(ProjectCollection, col(ProjectCollection.collection_id) == Collection.id)
        .where(ProjectCollection.project_id == project.id)
        .order_by(col(ProjectCollection.role), col(Collection.name))
    ).all()
    for collection_id, name, role in rows if len(rows) > 1 else []:
        inside = said.join(
            CollectionImage, col(CollectionImage.image_id) == Prediction.image_id
        ).where(CollectionImage.collection_id == collection_id)
        spread = _spread(session, version, project, name, role, inside)
        if spread.images:
            found.append(spread)
    return found


def _spread(
    session: Session, version: Version, project: Project, name: str, role: str, query: Any
) -> PredictionHistogram:
    bars = [0] * BARS
    for bar, count in session.execute(query):
        bars[bar] = count
    passes = query.with_only_columns(func.count()).group_by(None)
    passing = session.execute(passes.where(col(Prediction.score) >= project.threshold)).scalar_one()
    return PredictionHistogram(name, role, sum(bars), int(passing), bars)


# --- the training set ----------------------------------------------------------------------------


def sides(session: Session, version: Version) -> dict[str, int]:
    """How many labels trained, measured (`holdout`), and did neither (`aside`)."""
    rows = session.execute(
        select(VersionLabel.side, func.count())
        .where(VersionLabel.version_id == version.id)
        .group_by(col(VersionLabel.side))
    )
    return {"train": 0, "holdout": 0, "aside": 0} | dict(rows.all())


def training_set(session: Session, version: Version) -> Iterator[dict[str, Any]]:
    """The labels the version saw, frozen when its training began, by image id: `sha256`, `path`
    (absolute for scanned files, the name for uploads), `score` 0–10, `side`, `fold`."""
    present = (
        select(ImagePath.image_id, func.min(ImagePath.path).label("path"))
        .where(ImagePath.state == "present")
        .group_by(col(ImagePath.image_id))
        .subquery()
    )
    columns: tuple[Any, ...] = (
        Image.sha256, func.coalesce(present.c.path, Image.name), VersionLabel.value,
        VersionLabel.side, VersionLabel.fold,
    )  # fmt: skip
    rows = session.execute(
        select(*columns)
        .join(Image, col(Image.id) == VersionLabel.image_id)
        .outerjoin(present, present.c.image_id == VersionLabel.image_id)
        .where(VersionLabel.version_id == version.id)
        .order_by(col(VersionLabel.image_id))
    )
    for row in rows:
        yield dict(zip(TRAINING_COLUMNS, row, strict=True))


def training_set_hash(session: Session, version: Version) -> str:
    """SHA-256 over the lines `sha256,score` of all labels the version saw, sorted: equal for equal
    sets, and anyone who has the training set can reckon it again."""
    lines = sorted(f"{row['sha256']},{row['score']:g}\n" for row in training_set(session, version))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def training_csv(session: Session, version: Version) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, TRAINING_COLUMNS)
    writer.writeheader()
    for row in training_set(session, version):
        writer.writerow(row | {"path": escape_formula(row["path"]), "score": f"{row['score']:g}"})
    return text.getvalue()


def training_jsonl(session: Session, version: Version) -> str:
    rows = training_set(session, version)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def neighbours(session: Session, project: Project, version: Version) -> dict[str, Version | None]:
    """The version's `parent`, and the ones `before` and `after` it by number."""
    there = versions.list_ready(session, project)
    at = next((i for i, v in enumerate(there) if v.id == version.id), 0)
    return {
        "parent": next((v for v in there if v.id == version.parent_id), None),
        "after": there[at - 1] if at > 0 else None,
        "before": there[at + 1] if at + 1 < len(there) else None,
    }
