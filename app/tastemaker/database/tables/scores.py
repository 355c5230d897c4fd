"""Who scores, what they gave, and the labels derived from it."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    text,
)
from sqlmodel import Field, SQLModel

from tastemaker.database.tables.base import cascade, json_column, now


class Annotator(SQLModel, table=True):
    """Somebody who scores. A `proxy` (for scores that came with files, a scripted rater) counts
    only for images that no person has scored. `keys` maps actions to this person's own keys."""

    __table_args__ = (CheckConstraint("role IN ('admin', 'annotator', 'viewer')", name="role"),)

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    proxy: bool = Field(
        default=False, sa_column=Column("stand_in", Boolean, nullable=False, key="proxy")
    )
    role: str = "annotator"
    password_hash: str = Field(default="", description="argon2id; empty: cannot sign in.")
    disabled: bool = False
    keys: dict[str, Any] = json_column()


class ScoreEvent(SQLModel, table=True):
    """What one person said about one image, in the order it was said. Append-only: an undo is an
    event that names the event it takes back. `at_least` and `below` are of a sweep: the score is
    such, whatever it is. `rated` is what another program's mark means by the rule it came in by.
    What the `value` of a `set` means, the project's `labelling` says: a score of 0–10, the number
    of a class, or tags, each a bit at the place of its number."""

    __tablename__ = "score_event"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('set', 'undo', 'skip', 'flag', 'at_least', 'below', 'rated')", name="kind"
        ),
        CheckConstraint(
            "(kind IN ('set', 'at_least', 'below', 'rated')) = (value IS NOT NULL) "
            "AND coalesce(value, 0) >= 0 AND (kind = 'set' OR coalesce(value, 0) <= 10)",
            name="value",
        ),
        CheckConstraint("(kind = 'undo') = (undoes IS NOT NULL)", name="undoes"),
        Index("ix_score_event_image", "project_id", "image_id", "annotator_id"),
        Index("ix_score_event_project", "project_id", "id"),
        Index("ix_score_event_person", "project_id", "annotator_id", "id"),
        Index(
            "ix_score_event_aside", "project_id", "kind", "image_id",
            sqlite_where=text("kind IN ('skip', 'flag')"),
            postgresql_where=text("kind IN ('skip', 'flag')"),
        ),
    )  # fmt: skip

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    image_id: int = Field(foreign_key="image.id")
    annotator_id: int = Field(foreign_key="annotator.id")
    kind: str
    value: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    undoes: int | None = Field(default=None, foreign_key="score_event.id", unique=True)
    event_group: str | None = Field(default=None, description="One bulk action, undone as one.")
    origin: str = Field(default="queue", description="control, queue, review, import, api …")
    reason: str = Field(default="", description="Why the image was shown, as told to the person.")
    note: str = ""
    key: str | None = Field(default=None, unique=True, description="Idempotency key.")
    at: datetime = Field(default_factory=now)


class Comparison(SQLModel, table=True):
    """Which of two images one person finds better, in the order it was said. Append-only, like
    scores: an undo is a row that names the row it takes back."""

    __table_args__ = (
        CheckConstraint("verdict IN ('first', 'second', 'equal', 'undo')", name="verdict"),
        CheckConstraint("(verdict = 'undo') = (undoes IS NOT NULL)", name="undoes"),
        CheckConstraint("first_id <> second_id", name="two_images"),
        Index("ix_comparison_project", "project_id", "annotator_id", "id"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    annotator_id: int = Field(foreign_key="annotator.id")
    first_id: int = Field(foreign_key="image.id")
    second_id: int = Field(foreign_key="image.id")
    verdict: str
    undoes: int | None = Field(default=None, foreign_key="comparison.id", unique=True)
    key: str | None = Field(default=None, unique=True, description="Idempotency key.")
    at: datetime = Field(default_factory=now)


class Label(SQLModel, table=True):
    """The current truth of an image in a project, derived from its events in the same
    transaction. `measures` marks a label that may judge a version: on the hold-out side, and
    drawn at random or imported rather than picked by a person or a model. `value` means what it
    means in a `ScoreEvent`."""

    __table_args__ = (
        CheckConstraint("value >= 0", name="value"),
        Index("ix_label_event", "project_id", "event_id"),
        Index("ix_label_value", "project_id", "value", "image_id"),
    )

    project_id: int = cascade("project.id", primary_key=True)
    image_id: int = cascade("image.id", primary_key=True)
    value: float
    annotators: int = 1
    event_id: int = Field(description="The newest event that shaped it.")
    holdout: bool = False
    measures: bool = False
