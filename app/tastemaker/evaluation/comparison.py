"""Two versions side by side: what changed between an older one, `a`, and a newer one, `b`.

What is compared are predictions by image, so versions of different encoders compare as well. The
metrics are paired, on the images drawn at random, each predicted by heads of either version that
never saw it. The scatter and the histograms are about what the two files say, which is what a
person who uses them will notice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Integer, literal
from sqlalchemy import cast as sql_cast
from sqlmodel import Session, col, func, select

from tastemaker import scores
from tastemaker.database.tables import EncoderRow, Image, Version
from tastemaker.evaluation import flips, slices
from tastemaker.evaluation.flips import (
    DIRECTIONS,
    Flip,
    FlipCount,
    New,
    Old,
    Pair,
    predicted_by_both,
)
from tastemaker.files.percentages import percent
from tastemaker.learning import metrics
from tastemaker.learning.version_metrics import Comparison, PairedMetric
from tastemaker.versions import predictions, training_set

GRID = 40  # cells of the scatter, and bars of the histograms, along each axis
POINTS = 2000
SPREAD = 2654435761  # Knuth's multiplicative hash: a sample that is fixed, and not by age


# --- numbers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedComparison:
    """Every metric of both versions, by name, on `n` images that can judge them. `constant_mae` is
    the error there of always giving the median label that the newer one learned from. `why_not`
    says in words why nothing is known, where that is so."""

    n: int
    metrics: Mapping[str, PairedMetric]
    why_not: str = ""
    constant_mae: float | None = None

    def as_json(self) -> dict[str, Any]:
        rows = {name: row.as_json() for name, row in self.metrics.items()}
        return {"n": self.n, "metrics": rows, "why_not": self.why_not}


def paired_metrics(session: Session, both: Pair) -> PairedComparison:
    """On the random sample, both sides of the hold-out, by the labels that the newer version saw
    (the older, where it saw none)."""
    labels = measuring_labels(session, both)
    common = sorted(labels)
    before = predictions.honest(session, both.a, common)
    after = predictions.honest(session, both.b, common)
    common = [i for i in common if i in before and i in after]
    if not common:
        return PairedComparison(0, {}, _why_not(both))
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
    return PairedComparison(
        len(common), rows, constant_mae=_constant_mae(session, both, [labels[i] for i in common])
    )


def _constant_mae(session: Session, both: Pair, labels: Sequence[float]) -> float | None:
    trained = list(training_set.values(session, both.b, "train").values())
    return float(np.abs(np.array(labels) - np.median(trained)).mean()) if trained else None


def _why_not(both: Pair) -> str:
    return (
        f"{both.a.number} and {both.b.number} have no image drawn at random or scored in a file "
        "that both can be judged by, so which of them errs less cannot be known. What they say "
        "differently is below."
    )


def measuring_labels(session: Session, both: Pair) -> dict[int, float]:
    """Image id → label (0–10) of what can judge both: what was held out, and the rest of the
    random sample."""
    newer = both.b if training_set.values(session, both.b) else both.a
    drawn = scores.drawn_at_random(session, both.project.id, newer.event_high)
    held = training_set.values(session, newer, "holdout")
    labels = training_set.values(session, newer)
    return held | {image_id: value for image_id, value in labels.items() if image_id in drawn}


@dataclass(frozen=True)
class OldAndNew:
    """One number under both versions."""

    old: float
    new: float


@dataclass(frozen=True)
class SliceMove:
    """What a slice of `images` scores under both versions, and whether the newer one errs less on
    its labels, which lie in so many `groups`. A large tag that is no slice has no id."""

    slice: str
    slice_id: int | None
    images: int
    mean: OldAndNew
    pass_rate: OldAndNew
    error: Comparison
    groups: int

    @property
    def told(self) -> str:
        """The verdict on the slice, or why there is none."""
        if not self.error.difference.n:
            return "without a label"
        few = self.groups < metrics.FEWEST_GROUPS
        return "on too few photographs" if few else self.error.verdict

    def as_json(self) -> dict[str, Any]:
        return {
            "slice": self.slice, "slice_id": self.slice_id, "images": self.images,
            "mean": asdict(self.mean), "pass_rate": asdict(self.pass_rate),
            "error": self.error.as_dict() | {"groups": self.groups},
        }  # fmt: skip


def slices_moved(session: Session, both: Pair) -> list[SliceMove]:
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
            SliceMove(
                row.name,
                row.id or None,
                len(i),
                mean=OldAndNew(float(old.honest[i].mean()), float(new.honest[j].mean())),
                pass_rate=OldAndNew(
                    float((old.honest[i] >= threshold).mean()),
                    float((new.honest[j] >= threshold).mean()),
                ),
                error=comparison,
                groups=len(np.unique(new.group[j][labelled])),
            )
        )
    return sorted(moves, key=lambda move: -abs(move.mean.new - move.mean.old))


# --- how everything moved -----------------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    """How the predictions of the common images moved: `cells` (GRID × GRID counts, row by old,
    column by new score), `points` (old, new), every image up to POINTS, else a sample fixed by
    the image's id; `old` and `new` histograms (GRID bars each). `mean_change` is None without an
    image."""

    images: int
    cells: Sequence[Sequence[int]]
    points: Sequence[tuple[float, float]]
    old: Sequence[int]
    new: Sequence[int]
    mean_change: float | None


def moved(session: Session, both: Pair) -> Moved:
    """How the predictions of the images that both predicted moved."""

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
    return Moved(
        images=images,
        cells=cells.tolist(),
        points=[(float(x), float(y)) for x, y in session.execute(sample)],
        old=cells.sum(1).tolist(),
        new=cells.sum(0).tolist(),
        mean_change=float(change) if change is not None else None,
    )


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


@dataclass(frozen=True)
class Difference:
    """Everything that is told of two versions. `flips`: for each direction the count and the
    furthest ones; `label_counts` by kind."""

    a: str
    b: str
    threshold: float
    encoders_differ: str
    holdout: PairedComparison
    moved: Moved
    flips: Mapping[str, tuple[FlipCount, list[Flip]]]
    slices: list[SliceMove]
    label_counts: Mapping[str, int]
    label_changes: list[Change]

    def as_json(self) -> dict[str, Any]:
        """What `versions diff --json` prints."""
        return {
            "a": self.a,
            "b": self.b,
            "threshold": self.threshold,
            "encoders_differ": self.encoders_differ,
            "holdout": self.holdout.as_json(),
            "images": self.moved.images,
            "mean_change": self.moved.mean_change,
            "histogram": {"old": self.moved.old, "new": self.moved.new},
            "flips": {
                direction: asdict(count) | {"first": [flip.as_dict() for flip in first]}
                for direction, (count, first) in self.flips.items()
            },
            "slices": [move.as_json() for move in self.slices],
            "labels": {
                **self.label_counts,
                "changes": [change.as_dict() for change in self.label_changes],
            },
        }

    def in_words(self) -> list[str]:
        """The lines that `versions diff` prints."""
        lines = [self.encoders_differ] if self.encoders_differ else []
        if not self.holdout.n:
            lines.append(self.holdout.why_not)
        lines += [_metric_line(*named) for named in self.holdout.metrics.items()
                  if named[1].difference.value is not None]  # fmt: skip
        if self.holdout.n:
            lines.append(f"paired, on {self.holdout.n} images drawn at random or scored in files")
        for direction, what in DIRECTIONS.items():
            flip, _ = self.flips[direction]
            lines.append(
                f"{what:20} {flip.images} of {self.moved.images} images; "
                f"{flip.right} of {flip.labelled} labels agree with {self.b}"
            )
        for move in self.slices[:10]:
            mean = move.mean
            lines.append(
                f"{move.slice[:40]:20} mean {percent(mean.old)} → {percent(mean.new)}, "
                f"error {move.told}"
            )
        counts = self.label_counts
        lines.append(
            f"labels from {self.a} to {self.b}: {counts['added']} added, "
            f"{counts['corrected']} corrected, {counts['taken back']} taken back"
        )
        return lines


def _metric_line(name: str, row: PairedMetric) -> str:
    change = row.difference
    within = "" if change.low is None else f" ({change.low:+.2f} to {change.high:+.2f})"
    values = f"{row.old:.2f} → {row.new:.2f}"
    return f"{name:20} {values}  {change.value:+.2f}{within}  {row.verdict}"


def diff(session: Session, both: Pair, flipped: int = 20) -> Difference:
    """The two versions held against each other; of the flips the `flipped` furthest of each
    way."""
    counts, changes = label_changes(session, both)
    return Difference(
        a=both.a.number,
        b=both.b.number,
        threshold=both.project.threshold,
        encoders_differ=encoders_differ(session, both),
        holdout=paired_metrics(session, both),
        moved=moved(session, both),
        flips={
            direction: (count, flips.listing(session, both, direction, n=flipped))
            for direction, count in flips.counts(session, both).items()
        },
        slices=slices_moved(session, both),
        label_counts=counts,
        label_changes=changes,
    )
