"""The model card of a version: what it is for, what it gets wrong, what it was made from.

Goals, biases, issues and limits are the author's to write (once per project);
whatever can be measured stands beside their words and stays true by itself.
"""

import math
from pathlib import Path

from sqlmodel import Session

from tastemaker import projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.encoding import frame_rules
from tastemaker.encoding.encoder_specs import spec_of
from tastemaker.errors import Invalid
from tastemaker.evaluation import audit_reports, expectations
from tastemaker.files.percentages import percent
from tastemaker.files.texts import encodable
from tastemaker.learning.city96 import HIDDEN, layout
from tastemaker.learning.version_metrics import ENOUGH_HELD_OUT, ExpectationCheck, SliceMetrics
from tastemaker.publishing import class_card
from tastemaker.publishing.card_blocks import (
    Block,
    Bullets,
    Card,
    Own,
    Section,
    Table,
    Verbatim,
    Words,
)
from tastemaker.publishing.card_figures import (
    loss_curve,
    metrics_of,
    regression_to_the_mean,
    with_interval,
)
from tastemaker.versions import (
    class_report,
    predictions,
    priors,
    training_set,
    version_report,
)

# The author's own words, by the heading they stand under.
TEXTS = {
    "goals": "Design goals",
    "biases": "Intentional biases",
    "issues": "Issues",
    "scope": "Out-of-scope",
}
MOST_CHARACTERS = 8000
TOP_SHEET = "top-100.png"

# --- the author's words ------------------------------------------------------------------------


def texts(project: Project) -> dict[str, str]:
    """What the author wrote under each heading; empty where they did not."""
    return {key: encodable(str(project.card.get(key, ""))) for key in TEXTS}


def set_texts(session: Session, project: Project, written: dict[str, str]) -> None:
    """Keep the author's words. Raises `Invalid` for an unknown heading or too long a text."""
    if unknown := sorted(written.keys() - TEXTS.keys()):
        raise Invalid(f"A model card has no part “{unknown[0][:40]}”.", f"Use {', '.join(TEXTS)}.")
    for key, text in written.items():
        if len(text) > MOST_CHARACTERS:
            raise Invalid(
                f"“{TEXTS[key]}” has {len(text)} characters; at most {MOST_CHARACTERS} are kept.",
                "Shorten it.",
            )
    cleaned = {k: encodable(text).replace("\r\n", "\n").strip() for k, text in written.items()}
    project.card = {**project.card, **cleaned}
    session.add(project)


# --- gathering ---------------------------------------------------------------------------------


def card_of(session: Session, settings: Settings, version: Version) -> Card:
    """Everything there is to tell about a version, as of now."""
    project = projects.get(session, version.project_id)
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    own = texts(project)
    if version.classes.numbers:
        return _class_card(session, settings, project, version, encoder, own)
    report = expectations.check(session, version)
    sections = [
        Section(2, "", (Words(_in_a_sentence(project, version, encoder)), *_note(version))),
        Section(2, "Design goals", _own_or(own["goals"], "The author has not written them yet.")),
        Section(3, "Intentional biases", _biases(own["biases"], report)),
        Section(3, "Issues", _issues(own["issues"], report, version)),
        Section(3, "Out-of-scope", _own_or(own["scope"], "The author has not drawn the line yet.")),
        Section(2, "Usecases", _usecases(session, project, version)),
        Section(2, "Training", (*_training(version, encoder), *_lineage(session, version))),
        Section(3, "Loss curve", loss_curve(version)),
        Section(3, "Score distribution", _distribution(session, project, version)),
        Section(3, "Version history", (_history(session, project),)),
        Section(2, "Metrics", metrics_of(version)),
        *_audits(session, version),
        Section(2, "Architecture", _architecture(version, encoder)),
        Section(2, "Demo", _demo(version, encoder)),
        Section(2, "Files", (_files(settings, version),)),
    ]
    return Card(f"{project.name} {version.number}", tuple(sections))


def _class_card(
    session: Session, settings: Settings, project: Project, version: Version, encoder: EncoderRow,
    own: dict[str, str],
) -> Card:  # fmt: skip
    """Of a classifier trained here: the same sections, those about scores told of classes."""
    report = expectations.check(session, version)
    known = [*_shown_by_slices(report), *class_report.caveats(version)]
    issues = (Bullets(tuple(known)),) if known else ()
    sections = [
        Section(2, "", (Words(class_card.in_a_sentence(version, encoder)), *_note(version))),
        Section(2, "Design goals", _own_or(own["goals"], "The author has not written them yet.")),
        Section(3, "Intentional biases", _biases(own["biases"], report)),
        Section(3, "Issues", (*_own_or(own["issues"], "The author knows of none."), *issues)),
        Section(3, "Out-of-scope", _own_or(own["scope"], "The author has not drawn the line yet.")),
        Section(2, "Usecases", class_card.usecases(version)),
        Section(2, "Training", _training(version, encoder)),
        Section(3, "Class ratios", class_card.ratios(session, project, version)),
        Section(3, "Version history", (_history(session, project),)),
        Section(2, "Metrics", (*class_card.metrics_of(version), *class_card.slices_of(report))),
        Section(2, "Architecture", class_card.architecture(version, encoder)),
        Section(2, "Demo", class_card.demo(version, encoder, _original_scripts(encoder))),
        Section(2, "Files", (_files(settings, version),)),
    ]
    return Card(f"{project.name} {version.number}", tuple(sections))


def _audits(session: Session, version: Version) -> tuple[Section, ...]:
    """What was promised of its filter; no section where nothing was."""
    told = tuple(
        f"“{one.audit.name}”{'' if one.searches else f', kept from {100 * one.audit.cut:g} %'}: "
        f"{audit_reports.headline(one, for_file=True)}"
        for one in audit_reports.of_version(session, version)
    )
    why = (
        "Images were drawn at random from what it keeps and what it leaves out, and scored by hand "
        "without sight of a prediction:"
    )
    return (Section(2, "Audits", (Words(why), Bullets(told))),) if told else ()


def _own_or(own: str, otherwise: str) -> tuple[Block, ...]:
    return (Own(own),) if own else (Words(otherwise, quiet=True),)


def _note(version: Version) -> tuple[Block, ...]:
    return (Words(version.note),) if version.note else ()


def _in_a_sentence(project: Project, version: Version, encoder: EncoderRow) -> str:
    day = version.created_at.date().isoformat()
    if version.major == 0:
        return f"Made elsewhere and brought in on {day}; it reads embeddings of {encoder.name}."
    n = version.metrics.images
    return (
        f"Scores images from 0 to 100 %, as one person would: it learned from {n} images scored "
        f"by hand from 0 to 10. Published on {day}; it reads embeddings of {encoder.name}."
    )


def _biases(own: str, report: expectations.Report) -> tuple[Block, ...]:
    stated = tuple(_stated(check) for check in report.expectations)
    if own:
        return (Own(own), Words("As expectations:"), Bullets(stated)) if stated else (Own(own),)
    if stated:
        return (Bullets(stated),)
    return (Words("None were stated, in words or as expectations of slices.", quiet=True),)


def _stated(check: ExpectationCheck) -> str:
    sentence = f"{check.slice}: {expectations.wanted(check)}"
    if check.value is None or check.met is None:
        return f"{sentence} (no image to tell by)"
    verdict = "met" if check.met else "missed"
    return f"{sentence} ({verdict}: {expectations.shown(check)} over {check.images} images)"


def _shown_by_slices(report: expectations.Report) -> list[str]:
    """The expectations that are missed, and the slices that it has seen too little of."""
    found = [expectations.missed(check) for check in report.missed]
    for row in (*report.slices, *report.class_slices):
        if row.under_represented:
            passes = (
                f", pass rate {percent(row.pass_rate)}" if isinstance(row, SliceMetrics) else ""
            )
            found.append(
                f"{row.name} is under-represented: {percent(row.training_share)} of the labels, "
                f"{percent(row.library_share)} of the library{passes}"
            )
    return found


def _issues(own: str, report: expectations.Report, version: Version) -> tuple[Block, ...]:
    """The author's, and what the measurements show without anybody's help."""
    known = [*_shown_by_slices(report), *version_report.caveats(version)]
    known += regression_to_the_mean(version.metrics.measured)
    n = version.metrics.holdout.n
    if n < ENOUGH_HELD_OUT:
        held = f"Only {n} labels were" if n else "No label was"
        known.append(f"{held} held out: its numbers are cross-validated on what it learned from.")
    elif n < 100:
        known.append(f"Only {n} held-out images measure it; mind the intervals under Metrics.")
    blocks: tuple[Block, ...] = (Bullets(tuple(known)),) if known else ()
    if own:
        return (Own(own), Words("And as measured:"), *blocks) if known else (Own(own),)
    return blocks or (Words("None are known.", quiet=True),)


def _usecases(session: Session, project: Project, version: Version) -> tuple[Block, ...]:
    spread = predictions.percentiles(session, version)
    labels = version.recipe.get("labels")
    meaning = f" The score is how sure it is that an image is not “{labels[0]}”." if labels else ""
    blocks: list[Block] = [
        Words(
            f"A filter for large sets of images. An image passes from {percent(project.threshold)}"
            f" upwards.{meaning}"
        ),
        Table(("score", "meaning", "share of the library"), _brackets(session, project, version)),
    ]
    if spread is not None:
        blocks += [
            Words(
                "Scores of two versions spread differently; shares do not. To keep the best part, "
                f"take the score it begins at (over the {spread.images} images it has predicted):"
            ),
            Table(
                ("best", "score from"),
                tuple((f"{top} %", percent(spread.top(top), 1)) for top in predictions.TOPS),
            ),
            Words(f"The sheet {TOP_SHEET} beside this card shows the images it likes best."),
        ]
    return tuple(blocks)


def _brackets(session: Session, project: Project, version: Version) -> tuple[tuple[str, ...], ...]:
    predicted = predictions.all_scores(session, version)
    starts = [float(start) for start, _ in project.brackets]
    rows = []
    for (start, name), end in zip(project.brackets, [*starts[1:], 1.01], strict=True):
        inside = int(((predicted >= start) & (predicted < end)).sum())
        to = min(end, 1.0)
        share = percent(inside / len(predicted)) if len(predicted) else "–"
        rows.append((f"{100 * start:g}–{100 * to:g} %", str(name), share))
    return tuple(rows)


def _training(version: Version, encoder: EncoderRow) -> tuple[Block, ...]:
    if version.major == 0:
        return (Words(f"Not trained here. Its encoder: {encoder.name}."),)
    rows = [
        ("encoder", encoder.name),
        ("encoder fingerprint", encoder.fingerprint),
        *_animated(encoder),
        ("seed", str(version.seed)),
    ]
    if version.metrics.kind not in (
        "ridge",
        "logistic",
    ):  # the other settings are those of a descent
        rows += [
            (key.replace("_", " "), str(value))
            for key, value in version.recipe.items()
            if key not in ("name", "seed") and not isinstance(value, dict | list)
        ]
    return (
        Words(version_report.recipe_sentence(version)),
        Table(("setting", "value"), tuple(rows)),
    )


def _animated(encoder: EncoderRow) -> list[tuple[str, str]]:
    rule = spec_of(encoder.name).frames
    return [] if rule == "first" else [("animated files", frame_rules.IN_WORDS[rule])]


def _lineage(session: Session, version: Version) -> tuple[Block, ...]:
    """The heads it started from, and how much of them is in it."""
    rows = priors.of_version(session, version)
    if not rows:
        return ()
    return (
        Words("It started from other heads, each trusted as far as the labels bore it out:"),
        Bullets(
            tuple(
                f"{row.name} ({priors.trust_in_words(row.probability, row.slope)}), SHA-256 "
                f"{row.sha256}{priors.loss_in_words(row.line_error)}"
                for row in rows
            )
        ),
    )


def _distribution(session: Session, project: Project, version: Version) -> tuple[Block, ...]:
    counts = [0] * 11
    labels = training_set.values(session, version)
    for value in labels.values():
        counts[round(value)] += 1
    images = projects.pool_size(session, project)
    tried = set(session.exec(projects.outside_the_pool(project.id)))
    raw = max(0, images - len(labels.keys() - tried))
    sides = training_set.count_sides(session, version)
    return (
        Words(f"Dataset score distribution for {version.number}:"),
        Verbatim(scores.histogram_text(counts, raw, images)),
        Words(
            f"Of the scored ones, {sides['train']} trained it, {sides['holdout']} were held out to "
            f"measure it and {sides['aside']} did neither."
        ),
    )


def _history(session: Session, project: Project) -> Block:
    return Bullets(tuple(_line(v) for v in reversed(versions.list_ready(session, project))))


def _line(version: Version) -> str:
    measured, on = version.metrics.measured, version.metrics.measured_on
    record = version.classes
    parts = [f"{version.number} - {version.note or 'no note'}"]
    images = version.metrics.images
    parts.append(f"{images} training images" if version.major else "made elsewhere")
    if record.measured_on:
        share = class_report.in_percent(record.measured.accuracy)
        on_what = class_report.RESTS_ON[record.measured_on]
        parts.append(f"accuracy {share} on {record.measured.n} {on_what}")
    if on:
        error = with_interval(measured.mae, points=True)
        parts.append(f"error {error} on {measured.n} {version_report.RESTS_ON[on]}")
    return "; ".join(parts)


def _architecture(version: Version, encoder: EncoderRow) -> tuple[Block, ...]:
    labels = version.recipe.get("labels") or []
    outputs = max(1, len(labels))
    count = sum(math.prod(shape) for shape in layout(encoder.dim, outputs).values())
    last = (
        "A softmax over the outputs gives the classes; the score shown is how sure it is that the "
        "image is not the first one."
        if labels
        else "The score is (tanh z + 1) / 2 of the one output z."
    )
    blocks: list[Block] = [
        Words(
            f"A frozen encoder turns the image into {encoder.dim} numbers, which are not divided "
            f"by their length. The head widens them to {HIDDEN}, adds a residual branch of three "
            "linear layers with leaky ReLUs (0.1) between them, and narrows the ReLU of the sum "
            f"over 128, 64 and 32 to {outputs}, with one leaky ReLU (0.01) on the way. {last} "
            f"{count} parameters in 16 tensors."
        )
    ]
    if version.metrics.kind == "ridge":
        blocks.append(
            Words("This one is a linear model written in that layout, exactly up to rounding.")
        )
    if version.metrics.kind == "blend":
        blocks.append(
            Words("Part of its units are a linear model, whose output is added to the network's.")
        )
    if labels:
        blocks.append(
            Table(("class", "name"), tuple((str(i), name) for i, name in enumerate(labels)))
        )
    return tuple(blocks)


def _demo(version: Version, encoder: EncoderRow) -> tuple[Block, ...]:
    file = Path(version.file).name
    return (
        Words("Score a folder, and copy what passes:"),
        Verbatim(f"tastemaker score FOLDER --model {file} --min 50 --copy BEST"),
        Words(f"The file needs the encoder {encoder.name}. {_original_scripts(encoder)}"),
    )


def _original_scripts(encoder: EncoderRow) -> str:
    """What the scripts of CityClassifiers, whose layout this is, will make of the file."""
    if encoder.dim != 768:
        return (
            f"The scripts of CityClassifiers take heads of 768 numbers only, and refuse this one "
            f"of {encoder.dim}."
        )
    if encoder.name.startswith("ViT-L-14-336-quickgelu/openai"):
        return "So do the scripts of CityClassifiers: they load it as it is."
    return (
        "The scripts of CityClassifiers load it too, but embed with ViT-L-14-336-quickgelu/openai: "
        "change the encoder there, or every score will be wrong without a sign of it."
    )


def _files(settings: Settings, version: Version) -> Block:
    path = versions.checkpoint_path(settings, version)
    rows = [(path.name, str(version.bytes), version.sha256)]
    if source := version.recipe.get("source_sha256"):
        rows.append((f"{version.recipe['file']}, as it came", "–", source))
    return Table(("file", "bytes", "SHA-256"), tuple(rows))
