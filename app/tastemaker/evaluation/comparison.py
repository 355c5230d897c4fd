"""Two versions side by side: what changed between an older one, `a`, and a newer one, `b`.

What is compared are predictions by image, so versions of different encoders compare as well. The
metrics are paired, on hold-out images that neither learned from. The scatter and the histograms are
about what the two files say, which is what a person who uses them will notice.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Integer, literal
from sqlalchemy import cast as sql_cast
from sqlmodel import Session, col, func, select

from tastemaker.database.tables import EncoderRow, Image, Prediction, Version
from tastemaker.evaluation import flips, slices
from tastemaker.evaluation.flips import DIRECTIONS, New, Old, Pair, predicted_by_both
from tastemaker.learning import metrics
from tastemaker.versions import publication, training_set

GRID = 40  # cells of the scatter, and bars of the histograms, along each axis
POINTS = 2000
SPREAD = 2654435761  # Knuth's multiplicative hash: a sample that is fixed, and not by age


# --- numbers ------------------------------------------------------------------------------------


def paired_metrics(session: Session, both: Pair) -> dict[str, Any]:
    """`{"n", "metrics": {name: {new, old, difference, verdict}}, "why_not"}`: on the hold-out
    images of the newer version (of the older, where it has none) that neither learned from, by the
    label that it saw. `why_not` says in words why nothing is known, where that is so."""
    labels = _measuring(session, both)
    common = sorted(labels)
    if not common:
        return {"n": 0, "metrics": {}, "why_not": _why_not(both)}
    before, after = _honest(session, both.a, common), _honest(session, both.b, common)
    common = [i for i in common if i in before and i in after]
    if not common:
        why = "The images that could judge both have no predictions by both."
        return {"n": 0, "metrics": {}, "why_not": why}
    groups = dict(
        session.execute(select(Image.id, Image.source_group).where(col(Image.id).in_(common))).all()
    )
    rows = metrics.paired(
        [labels[i] / 10 for i in common],
        [after[i] for i in common],
        [before[i] for i in common],
        [groups[i] for i in common],
        threshold=both.project.threshold,
    )
    return {"n": len(common), "metrics": rows, "why_not": ""}


def _why_not(both: Pair) -> str:
    return (
        f"{both.a.number} and {both.b.number} have no hold-out image that neither learned from, so "
        "which of them errs less cannot be known. What they say differently is below."
    )


def _measuring(session: Session, both: Pair) -> dict[int, float]:
    """Image id → label (0–10) of what can judge both: the hold-out side belongs to an image for
    good, so what measures one version has not taught another of this project."""

    def of(version: Version, side: publication.Side) -> dict[int, float]:
        return training_set.values(session, version, side)

    measuring = of(both.b, "holdout") or of(both.a, "holdout")
    taught = of(both.a, "train").keys() | of(both.b, "train").keys()
    return {image_id: value for image_id, value in measuring.items() if image_id not in taught}


def _honest(session: Session, version: Version, ids: list[int]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for start in range(0, len(ids), 5000):
        rows = session.execute(
            select(Prediction.image_id, Prediction.honest)
            .where(Prediction.version_id == version.id)
            .where(col(Prediction.image_id).in_(ids[start : start + 5000]))
        )
        scores |= {image_id: float(score) for image_id, score in rows}
    return scores


def slices_moved(session: Session, both: Pair) -> list[dict[str, Any]]:
    """What each slice (and each of the largest tags) scores under both versions, and whether the
    newer one errs less on its labels: paired, each label judged by heads that had not seen it."""
    rows = slices.listing(session, both.project) + slices.large_tags(session, both.project)
    if not rows:
        return []
    old = slices.slice_predictions(session, both.project, both.a)
    new = slices.slice_predictions(session, both.project, both.b)
    _, at_old, at_new = np.intersect1d(old.ids, new.ids, return_indices=True)
    threshold, moves = both.project.threshold, []
    for row in rows:
        inside = new.among(slices.members(session, both.project, row))[at_new]
        i, j = at_old[inside], at_new[inside]
        if not len(i):
            continue
        labelled = np.isfinite(new.label[j])
        y = new.label[j][labelled]
        comparison = metrics.compare(
            np.abs(new.honest[j][labelled] - y),
            np.abs(old.honest[i][labelled] - y),
            new.group[j][labelled],
            resamples=slices.RESAMPLES,
        )
        moves.append(
            {
                "slice": row.name, "slice_id": row.id or None, "images": len(i),
                "mean": {"old": float(old.honest[i].mean()), "new": float(new.honest[j].mean())},
                "pass_rate": {
                    "old": float((old.honest[i] >= threshold).mean()),
                    "new": float((new.honest[j] >= threshold).mean()),
                },
                "error": comparison.as_dict() | {"groups": len(np.unique(new.group[j][labelled]))},
            }
        )  # fmt: skip
    return sorted(moves, key=lambda r: -abs(r["mean"]["new"] - r["mean"]["old"]))


def slice_comparison(error: dict[str, Any]) -> str:
    """The verdict on a slice, or why there is none."""
    if not error["n"]:
        return "without a label"
    few = error["groups"] < metrics.FEWEST_GROUPS
    return "on too few photographs" if few else str(error["verdict"])


# --- how everything moved -----------------------------------------------------------------------


def moved(session: Session, both: Pair) -> dict[str, Any]:
    """How the predictions of the common images moved: `cells` (GRID × GRID counts, row by old,
    column by new score), `points` (old, new), every image up to POINTS, else a sample fixed by
    the image's id; `old` and `new` histograms (GRID bars each), `images`, the mean change."""

    def cell(score: Any) -> ColumnElement[int]:
        return sql_cast(func.floor(score * (GRID - 1e-9)), Integer)

    before, after = cell(Old.score), cell(New.score)
    cells = np.zeros((GRID, GRID), np.int64)
    rows = session.execute(
        predicted_by_both(both, before, after, func.count()).group_by(before, after)
    )
    for i, j, count in rows:
        cells[i, j] = count
    images = int(cells.sum())
    sample = predicted_by_both(both, Old.score, New.score)
    if images > POINTS:
        # The share that is wanted and a little more, so that sorting stays small.
        cut = int(2**32 * min(1.0, 1.2 * POINTS / images))
        mixed = (col(New.image_id) * literal(SPREAD)) % literal(2**32)
        sample = sample.where(mixed < cut).order_by(mixed).limit(POINTS)
    change = session.execute(predicted_by_both(both, func.avg(New.score - Old.score))).scalar_one()
    return {
        "images": images,
        "cells": cells.tolist(),
        "points": [(float(x), float(y)) for x, y in session.execute(sample)],
        "old": cells.sum(1).tolist(),
        "new": cells.sum(0).tolist(),
        "mean_change": float(change) if change is not None else None,
    }


# --- what was learned in between ------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A label that the newer version saw and the older did not, or saw otherwise, or the reverse:
    `before` or `after` is None. Values are 0–10."""

    image_id: int
    name: str
    before: float | None
    after: float | None

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "taken back" if self.after is None else "corrected"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind}


def label_changes(
    session: Session, both: Pair, limit: int | None = None
) -> tuple[dict[str, int], list[Change]]:
    """Counts by kind, and the changes themselves: corrected first, the furthest leading."""
    old, new = _labels(session, both.a), _labels(session, both.b)
    rows = [(i, old.get(i), new.get(i)) for i in old.keys() | new.keys()]
    rows = [row for row in rows if row[1] != row[2]]
    names = _names(session, [row[0] for row in rows])
    changes = [Change(i, names[i], before, after) for i, before, after in rows]
    order = {"corrected": 0, "taken back": 1, "added": 2}
    changes.sort(key=lambda c: (order[c.kind], -abs((c.after or 0) - (c.before or 0)), c.image_id))
    counts = {kind: sum(c.kind == kind for c in changes) for kind in order}
    return counts, changes[:limit]


def _labels(session: Session, version: Version) -> dict[int, float]:
    # Versions made before their labels were kept to the last bit are off by 1e-7 of a point.
    values = training_set.values(session, version)
    return {image_id: round(value, 4) for image_id, value in values.items()}


def _names(session: Session, ids: list[int]) -> dict[int, str]:
    names: dict[int, str] = {}
    for start in range(0, len(ids), 5000):
        wanted = col(Image.id).in_(ids[start : start + 5000])
        rows = session.execute(select(Image.id, Image.name).where(wanted))
        names |= dict(rows.all())
    return names


# --- all of it ------------------------------------------------------------------------------------


def encoders_differ(session: Session, both: Pair) -> str:
    """In words, where the two versions look through different encoders; else empty."""
    if both.a.encoder_id == both.b.encoder_id:
        return ""
    names = [session.get(EncoderRow, v.encoder_id) for v in (both.a, both.b)]
    one, other = (row.name if row else "an unknown encoder" for row in names)
    through = f"{both.a.number} sees through {one}, {both.b.number} through {other}"
    if one == other:
        through += " with another fingerprint"
    return f"{through}. They are compared by what they say about the same images."


def diff(session: Session, both: Pair, flipped: int = 20) -> dict[str, Any]:
    """What `versions diff --json` prints; of the flips the `flipped` furthest of each way."""
    counts, changes = label_changes(session, both)
    how = moved(session, both)
    return {
        "a": both.a.number,
        "b": both.b.number,
        "threshold": both.project.threshold,
        "encoders_differ": encoders_differ(session, both),
        "holdout": paired_metrics(session, both),
        "images": how["images"],
        "mean_change": how["mean_change"],
        "histogram": {"old": how["old"], "new": how["new"]},
        "flips": {
            direction: count
            | {"first": [f.as_dict() for f in flips.listing(session, both, direction, n=flipped)]}
            for direction, count in flips.counts(session, both).items()
        },
        "slices": slices_moved(session, both),
        "labels": counts | {"changes": [change.as_dict() for change in changes]},
    }


def in_words(result: dict[str, Any]) -> list[str]:
    """The lines that `versions diff` prints of a `diff`."""
    a, b, holdout, labels = result["a"], result["b"], result["holdout"], result["labels"]
    lines = [result["encoders_differ"]] if result["encoders_differ"] else []
    if not holdout["n"]:
        lines.append(holdout["why_not"])
    for name, row in holdout["metrics"].items():
        change = row["difference"]
        if change["value"] is None:
            continue
        within = ""
        if change["low"] is not None:
            within = f" ({change['low']:+.2f} to {change['high']:+.2f})"
        values = f"{row['old']:.2f} → {row['new']:.2f}"
        lines.append(f"{name:20} {values}  {change['value']:+.2f}{within}  {row['verdict']}")
    if holdout["n"]:
        lines.append(f"paired, on {holdout['n']} hold-out images that neither learned from")
    for direction, what in DIRECTIONS.items():
        flip = result["flips"][direction]
        lines.append(
            f"{what:20} {flip['images']} of {result['images']} images; "
            f"{flip['right']} of {flip['labelled']} labels agree with {b}"
        )
    for row in result["slices"][:10]:
        mean = row["mean"]
        lines.append(
            f"{row['slice'][:40]:20} mean {100 * mean['old']:.0f} % → {100 * mean['new']:.0f} %, "
            f"error {slice_comparison(row['error'])}"
        )
    lines.append(
        f"labels from {a} to {b}: {labels['added']} added, {labels['corrected']} corrected, "
        f"{labels['taken back']} taken back"
    )
    return lines
