"""Audits: how good what a version keeps of a target is, by images drawn at random and scored blind.

What was answered is no row here: it is the newest event of its origin that one person gave the
drawn image, like any other score.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, UniqueConstraint
from sqlmodel import Field, SQLModel
from typing_extensions import TypedDict

from tastemaker.database.tables.base import cascade, json_column, now


class AuditPopulation(TypedDict, total=False):
    """What the images were drawn from; empty until they are. So many are `kept` by the cut and
    `below` it; `learned` were left out, because the version learned from them or a relative, and
    `unreadable` of a table's drawn pictures could not be had. `cuts` are stricter cuts with what
    they keep, from strict to lax. `unlike` is the share of a sample far from what it learned
    from."""

    kept: int
    below: int
    learned: int
    unreadable: int
    cuts: list[tuple[float, int]]
    unlike: float | None


class Audit(SQLModel, table=True):
    """A version's filter under audit: of the images of a target, those that it scores `cut` (0–1)
    or more are kept, and are good where the person gives them `good_from` (of 0–10) or more.
    `target` names what was looked at: a test run, a filter of the library, or a table's path."""

    __table_args__ = (
        CheckConstraint("kind IN ('test-run', 'library', 'table')", name="kind"),
        CheckConstraint("cut BETWEEN 0 AND 1", name="cut"),
        CheckConstraint("good_from BETWEEN 1 AND 10", name="good_from"),
        CheckConstraint("goal > 0 AND goal < 1", name="goal"),
        CheckConstraint("confidence > 0 AND confidence < 1", name="confidence"),
        CheckConstraint("share_below > 0 AND share_below < 1", name="share_below"),
        Index("ix_audit_project", "project_id", "id"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    version_id: int = cascade("version.id", nullable=False)
    annotator_id: int = Field(foreign_key="annotator.id", description="Whose taste it is.")
    kind: str
    name: str = Field(description="What the target is called.")
    target: dict[str, Any] = json_column()
    cut: float
    good_from: int
    goal: float = 0.9
    confidence: float = 0.95
    share_below: float = 0.2
    seed: int = 0
    population: AuditPopulation = json_column()
    job_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("job.id", ondelete="SET NULL"))
    )
    created_at: datetime = Field(default_factory=now)


class AuditImage(SQLModel, table=True):
    """A drawn image: its place in the order in which they are asked, the version's score of it, and
    the chance of being good that the version gives it, both in 0–1."""

    __tablename__ = "audit_image"
    __table_args__ = (
        UniqueConstraint("audit_id", "image_id"),
        Index("ix_audit_image_image", "image_id"),
    )

    audit_id: int = cascade("audit.id", primary_key=True)
    position: int = Field(primary_key=True)
    image_id: int = Field(foreign_key="image.id")
    score: float
    expected: float
