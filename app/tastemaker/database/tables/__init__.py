"""Every table. CHECK constraints hold what must hold, since `table=True` models do not validate.

Two rules run through them: what a person said (`score_event`) is only ever appended to, and what
the program derived from it (`label`, `prediction`) can be thrown away and rebuilt.
"""

from tastemaker.database.tables.audits import Audit, AuditImage
from tastemaker.database.tables.base import in_utc, now
from tastemaker.database.tables.library import (
    Collection,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    ImageName,
    ImagePath,
    SkippedFile,
    SyntheticImage,
    Tag,
)
from tastemaker.database.tables.projects import (
    DEFAULT_BRACKETS,
    Project,
    ProjectClass,
    ProjectCollection,
    RemovedImage,
    WatchedFolder,
)
from tastemaker.database.tables.scores import Annotator, Comparison, Label, ScoreEvent
from tastemaker.database.tables.versions import (
    ClassPrediction,
    Expectation,
    Prediction,
    ProjectPrior,
    Slice,
    TestRun,
    TestRunScore,
    Version,
    VersionAnswer,
    VersionLabel,
    VersionPrior,
)
from tastemaker.database.tables.work import (
    ApiToken,
    Installation,
    Job,
    JobLog,
    LoginSession,
    ModelRequestRow,
)

__all__ = [
    "DEFAULT_BRACKETS",
    "Annotator",
    "ApiToken",
    "Audit",
    "AuditImage",
    "ClassPrediction",
    "Collection",
    "CollectionImage",
    "Comparison",
    "Embedding",
    "EncoderRow",
    "Expectation",
    "Image",
    "ImageName",
    "ImagePath",
    "Installation",
    "Job",
    "JobLog",
    "Label",
    "LoginSession",
    "ModelRequestRow",
    "Prediction",
    "Project",
    "ProjectClass",
    "ProjectCollection",
    "ProjectPrior",
    "RemovedImage",
    "ScoreEvent",
    "SkippedFile",
    "Slice",
    "SyntheticImage",
    "Tag",
    "TestRun",
    "TestRunScore",
    "Version",
    "VersionAnswer",
    "VersionLabel",
    "VersionPrior",
    "WatchedFolder",
    "in_utc",
    "now",
]
