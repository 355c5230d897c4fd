"""`tastemaker train`."""

from typing import Annotated

import typer

from tastemaker.cli.terminal import AsJson, ProjectName, database, err, finish_jobs, out, print_json
from tastemaker.cli.versions import quality
from tastemaker.database import sessions

app = typer.Typer()


@app.command()
def train(
    project: ProjectName,
    note: Annotated[str, typer.Option(help="A line to remember this version by.")] = "",
    recipe: Annotated[
        str | None,
        typer.Option(help="auto, ridge, mlp, city96, or original (40 minutes or more)."),
    ] = None,
    major: Annotated[
        bool, typer.Option("--major", help="Begin a new series: v2.0 after v1.4.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the version is published.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a new version on the scores as they stand now."""
    from tastemaker import projects, versions
    from tastemaker.training.retrain import request_training
    from tastemaker.worker import is_running

    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            chosen = projects.by_name(session, project)
            job_id = request_training(session, settings, chosen, note, recipe, major).id
        if not wait and is_running(settings):
            if as_json:
                return print_json({"job": job_id})
            out.print(f"Job {job_id} is queued.")
            return None
        if not wait:
            err.print("No worker is running that would train it later: it is trained now.")
        result = finish_jobs(settings, engine, [job_id])[0].result
        with sessions.reading(engine) as session:
            shown = versions.as_json(session, settings, versions.get(session, result["version_id"]))
    if as_json:
        return print_json(shown)
    why = shown["activation"]
    out.print(f"{shown['version']} is published: {quality(shown)}. {why[:1].upper()}{why[1:]}.")
    return None
