"""Trained heads, what they predict, what they must do, and where they were tried."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlmodel import Field, SQLModel
from typing_extensions import TypedDict

from tastemaker.database.tables.base import cascade, json_column, model_column, now
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.version_metrics import LossCurve, StoredRecipe, VersionMetrics


class Version(SQLModel, table=True):
    """An immutable trained head. `building` rows are invisible until one write makes them ready; of
    a deleted version such a row is left, which keeps its number."""

    __table_args__ = (
        CheckConstraint("state IN ('building', 'ready')", name="state"),
        UniqueConstraint("project_id", "major", "minor"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    major: int = 1
    minor: int = 0
    state: str = "building"
    active: bool = False
    note: str = ""
    parent_id: int | None = Field(default=None, foreign_key="version.id")
    made_by: str = Field(
        unique=True, description="What made it, once: “job 7” or “job 7: step”, or any other name."
    )
    encoder_id: int = Field(foreign_key="encoder.id")
    file: str = Field(default="", description="File name inside the checkpoints folder.")
    sha256: str = ""
    bytes: int = 0
    event_high: int = Field(description="Highest score event that was looked at.")
    seed: int = 0
    recipe: StoredRecipe = json_column()
    metrics: VersionMetrics = model_column(VersionMetrics)
    classes: ClassRecord = model_column(ClassRecord)  # of a classifier trained here; else empty
    curve: LossCurve = json_column()
    activation: str = Field(default="", description="Why it is, or is not, the active version.")
    created_at: datetime = Field(default_factory=now)

    @property
    def number(self) -> str:
        return f"v{self.major}.{self.minor}"


class VersionLabel(SQLModel, table=True):
    """The exact labels a version saw: `train`, `holdout` (measured it) or `aside` (neither)."""

    __tablename__ = "version_label"
    __table_args__ = (CheckConstraint("side IN ('train', 'holdout', 'aside')", name="side"),)

    version_id: int = cascade("version.id", primary_key=True)
    image_id: int = Field(foreign_key="image.id", primary_key=True)
    value: float
    side: str
    fold: int | None = None


class VersionAnswer(SQLModel, table=True):
    """What else a version was given to learn from (see `scores.answers.Answer`); `bound` is in
    0–1. What touches the hold-out is among it, and was left out of the training."""

    __tablename__ = "version_answer"
    __table_args__ = (
        CheckConstraint("(second_id IS NULL) = (bound IS NOT NULL)", name="bound"),
        CheckConstraint("second_id IS NULL OR share IS NOT NULL", name="share"),
    )

    version_id: int = cascade("version.id", primary_key=True)
    number: int = Field(primary_key=True)
    first_id: int = Field(foreign_key="image.id")
    second_id: int | None = Field(default=None, foreign_key="image.id")
    share: float | None = None
    bound: float | None = None


class PriorLine(SQLModel):
    """A head as the line that another starts from: float32 little-endian `weights` (features,) and
    `bias`, None until there are images on which a head that bends can be followed. With its name,
    hash and encoder it stands by itself: the version it was may be deleted. `line_error` is how far
    the line is from the head, in points of 0–10; None where the head is one."""

    name: str
    sha256: str = Field(description="Of the head's file.")
    encoder: str
    fingerprint: str = Field(default="", description="Of the encoder; empty where nobody says.")
    normalised: bool = Field(default=False, description="The head reads L2-normalised vectors.")
    features: int
    weights: bytes | None = None
    bias: float = 0.0
    line_error: float | None = None


class ProjectPrior(PriorLine, table=True):
    """A head that a project starts from. One that bends is kept whole, in `head`, until it was
    `followed_on` enough images; None where it is a line."""

    __tablename__ = "project_prior"
    __table_args__ = (UniqueConstraint("project_id", "sha256"),)

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    source_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("version.id", ondelete="SET NULL"))
    )
    followed_on: int | None = None
    head: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    created_at: datetime = Field(default_factory=now)


class VersionPrior(PriorLine, table=True):
    """A prior as it stood when a version's training began, and how far the labels bore it out: the
    `probability` that it is of use, and how much of its line (`slope`) is part of the head."""

    __tablename__ = "version_prior"

    version_id: int = cascade("version.id", primary_key=True)
    position: int = Field(primary_key=True)
    source_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("version.id", ondelete="SET NULL"))
    )
    probability: float | None = None
    slope: float | None = None


class Prediction(SQLModel, table=True):
    """`score` is what the version's file says, in [0, 1]; `out_of_fold`, where the image or a
    relative was trained on, is what a head that never saw it says."""

    model_config = ConfigDict(ignored_types=(hybrid_property,))  # type: ignore[assignment]  # SQLModel asks for its own

    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        Index("ix_prediction_score", "version_id", "score"),
        Index(
            "ix_prediction_honest",
            "version_id", text("coalesce(out_of_fold, score)"), "image_id",
        ),
    )  # fmt: skip

    version_id: int = cascade("version.id", primary_key=True)
    image_id: int = cascade("image.id", primary_key=True)
    score: float
    out_of_fold: float | None = None
    uncertainty: float

    @hybrid_property
    def honest(self) -> float:
        """The score by a head that did not see the image: the expression of an index."""
        return self.score if self.out_of_fold is None else self.out_of_fold

    @honest.inplace.expression
    @classmethod
    def _honest(cls) -> ColumnElement[float]:
        return func.coalesce(cls.out_of_fold, cls.score)


class ClassPrediction(SQLModel, table=True):
    """What a classifier trained here says of an image, beside its `Prediction`, whose score is the
    probability of what it says. `probabilities` are those of its file, float32 little-endian, one
    for each of the version's classes in their order; `out_of_fold`, where the image or a relative
    was trained on, those of a head that never saw it. `predicted` (as in a label) and `margin`, by
    how much that is likelier than the next (of tags: than not), are of the honest ones."""

    __tablename__ = "class_prediction"
    __table_args__ = (
        Index("ix_class_prediction_predicted", "version_id", "predicted", "image_id"),
        Index("ix_class_prediction_margin", "version_id", "margin"),
    )

    version_id: int = cascade("version.id", primary_key=True)
    image_id: int = cascade("image.id", primary_key=True)
    predicted: int = Field(sa_column=Column(BigInteger, nullable=False))
    margin: float
    probabilities: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    out_of_fold: bytes | None = Field(default=None, sa_column=Column(LargeBinary))


class Slice(SQLModel, table=True):
    """Images of a project that have something in common: a tag (`{"tag": …}`), a saved filter of
    the library (`{"filter": {…}}`), or nearness to a text (`{"prompt": …, "share": …}`)."""

    __table_args__ = (
        CheckConstraint("kind IN ('tag', 'filter', 'prompt')", name="kind"),
        CheckConstraint("length(name) BETWEEN 1 AND 120", name="name"),
        UniqueConstraint("project_id", "name"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    name: str
    kind: str = "tag"
    definition: dict[str, Any] = json_column()
    created_at: datetime = Field(default_factory=now)


class Expectation(SQLModel, table=True):
    """What a slice must score: “real-life photos: mean at most 1 point”. `value` is in [0, 1];
    `class_number` is of the class that a measure of one class is of."""

    __table_args__ = (
        CheckConstraint(
            "measure IN ('mean', 'pass_rate', 'accuracy', 'recall', 'precision', 'f1', 'share')",
            name="measure",
        ),
        CheckConstraint(
            "(measure IN ('recall', 'precision', 'f1', 'share')) = (class_number IS NOT NULL) "
            "AND coalesce(class_number, 0) >= 0",
            name="class_number",
        ),
        CheckConstraint("bound IN ('at most', 'at least')", name="bound"),
        CheckConstraint("value BETWEEN 0 AND 1", name="value"),
    )

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    slice_id: int = cascade("slice.id", nullable=False)
    measure: str = "mean"
    class_number: int | None = None
    bound: str = "at most"
    value: float
    blocks: bool = Field(default=False, description="A version that misses it is not activated.")


class EarlierRun(TypedDict):
    """The run that a test run is compared with: on the `n` images of both, how many pass now that
    failed (`up`), the reverse (`down`), and the mean change of the scores (`shift`)."""

    run: int
    version: str
    version_id: int
    n: int
    up: int
    down: int
    shift: float


class EarlierClassRun(TypedDict):
    """The same of a classifier: of the `n` images of both, so many are taken for another class."""

    run: int
    version: str
    version_id: int
    n: int
    changed: int


class TakenFor(TypedDict):
    """How many images a classifier takes for one of its classes."""

    number: int
    name: str
    images: int


class RunSummary(TypedDict, total=False):
    """The result of a test run; empty while it is under way. Scores and rates are in 0–1; `grids`
    holds [image id, score, uncertainty] of the images shown in each part. Of a classifier it has
    `taken_for` in place of what rests on a threshold."""

    n: int
    without_prediction: int
    holdout: int
    threshold: float
    passes: int
    pass_rate: float | None
    mean: float | None
    median: float | None
    histogram: list[int]
    against: EarlierRun | EarlierClassRun | None
    taken_for: list[TakenFor]
    grids: dict[str, list[list[Any]]]


class TestRun(SQLModel, table=True):
    """A version tried on a collection."""

    __tablename__ = "test_run"
    __table_args__ = (Index("ix_test_run_project", "project_id", "id"),)

    id: int = Field(default=None, primary_key=True)
    project_id: int = cascade("project.id", nullable=False)
    version_id: int = cascade("version.id", nullable=False)
    collection_id: int = cascade("collection.id", nullable=False)
    job_id: int | None = Field(
        default=None, sa_column=Column(ForeignKey("job.id", ondelete="SET NULL"))
    )
    summary: RunSummary = json_column()
    created_at: datetime = Field(default_factory=now)


class TestRunScore(SQLModel, table=True):
    """A score that was given while looking at a test run."""

    __tablename__ = "test_run_score"

    test_run_id: int = cascade("test_run.id", primary_key=True)
    event_id: int = cascade("score_event.id", primary_key=True)
