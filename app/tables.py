"""Every table. CHECK constraints hold what must hold, since `table=True` models do not validate.

Two rules run through them: what a person said (`score_event`) is only ever appended to, and what
the program derived from it (`label`, `prediction`) can be thrown away and rebuilt.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
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


def _json() -> Any:
    return Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


def _cascade(target: str, **kwargs: Any) -> Any:
    return Field(sa_column=Column(ForeignKey(target, ondelete="CASCADE"), **kwargs))


# --- the library -------------------------------------------------------------------------------


class Image(SQLModel, table=True):
    """A picture, identified by the SHA-256 of its bytes; or a bare vector under the hash of its
    values (`kind='vector'`), which has no pixels to show.

    `source_group` names what must never be split between training and hold-out: a photograph and
    its crops, degradations and near-duplicates share one.
    """

    __table_args__ = (
        CheckConstraint("kind IN ('file', 'upload', 'vector')", name="kind"),
        CheckConstraint("length(sha256) = 64", name="sha256"),
        Index("ix_image_group", "source_group"),
        Index("ix_image_name", "name", "id"),
        *(
            Index(f"ix_image_phash{i}", text(f"((phash >> {16 * i}) & 65535)"))
            for i in range(4)
        ),
    )  # fmt: skip

    id: int = Field(default=None, primary_key=True)
    sha256: str = Field(unique=True)
    kind: str
    name: str = Field(description="Name to show: the first file name it was found under.")
    format: str = ""
    width: int = 0
    height: int = 0
    bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    phash: int | None = Field(default=None, sa_column=Column(BigInteger))
    source_group: str
    added_at: datetime = Field(default_factory=now)


class ImagePath(SQLModel, table=True):
    """A place on this machine where an image's bytes were found. Every path is kept."""

    __tablename__ = "image_path"
    __table_args__ = (
        CheckConstraint("state IN ('present', 'missing', 'changed')", name="state"),
        Index("ix_image_path_image", "image_id"),
    )

    id: int = Field(default=None, primary_key=True)
    path: str = Field(unique=True)
    image_id: int = _cascade("image.id", nullable=False)
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    mtime_ns: int = Field(sa_column=Column(BigInteger, nullable=False))
    state: str = "present"


class Tag(SQLModel, table=True):
    """A word about an image: from its folder, from a text file beside it, or given by hand."""

    __tablename__ = "image_tag"
    __table_args__ = (Index("ix_image_tag_tag", "tag", "image_id"),)

    image_id: int = _cascade("image.id", primary_key=True)
    tag: str = Field(primary_key=True)


class Collection(SQLModel, table=True):
    """A named set of images, made by one import."""

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    created_at: datetime = Field(default_factory=now)


class CollectionImage(SQLModel, table=True):
    __tablename__ = "collection_image"
    __table_args__ = (Index("ix_collection_image_image", "image_id"),)

    collection_id: int = _cascade("collection.id", primary_key=True)
    image_id: int = _cascade("image.id", primary_key=True)


class SetAside(SQLModel, table=True):
    """A file that an import could not use, and why."""

    __tablename__ = "set_aside"
    __table_args__ = (UniqueConstraint("path"),)

    id: int = Field(default=None, primary_key=True)
    path: str
    reason: str
    job_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("job.id", ondelete="SET NULL"))
    )
    at: datetime = Field(default_factory=now)


# --- encoders and their vectors ----------------------------------------------------------------


class EncoderRow(SQLModel, table=True):
    """One encoder fingerprint. `declared` means: vectors came from outside and their maker named
    the encoder; no image can be embedded under it."""

    __tablename__ = "encoder"
    __table_args__ = (CheckConstraint("dim > 0", name="dim"),)

    id: int = Field(default=None, primary_key=True)
    fingerprint: str = Field(unique=True)
    name: str
    dim: int
    declared: bool = False
    details: dict[str, Any] = _json()


class Embedding(SQLModel, table=True):
    """float16 vector of one image under one encoder, not L2-normalised, little-endian."""

    image_id: int = _cascade("image.id", primary_key=True)
    encoder_id: int = Field(foreign_key="encoder.id", primary_key=True)
    vector: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


# --- a scorer in the making --------------------------------------------------------------------


DEFAULT_BRACKETS = (
    (0.0, "<10 %"),
    (0.1, "10–20 %"),
    (0.2, "20–40 %"),
    (0.4, "40–50 %"),
    (0.5, ">50 %"),
    (0.6, ">60 % best"),
)


class Project(SQLModel, table=True):
    """One scorer in the making. `encoder_id` stays empty until the first embedding pins the
    fingerprint; from then on another fingerprint is refused."""

    __table_args__ = (
        CheckConstraint("kind IN ('score', 'class')", name="kind"),
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
    encoder: str = "efficientnet_lite0/bundled"
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
    card: dict[str, Any] = _json()  # what its model card says in the author's own words
    created_at: datetime = Field(default_factory=now)


class ProjectCollection(SQLModel, table=True):
    __tablename__ = "project_collection"
    __table_args__ = (CheckConstraint("role IN ('pool', 'test-run')", name="role"),)

    project_id: int = _cascade("project.id", primary_key=True)
    collection_id: int = _cascade("collection.id", primary_key=True)
    role: str = "pool"


class RemovedImage(SQLModel, table=True):
    """An image taken out of a project by a person. Its file, scores and other projects stay."""

    __tablename__ = "removed_image"

    project_id: int = _cascade("project.id", primary_key=True)
    image_id: int = _cascade("image.id", primary_key=True)
    at: datetime = Field(default_factory=now)


class Annotator(SQLModel, table=True):
    """Somebody who scores. A `stand_in` (scores that came with files, a scripted rater) counts
    only for images that no person has scored. `keys` maps actions to this person's own keys."""

    __table_args__ = (CheckConstraint("role IN ('admin', 'annotator')", name="role"),)

    id: int = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    stand_in: bool = False
    role: str = "annotator"
    password_hash: str = Field(default="", description="argon2id; empty: cannot sign in.")
    disabled: bool = False
    keys: dict[str, Any] = _json()


class ScoreEvent(SQLModel, table=True):
    """What one person said about one image, in the order it was said. Append-only: an undo is an
    event that names the event it takes back."""

    __tablename__ = "score_event"
    __table_args__ = (
        CheckConstraint("kind IN ('set', 'undo', 'skip', 'flag')", name="kind"),
        CheckConstraint(
            "(kind = 'set') = (value IS NOT NULL) AND coalesce(value, 0) BETWEEN 0 AND 10",
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
    project_id: int = _cascade("project.id", nullable=False)
    image_id: int = Field(foreign_key="image.id")
    annotator_id: int = Field(foreign_key="annotator.id")
    kind: str
    value: int | None = None
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
    project_id: int = _cascade("project.id", nullable=False)
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
    drawn at random or imported rather than picked by a person or a model."""

    __table_args__ = (
        CheckConstraint("value BETWEEN 0 AND 10", name="value"),
        Index("ix_label_event", "project_id", "event_id"),
        Index("ix_label_value", "project_id", "value", "image_id"),
    )

    project_id: int = _cascade("project.id", primary_key=True)
    image_id: int = _cascade("image.id", primary_key=True)
    value: float
    annotators: int = 1
    event_id: int = Field(description="The newest event that shaped it.")
    holdout: bool = False
    measures: bool = False


# --- versions ----------------------------------------------------------------------------------


class Version(SQLModel, table=True):
    """An immutable trained head. `building` rows are invisible until one write makes them ready."""

    __table_args__ = (
        CheckConstraint("state IN ('building', 'ready')", name="state"),
        UniqueConstraint("project_id", "major", "minor"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = _cascade("project.id", nullable=False)
    major: int = 1
    minor: int = 0
    state: str = "building"
    active: bool = False
    note: str = ""
    parent_id: int | None = Field(default=None, foreign_key="version.id")
    made_by: str = Field(unique=True, description="The job (and step) that made it, once.")
    encoder_id: int = Field(foreign_key="encoder.id")
    file: str = Field(default="", description="File name inside the checkpoints folder.")
    sha256: str = ""
    bytes: int = 0
    event_high: int = Field(description="Highest score event that was looked at.")
    seed: int = 0
    recipe: dict[str, Any] = _json()
    metrics: dict[str, Any] = _json()
    curve: dict[str, Any] = _json()
    activation: str = Field(default="", description="Why it is, or is not, the active version.")
    created_at: datetime = Field(default_factory=now)

    @property
    def number(self) -> str:
        return f"v{self.major}.{self.minor}"


class VersionLabel(SQLModel, table=True):
    """The exact labels a version saw: `train`, `holdout` (measured it) or `aside` (neither)."""

    __tablename__ = "version_label"
    __table_args__ = (CheckConstraint("side IN ('train', 'holdout', 'aside')", name="side"),)

    version_id: int = _cascade("version.id", primary_key=True)
    image_id: int = Field(foreign_key="image.id", primary_key=True)
    value: float
    side: str
    fold: int | None = None


class Prediction(SQLModel, table=True):
    """`score` is what the version's file says, in [0, 1]; `out_of_fold`, where the image or a
    relative was trained on, is what a head that never saw it says."""

    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        Index("ix_prediction_score", "version_id", "score"),
        Index(
            "ix_prediction_honest",
            "version_id", text("coalesce(out_of_fold, score)"), "image_id",
        ),
    )  # fmt: skip

    version_id: int = _cascade("version.id", primary_key=True)
    image_id: int = _cascade("image.id", primary_key=True)
    score: float
    out_of_fold: float | None = None
    uncertainty: float


# --- what a version must do, and where it is tried ----------------------------------------------


class Slice(SQLModel, table=True):
    """Images of a project that have something in common: a tag (`{"tag": …}`), a saved filter of
    the library (`{"filter": {…}}`), or nearness to a text (`{"prompt": …, "share": …}`)."""

    __table_args__ = (
        CheckConstraint("kind IN ('tag', 'filter', 'prompt')", name="kind"),
        CheckConstraint("length(name) BETWEEN 1 AND 120", name="name"),
        UniqueConstraint("project_id", "name"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = _cascade("project.id", nullable=False)
    name: str
    kind: str = "tag"
    definition: dict[str, Any] = _json()
    created_at: datetime = Field(default_factory=now)


class Expectation(SQLModel, table=True):
    """What a slice must score: “real-life photos: mean at most 10 %”. `value` is in [0, 1]."""

    __table_args__ = (
        CheckConstraint("measure IN ('mean', 'pass_rate')", name="measure"),
        CheckConstraint("bound IN ('at most', 'at least')", name="bound"),
        CheckConstraint("value BETWEEN 0 AND 1", name="value"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = _cascade("project.id", nullable=False)
    slice_id: int = _cascade("slice.id", nullable=False)
    measure: str = "mean"
    bound: str = "at most"
    value: float
    blocks: bool = Field(default=False, description="A version that misses it is not activated.")


class TestRun(SQLModel, table=True):
    """A version tried on a collection. `summary` is what was seen when it finished."""

    __tablename__ = "test_run"
    __table_args__ = (Index("ix_test_run_project", "project_id", "id"),)

    id: int = Field(default=None, primary_key=True)
    project_id: int = _cascade("project.id", nullable=False)
    version_id: int = _cascade("version.id", nullable=False)
    collection_id: int = _cascade("collection.id", nullable=False)
    job_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("job.id", ondelete="SET NULL"))
    )
    summary: dict[str, Any] = _json()
    created_at: datetime = Field(default_factory=now)


class TestRunScore(SQLModel, table=True):
    """A score that was given while looking at a test run."""

    __tablename__ = "test_run_score"

    test_run_id: int = _cascade("test_run.id", primary_key=True)
    event_id: int = _cascade("score_event.id", primary_key=True)


# --- work --------------------------------------------------------------------------------------


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
    payload: dict[str, Any] = _json()
    state: str = "queued"
    fence: int = 0
    attempts: int = 0
    heartbeat: int = 0
    cancel_requested: bool = False
    done: int = 0
    total: int = 0
    rate: float = Field(default=0.0, description="Units a second.")
    message: str = ""
    curve: dict[str, Any] = _json()
    result: dict[str, Any] = _json()
    error: str = ""
    created_at: datetime = Field(default_factory=now)
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Question(SQLModel, table=True):
    """Something the web process asks the resident model process: the score of a dropped picture,
    the vector of a text. Both sides forget it soon after."""

    __table_args__ = (
        CheckConstraint("state IN ('asked', 'taken', 'answered', 'failed')", name="state"),
        Index("ix_question_state", "state", "id"),
    )

    id: int = Field(default=None, primary_key=True)
    kind: str
    project_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("project.id", ondelete="CASCADE"))
    )
    payload: dict[str, Any] = _json()
    blob: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    state: str = "asked"
    answer: dict[str, Any] = _json()
    error: str = ""
    asked_at: datetime = Field(default_factory=now)


class JobLog(SQLModel, table=True):
    __tablename__ = "job_log"
    __table_args__ = (Index("ix_job_log_job", "job_id", "id"),)

    id: int = Field(default=None, primary_key=True)
    job_id: int = _cascade("job.id", nullable=False)
    at: datetime = Field(default_factory=now)
    line: str


class LoginSession(SQLModel, table=True):
    """A signed-in browser; the cookie's SHA-256, never the cookie."""

    __tablename__ = "login_session"

    token_sha256: str = Field(primary_key=True)
    annotator_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("annotator.id", ondelete="CASCADE"))
    )
    created_at: datetime = Field(default_factory=now)
    expires_at: datetime
