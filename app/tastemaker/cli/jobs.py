"""`tastemaker jobs …`: background work, as the page Jobs shows it."""

from typing import Annotated, Any

import typer
from rich.table import Table

from tastemaker import jobs
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
from tastemaker.database.tables import Job

app = Commands(help="List, show, cancel and retry background work.", no_args_is_help=True)

Number = Annotated[
    int, typer.Argument(metavar="JOB", min=1, max=2**63 - 1, help="Its number in the list.")
]


@app.command("list")
def jobs_list(
    name: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Only the jobs of this project.")
    ] = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs: unfinished ones first, then the newest."""
    from tastemaker import projects

    wanted = either(name, project)
    with database() as (_, engine), sessions.reading(engine) as session:
        project_id = projects.by_name(session, wanted).id if wanted else None
        names = {p.id: p.name for p in projects.list_all(session)}
        rows = jobs.recent(session, project_id=project_id)
    if as_json:
        return print_json([jobs.as_json(job) for job in rows])
    table = Table("job", "state", "what", "project", "progress")
    for job in rows:
        whose = names.get(job.project_id or 0, "–")
        table.add_row(str(job.id), job.state, plain(job.title), plain(whose), _progress(job))
    out.print(table if rows else "There is no job yet.")
    return None


def _progress(job: Job) -> str:
    if job.state == "failed":
        return plain(job.error)
    return f"{job.done:,} of {job.total:,}" if job.total else ""


@app.command("show")
def jobs_show(number: Number, as_json: AsJson = False) -> None:
    """Show one job with its log."""
    with database() as (_, engine), sessions.reading(engine) as session:
        job = jobs.get(session, number)
        lines = [entry.line for entry in jobs.log_of(session, number)]
    if as_json:
        return print_json(jobs.as_json(job) | {"log": lines})
    out.print(f"{job.id}: {plain(job.title)}: {job.state}{_told(job)}")
    for line in lines:
        out.print(f"  {plain(line)}")
    return None


def _told(job: Job) -> str:
    if job.error:
        return f", {plain(job.error)}"
    if not job.total:
        return ""
    left = jobs.seconds_left(job)
    return f", {_progress(job)}" + ("" if left is None else f", about {left:.0f} s left")


@app.command("cancel")
def jobs_cancel(number: Number, as_json: AsJson = False) -> None:
    """End a job: a queued one now, a running one within seconds. What is finished is kept."""
    from tastemaker.worker import is_running

    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            job = jobs.cancel(session, number)
            facts = jobs.as_json(job)
        alive = is_running(settings)
    if as_json:
        return print_json(facts)
    if job.state == "cancelled":
        out.print(f"Job {number} is cancelled.")
    elif alive:
        out.print(f"Job {number} is asked to end.")
    else:
        out.print(f"Job {number} is marked; it ends when the next worker looks at it.")
    return None


@app.command("retry")
def jobs_retry(
    number: Number,
    wait: Annotated[bool, typer.Option(help="Wait for its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Queue a failed or cancelled job again, and see it through."""
    with database() as (settings, engine):
        with sessions.writing(engine) as session:
            facts: dict[str, Any] = jobs.as_json(jobs.retry(session, number))
        if sees_through(settings, wait):
            facts = jobs.as_json(finish_jobs(settings, engine, [number])[0])
    if as_json:
        return print_json(facts)
    out.print(f"Job {number} is {facts['state']}.")
    return None
