"""What every table is made with."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, ForeignKey
from sqlmodel import Field, SQLModel

# Named constraints, so that a migration can change them on every database.
SQLModel.metadata.naming_convention = {
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def now() -> datetime:
    """Current time in UTC, with its zone: the form in which every timestamp is stored."""
    return datetime.now(UTC)


def in_utc(at: datetime) -> datetime:
    """The same point in time in UTC: databases hand times back in UTC without their zone."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def json_column() -> Any:
    """A JSON object, empty by default."""
    return Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


def cascade(target: str, **kwargs: Any) -> Any:
    """A reference whose row goes when the row it names goes."""
    return Field(sa_column=Column(ForeignKey(target, ondelete="CASCADE"), **kwargs))
