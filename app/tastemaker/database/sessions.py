"""The database: one engine, its pragmas, and two kinds of session.

A *read* session sees one snapshot and never writes. A *write* session takes the write lock at once
(`BEGIN IMMEDIATE`), because a deferred transaction that reads first and writes later fails with
"database is locked" however long the busy timeout is. Functions take a session and never commit;
the `with` block that opened the session commits.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import URL, CursorResult, Engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlmodel import Session, create_engine

from tastemaker.config import Settings
from tastemaker.errors import Invalid, TastemakerError, Unavailable, of_the_disk
from tastemaker.files.json_text import json_text

try:  # Python 3.11 links SQLite 3.40, which has the WAL-reset bug fixed in 3.51.3
    import pysqlite3.dbapi2 as sqlite
except ImportError:  # no wheel for this platform; `tastemaker doctor` warns
    sqlite = sqlite3

BUSY_SECONDS = 5.0

# One writer at a time inside a process: SQLite's busy handler sleeps and is not fair, so threads
# that queue on a lock here wait less than threads that race for the file lock.
_write_lock = threading.Lock()
_patience = threading.local()  # `until`: when the writer of this thread gives up


def make_engine(settings: Settings) -> Engine:
    """Engine for the configured database. SQLite gets WAL, `synchronous=FULL`, foreign keys and a
    busy timeout on every connection, and explicit transaction control. Raises `Invalid` where the
    setting names no database that can be used; nothing is connected to yet."""
    try:
        url = make_url(settings.database)
        if url.get_backend_name() != "sqlite":
            return _of_a_server(url)
        if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.query or not url.database:
            raise ArgumentError("a plain file is needed")
    except ModuleNotFoundError as error:
        raise Invalid(
            f"TASTEMAKER_DATABASE_URL needs the module {error.name}, which is not installed.",
            "For PostgreSQL: pip install 'FOLDER-OF-TASTEMAKER[postgres]', and postgresql+psycopg://…",
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # may name the password
        raise Invalid(
            "TASTEMAKER_DATABASE_URL is not the address of a database.",
            "Write postgresql+psycopg://USER:PASSWORD@HOST/NAME or sqlite:////PATH, or leave it "
            "out for a file in the home folder.",
        ) from error
    engine = create_engine(
        url,
        module=sqlite,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=20,
        max_overflow=20,
        json_serializer=_stored_json,
        hide_parameters=True,  # what somebody typed stays out of tracebacks, and so of the log
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        if mode == "IMMEDIATE":
            until = getattr(_patience, "until", None)
            wait = BUSY_SECONDS if until is None else max(0.0, until - time.monotonic())
            driver = connection.connection.dbapi_connection
            driver.execute(f"PRAGMA busy_timeout={round(1000 * wait)}")
        if connection.get_execution_options().get("read_only"):
            connection.connection.dbapi_connection.execute("PRAGMA query_only=ON")
            connection.info["read_only"] = True
        connection.exec_driver_sql(f"BEGIN {mode}")

    @event.listens_for(engine, "checkin")
    def on_checkin(connection: Any, record: Any) -> None:
        if record.info.pop("read_only", False) and connection is not None:
            connection.execute("PRAGMA query_only=OFF")  # for whoever takes it next

    return engine


def _stored_json(data: Any) -> str:
    return json_text(data, ascii_only=True)


def _of_a_server(url: URL) -> Engine:
    """Addresses as PostgreSQL's own programs take them are for the driver that is installed."""
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url, pool_pre_ping=True, json_serializer=_stored_json, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # Half of the columns hold times without their zone: those of the server's must not get in.
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session on one consistent snapshot, that of its first statement, however many follow.
    The database refuses to write in it."""
    with Session(_snapshot(engine), expire_on_commit=False, autoflush=False) as session:
        yield session  # closing rolls back, and leaves what was read usable


@contextmanager
def writing(engine: Engine, wait: float | None = None) -> Iterator[Session]:
    """A session that holds the write lock from its first statement and commits at the end.

    Raises `Unavailable` when others keep the lock longer than `wait` seconds (the busy timeout),
    however many wait for it, `StorageFull` or `NotWritable` when the disk takes no more; nothing
    was changed then.
    """
    with _turn(wait):
        session = Session(_immediate(engine), expire_on_commit=False, autoflush=True)
        try:
            yield session
            session.commit()
        except (OperationalError, InternalError) as error:
            session.rollback()
            if (known := in_words(error)) is not None:
                raise known from error
            raise
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()


@contextmanager
def _turn(wait: float | None) -> Iterator[None]:
    """The turn to write, of this process. What is left of the time to wait is what SQLite may wait
    for other processes: one bound for both, not one for each that waits."""
    wait = BUSY_SECONDS if wait is None else wait
    until = time.monotonic() + wait
    if not _write_lock.acquire(timeout=wait):
        raise busy()
    try:
        _patience.until = until
        yield
    finally:
        _patience.until = None
        _write_lock.release()


def busy() -> Unavailable:
    return Unavailable(
        "The database is busy with another change; nothing was saved.",
        "Try again in a few seconds.",
    )


class Transactions(Protocol):
    """Where code that opens several sessions in turn gets them from: a plain engine, or a job,
    whose every write first checks that the job is still its own."""

    def reading(self) -> AbstractContextManager[Session]: ...

    def writing(self) -> AbstractContextManager[Session]: ...


@dataclass(frozen=True)
class PlainTransactions:
    """`Transactions` over an engine, with no job behind them."""

    engine: Engine

    def reading(self) -> AbstractContextManager[Session]:
        return reading(self.engine)

    def writing(self) -> AbstractContextManager[Session]:
        return writing(self.engine)


@lru_cache(maxsize=8)
def _snapshot(engine: Engine) -> Engine:
    """The same engine, whose transactions see one state and only read. SQLite's see one anyway; on
    PostgreSQL each statement would see its own."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(read_only=True, opened_on=engine)
    return engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True, opened_on=engine
    )


@lru_cache(maxsize=8)
def _immediate(engine: Engine) -> Engine:
    """The same engine, whose transactions begin with the write lock."""
    return engine.execution_options(begin="IMMEDIATE", opened_on=engine)


def engine_of(session: Session) -> Engine:
    """The engine that a session was opened on: that of the session itself goes on reading only, or
    writing only."""
    bind = session.get_bind()
    engine: Engine = bind.get_execution_options().get("opened_on", bind.engine)
    return engine


def is_writing(session: Session) -> bool:
    """Whether `writing` opened the session."""
    return bool(session.get_bind().get_execution_options().get("begin") == "IMMEDIATE")


def is_locked(error: DBAPIError) -> bool:
    """Whether somebody else stood in the way, and trying again may help."""
    reason = str(error.orig)
    return any(word in reason for word in ("locked", "busy", "deadlock", "could not serialize"))


# What PostgreSQL calls it (SQLSTATE, or how it begins): it ends or starts, has no room for one more
# connection, or the connection broke.
GONE_STATES = ("57P01", "57P02", "57P03", "53300", "08")


def is_gone(error: DBAPIError) -> bool:
    """Whether the server of the database is not there, or lets nobody in: who cannot connect is
    told no state at all."""
    if not type(error.orig).__module__.startswith("psycopg"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    lost = isinstance(error, OperationalError) and state is None
    return lost or str(state).startswith(GONE_STATES)


def unreachable() -> Unavailable:
    return Unavailable(
        "The server of the database does not answer; nothing was changed. Everything saved before "
        "is safe.",
        "Try again in a moment. If it stays so, see that PostgreSQL runs and that "
        "TASTEMAKER_DATABASE_URL names it.",
    )


def in_words(error: DBAPIError) -> TastemakerError | None:
    """What the database said, for a person, where that is no fault of the program."""
    if is_locked(error):
        return busy()
    return unreachable() if is_gone(error) else of_the_disk(error)


def sqlite_version() -> tuple[int, ...]:
    """Version of the SQLite library in use, e.g. (3, 53, 4)."""
    return tuple(int(part) for part in sqlite.sqlite_version.split("."))


def rows_changed(session: Session, statement: Any) -> int:
    """Run an UPDATE or DELETE; how many rows it met."""
    result: CursorResult[Any] = session.execute(statement)  # type: ignore[assignment]  # no rows: a cursor
    return int(result.rowcount)
