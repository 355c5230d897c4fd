"""`tastemaker project …`"""

from typing import Annotated

import typer
from rich.table import Table

from tastemaker.cli.terminal import AsJson, database, out, print_json
from tastemaker.database import sessions

app = typer.Typer(help="Make and list projects.", no_args_is_help=True)


@app.command("create")
def project_create(
    name: str,
    kind: Annotated[str, typer.Option(help="score or class.")] = "score",
    encoder: Annotated[str, typer.Option(help="MODEL/TAG, or MODEL@FILE.safetensors.")] = (
        "efficientnet_lite0/bundled"
    ),
    threshold: Annotated[float, typer.Option(help="Pass from this score on, 0–1.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Make a project."""
    from tastemaker import projects

    with database() as (_, engine), sessions.writing(engine) as session:
        project = projects.create(session, name, kind=kind, encoder=encoder, threshold=threshold)
        summary = projects.summary(session, project)
    if as_json:
        print_json(summary)
    else:
        out.print(f"Project “{summary['name']}” made, with encoder {summary['encoder']}.")


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
def project_show(name: str, as_json: AsJson = False) -> None:
    """Show one project."""
    from tastemaker import projects

    with database() as (_, engine), sessions.reading(engine) as session:
        summary = projects.summary(session, projects.by_name(session, name))
    if as_json:
        return print_json(summary)
    for key, value in summary.items():
        out.print(f"{key.replace('_', ' '):16} {'–' if value is None else value}")
    return None
