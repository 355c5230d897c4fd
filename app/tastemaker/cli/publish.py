"""`tastemaker card`, and what leaves and enters as files: `versions export`, `import`,
`predictions`, `scores folders`."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.terminal import AsJson, ProjectName, database, finish_jobs, out, print_json
from tastemaker.database import sessions
from tastemaker.errors import Conflict, Invalid, NotFound

top = typer.Typer()
app = typer.Typer()
labels = typer.Typer()

FORMATS = ("city96", "laion", "all")


@top.command()
def card(
    project: str,
    version: Annotated[str, typer.Argument(help="v1.3, or active.")] = "active",
    as_json: AsJson = False,
) -> None:
    """Print the model card of a version, as Markdown."""
    from tastemaker import projects, versions
    from tastemaker.publishing import card_blocks, model_card

    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, project), version)
        text = card_blocks.markdown(model_card.card_of(session, settings, chosen))
    if as_json:
        return print_json({"version": chosen.number, "markdown": text})
    print(text, end="")
    return None


@app.command("export")
def versions_export(
    project: str,
    version: str,
    folder: Path,
    layout: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "city96",
) -> None:
    """Write a version's files into a folder: the head and its sidecar, a LAION head, or all."""
    from tastemaker import projects, versions
    from tastemaker.publishing import exports

    if layout not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}", param_hint="--format")
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is a file.", "Name a folder to write into.")
    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.by_number(session, projects.by_name(session, project), version)
        if layout == "city96":
            parts = [
                exports.checkpoint(settings, chosen), exports.config(session, settings, chosen)
            ]  # fmt: skip
        elif layout == "laion":
            parts = [exports.laion_file(session, settings, chosen)]
        else:
            parts = exports.export_all(session, settings, chosen)
        for path in exports.write(parts, folder):
            out.print(str(path))


@app.command("import")
def versions_import(
    project: str,
    file: Path,
    encoder: Annotated[
        str | None, typer.Option(help="The encoder it was trained on, if the file does not say.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Its .config.json; default: the one beside it.")
    ] = None,
    note: Annotated[str, typer.Option(help="A line about it.")] = "",
    activate: Annotated[bool, typer.Option("--activate", help="Make it the active one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a head made elsewhere as version v0.x: a city96 score or class file, a LAION head.

    A project of that name is made if there is none and the encoder is known."""
    from tastemaker import versions
    from tastemaker.publishing import import_head

    if config is not None and not config.is_file():
        raise NotFound(f"There is no file {config}.", "Leave --config out to go without.")
    with database() as (settings, engine):
        project_id = import_head.project_for(engine, project, file, encoder, config)
        job = import_head.import_checkpoint(
            engine, settings, project_id, file,
            config=config, encoder=encoder, note=note, activate=activate,
        )  # fmt: skip
        (done,) = finish_jobs(settings, engine, [job.id])
        with sessions.reading(engine) as session:
            made = versions.get(session, done.result["version_id"])
            shown = versions.as_json(session, settings, made)
    if as_json:
        return print_json(shown)
    state = "active" if shown["active"] else "not active"
    out.print(f"{shown['version']} is imported ({state}): {shown['file']}")
    return None


@app.command("predictions")
def versions_predictions(
    project: str,
    version: str,
    to: Annotated[Path | None, typer.Option("--out", help=".csv, .jsonl or .parquet.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Bring such a file back instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a version says of every image, or bring such a file back."""
    from tastemaker import projects, versions
    from tastemaker.files import write_atomic
    from tastemaker.versions import prediction_files

    if to is not None and source is not None:
        raise typer.BadParameter("--out or --from, not both", param_hint="--from")
    with database() as (_, engine):
        if source is not None:
            if not source.is_file():
                raise NotFound(f"There is no file {source}.", "Check the path.")
            counts = prediction_files.import_predictions(engine, project, version, source)
            if as_json:
                return print_json(counts)
            out.print(
                f"{counts['added']} predictions recorded, {counts['there_already']} were there "
                "already."
            )
            return None
        with sessions.reading(engine) as session:
            chosen = versions.by_number(session, projects.by_name(session, project), version)
            if as_json:
                return print_json(prediction_files.rows_of(session, chosen))
            ending = ".csv" if to is None else to.suffix.lower()
            content = prediction_files.prediction_bytes(session, chosen, ending)
    if to is None:
        print(content.decode(), end="")
    else:
        write_atomic(to, content)
        out.print(f"Predictions of {chosen.number} written to {to}.")
    return None


@labels.command("folders")
def scores_folders(project: ProjectName, folder: Path, as_json: AsJson = False) -> None:
    """Write the labelled embeddings as folders: data/ENCODER/NN_name/*.npy, NN the score."""
    from tastemaker import projects
    from tastemaker.publishing import exports

    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise Invalid(f"{folder} is not empty.", "Name a new folder; nothing is overwritten.")
    with database() as (_, engine), sessions.reading(engine) as session:
        told = exports.write_folders(session, projects.by_name(session, project), folder)
    if as_json:
        return print_json(told)
    out.print(f"{told['written']} vectors written to {told['folder']}.")
    if told["between_scores"]:
        out.print(f"{told['between_scores']} labels lay between two scores; the nearest was taken.")
    if told["without_embedding"]:
        out.print(f"{told['without_embedding']} scored images have no embedding yet.")
    return None
