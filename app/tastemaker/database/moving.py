"""A library from one database to another, as from the file in the home folder to PostgreSQL.

All rows go over in one transaction, and are read back in it: both sides must have as many rows in
each table, and the same values in them. A kill leaves an empty schema on the other side, or a file
under another name, which the next try replaces; what is moved from is only ever read, and given its
new place at the very end. Files in the home folder stay where they are.

Values go over as the databases hold them, not as the program reads them: JSON as its text, so that
nothing is written anew on the way.
"""

import glob
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from tastemaker.config import Settings
from tastemaker.database import tables
from tastemaker.database.migration import current_revision, migrate, newest_revision
from tastemaker.database.sessions import make_engine, sqlite
from tastemaker.database.table_rows import EVERY, ROWS_AT_ONCE, Row, Side, opened, shown
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.files import sync_folder
from tastemaker.processes import failpoint
from tastemaker.processes.systems import take_name

MADE_BY_ITSELF = tables.Installation.__tablename__  # the one table that a look at a database fills

Report = Callable[[int, int], None]  # rows done, rows in all: each is written, then read back


class Sum(NamedTuple):
    """How many rows there are, and the sum of their hashes: whatever their order."""

    rows: int
    hashes: int


@dataclass(frozen=True)
class Moved:
    """What was moved: rows by table, the two addresses without their passwords, and where the file
    that was moved from lies now (None: where it was)."""

    rows: dict[str, int]
    source: str
    target: str
    kept: Path | None


def move(settings: Settings, address: str, report: Report | None = None) -> Moved:
    """Move the library of `settings` to the database at `address`, a URL; empty means the file in
    the home folder.

    Raises `Invalid` for what is no such address, `Conflict` where the program runs or the other
    database is not empty, `TastemakerError` where it is another program's or of another schema, or
    a value does not arrive as it was. Nothing is changed then.
    """
    there = _other(settings, address)
    source = shown(settings)
    with ExitStack() as stack:
        here = stack.enter_context(opened(settings, migrate(settings), writes=False))
        with _new_database(there) as (engine, publish):
            with opened(there, engine, writes=True) as other:
                _require_empty(other, there)
                rows = _carry(here, other, report)
                failpoint("move.written")
            publish()
        failpoint("move.published")
    kept = _put_aside(settings) if settings.database_in_home else None
    return Moved(rows, source, shown(there), kept)


def _carry(here: Side, other: Side, report: Report | None) -> dict[str, int]:
    """Write and read back; the rows by table."""
    total, done = 2 * sum(here.count(table) for table in EVERY), 0

    def seen(rows: Iterable[Row], into: list[Sum]) -> Iterator[Row]:
        nonlocal done
        number, hashes = 0, 0
        for row in rows:
            digest = hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=32)
            number, hashes = number + 1, hashes + int.from_bytes(digest.digest(), "big")
            done += 1
            if report is not None and done % ROWS_AT_ONCE == 0:
                report(done, total)
            yield row
        into.append(Sum(number, hashes % 2**256))

    sent: dict[str, Sum] = {}
    for table in EVERY:
        other.clear(table)
        sums: list[Sum] = []
        other.write(table, seen(here.read(table), sums))
        (sent[table.name],) = sums
    other.finish()
    for table in EVERY:
        sums = []
        for _ in seen(other.read(table), sums):
            pass
        if sums != [sent[table.name]]:
            raise TastemakerError(
                f"The table {table.name} did not arrive as it was sent "
                f"({sent[table.name].rows:,} rows sent, {sums[0].rows:,} read back). Nothing was "
                "moved.",
                "The library is safe where it was. Please report this with the versions of both "
                "databases.",
            )
    return {name: rows for name, (rows, _) in sent.items()}


# --- what may be moved to ----------------------------------------------------------------------


def _other(settings: Settings, address: str) -> Settings:
    """The settings of the program on the other database."""
    other = settings.model_copy(update={"database_url": address.strip()})
    try:
        url = make_url(other.database)
        if url.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
            raise ArgumentError("no such kind")
        if url.get_backend_name() == "sqlite" and (url.query or not url.database):
            raise ArgumentError("a plain file is needed")
    except (ArgumentError, ValueError) as error:  # may name the password
        raise Invalid(
            "What was typed is not the address of a database; nothing was changed.",
            "Write postgresql://USER:PASSWORD@HOST/NAME or sqlite:////PATH/TO/FILE.db.",
        ) from error
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "").expanduser().absolute()
        if other.database == settings.database or _is_file_of(settings, path):
            raise Invalid("The library is in this database already; nothing was changed.")
        if path.exists():
            raise Conflict(
                f"{path} exists already; nothing was changed.",
                "Name another file, or move this one to another place first.",
            )
        if not path.parent.is_dir():
            raise NotFound(f"There is no folder {path.parent}.", "Make it first.")
        other = other.model_copy(update={"database_url": f"sqlite:///{path}"})
    elif other.database == settings.database:
        raise Invalid("The library is in this database already; nothing was changed.")
    return other


def _is_file_of(settings: Settings, path: Path) -> bool:
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite" or not path.exists():
        return False
    own = Path(url.database or "")
    return own.exists() and own.samefile(path)


@contextmanager
def _new_database(there: Settings) -> Iterator[tuple[Engine, Callable[[], None]]]:
    """An engine on a database of the newest schema, and what gives it its name: a file has it only
    when it is whole."""
    url = make_url(there.database)
    if url.get_backend_name() != "sqlite":
        engine = _schema_of(there)
        try:
            yield engine, lambda: None
        finally:
            engine.dispose()
        return
    path = Path(url.database or "")
    unfinished = path.with_name(f".{path.name}.moving.part")
    _remove(unfinished)
    engine = _schema_of(there.model_copy(update={"database_url": f"sqlite:///{unfinished}"}))

    def publish() -> None:
        engine.dispose()
        with closing(sqlite.connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # all of it in the one file
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        take_name(unfinished, path)  # never over another
        unfinished.unlink(missing_ok=True)
        sync_folder(path.parent)

    try:
        yield engine, publish
    finally:
        engine.dispose()
        _remove(unfinished)


def _schema_of(there: Settings) -> Engine:
    """The engine of an empty database, whose schema is made. One that has a schema is never brought
    to another here."""
    engine = make_engine(there)
    found = current_revision(engine)
    engine.dispose()
    if found not in (None, newest_revision()):
        raise TastemakerError(
            f"The other database is of another version of the program (schema {found}; this one "
            f"works with {newest_revision()}). Nothing was changed.",
            "Name an empty database.",
        )
    return migrate(there)


def _require_empty(other: Side, there: Settings) -> None:
    full = {t.name: n for t in EVERY if t.name != MADE_BY_ITSELF and (n := other.count(t))}
    if full:
        name, rows = next(iter(full.items()))
        raise Conflict(
            f"The database {shown(there)} is not empty ({rows:,} rows in {name}); nothing was "
            "changed.",
            "Name an empty one. If the library was moved there before, set TASTEMAKER_DATABASE_URL "
            "to it.",
        )


# --- afterwards --------------------------------------------------------------------------------


def _put_aside(settings: Settings) -> Path:
    """The file that was moved from goes to the backups: a server that is started as before would
    go on with it, and what is scored would be in two places."""
    own = Path(make_url(settings.database).database or "")
    times = (f"moved-{tables.now():%Y%m%d-%H%M%S}{n or ''}.db" for n in itertools.count())
    target = next(path for name in times if not (path := settings.backups / name).exists())
    own.replace(target)
    sync_folder(own.parent)
    return target


def _remove(database: Path) -> None:
    for path in database.parent.glob(f"{glob.escape(database.name)}*"):
        path.unlink(missing_ok=True)
