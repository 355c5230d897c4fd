"""What every command shares: the terminal, the database, options, and waiting for jobs."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from sqlalchemy import Engine

from tastemaker import jobs
from tastemaker.cli.help import Stopped
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files.json_text import json_text

# Lines are as long as they are: a path that is broken in the middle cannot be copied. So are tables
# where no terminal is that they would have to fit in.
WIDE = 1000
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def plain(text: str) -> str:
    return text.replace("[", r"\[")


def counted(n: int, what: str) -> str:
    """“1 row”, “2,000 rows”."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def were(n: int) -> str:
    return "was" if n == 1 else "were"


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal before something is lost, unless `yes` was said already."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Invalid("There is no terminal to ask on; nothing was changed.", "Say it with --yes.")
    if not typer.confirm(question, err=True):
        raise TastemakerError("Nothing was changed.")


def confirm_undo(told: str, *, named: bool, yes: bool) -> None:
    """Say what would be taken back, and ask, unless it was `named` or `yes` was said."""
    err.print(plain(told))
    confirm("Take it back?", yes or named)


def print_whatever_the_encoding() -> None:
    """Let what a terminal or a pipe cannot show be printed as its code, instead of dying of it:
    names of files hold anything, and `LANG=C` or `PYTHONIOENCODING=ascii` nearly nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(data: Any) -> None:
    """JSON stays JSON: what is no number is null, and letters that cannot be printed are written as
    its own escapes."""
    text = json_text(data, indent=2, default=str) + "\n"
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_text(data, indent=2, default=str, ascii_only=True) + "\n"
    sys.stdout.write(text)


@contextmanager
def database() -> Iterator[tuple[Settings, Engine]]:
    from tastemaker.database.migration import migrate

    settings = Settings()
    yield settings, migrate(settings)


def sees_through(settings: Settings, wait: bool) -> bool:
    """Whether a command sees its job through: as it was asked to, or because no worker runs that
    would do it later, which is said."""
    from tastemaker.worker import is_running

    if wait or is_running(settings):
        return wait
    err.print("No worker is running that would do it later: it is done now.")
    return True


def finish_jobs(
    settings: Settings, engine: Engine, ids: list[int], tell: Callable[[Job], None] | None = None
) -> list[Job]:
    """See the jobs through, showing their progress; with no worker alive, do them here. Of each
    that is done `tell` tells, whatever became of the others. Raises `TastemakerError` with the
    reason of the first that failed, and `Stopped` with what becomes of those that an interrupt
    left."""
    from tastemaker.worker import run_here

    if not ids:
        return []
    with progress_bar() as bar:
        tasks: dict[int, Any] = {}

        def finished() -> bool:
            with sessions.reading(engine) as session:
                rows = [jobs.get(session, job_id) for job_id in ids]
            for job in rows:
                if job.state in ("running", "done"):
                    if job.id not in tasks:
                        tasks[job.id] = bar.add_task(job.title, total=None)
                    text = f"{job.title}: {job.message}" if job.message else job.title
                    bar.update(
                        tasks[job.id], description=text, completed=job.done, total=job.total or None
                    )
            return all(job.state in jobs.FINISHED for job in rows)

        try:
            run_here(settings, engine, finished)
        except KeyboardInterrupt:
            raise Stopped(_what_becomes_of(settings, engine, ids)) from None
    with sessions.reading(engine) as session:
        rows = [jobs.get(session, job_id) for job_id in ids]
    for job in rows:
        if tell is not None and job.state == "done":
            tell(job)
    for job in rows:
        if job.state != "done":
            raise TastemakerError(job.error or f"The job was {job.state}.")
    return rows


def _what_becomes_of(settings: Settings, engine: Engine, ids: list[int]) -> str:
    from tastemaker.worker import is_running

    with sessions.reading(engine) as session:
        rows = [jobs.get(session, job_id) for job_id in ids]
    left = [job for job in rows if job.state not in jobs.FINISHED]
    if not left:
        return "What was finished is kept."
    titles = ", ".join(f"job {job.id} ({job.title})" for job in left)
    go, them = ("goes", "it") if len(left) == 1 else ("go", "the first of them")
    if is_running(settings):
        doing = f"The worker that runs goes on with {titles}"
    else:
        doing = f"What was done is kept; {titles} {go} on with the next worker (`tastemaker serve`)"
    return f"{doing}, unless `tastemaker jobs cancel {left[0].id}` gives {them} up."


def embedding_since(engine: Engine, project_id: int, job_id: int) -> list[int]:
    """The embedding that this import asked for, which may have ended by now; or one that was
    waiting, and takes the new images along."""
    with sessions.reading(engine) as session:
        known = jobs.recent(session, project_id=project_id)
    wanted = (
        job.id
        for job in known
        if job.kind == "embed" and (job.id > job_id or job.state not in jobs.FINISHED)
    )
    return sorted(wanted)[-1:]


class RateColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        if speed < 0.1:
            return Text(f"{1 / speed:,.0f} s each")
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


def progress_bar() -> Progress:
    """A progress bar on stderr, on a terminal only, with the rate and the time that is left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(),
        RateColumn(), TimeRemainingColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    )  # fmt: skip


@contextmanager
def skipped_files(most: int = 100) -> Iterator[Callable[[str, object], None]]:
    """Report on stderr what could not be used, each as it comes; beyond `most`, how many more."""
    count = 0

    def skip(path: str, reason: object) -> None:
        nonlocal count
        count += 1
        if count <= most:
            err.print(f"skipped {plain(path)}: {plain(str(reason))}")

    try:
        yield skip
    finally:
        if count > most:
            err.print(f"and {count - most} more skipped")
