"""`tastemaker tournament`: which encoder suits the taste of a project."""

from typing import Annotated, Any

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, either
from tastemaker.cli.terminal import (
    AsJson,
    database,
    finish_jobs,
    out,
    plain,
    print_json,
    sees_through,
)
from tastemaker.database import sessions

app = Commands()


@app.command()
def tournament(
    name: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Whose labels tell.")
    ] = None,
    project: InProject = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="One to try: MODEL/TAG, or several joined by +. Given once for each."),
    ] = None,
    images: Annotated[
        int, typer.Option(help="Labelled images to try them on, at most: 20 to 2,000.")
    ] = 400,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Try encoders on the labels of a project: what each would learn, and what it costs.

    A sample of the labelled images is embedded with each; every label is predicted by a head that
    never saw it. `project migrate` moves a project to the one that suits it."""
    from tastemaker import jobs, projects
    from tastemaker.evaluation import tournament as tournaments

    wanted = either(name, project)
    if not wanted:
        raise typer.BadParameter("name the project")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            chosen = projects.by_name(session, wanted)
            queued = jobs.as_json(
                tournaments.request_tournament(session, settings, chosen, encoder or [], images)
            )
        if not sees_through(settings, wait):
            if as_json:
                return print_json(queued)
            out.print(f"Job {queued['id']} tries them.")
            return None
        result = finish_jobs(settings, engine, [queued["id"]])[0].result
    if as_json:
        return print_json(result)
    print_rows(result["rows"])
    return None


def print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("encoder", "mean error", "rank correlation", "against the first", "hours", "GB")
    for row in rows:
        if row["error"]:
            continue
        told = row["verdict"] or "in use"
        if row["difference"]:
            told += f" ({row['difference']['value']:+.2f})"
        hours = "–" if row["hours"] is None else f"{row['hours']:.2g}"
        table.add_row(
            plain(row["encoder"]), interval(row["mae"]), interval(row["spearman"]), told, hours,
            f"{row['gigabytes']:.2g}",
        )  # fmt: skip
    out.print(table)
    for row in rows:
        if row["error"]:
            out.print(f"{plain(row['encoder'])}: {plain(row['error'])}")


def interval(estimate: dict[str, Any]) -> str:
    """“1.24 (1.10 to 1.39)”."""
    if estimate["value"] is None:
        return "–"
    told = f"{estimate['value']:.2f}"
    if estimate["low"] is None:
        return told
    return f"{told} ({estimate['low']:.2f} to {estimate['high']:.2f})"
