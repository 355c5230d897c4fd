"""Statements that the databases spell differently."""

import functools
import importlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlmodel import Session, SQLModel


def insert_missing(
    session: Session, table: type[SQLModel], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows, each a mapping from column to value; those whose key is there stay as they
    are."""
    if rows:
        insert = _insert(session.get_bind().dialect.name, table)
        session.connection().execute(insert.on_conflict_do_nothing(), rows)


def write_over(
    session: Session,
    table: type[SQLModel],
    rows: Sequence[Mapping[str, Any]],
    key: tuple[str, ...],
) -> None:
    """Insert rows, each a mapping from every column to its value; those whose `key` is there take
    their place."""
    if rows:
        statement = _write_over(session.get_bind().dialect.name, table, key)
        session.connection().execute(statement, rows)


@functools.cache
def _write_over(dialect: str, table: type[SQLModel], key: tuple[str, ...]) -> Any:
    insert = _insert(dialect, table)
    changed = {name: insert.excluded[name] for name in table.model_fields if name not in key}
    return insert.on_conflict_do_update(index_elements=key, set_=changed)


def _insert(dialect: str, table: type[SQLModel]) -> Any:
    """An INSERT that knows of conflicts, which is the dialect's own: of the other one nothing is
    imported."""
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def take_turn(session: Session, name: str) -> None:
    """Wait until no other transaction that took a turn of this name is under way; it ends with the
    transaction. To be called before anything is read. SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = zlib.crc32(name.encode())
        session.connection().execute(select(func.pg_advisory_xact_lock(key)))
