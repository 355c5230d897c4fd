"""Statements that the databases spell differently."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, SQLModel


def insert_missing(
    session: Session, table: type[SQLModel], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows, each a mapping from column to value; those whose key is there stay as they
    are."""
    if rows:
        postgres = session.get_bind().dialect.name == "postgresql"
        insert = (postgres_insert if postgres else sqlite_insert)(table)
        session.connection().execute(insert.on_conflict_do_nothing(), rows)


def take_turn(session: Session, name: str) -> None:
    """Wait until no other transaction that took a turn of this name is under way; it ends with the
    transaction. To be called before anything is read. SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = zlib.crc32(name.encode())
        session.connection().execute(select(func.pg_advisory_xact_lock(key)))
