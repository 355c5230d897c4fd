"""What the model card of a classifier tells that was trained here: its classes, how good it is on
each, and how the labels behind it are shared out."""

import math

from sqlmodel import Session

from tastemaker import projects
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.evaluation.expectations import Report
from tastemaker.files.percentages import percent
from tastemaker.learning.city96 import HIDDEN, layout
from tastemaker.publishing.card_blocks import Block, Table, Verbatim, Words
from tastemaker.scores import classes
from tastemaker.versions import class_report, training_set, version_report


def in_a_sentence(version: Version, encoder: EncoderRow) -> str:
    record = version.classes
    day = version.created_at.date().isoformat()
    what = "Tags images with any of" if record.labelling == "tags" else "Sorts images into"
    return (
        f"{what} {len(record.names)} {record.labelling}: {', '.join(record.names)}. It learned "
        f"from {version.metrics.images} images labelled by hand. Published on {day}; it reads "
        f"embeddings of {encoder.name}."
    )


def usecases(version: Version) -> tuple[Block, ...]:
    """What it makes of the project's images."""
    total = version.metrics.predicted
    rows = tuple(
        (row.name, str(row.predicted), percent(row.predicted / total) if total else "–")
        for row in class_report.rows(version)
    )
    return (
        Words(f"What it gives the {total} images of its project:"),
        Table(("class", "images", "share"), rows),
    )


def ratios(session: Session, project: Project, version: Version) -> tuple[Block, ...]:
    """The labels behind it, as the original's author prints classes: a bar for every 2.5 %."""
    record = version.classes
    several = record.labelling == "tags"
    counts = dict.fromkeys(record.numbers, 0)
    labels = training_set.values(session, version)
    for value in labels.values():
        for number in classes.members(int(value)) if several else [int(value)]:
            if number in counts:
                counts[number] += 1
    images = projects.pool_size(session, project)
    tried = set(session.exec(projects.outside_the_pool(project.id)))
    raw = max(0, images - len(labels.keys() - tried))
    told = classes.ClassRatios(
        images, len(labels), raw,
        tuple((record.name(number), count) for number, count in counts.items()),
    )  # fmt: skip
    sides = training_set.count_sides(session, version)
    return (
        Words(f"Class ratios of the data set for {version.number}:"),
        Verbatim(told.text()),
        Words(
            f"Of the labelled ones, {sides['train']} trained it, {sides['holdout']} were held out "
            f"to measure it and {sides['aside']} did neither."
        ),
    )


def metrics_of(version: Version) -> tuple[Block, ...]:
    """Class by class, with what it rests on and the confusion."""
    record = version.classes
    measured = record.measured
    if not measured.n:
        return (Words("Nothing was measured: too few labels.", quiet=True),)
    rows = tuple(
        (
            row.name,
            *(
                class_report.in_percent(getattr(row.figures, name))
                for name in ("precision", "recall", "f1", "average_precision")
            ),
            str(row.figures.recall.n),
        )
        for row in class_report.rows(version)
    )
    head = ("class", "precision", "recall", "F1", "average precision", "n")
    blocks: list[Block] = [
        Words(f"{class_report.headline(version)} {version_report.measured_in_words(record)}"),
        Table(head, rows),
    ]
    if finding := class_report.finding(record):
        blocks.append(Words(finding))
    in_short = class_report.in_short(measured.confusion)
    if in_short:
        blocks += [
            Words("What each class is most often taken for:"),
            Table(
                ("labelled", "images", "found", "most often taken for"),
                tuple(
                    (
                        name, str(row.labelled), str(row.found),
                        ", ".join(f"{record.names[other]} {n}" for other, n in row.others) or "–",
                    )
                    for name, row in zip(record.names, in_short, strict=True)
                ),
            ),
        ]  # fmt: skip
    elif measured.confusion:
        named = zip(record.names, measured.confusion, strict=True)
        blocks += [
            Words("Confusion, labelled (rows) against predicted (columns):"),
            Table(
                ("labelled", *record.names),
                tuple((name, *map(str, counts)) for name, counts in named),
            ),
        ]
    return tuple(blocks)


def slices_of(report: Report) -> tuple[Block, ...]:
    """What it makes of the parts of its library that the author named."""
    if not report.class_slices:
        return ()
    rows = tuple(
        (row.name, str(row.images), class_report.in_percent(row.accuracy), str(row.labelled))
        for row in report.class_slices
    )
    return (
        Words("On slices, on their labels, each by a head that had not seen it:"),
        Table(("slice", "images", "accuracy", "labels"), rows),
    )


def architecture(version: Version, encoder: EncoderRow) -> tuple[Block, ...]:
    record = version.classes
    outputs = len(record.names)
    count = sum(math.prod(shape) for shape in layout(encoder.dim, outputs).values())
    last = (
        "Each output z is a tag of its own: (tanh z + 1) / 2 is how sure it is of it. The export "
        "holds a file with one output for each tag as well, which the original's loader reads."
        if record.labelling == "tags"
        else "A softmax over the outputs gives the probabilities of the classes."
    )
    return (
        Words(
            f"A frozen encoder turns the image into {encoder.dim} numbers, which are not divided "
            f"by their length. The head has the layout of CityClassifiers, {HIDDEN} units wide, "
            f"with {outputs} output{'s' * (outputs != 1)}. {last} {count} parameters in 16 tensors."
        ),
        Words("It is a linear model written in that layout, exactly up to rounding."),
        Table(("output", "name"), tuple((str(i), name) for i, name in enumerate(record.names))),
    )


def demo(version: Version, encoder: EncoderRow, original_scripts: str) -> tuple[Block, ...]:
    return (
        Words(f"The file needs the encoder {encoder.name}. {original_scripts}"),
        Words("Its sidecar names the outputs under “labels”, in their order."),
    )
