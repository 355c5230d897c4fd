"""`tastemaker train`, `tastemaker card` and `tastemaker versions …`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.options import (
    InProject,
    ProjectWords,
    VersionWords,
    in_order,
    path_option,
    words,
)
from tastemaker.cli.terminal import (
    AsJson,
    confirm,
    counted,
    database,
    finish_jobs,
    out,
    plain,
    print_json,
    sees_through,
    were,
)
from tastemaker.database import sessions
from tastemaker.errors import NotFound
from tastemaker.files.addresses import local_path
from tastemaker.files.percentages import percent

top = Commands()
app = Commands(help="List, show, compare, activate, export versions.", no_args_is_help=True)

FORMATS = ("city96", "laion", "all")
VERSION = "A version is v1.3, or active. The project comes first, or as -p."


@top.command()
def train(
    typed: ProjectWords = None,
    project: InProject = None,
    note: Annotated[str, typer.Option(help="A line to remember this version by.")] = "",
    recipe: Annotated[
        str | None,
        typer.Option(help="auto, ridge, mlp, city96, or original (40 minutes or more)."),
    ] = None,
    major: Annotated[
        bool, typer.Option("--major", help="Start a new major version: v2.0 after v1.4.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the version is published.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a new version on the scores as they stand now."""
    from tastemaker import projects, versions
    from tastemaker.training.retrain import request_training

    (name,) = in_order(typed, project)
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            chosen = projects.by_name(session, name)
            job_id = request_training(session, settings, chosen, note, recipe, major).id
        if not sees_through(settings, wait):
            if as_json:
                return print_json({"job": job_id})
            out.print(f"Job {job_id} is queued.")
            return None
        result = finish_jobs(settings, engine, [job_id])[0].result
        with sessions.reading(engine) as session:
            version = versions.get(session, result["version_id"])
            facts = versions.as_json(session, settings, version)
    if as_json:
        return print_json(facts)
    why = facts["activation"]
    out.print(f"{facts['version']} is published: {quality(facts)}. {why[:1].upper()}{why[1:]}.")
    return None


@top.command()
def card(
    typed: VersionWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Print the model card of a version, as Markdown."""
    name, number = in_order(typed, project, "[VERSION]")
    from tastemaker import projects, versions
    from tastemaker.publishing import card_blocks, model_card

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, name), number or "active")
        text = card_blocks.markdown(model_card.card_of(session, settings, chosen))
    if as_json:
        return print_json({"version": chosen.number, "markdown": text})
    print(text, end="")
    return None


@app.command("list")
def versions_list(
    typed: ProjectWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a project, oldest first."""
    (name,) = in_order(typed, project)
    from tastemaker import projects, versions

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        oldest_first = versions.list_ready(session, chosen)[::-1]
        rows = versions.list_as_json(session, settings, oldest_first)
    if as_json:
        return print_json(rows)
    if any(v["classes"] for v in rows):
        for v in rows:
            out.print(plain(f"{v['version']}{' (active)' if v['active'] else ''}: {quality(v)}"))
        return None
    table = Table(
        "version", "", "images", "error", "95 %", "median", "FP", "FN", "n", "by", "recipe", "note"
    )
    for v in rows:
        interval = "–" if v["mae_low"] is None else f"{v['mae_low']:.2f}–{v['mae_high']:.2f}"
        table.add_row(
            v["version"], "active" if v["active"] else "", str(v["images"]),
            _number(v["mae"], "{:.2f}"), interval, _number(v["baseline_mae"], "{:.2f}"),
            percent(v["fp_rate"]), percent(v["fn_rate"]), str(v["mae_n"]),
            v["mae_by"] or "", v["recipe"].get("name", ""), v["note"],
        )  # fmt: skip
    out.print(table if rows else "No version yet: tastemaker train PROJECT")
    return None


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


@app.command("show")
def versions_show(
    typed: Annotated[list[str], words("PROJECT VERSION", VERSION)],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Show one version."""
    name, number = in_order(typed, project, "VERSION")
    from tastemaker import projects, versions

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, name), number)
        facts = versions.as_json(session, settings, chosen)
    if as_json:
        return print_json(facts)
    out.print(f"{facts['version']}: {quality(facts)}")
    for sentence in (facts["outlook"] or {}).get("in_words", ()):
        out.print(sentence)
    for key in ("active", "activation", "images", "note", "parent", "encoder", "file", "sha256"):
        out.print(f"{key:12} {facts[key]}")
    return None


@app.command("diff")
def versions_diff(
    typed: Annotated[list[str], words("PROJECT OLDER NEWER", VERSION)],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """What changed from one version to another: errors, flips, slices, labels; of classes, the
    figures of each and what is taken for something else."""
    name, older, newer = in_order(typed, project, "OLDER", "NEWER")
    from tastemaker import projects
    from tastemaker.evaluation import class_comparison, comparison, flips
    from tastemaker.scores import classes

    with database() as (_, engine), sessions.reading(engine) as session:
        both = flips.pair(session, projects.by_name(session, name), older, newer)
        if (kinds := classes.of_project(session, both.project)) is not None:
            told = class_comparison.compare(session, both)
            facts, lines = told.as_json(kinds), told.in_words(both, kinds)
        else:
            diff = comparison.diff(session, both)
            facts, lines = diff.as_json(), diff.in_words()
    if as_json:
        return print_json(facts)
    out.print("\n".join(plain(line) for line in lines))
    return None


@app.command("activate")
def versions_activate(
    typed: Annotated[list[str], words("PROJECT VERSION", VERSION)],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the active one."""
    name, number = in_order(typed, project, "VERSION")
    from tastemaker import projects, versions
    from tastemaker.versions import predictions

    with database() as (settings, engine), sessions.writing(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, name), number)
        job = predictions.activate_by_hand(session, settings, chosen)
        facts = versions.as_json(session, settings, chosen)
        told = f"{chosen.number} is active."
        if job is not None:
            told += f" Images came after it: job {job.id} predicts them (tastemaker jobs list)."
    if as_json:
        return print_json(facts)
    out.print(told)
    return None


@app.command("delete")
def versions_delete(
    typed: Annotated[list[str], words("PROJECT VERSION", VERSION)],
    project: InProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a version with its file, predictions and test runs; never the active one."""
    from tastemaker import projects, versions
    from tastemaker.versions import deletion

    name, number = in_order(typed, project, "VERSION")
    with database() as (settings, engine):
        with sessions.reading(engine) as session:
            chosen = versions.by_number(session, projects.by_name(session, name), number)
            goes = deletion.what_goes(session, chosen)
        confirm(f"Delete {goes.version}: {goes.in_words()}? Scores stay.", yes)
        gone = deletion.delete_version(settings, engine, chosen.id)
    if as_json:
        return print_json(gone.as_json())
    out.print(f"{gone.version} is deleted: {gone.in_words()}. Scores stay.")
    return None


@app.command("export")
def versions_export(
    typed: Annotated[list[str], words("PROJECT VERSION FOLDER", VERSION)],
    project: InProject = None,
    layout: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "city96",
    as_json: AsJson = False,
) -> None:
    """Write a version's files into a folder: the head and its sidecar, a LAION head, or all."""
    from tastemaker import projects, versions
    from tastemaker.files import require_writable_folder
    from tastemaker.publishing import exports

    name, number, place = in_order(typed, project, "VERSION", "FOLDER")
    folder = local_path(place)
    if layout not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}", param_hint="--format")
    require_writable_folder(folder)
    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, name), number)
        if layout == "city96":
            parts = [
                exports.checkpoint(settings, chosen), exports.config(session, settings, chosen),
                *exports.tag_files(session, settings, chosen),
            ]  # fmt: skip
        elif layout == "laion":
            parts = [exports.laion_file(session, settings, chosen)]
        else:
            parts = exports.export_all(session, settings, chosen)
        written = [str(path) for path in exports.write(parts, folder)]
    if as_json:
        return print_json(written)
    for path in written:
        out.print(path)
    return None


@app.command("import")
def versions_import(
    typed: Annotated[
        list[str], words("PROJECT FILE", "A .safetensors file of a head; -p PROJECT is accepted.")
    ],
    project: InProject = None,
    encoder: Annotated[
        str | None, typer.Option(help="The encoder it was trained on, if the file does not say.")
    ] = None,
    config: Annotated[
        Path | None, path_option("--config", about="Its .config.json; default: the one beside it.")
    ] = None,
    note: Annotated[str, typer.Option(help="A line about it.")] = "",
    activate: Annotated[bool, typer.Option("--activate", help="Make it the active one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a head made elsewhere as version v0.x: a city96 score or class file, a LAION head.

    A project of that name is made if there is none and the encoder is known."""
    from tastemaker import versions
    from tastemaker.files import is_file
    from tastemaker.publishing import import_head

    name, place = in_order(typed, project, "FILE")
    file = local_path(place)
    if config is not None and not is_file(config):
        raise NotFound(f"There is no file {config}.", "Leave --config out to go without.")
    with database() as (settings, engine):
        project_id = import_head.project_for(engine, name, file, encoder, config)
        job = import_head.import_checkpoint(
            engine, settings, project_id, file,
            config=config, encoder=encoder, note=note, activate=activate,
        )  # fmt: skip
        (done,) = finish_jobs(settings, engine, [job.id])
        with sessions.reading(engine) as session:
            version = versions.get(session, done.result["version_id"])
            facts = versions.as_json(session, settings, version)
    if as_json:
        return print_json(facts)
    state = "active" if facts["active"] else "not active"
    out.print(f"{facts['version']} is imported ({state}): {facts['file']}")
    return None


@app.command("predictions")
def versions_predictions(
    typed: Annotated[list[str], words("PROJECT VERSION", VERSION)],
    project: InProject = None,
    to: Annotated[Path | None, path_option("--out", about=".csv, .jsonl or .parquet.")] = None,
    source: Annotated[
        Path | None, path_option("--from", about="Bring such a file back instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a version says of every image, or bring such a file back."""
    from tastemaker import projects, versions
    from tastemaker.files import is_file, require_writable, write_atomic
    from tastemaker.scores.row_files import check_ending
    from tastemaker.versions import prediction_files

    name, number = in_order(typed, project, "VERSION")
    if to is not None and source is not None:
        raise typer.BadParameter("--out or --from, not both", param_hint="--from")
    if to is not None:
        check_ending(to)
        require_writable(to)
    with database() as (_, engine):
        if source is not None:
            if not is_file(source):
                raise NotFound(f"There is no file {source}.", "Check the path.")
            counts = prediction_files.import_predictions(engine, name, number, source)
            if as_json:
                return print_json(counts)
            added, there = counted(counts["added"], "prediction"), counts["there_already"]
            out.print(f"{added} recorded, {there:,} {were(there)} there already.")
            return None
        with sessions.reading(engine) as session:
            chosen = versions.by_number(session, projects.by_name(session, name), number)
            if as_json:
                return print_json(prediction_files.rows_of(session, chosen))
            ending = ".csv" if to is None else to.suffix.lower()
            content = prediction_files.prediction_bytes(session, chosen, ending)
    if to is None:
        print(content.decode(), end="")
    else:
        write_atomic(to, content)
        out.print(f"Predictions of {chosen.number} written to {plain(str(to))}.")
    return None


def quality(version: dict[str, Any]) -> str:
    """The error of a version in a line, with what it was measured on and the baseline."""
    from tastemaker.versions import class_report
    from tastemaker.versions.version_report import RESTS_ON

    if told := version["classes"]:
        return class_report.in_a_line(told)
    if version["mae"] is None:
        return "not measured yet"
    line = f"mean error {version['mae']:.2f}"
    if version["mae_low"] is not None:
        line += f" ({version['mae_low']:.2f}–{version['mae_high']:.2f})"
    line += f" points on {version['mae_n']} {RESTS_ON[version['mae_on']]}"
    constant = version["baseline_mae"]
    return f"{line}; always the median: {constant:.2f}" if constant is not None else line
