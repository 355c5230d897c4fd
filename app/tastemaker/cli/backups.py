"""Everything in one file, and back: `tastemaker backup`, `tastemaker restore`; all rows in another
database, and back: `tastemaker migrate-to`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from filelock import Timeout

from tastemaker.cli.help import Commands
from tastemaker.cli.options import path_argument
from tastemaker.cli.terminal import (
    AsJson,
    counted,
    database,
    err,
    out,
    plain,
    print_json,
    progress_bar,
)
from tastemaker.config import Settings

if TYPE_CHECKING:  # the commands load what they need: whoever asks for help does not wait for it
    from tastemaker.database.backups import Report

app = Commands()


@app.command("backup")
def back_up(
    file: Annotated[
        Path | None, path_argument("[FILE]", "A new file; left out: in the backups folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write everything (scores, uploads, versions, people) to one file, also while it runs."""
    from tastemaker.database import backups
    from tastemaker.files import require_writable

    if file is not None:
        require_writable(file)
    with database() as (settings, _), progress("Backup") as report:
        backup = backups.back_up(settings, file, report)
    if as_json:
        facts = {
            "file": str(backup.path.absolute()), "files": backup.files, "bytes": backup.bytes,
            "scores": backup.scores, "damaged": backup.damaged,
        }  # fmt: skip
        return print_json(facts)
    size = f"{backup.bytes / 1e6:,.1f} MB"
    out.print(
        f"{plain(str(backup.path))}: {counted(backup.scores, 'score')}, "
        f"{counted(backup.files, 'file')}, {size}."
    )
    if backup.damaged:
        first, n = backup.damaged[0], len(backup.damaged)
        err.print(
            f"{n} of the files had been damaged before, {plain(first)} first.", style="yellow"
        )
    return None


@app.command()
def restore(
    file: Annotated[Path, path_argument("FILE", "What `tastemaker backup` wrote, or a .db of it.")],
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of what is there, which is kept in the backups folder. The program
    must be stopped."""
    from tastemaker.database import backups
    from tastemaker.worker import worker_lock

    settings = Settings()
    settings.make_folders()
    try:
        with worker_lock(settings).acquire(timeout=0), progress("Restore") as report:
            done = backups.restore(settings, file, report)
    except Timeout:
        raise backups.running() from None
    replaced = str(done.replaced) if done.replaced else None
    if as_json:
        made_at = done.made_at.isoformat() if done.made_at else None
        return print_json(
            {"made_at": made_at, "files": done.files, "scores": done.scores, "kept": replaced}
        )
    of = f" of {done.made_at:%Y-%m-%d %H:%M} UTC" if done.made_at else ""
    out.print(
        f"The backup{of} is in place: {counted(done.scores, 'score')}, "
        f"{counted(done.files, 'file')}."
    )
    if replaced:
        out.print(f"What was there before is in {plain(replaced)}.")
    return None


@app.command("migrate-to")
def migrate_to(
    address: Annotated[
        str,
        typer.Argument(metavar="[URL]", help="postgresql://… or sqlite:////PATH of a new file."),
    ] = "",
    back: Annotated[
        bool, typer.Option("--back", help="Into the file of the home folder, from elsewhere.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move all rows to another, empty database (PostgreSQL, or back to a file), and read them back.
    Pictures and checkpoints stay in the home folder. The program must be stopped. A password can
    stay out of the command: PostgreSQL's PGPASSWORD and ~/.pgpass count."""
    from tastemaker.database import backups, moving
    from tastemaker.worker import worker_lock

    if bool(address) == back:
        raise typer.BadParameter("name a URL, or --back for the home folder: one of the two")
    settings = Settings()
    settings.make_folders()
    try:
        with (
            worker_lock(settings).acquire(timeout=0),
            progress("Rows written and read back", unit=1) as report,
        ):
            moved = moving.move(settings, address, report)
    except Timeout:
        raise backups.running() from None
    kept = str(moved.kept) if moved.kept else None
    if as_json:
        facts = {"from": moved.source, "to": moved.target, "rows": moved.rows, "kept": kept}
        return print_json(facts)
    rows = sum(moved.rows.values())
    out.print(
        f"{counted(rows, 'row')} of {counted(len(moved.rows), 'table')} are in "
        f"{plain(moved.target)}, read back and the same."
    )
    now = "unset" if back else "set to it"
    out.print(
        f"From now on, start the server and the workers with TASTEMAKER_DATABASE_URL {now}. "
        f"Pictures and checkpoints stay in {plain(str(settings.root))}."
    )
    if kept:
        out.print(f"The file that was moved from is {plain(kept)}.")
    else:
        out.print(f"{plain(moved.source)} was only read: remove it when you are sure.")
    return None


@app.command("library-id")
def library_id(
    new: Annotated[
        bool, typer.Option("--new", help="Give it another one; the program must be stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the id by which browsers tell this library from others. A copy that is used beside its
    original needs a new one; a moved or restored library keeps its own."""
    from tastemaker.database import backups, installation, sessions
    from tastemaker.worker import worker_lock

    with database() as (settings, engine):
        if new:
            engine.dispose()  # a server has the database open from its start, a worker soon after
            if settings.database_in_home:
                with backups.held_alone(settings.root / backups.DATABASE):
                    pass
            try:
                with worker_lock(settings).acquire(timeout=0), sessions.writing(engine) as session:
                    known = installation.renew(session)
            except Timeout:
                raise backups.running() from None
        else:
            with sessions.reading(engine) as session:
                known = installation.identity(session)
    if as_json:
        return print_json({"library": known.library})
    out.print(known.library)
    return None


@contextmanager
def progress(what: str, unit: int = 1_000_000) -> Iterator["Report"]:
    """A bar on a terminal, of megabytes or of what else has so many of it to a unit."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done // unit, total=max(total // unit, 1))

        yield report
