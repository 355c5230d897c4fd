"""A library from one database to another, as from the file in the home folder to PostgreSQL.

All rows go over in one transaction, and are read back in it: both sides must have as many rows in
each table, and the same values in them. A kill leaves an empty schema on the other side, or a file
under another name, which the next try replaces; what is moved from is only ever read, and given its
new place at the very end. Files in the home folder stay where they are.

Values go over as the databases hold them, not as the program reads them: JSON as its text, so that
nothing is written anew on the way.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    DateTime,
    Engine,
    Float,
    Table,
    TypeDecorator,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlmodel import SQLModel

from tastemaker.config import Settings
from tastemaker.database import tables
from tastemaker.database.backups import held_alone
from tastemaker.database.migration import current_revision, migrate, newest_revision
from tastemaker.database.sessions import make_engine, sqlite
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.files import sync_folder
from tastemaker.processes import failpoint
from tastemaker.processes.systems import take_name

EVERY = tuple(SQLModel.metadata.sorted_tables)  # what is referred to before what refers to it
ROWS_AT_ONCE = 2000
LEAVING_SECONDS = 2.0  # that a connection may take to be gone
MADE_BY_ITSELF = tables.Installation.__tablename__  # the one table that a look at a database fills

Row = tuple[Any, ...]
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


class Side(Protocol):
    """One of the two databases, held alone, amid a transaction."""

    def count(self, table: Table) -> int: ...

    def read(self, table: Table) -> Iterator[Row]:
        """All rows in any order: whole and true-or-false numbers, floats, texts, bytes, times in
        UTC without their zone."""
        ...

    def write(self, table: Table, rows: Iterable[Row]) -> None: ...

    def clear(self, table: Table) -> None: ...

    def finish(self) -> None:
        """Let the next new rows go on from those that came, and check what they refer to."""
        ...


def move(settings: Settings, address: str, report: Report | None = None) -> Moved:
    """Move the library of `settings` to the database at `address`, a URL; empty means the file in
    the home folder.

    Raises `Invalid` for what is no such address, `Conflict` where the program runs or the other
    database is not empty, `TastemakerError` where it is another program's or of another schema, or
    a value does not arrive as it was. Nothing is changed then.
    """
    there = _other(settings, address)
    source = _shown(settings)
    with ExitStack() as stack:
        here = stack.enter_context(_opened(settings, migrate(settings), writes=False))
        with _new_database(there) as (engine, publish):
            with _opened(there, engine, writes=True) as other:
                _require_empty(other, there)
                rows = _carry(here, other, report)
                failpoint("move.written")
            publish()
        failpoint("move.published")
    kept = _put_aside(settings) if settings.database_in_home else None
    return Moved(rows, source, _shown(there), kept)


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
            f"The database {_shown(there)} is not empty ({rows:,} rows in {name}); nothing was "
            "changed.",
            "Name an empty one. If the library was moved there before, set TASTEMAKER_DATABASE_URL "
            "to it.",
        )


# --- both kinds --------------------------------------------------------------------------------


@contextmanager
def _opened(settings: Settings, engine: Engine, *, writes: bool) -> Iterator[Side]:
    """The database, which nobody else uses meanwhile. Raises `Conflict` where somebody does."""
    engine.dispose()  # migrating it left connections open
    if engine.dialect.name == "sqlite":
        with held_alone(Path(engine.url.database or "")) as connection:
            if connection is None:
                raise NotFound(f"There is no database {engine.url.database}.")
            yield SqliteSide(connection)
            if writes:
                connection.execute("COMMIT")
        return
    import psycopg

    try:
        with engine.begin() as connected:
            yield PostgresSide(connected.connection.driver_connection, _shown(settings), writes)
    except (DBAPIError, psycopg.Error) as error:
        raise _refused(str(getattr(error, "orig", error))) from error
    finally:
        engine.dispose()


class SqliteSide:
    """A connection that holds the file alone."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.execute("PRAGMA defer_foreign_keys=ON")

    def count(self, table: Table) -> int:
        (rows,) = self._connection.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()
        return int(rows)

    def read(self, table: Table) -> Iterator[Row]:
        cursor = self._connection.execute(f'SELECT {_columns(table)} FROM "{table.name}"')
        readers = [_reader(column) for column in table.columns]
        for row in cursor:
            yield _plain(row, readers)

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(table.columns))
        insert = f'INSERT INTO "{table.name}" ({_columns(table)}) VALUES ({marks})'
        self._connection.executemany(insert, (tuple(map(_to_sqlite, row)) for row in rows))

    def clear(self, table: Table) -> None:
        self._connection.execute(f'DELETE FROM "{table.name}"')

    def finish(self) -> None:
        if broken := self._connection.execute("PRAGMA foreign_key_check").fetchone():
            raise _refused(f"a row of {broken[0]} refers to one that is not there")


def _kind(column: Column[Any]) -> Any:
    """The type that the database knows, below one that the program made of it."""
    kind = column.type
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind


def _reader(column: Column[Any]) -> Callable[[Any], Any]:
    """From what a database gives to the form in which rows are compared."""
    kind = _kind(column)
    if isinstance(kind, Boolean):
        return bool
    if isinstance(kind, DateTime):
        return _in_utc
    return _plain_zero if isinstance(kind, Float) else _as_it_is


def _plain(row: Row, readers: list[Callable[[Any], Any]]) -> Row:
    return tuple(
        None if value is None else read(value) for read, value in zip(readers, row, strict=True)
    )


def _as_it_is(value: Any) -> Any:
    return value


def _plain_zero(value: Any) -> float:
    return float(value) + 0.0  # SQLite has no other zero


def _in_utc(value: Any) -> datetime:
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return at if at.tzinfo is None else at.astimezone(UTC).replace(tzinfo=None)


def _to_sqlite(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value


class PostgresSide:
    """A connection of psycopg amid a transaction that nobody else writes beside."""

    def __init__(self, connection: Any, shown: str, writes: bool) -> None:
        self._connection = connection
        (encoding,) = connection.execute("SHOW server_encoding").fetchone()
        if encoding != "UTF8":
            raise Invalid(
                f"The database {shown} keeps texts as {encoding}; names of files need UTF8. "
                "Nothing was changed.",
                "Make it with ENCODING 'UTF8'.",
            )
        if others := _others(connection):
            raise Conflict(
                f"Somebody else is connected to {shown} ({others:,} connections); nothing was "
                "changed.",
                "Stop `tastemaker serve` and the workers on every machine, and close other "
                "programs that look into it.",
            )
        names = ", ".join(f'"{name}"' for name in sorted(table.name for table in EVERY))
        connection.execute(f"LOCK TABLE {names} IN {'EXCLUSIVE' if writes else 'SHARE'} MODE")

    def count(self, table: Table) -> int:
        (rows,) = self._connection.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()
        return int(rows)

    def read(self, table: Table) -> Iterator[Row]:
        columns = ", ".join(
            f'"{column.name}"' + "::text" * isinstance(_kind(column), JSON)
            for column in table.columns
        )
        readers = [_reader(column) for column in table.columns]
        with self._connection.cursor(name="moving") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(f'SELECT {columns} FROM "{table.name}"')
            for row in cursor:
                yield _plain(row, readers)

    def write(self, table: Table, rows: Iterable[Row]) -> None:
        copy_in = f'COPY "{table.name}" ({_columns(table)}) FROM STDIN'
        with self._connection.cursor() as cursor, cursor.copy(copy_in) as copy:
            for row in rows:
                copy.write_row(row)

    def clear(self, table: Table) -> None:
        self._connection.execute(f'DELETE FROM "{table.name}"')

    def finish(self) -> None:
        for table, column in ((t, c) for t in EVERY for c in t.primary_key.columns):
            (sequence,) = self._connection.execute(
                "SELECT pg_get_serial_sequence(%s, %s)", (f'"{table.name}"', column.name)
            ).fetchone()
            if sequence is not None:
                self._connection.execute(
                    f'SELECT setval(%s, coalesce(max("{column.name}"), 1), '
                    f'max("{column.name}") IS NOT NULL) FROM "{table.name}"',
                    (sequence,),
                )


def _others(connection: Any) -> int:
    """How many others are connected, once those that just left are gone."""
    until = time.monotonic() + LEAVING_SECONDS
    while True:
        (others,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND coalesce(backend_type, '') IN ('', 'client backend')"
        ).fetchone()
        if not others or time.monotonic() > until:
            return int(others)
        connection.execute("SELECT pg_sleep(0.02), pg_stat_clear_snapshot()")


def _refused(reason: str) -> TastemakerError:
    """What a database said against it, in one line; where a row is to blame, with its place."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    place = next((line.removeprefix("CONTEXT:").strip() for line in lines if "COPY " in line), "")
    where = f" ({place})" if place else ""
    return TastemakerError(
        f"The database refused: {lines[0] if lines else 'no reason given'}{where}. Nothing was "
        "moved.",
        "The library is safe where it was.",
    )


def _columns(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)


def _shown(settings: Settings) -> str:
    url: URL = make_url(settings.database)
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string()


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
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink(missing_ok=True)
