"""Jobs, requests to the model process, who is signed in, and what this database is known by."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
)
from sqlmodel import Field, SQLModel

from tastemaker.database.tables.base import cascade, json_column, now


class Job(SQLModel, table=True):
    """A durable unit of background work. `fence` rises with every claim: a worker that lost the
    job holds an old fence and can write nothing."""

    __table_args__ = (
        CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"
        ),
        Index("ix_job_state", "state", "id"),
    )

    id: int = Field(default=None, primary_key=True)
    kind: str
    title: str
    project_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("project.id", ondelete="CASCADE"))
    )
    asked_by: int = Field(default=0, description="Whose turn it takes: the row of a person, or 0.")
    payload: dict[str, Any] = json_column()
    state: str = "queued"
    fence: int = 0
    attempts: int = 0
    heartbeat: int = 0
    cancel_requested: bool = False
    done: int = 0
    total: int = 0
    rate: float = Field(default=0.0, description="Units a second.")
    message: str = ""
    curve: dict[str, Any] = json_column()
    result: dict[str, Any] = json_column()
    error: str = ""
    cause: str = Field(default="", description="Its kind, one of `jobs.failures.CAUSES`.")
    created_at: datetime = Field(default_factory=now)
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ModelRequestRow(SQLModel, table=True):
    """A request of the web process to the model process: the score of a dropped picture, the images
    nearest to a text. Both sides forget it soon after."""

    __tablename__ = "question"
    __table_args__ = (
        CheckConstraint("state IN ('asked', 'taken', 'answered', 'failed')", name="state"),
        Index("ix_question_state", "state", "id"),
    )

    id: int = Field(default=None, primary_key=True)
    kind: str
    project_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("project.id", ondelete="CASCADE"))
    )
    payload: dict[str, Any] = json_column()
    blob: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    state: str = "asked"
    answer: dict[str, Any] = json_column()
    error: str = ""
    asked_at: datetime = Field(default_factory=now)


class JobLog(SQLModel, table=True):
    __tablename__ = "job_log"
    __table_args__ = (Index("ix_job_log_job", "job_id", "id"),)

    id: int = Field(default=None, primary_key=True)
    job_id: int = cascade("job.id", nullable=False)
    at: datetime = Field(default_factory=now)
    line: str


class LoginSession(SQLModel, table=True):
    """A signed-in browser; the cookie's SHA-256, never the cookie. It is the owner's of the server
    or a person's, and ends with the password that opened it."""

    __tablename__ = "login_session"
    __table_args__ = (
        CheckConstraint("who IN ('owner', 'person')", name="who"),
        CheckConstraint("(who = 'person') = (annotator_id IS NOT NULL)", name="whose"),
    )

    token_sha256: str = Field(primary_key=True)
    who: str
    annotator_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("annotator.id", ondelete="CASCADE"))
    )
    credential: str = Field(description="HMAC of the password, or its hash, under the cookie.")
    created_at: datetime = Field(default_factory=now)
    expires_at: datetime


class ApiToken(SQLModel, table=True):
    """What a program signs in with; the token's SHA-256, never the token. It may do at most what
    its scope says and the person whose it is may, and ends with the password it was made under."""

    __tablename__ = "api_token"
    __table_args__ = (
        CheckConstraint("scope IN ('read', 'score', 'admin')", name="scope"),
        CheckConstraint("who IN ('owner', 'person')", name="who"),
        CheckConstraint("who = 'owner' OR annotator_id IS NOT NULL", name="whose"),
    )

    id: int = Field(default=None, primary_key=True)
    name: str
    scope: str
    token_sha256: str = Field(unique=True, repr=False)
    who: str
    annotator_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("annotator.id", ondelete="CASCADE"))
    )
    credential: str = Field(repr=False, description="As that of a session.")
    created_at: datetime = Field(default_factory=now)
    expires_at: datetime
    last_used_at: datetime | None = None


class Installation(SQLModel, table=True):
    """The one row by which a database is known (`tastemaker.database.installation`)."""

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: int = Field(default=1, primary_key=True)
    library_id: str
    secret: str = Field(repr=False)
