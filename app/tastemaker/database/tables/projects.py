"""A scorer in the making: its settings and its images."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

from tastemaker.config import DEFAULT_ENCODER
from tastemaker.database.tables.base import cascade, json_column, now

DEFAULT_BRACKETS = (
    (0.0, "<10 %"),
    (0.1, "10–20 %"),
    (0.2, "20–40 %"),
    (0.4, "40–50 %"),
    (0.5, ">50 %"),
    (0.6, ">60 % best"),
)


class Project(SQLModel, table=True):
    """One scorer or classifier in the making. `labelling` says what a label is: a score, one class,
    or a set of tags; a project of kind `class` that has scores holds a classifier from elsewhere.
    `encoder_id` stays empty until the first embedding pins the
    fingerprint; from then on another fingerprint is refused."""

    __table_args__ = (
        CheckConstraint("kind IN ('score', 'class')", name="kind"),
        CheckConstraint("labelling IN ('scores', 'classes', 'tags')", name="labelling"),
        CheckConstraint("threshold > 0 AND threshold < 1", name="threshold"),
        CheckConstraint("holdout_share >= 0 AND holdout_share <= 0.5", name="holdout_share"),
        CheckConstraint("length(name) BETWEEN 1 AND 80", name="name"),
        CheckConstraint("aggregate IN ('median', 'mean', 'lowest', 'highest', 'newest')",
                        name="aggregate"),
        CheckConstraint("auto_train_every >= 0", name="auto_train_every"),
        CheckConstraint("auto_train_drift >= 0", name="auto_train_drift"),
    )  # fmt: skip

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    kind: str = "score"
    labelling: str = "scores"
    encoder: str = DEFAULT_ENCODER
    encoder_id: int | None = Field(default=None, foreign_key="encoder.id")
    threshold: float = 0.5
    holdout_share: float = 0.1
    seed: int = Field(default=0, description="Fixes folds and the hold-out side for good.")
    recipe: str = "auto"
    brackets: list[Any] = Field(
        default_factory=lambda: [list(b) for b in DEFAULT_BRACKETS],
        sa_column=Column(JSON, nullable=False),
    )
    show_prediction_first: bool = False
    aggregate: str = Field(default="median", description="How several people make one label.")
    auto_train_every: int = Field(default=0, description="Train after so many scores; 0: never.")
    auto_train_drift: float = Field(
        default=0.0, description="Train once the live error differs by so many points; 0: never."
    )
    card: dict[str, Any] = json_column()  # what its model card says in the author's own words
    created_at: datetime = Field(default_factory=now)


class ProjectClass(SQLModel, table=True):
    """A class of a project, or a tag where an image may have several. `number` is what events and
    versions hold, and never given again. One that was merged names what it `became`; one that was
    deleted is `gone`. `colour` is a place in the palette of the pages, `key` the key that gives it
    (empty: none), `weight` how much its labels count in the loss."""

    __tablename__ = "project_class"
    __table_args__ = (
        CheckConstraint("number >= 0", name="number"),
        CheckConstraint("length(name) BETWEEN 1 AND 60", name="name"),
        CheckConstraint("weight > 0 AND weight <= 100", name="weight"),
        UniqueConstraint("project_id", "number"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    number: int
    name: str
    colour: int = 0
    key: str = ""
    weight: float = 1.0
    became: int | None = None
    gone: bool = False


class ProjectCollection(SQLModel, table=True):
    __tablename__ = "project_collection"
    __table_args__ = (CheckConstraint("role IN ('pool', 'test-run')", name="role"),)

    project_id: int = cascade("project.id", primary_key=True)
    collection_id: int = cascade("collection.id", primary_key=True)
    role: str = "pool"


class WatchedFolder(SQLModel, table=True):
    """A folder of this machine that the worker looks into again and again: what is new in it comes
    into a project. `print` is a hash of what lay there when its import was last asked for, and
    `trouble` why it could not be looked into, empty where it could."""

    __tablename__ = "watched_folder"
    __table_args__ = (UniqueConstraint("project_id", "path"),)

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    path: str
    collection: str
    role: str = "pool"
    print: str = ""
    trouble: str = ""
    asked_by: int = Field(default=0, description="Whose turn its imports take.")
    created_at: datetime = Field(default_factory=now)


class RemovedImage(SQLModel, table=True):
    """An image taken out of a project by a person. Its file, scores and other projects stay."""

    __tablename__ = "removed_image"

    project_id: int = cascade("project.id", primary_key=True)
    image_id: int = cascade("image.id", primary_key=True)
    at: datetime = Field(default_factory=now)
