"""All rows of a database, out of it and into it, in one form whatever the database: SQLite or
PostgreSQL, held alone meanwhile.

A row is a tuple of whole and true-or-false numbers, floats, texts, bytes, times in UTC without
their zone, and None; JSON is its text, as it was written.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

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
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from tastemaker.config import Settings
from tastemaker.database.backups import held_alone
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError

# What is referred to before what refers to it.
EVERY = tuple(SQLModel.metadata.sorted_tables)
ROWS_AT_ONCE = 2000
LEAVING_SECONDS = 2.0  # that a connection may take to be gone

Row = tuple[Any, ...]


class Side(Protocol):
    """One of the two databases, held alone, amid a transaction."""

    def count(self, table: Table) -> int: ...

    def read(self, table: Table) -> Iterator[Row]:
        """All rows, in any order."""
        ...

    def write(self, table: Table, rows: Iterable[Row]) -> None: ...

    def clear(self, table: Table) -> None: ...

    def finish(self) -> None:
        """Let the next new rows go on from those that came, and check what they refer to."""
        ...


@contextmanager
def opened(settings: Settings, engine: Engine, *, writes: bool) -> Iterator[Side]:
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
            yield PostgresSide(connected.connection.driver_connection, shown(settings), writes)
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


def shown(settings: Settings) -> str:
    url: URL = make_url(settings.database)
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string()
