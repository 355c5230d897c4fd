"""`tastemaker project …`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.options import (
    InProject,
    ProjectWords,
    in_order,
    percent_of,
    share_option,
    words,
)
from tastemaker.cli.terminal import (
    AsJson,
    confirm,
    database,
    finish_jobs,
    out,
    plain,
    print_json,
    sees_through,
)
from tastemaker.config import DEFAULT_ENCODER
from tastemaker.database import sessions
from tastemaker.errors import Invalid

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tastemaker.config import Settings
    from tastemaker.database.tables import Project
    from tastemaker.versions.starting_heads import StartingHead

app = Commands(help="Make, list, change, duplicate and delete projects.", no_args_is_help=True)

PASSES = "Pass from this score on: a share of 0–1, or 60%."
TRAINED_ON = "What a --start-from FILE was trained on, if it does not say."


def start_option(more: str = "") -> Any:
    """`--start-from`, once for each head."""
    return typer.Option(
        metavar="PROJECT[@VERSION]|FILE",
        help=f"Start from this head of the same encoder; given once for each.{more}",
    )


def heads_read(
    settings: "Settings",
    engine: "Engine",
    project: "Project",
    named: list[str],
    encoder: str | None,
) -> "list[StartingHead]":
    """What is named to start from: read before anything is written, for it takes a while."""
    from tastemaker.publishing.start_from import heads_named

    with sessions.reading(engine) as session:
        return heads_named(session, settings, project, named, encoder, anywhere=True)


@app.command("create")
def project_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    kind: Annotated[str, typer.Option(help="score or class.")] = "score",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="MODEL/TAG, MODEL@FILE.safetensors, or several joined by +. Left out, it is that "
            f"of the first --start-from, else {DEFAULT_ENCODER}."
        ),
    ] = None,
    threshold: Annotated[float, share_option("--threshold", PASSES)] = 0.5,
    classes: Annotated[
        str, typer.Option(metavar="NAMES", help="Of kind class: its classes, with commas.")
    ] = "",
    tags: Annotated[
        bool, typer.Option("--tags", help="An image may have several of the classes, or none.")
    ] = False,
    start_from: Annotated[list[str] | None, start_option()] = None,
    head_encoder: Annotated[str | None, typer.Option(help=TRAINED_ON)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a project."""
    from tastemaker import projects
    from tastemaker.database.tables import Project
    from tastemaker.encoding.weights import weights_of
    from tastemaker.scores.classes import create_project, split_names
    from tastemaker.versions import starting_heads

    planned = Project(name=name, encoder=encoder or DEFAULT_ENCODER)
    named = split_names(classes)
    if kind not in ("score", "class"):
        raise Invalid(f"There is no kind of project “{kind[:20]}”.", "Use score or class.")
    if kind == "score" and (named or tags):
        raise Invalid("A project of kind “score” has no classes.", "Use --kind class.")
    with database() as (settings, engine):
        heads = heads_read(settings, engine, planned, start_from or [], head_encoder)
        with sessions.writing(engine) as session:
            chosen = starting_heads.encoder_for(heads, encoder)
            options: dict[str, Any] = {"encoder": chosen, "threshold": threshold}
            if kind == "class":
                project = create_project(session, name, named, several=tags, **options)
            else:
                project = projects.create(session, name, **options)
            starting_heads.start_from(session, project, heads)
            summary = projects.summary(session, project)
    weights = weights_of(summary["encoder"])
    if as_json:
        return print_json(summary | {"weights": weights.as_dict()})
    out.print(f"Project “{summary['name']}” made, with encoder {summary['encoder']}.")
    if summary["starts_from"]:
        out.print(plain(f"It starts from {', '.join(summary['starts_from'])}."))
    out.print(plain(f"{weights.sentence} {weights.remedy}".strip()))
    return None


@app.command("list")
def project_list(as_json: AsJson = False) -> None:
    """List the projects."""
    from tastemaker import projects

    with database() as (_, engine), sessions.reading(engine) as session:
        summaries = [projects.summary(session, project) for project in projects.list_all(session)]
    if as_json:
        return print_json(summaries)
    table = Table("project", "kind", "encoder", "images", "labels", "active")
    for p in summaries:
        counts = (str(p["images"]), str(p["labels"]), p["active_version"] or "–")
        table.add_row(p["name"], p["kind"], p["encoder"], *counts)
    out.print(table if summaries else "There is no project yet: tastemaker project create NAME")
    return None


@app.command("show")
def project_show(
    typed: ProjectWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Show one project."""
    from tastemaker import projects
    from tastemaker.live.lineage import starts, starts_in_words

    (name,) = in_order(typed, project)
    with database() as (settings, engine), sessions.reading(engine) as session:
        shown = projects.by_name(session, name)
        summary = projects.summary(session, shown)
        started = starts(session, settings, shown)
    if as_json:
        return print_json(summary | {"priors": started})
    summary["starts_from"] = starts_in_words(started) or None
    for key, value in summary.items():
        out.print(f"{key.replace('_', ' '):16} {'–' if value is None else value}")
    return None


@app.command("set")
def project_set(
    typed: ProjectWords = None,
    project: InProject = None,
    new_name: Annotated[str | None, typer.Option("--name", help="Its new name.")] = None,
    threshold: Annotated[float | None, share_option("--threshold", PASSES)] = None,
    recipe: Annotated[
        str | None, typer.Option(help="auto, ridge, mlp, city96, or original.")
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(help="One label of several people: median, mean, lowest, highest, newest."),
    ] = None,
    auto_train_every: Annotated[
        int | None, typer.Option(help="Train by itself after so many new scores; 0: never.")
    ] = None,
    auto_train_drift: Annotated[
        float | None,
        typer.Option(help="Train by itself once the live error is so many points off; 0: never."),
    ] = None,
    show_prediction_first: Annotated[
        bool | None, typer.Option(help="Show the prediction before one scores.")
    ] = None,
    start_from: Annotated[
        list[str] | None,
        start_option(" They replace those there are; none: it starts from nothing."),
    ] = None,
    head_encoder: Annotated[str | None, typer.Option(help=TRAINED_ON)] = None,
    bracket: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERCENT=NAME",
            help="A part of the scale, from so many percent on. Given once for each, the first "
            "from 0 on; they replace those there are.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a project, all or none; what is not named stays."""
    from tastemaker import projects, scores
    from tastemaker.versions import starting_heads

    (name,) = in_order(typed, project)
    named = {
        "name": new_name, "threshold": threshold, "recipe": recipe, "aggregate": aggregate,
        "auto_train_every": auto_train_every, "auto_train_drift": auto_train_drift,
        "show_prediction_first": show_prediction_first,
        "brackets": brackets_of(bracket) if bracket else None,
    }  # fmt: skip
    changes = {field: value for field, value in named.items() if value is not None}
    if not changes and start_from is None:
        raise typer.BadParameter("nothing to change is named; --help lists what can be")
    with database() as (settings, engine):
        with sessions.reading(engine) as session:
            project_now = projects.by_name(session, name)
        wanted = [] if start_from in (None, ["none"]) else start_from
        heads = heads_read(settings, engine, project_now, wanted or [], head_encoder)
        with sessions.writing(engine) as session:
            chosen = scores.change_project(session, projects.by_name(session, name), **changes)
            if start_from is not None:
                starting_heads.start_from(session, chosen, heads)
            facts = {field: getattr(chosen, field) for field in named}
            facts["starts_from"] = projects.summary(session, chosen)["starts_from"]
    if as_json:
        return print_json(facts)
    told = ", ".join(f"{field.replace('_', ' ')} {facts[field]}" for field in changes)
    if start_from is not None:
        started = ", ".join(facts["starts_from"]) or "nothing"
        told += f"{', ' if told else ''}starts from {started}"
    out.print(f"“{plain(chosen.name)}” is changed: {plain(told)}.")
    return None


def brackets_of(typed: list[str]) -> list[list[Any]]:
    """“40=nice” → [0.4, "nice"]."""
    percent = percent_of("--bracket")
    brackets = []
    for text in typed:
        start, equals, name = text.partition("=")
        try:
            brackets.append([percent(start) / 100, name])
        except ValueError:
            equals = ""
        if not equals:
            raise Invalid(
                f"“{text}” is no bracket.",
                "Write where it begins in percent, and its name: 40=nice",
            )
    return brackets


@app.command("duplicate")
def project_duplicate(
    typed: Annotated[
        list[str],
        words("PROJECT NEW", "The project, or -p, and what the new one is to be called."),
    ],
    project: InProject = None,
    encoder: Annotated[
        str | None, typer.Option(help="Another encoder: MODEL/TAG, or MODEL@FILE.safetensors.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until its images are embedded.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a project once more, with every score, and perhaps with another encoder.

    Collections, scores, settings, slices, saved filters and what it starts from come along;
    versions do not."""
    from tastemaker import jobs, projects
    from tastemaker.library import duplication

    name, new = in_order(typed, project, "NEW")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            original = projects.by_name(session, name)
            copy = duplication.duplicate_project(session, original, new, encoder)
            queued = [job.id for job in jobs.unfinished(session, project_id=copy.id)]
            vectors = copy.encoder_id is None and duplication.without_picture(session, copy)
            dropped = duplication.dropped_priors(session, original, copy)
            facts = projects.summary(session, copy) | {"jobs": queued, "dropped_priors": dropped}
        if as_json:
            print_json(facts)
        else:
            out.print(
                f"Project “{plain(facts['name'])}” made: {facts['images']:,} images and "
                f"{facts['labels']:,} labels, with encoder {facts['encoder']}."
            )
            if dropped:
                reads = "reads" if len(dropped) == 1 else "read"
                names = plain(", ".join(dropped))
                out.print(f"It does not start from {names}, which {reads} another encoder.")
            if vectors:
                out.print(f"{vectors} of them have no picture, and get no vector.")
        if queued and (wait := sees_through(settings, wait)):
            finish_jobs(settings, engine, queued)
    if queued and not wait and not as_json:
        out.print(f"Its images are embedded by job {queued[0]}.")


@app.command("migrate")
def project_migrate(
    typed: Annotated[
        list[str], words("PROJECT ENCODER", "The project, or -p, and the encoder to move to.")
    ],
    project: InProject = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Move a project to another encoder: embed its images and train a new major version.

    The project changes over unless that version is worse. To go back, activate an old version."""
    from tastemaker import jobs, projects
    from tastemaker.training import migration

    name, encoder = in_order(typed, project, "ENCODER")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            chosen = projects.by_name(session, name)
            queued = jobs.as_json(migration.request_migration(session, settings, chosen, encoder))
        if not sees_through(settings, wait):
            if as_json:
                return print_json(queued)
            out.print(f"Job {queued['id']} moves it.")
            return None
        result = finish_jobs(settings, engine, [queued["id"]])[0].result
    if as_json:
        return print_json(result)
    why = plain(result["why"]).rstrip(".")
    version = result["version"]
    out.print(f"{version} is published: {why}." if version else f"{why[:1].upper()}{why[1:]}.")
    kept = "works with" if result["moved"] else "keeps its encoder, not"
    out.print(f"The project {kept} {plain(result['encoder'])}.")
    return None


@app.command("delete")
def project_delete(
    typed: ProjectWords = None,
    project: InProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a project. Its scores are kept in a file, its published files and all images stay."""
    from tastemaker import projects, versions
    from tastemaker.library.deletion import delete_project

    (name,) = in_order(typed, project)
    with database() as (settings, engine):
        with sessions.reading(engine) as session:
            chosen = projects.by_name(session, name)
            facts = projects.summary(session, chosen)
            published = len(versions.list_ready(session, chosen))
        confirm(
            f"Delete “{facts['name']}” with {facts['labels']:,} labels and {published} versions? "
            "Its scores are first written to a file; images and published files stay.",
            yes,
        )
        kept = delete_project(settings, engine, facts["id"], facts["name"])
    if as_json:
        return print_json({"deleted": facts["name"], "scores": str(kept)})
    out.print(f"“{plain(facts['name'])}” is deleted. Its scores are kept in {plain(str(kept))}.")
    if published:
        out.print(f"The files of its versions are kept in {plain(str(settings.checkpoints))}.")
    return None
