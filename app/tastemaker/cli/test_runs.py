"""`tastemaker test-run …`: a version tried on images it was not taught with."""

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
    database,
    finish_jobs,
    out,
    plain,
    print_json,
    sees_through,
)
from tastemaker.database import sessions
from tastemaker.errors import Invalid, NotFound
from tastemaker.files.percentages import percent, percent_range

app = Commands(help="Try a version on other images.", no_args_is_help=True)


@app.command("start")
def start(
    typed: VersionWords = None,
    project: InProject = None,
    folder: Annotated[
        Path | None,
        path_option("--folder", about="A folder on this machine, or a picture.", metavar="FOLDER"),
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="A collection that does not feed the project's queues.")
    ] = None,
    called: Annotated[
        str, typer.Option("--name", help="Of the collection that a folder becomes.")
    ] = "",
    wait: Annotated[bool, typer.Option(help="Wait for its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Try a version on a folder or a collection: how much passes, what is at the top."""
    from tastemaker import images, projects, versions
    from tastemaker.evaluation import test_run_cards, test_runs

    name, number = in_order(typed, project, "[VERSION]")
    if (folder is None) == (collection is None):
        raise typer.BadParameter("either --folder or --collection is needed")
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            chosen = projects.by_name(session, name)
            version = versions.chosen(session, chosen, number)
            if version is None:
                raise NotFound(f"“{chosen.name}” has no version yet.", "tastemaker train PROJECT")
            source = test_runs.Source(
                images.find_collection(session, collection).id if collection else None,
                str(folder) if folder else "",
                name=called.strip(),
            )
            run = test_runs.request_run(session, settings, chosen, version, source)
            run_id, job_id, project_id = run.id, run.job_id or 0, chosen.id
        if sees_through(settings, wait):
            finish_jobs(settings, engine, [job_id])
        with sessions.reading(engine) as session:
            report = test_run_cards.get(session, projects.get(session, project_id), run_id)
            facts = report.as_json()
    if as_json:
        return print_json(facts)
    out.print(in_words(facts))
    return None


@app.command("list")
def list_runs(
    typed: ProjectWords = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """List the test runs of a project, newest first."""
    from tastemaker import projects
    from tastemaker.evaluation import test_run_cards

    (name,) = in_order(typed, project)
    with database() as (_, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        rows = [report.as_json() for report in test_run_cards.listing(session, chosen)]
    if as_json:
        return print_json(rows)
    if rows and "taken_for" in rows[0]:
        table = Table("run", "version", "collection", "state", "images", "right", "corrected")
        for row in rows:
            right = "–" if row["accuracy"] is None else _right(row)
            table.add_row(
                str(row["id"]), row["version"], plain(row["collection"]), row["state"],
                _count(row["n"]), right, str(row["corrected"]),
            )  # fmt: skip
        return out.print(table)
    table = Table("run", "version", "collection", "state", "images", "pass", "mean", "corrected")
    for row in rows:
        table.add_row(
            str(row["id"]), row["version"], plain(row["collection"]), row["state"],
            _count(row["n"]), _count(row["passes"]), _points(row["mean"]), str(row["corrected"]),
        )  # fmt: skip
    out.print(table if rows else "No test run yet: tastemaker test-run start PROJECT --folder …")
    return None


@app.command("show")
def show(
    typed: Annotated[list[str], words("PROJECT RUN", "A run by its number in the list.")],
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Show the figures of one test run."""
    from tastemaker import projects
    from tastemaker.evaluation import test_run_cards

    name, typed_id = in_order(typed, project, "RUN")
    if not (typed_id.isascii() and typed_id.isdecimal() and len(typed_id) < 19):
        raise Invalid(f"“{typed_id}” is not the number of a run.", "`test-run list` shows them.")
    with database() as (_, engine), sessions.reading(engine) as session:
        chosen = projects.by_name(session, name)
        facts = test_run_cards.get(session, chosen, int(typed_id)).as_json()
    if as_json:
        return print_json(facts)
    out.print(in_words(facts))
    return None


def in_words(run: dict[str, Any]) -> str:
    """A run in a line or two."""
    what = f"Run {run['id']}: {run['version']} on “{plain(run['collection'])}”"
    if run["n"] is None:
        return f"{what} is {run['state']}{': ' + plain(run['error']) if run['error'] else ''}."
    if "taken_for" in run:
        return _of_classes(run, what)
    told = (
        f"{what}: {run['passes']:,} of {run['n']:,} pass from {_points(run['threshold'])} on; "
        f"mean {_points(run['mean'])}, median {_points(run['median'])}."
    )
    if run["without_prediction"]:
        told += f" {run['without_prediction']:,} could not be predicted."
    if against := run["against"]:
        told += (
            f"\nAgainst {against['version']} on the same images: {against['up']} pass now, "
            f"{against['down']} no longer."
        )
    return told


def _of_classes(run: dict[str, Any], what: str) -> str:
    taken = ", ".join(f"{plain(one['name'])} {one['images']:,}" for one in run["taken_for"])
    told = f"{what}: of {run['n']:,} images {taken}."
    if run["without_prediction"]:
        told += f" {run['without_prediction']:,} could not be predicted."
    if run["accuracy"] is not None:
        told += f"\nRight: {_right(run)}."
    if against := run["against"]:
        told += (
            f"\nAgainst {against['version']}: {against['changed']:,} of {against['n']:,} are taken "
            "for something else."
        )
    return told


def _right(run: dict[str, Any]) -> str:
    """“87 % (80–93 %) of the 60 labelled at random”."""
    low, high = run["accuracy_low"], run["accuracy_high"]
    span = "" if low is None else f" ({percent_range(low, high)})"
    return f"{percent(run['accuracy'])}{span} of the first {run['accuracy_n']} of its random sample"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _points(value: float | None) -> str:
    """A score in [0, 1] on the scale people score on, 0–10."""
    return "–" if value is None else f"{10 * value:.1f}"
