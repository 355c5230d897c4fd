"""What every table is made with."""

from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import JSON, Column, Dialect, ForeignKey
from sqlalchemy.types import TypeDecorator
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


M = TypeVar("M", bound=BaseModel)


class ModelType(TypeDecorator[M]):
    """A JSON column that is a Pydantic model in Python. Fields that are unset stay unset."""

    impl = JSON
    cache_ok = True

    def __init__(self, model: type[M]) -> None:
        super().__init__()
        self.model = model

    def process_bind_param(self, value: M | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def process_result_value(self, value: Any, dialect: Dialect) -> M | None:
        return None if value is None else self.model.model_validate(value)


def model_column(model: type[BaseModel]) -> Any:
    """A value of a Pydantic model in a JSON column; the model with nothing set by default."""
    return Field(default_factory=model, sa_column=Column(ModelType(model), nullable=False))


def cascade(target: str, **kwargs: Any) -> Any:
    """A reference whose row goes when the row it names goes."""
    return Field(sa_column=Column(ForeignKey(target, ondelete="CASCADE"), **kwargs))
