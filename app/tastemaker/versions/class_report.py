"""What is told of a classifier that was trained here: its figures class by class, and on what they
rest, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tastemaker.database.tables import Version
from tastemaker.files.percentages import percent, percent_range
from tastemaker.files.texts import enumerated
from tastemaker.learning.class_metrics import ClassFigures, ClassMetrics, ClassRecord
from tastemaker.learning.version_metrics import ENOUGH_FOR_ONE_RATE, Estimate

RESTS_ON = {
    "holdout": "hold-out images",
    "random_sample": "images drawn at random or labelled in files",
    "out_of_fold": "labelled images, cross-validated",
}

WHOLE = 20  # classes up to which a confusion is shown cell by cell; of more,
OFTEN = 3  # what each class is most often taken for
NAMED = 8  # classes that a sentence names, of many


@dataclass(frozen=True)
class ClassRow:
    """One class: its name when the version was trained, how many labels of it the version saw, how
    many images of the project it gives that class, and its figures on what the version is measured
    on."""

    number: int
    name: str
    labels: int
    predicted: int
    figures: ClassFigures


def rows(version: Version) -> list[ClassRow]:
    """Every class of the version, in the order of its outputs."""
    record = version.classes
    measured = {one.number: one.findings for one in record.measured.classes}
    predicted = record.predicted or (0,) * len(record.numbers)
    return [
        ClassRow(number, name, labels, said, measured.get(number, ClassFigures(number=number)))
        for number, name, labels, said in zip(
            record.numbers, record.names, record.labels, predicted, strict=True
        )
    ]


@dataclass(frozen=True)
class ConfusionRow:
    """A row of a confusion in short: so many are `labelled` as a class, so many of them are found,
    and the others are most often taken for these: (place, images)."""

    labelled: int
    found: int
    others: tuple[tuple[int, int], ...]


def in_short(counts: Sequence[Sequence[int]]) -> list[ConfusionRow] | None:
    """What a confusion (rows: labelled, columns: predicted) of many classes says, row by row; None
    where they are so few that the whole of it can be taken in."""
    if len(counts) <= WHOLE:
        return None
    told = []
    for place, row in enumerate(counts):
        others = [(other, n) for other, n in enumerate(row) if n and other != place]
        others.sort(key=lambda one: -one[1])
        told.append(ConfusionRow(sum(row), row[place], tuple(others[:OFTEN])))
    return told


def headline(version: Version) -> str:
    """How good it is, in a sentence."""
    record = version.classes
    measured = record.measured
    if measured.accuracy.value is None:
        return "Nothing is measured yet: there are too few labels."
    what = "all tags of an image" if record.labelling == "tags" else "the class"
    share = in_percent(measured.accuracy)
    always = measured.always_commonest
    beside = ""
    if always is not None:
        beside = f"; always giving the commonest would be right for {percent(always)}"
    return f"It gets {what} right for {share}{beside}."


def finding(record: ClassRecord) -> str:
    """How it compares with the version before it, where that was measured."""
    versus = record.versus
    apart = versus.difference if versus else None
    if versus is None or apart is None or apart.value is None:
        return ""
    said = {"better": "Better than", "worse": "Worse than"}.get(versus.verdict, "")
    beginning = f"{said} {versus.version}" if said else f"No difference to {versus.version} shown"
    points = f"{100 * apart.value:+.1f} points of error in 100"
    if apart.low is not None and apart.high is not None:
        points += f" ({100 * apart.low:+.1f} to {100 * apart.high:+.1f}, {apart.n} images)"
    return f"{beginning}: {points}.".replace("-", "−")


def caveats(version: Version) -> list[str]:
    """What to mind about the version."""
    record = version.classes
    told = []
    if record.left_out:
        names = enumerated([f"“{name}”" for name in record.left_out], NAMED)
        verb = "was" if len(record.left_out) == 1 else "were"
        told.append(f"{names} {verb} left out: no label that may train teaches it.")
    labels = sorted(zip(record.labels, record.names, strict=True), key=lambda one: one[0])
    few = [f"“{name}” ({n})" for n, name in labels if n < ENOUGH_FOR_ONE_RATE]
    if few:
        told.append(
            f"Fewer than {ENOUGH_FOR_ONE_RATE} labels each: {enumerated(few, NAMED)}. Their "
            "figures say little."
        )
    if record.rank is not None and record.labelling == "classes" and len(record.numbers) > 33:
        told.append(
            f"The layout of the file holds {record.rank} directions: of its {len(record.numbers)} "
            "classes some share them. It was measured as it is written."
        )
    return told


def in_percent(estimate: Estimate) -> str:
    """“87 % (80–93 %)”."""
    text = percent(estimate.value)
    if estimate.value is not None and estimate.low is not None and estimate.high is not None:
        text += f" ({percent_range(estimate.low, estimate.high)})"
    return text


def in_a_line(told: dict[str, Any]) -> str:
    """What `as_json` told, in a line: how good it is and on what that rests."""
    if told["accuracy"] is None:
        return "not measured yet"
    line = f"accuracy {percent(told['accuracy'])}"
    if told["accuracy_low"] is not None:
        line += f" ({percent_range(told['accuracy_low'], told['accuracy_high'])})"
    line += f" on {told['accuracy_n']} {RESTS_ON[told['measured_on']]}"
    if told["always_commonest"] is not None:
        line += f"; always the commonest: {percent(told['always_commonest'])}"
    return line


def as_json(version: Version) -> dict[str, Any] | None:
    """What `versions show --json` and the API tell; None of a version that scores."""
    record = version.classes
    if not record.numbers:
        return None
    measured: ClassMetrics = record.measured
    return {
        "labelling": record.labelling,
        "measured_on": record.measured_on,
        **measured.accuracy.flat("accuracy"),
        **measured.macro_f1.flat("macro_f1", n=False),
        "always_commonest": measured.always_commonest,
        "left_out": list(record.left_out),
        "classes": [
            {
                "number": row.number, "name": row.name, "labels": row.labels,
                "predicted": row.predicted,
                **row.figures.precision.flat("precision"),
                **row.figures.recall.flat("recall"),
                **row.figures.f1.flat("f1", n=False),
                **row.figures.average_precision.flat("average_precision", n=False),
            }
            for row in rows(version)
        ],
        "confusion": [list(row) for row in measured.confusion],
        "versus": record.versus.as_json() if record.versus else None,
    }  # fmt: skip
