"""The live model: what the model process writes after every few scores, and the pages read.

A project has two files, each replaced by a rename. `ID.npy` holds the predictions and is
memory-mapped: as rows of the database they would hold the write lock for half a second at a hundred
thousand images. `ID.json` holds what the fit came to and the lists of picks. A file that another
release wrote, and this one cannot read, counts as no live model; the model process replaces both
when it starts.
"""

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from tastemaker.config import Settings
from tastemaker.files import write_atomic
from tastemaker.files.texts import enumerated
from tastemaker.learning.version_metrics import Estimate
from tastemaker.versions.priors import trust_in_words

# Of a labelled image, by the fit without its group. In a project with classes `says` is what is
# predicted, as a label holds it, `score` how likely that is (of tags, the least certain one), and
# `uncertainty` how little it leads, all as in the predictions of a version.
LIVE_ROW = np.dtype(
    [
        ("image_id", "<i8"),
        ("score", "<f4"),  # in [0, 1]
        ("uncertainty", "<f4"),  # standard deviation in score units, noise included
        ("labelled", "?"),
        ("says", "<i8"),  # of scores nothing
    ]
)
LISTED = 200  # of mistakes, suspects, label issues: the most that a list holds
PAIRS = 100  # of contradictions
PROJECTS_CACHED = 64
FEWEST_DRAWN = 10  # images drawn at random, before which nothing is told of how good it is

LiveRows = NDArray[np.void]  # of dtype LIVE_ROW, ascending by image id
Why = Literal[
    "control", "teaching", "diverse", "cold_start", "threshold", "suspected_fp", "suspected_fn",
    "mistake", "doubtful", "contradiction", "boundary", "no_class",
]  # fmt: skip


@dataclass(frozen=True)
class Pick:
    """An image of a list: why it is listed, and the evidence for it.

    `score` and `uncertainty` in [0, 1] are the prediction's, None before there is a fit; `label`
    and `twin_label` are in 0–10, or classes. `twin` is a labelled image that looks the same. What
    ranks a list: `probability` that a suspect is on the other side of the threshold, `quality` of a
    label in [0, 1], `gap` between the labels of twins in [0, 1]. In a project with classes,
    `likely` are the numbers of those that the reason speaks of, with their probabilities.
    """

    image_id: int
    why: Why
    score: float | None = None
    uncertainty: float | None = None
    label: float | None = None
    twin: Annotated[int | None, Field(validation_alias=AliasChoices("twin", "neighbour"))] = None
    twin_label: Annotated[
        float | None, Field(validation_alias=AliasChoices("twin_label", "neighbour_label"))
    ] = None
    probability: float = 0.0
    quality: float = 1.0
    gap: float = 0.0
    likely: tuple[tuple[int, float], ...] = ()


Picks = tuple[Pick, ...]


@dataclass(frozen=True)
class ErrorLists:
    """Images on the wrong side of the threshold, by the side they are predicted on."""

    false_positives: Annotated[Picks, Field(alias="false-positives")] = ()
    false_negatives: Annotated[Picks, Field(alias="false-negatives")] = ()

    def of(self, kind: str) -> Picks:
        """The list of the queue or review of this name."""
        return self.false_positives if kind == "false-positives" else self.false_negatives


@dataclass(frozen=True)
class PickLists:
    """The lists of a live model, best first; in a project with classes, `near_threshold` is near a
    boundary, and `no_class` are images that no class is likely for."""

    mixed: Annotated[Picks, Field(alias="queue")] = ()
    near_threshold: Annotated[Picks, Field(alias="near")] = ()
    start: Picks = ()
    mistakes: ErrorLists = ErrorLists()  # labels that the fit without them contradicts
    suspected: ErrorLists = ErrorLists()  # unlabelled images
    label_issues: Annotated[Picks, Field(alias="doubtful")] = ()
    contradictions: Picks = ()  # each a pair: the image and its twin
    no_class: Annotated[Picks, Field(alias="no-class")] = ()


@dataclass(frozen=True)
class ErrorRecord:
    """The mean absolute error (points of 0–10) of so many labels, each predicted without itself.
    One that is not `kept` gives way to the next."""

    labels: int
    error: float
    kept: bool


@dataclass(frozen=True)
class LiveAccuracy:
    """Which share of the random sample's labels a live model of classes gets right, each predicted
    without itself (of tags: all of an image's tags), and what giving every image what is commonest
    would."""

    right: Estimate
    always_commonest: float


@dataclass(frozen=True)
class StartedFrom:
    """A head that the fit starts from: the probability that it is of use (`trust`) and how much of
    its line is in the fit, both None while the labels teach nothing by themselves. `sha256` is that
    of its file; files of live models that an earlier release wrote have none."""

    name: str
    trust: float | None = None
    slope: float | None = None
    sha256: str = ""


@dataclass(frozen=True)
class FitSummary:
    """What a fit followed and came to. `event_high` is the newest score event it knows; `noise` and
    `penalty` are None while the labels teach nothing and there is nothing to start from; `errors`
    are the records, oldest first; `priors` are the heads that it starts from; `answers` besides the
    `labels` are pairs, sweeps, skips and older scores. Of `classes`, `accuracy` stands in the place
    of errors."""

    event_high: int = 0
    labels: int = 0
    noise: float | None = None
    penalty: float | None = None
    errors: tuple[ErrorRecord, ...] = ()
    seconds: float = 0.0
    priors: tuple[StartedFrom, ...] = ()
    answers: int = 0
    classes: tuple[int, ...] = ()
    accuracy: LiveAccuracy | None = None

    @property
    def predicts(self) -> bool:
        """Whether there is a fit: a line of scores, or one for each of these classes."""
        return self.penalty is not None or bool(self.classes)


def lineage_in_words(fit: FitSummary) -> str:
    """“Starts from Anime v1.4 (trust 63 %), going by 12 labels”; empty where it starts from
    nothing."""
    if not fit.priors:
        return ""
    trusts = [trust_in_words(prior.trust, prior.slope) for prior in fit.priors]
    each = [
        f"{prior.name} ({trust})" if trust else prior.name
        for prior, trust in zip(fit.priors, trusts, strict=True)
    ]
    going_by = f", going by {fit.labels:,} labels" if any(trusts) else ""
    return f"Starts from {enumerated(each)}{going_by}"


@dataclass(frozen=True)
class LiveModel:
    """A project's live model at one moment."""

    rows: LiveRows
    fit: FitSummary = FitSummary()
    lists: PickLists = PickLists()

    @functools.cached_property
    def ids(self) -> NDArray[np.int64]:
        """(N,) image ids, side by side: a search in the column of the rows would copy it."""
        return np.ascontiguousarray(self.rows["image_id"])

    @functools.cached_property
    def scores(self) -> NDArray[np.float32]:
        """(N,) scores in [0, 1], side by side."""
        return np.ascontiguousarray(self.rows["score"])

    def of(self, image_id: int) -> tuple[float, float] | None:
        """(score, uncertainty) of an image, None if it has no prediction yet."""
        row = self._row(image_id)
        return None if row is None else (float(row["score"]), float(row["uncertainty"]))

    def says(self, image_id: int) -> int | None:
        """In a project with classes, what is predicted of an image, as a label holds it."""
        row = self._row(image_id)
        return None if row is None else int(row["says"])

    def _row(self, image_id: int) -> np.void | None:
        at = int(np.searchsorted(self.ids, image_id))
        if at >= len(self.ids) or int(self.ids[at]) != image_id:
            return None
        row: np.void = self.rows[at]
        return None if np.isnan(row["score"]) else row


def without_predictions(ids: NDArray[np.int64], labelled: NDArray[np.bool_]) -> LiveRows:
    """The rows of N images, ascending by id, before anything is predicted."""
    rows = np.zeros(len(ids), LIVE_ROW)
    rows["image_id"], rows["labelled"] = ids, labelled
    rows["score"] = rows["uncertainty"] = np.nan
    return rows


# --- the files ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """The contents of `ID.json`."""

    fit: FitSummary
    lists: PickLists


_FILE, _FIT, _LISTS = TypeAdapter(_File), TypeAdapter(FitSummary), TypeAdapter(PickLists)
_Stamp = tuple[int, int]
_cache: LRUCache[Path, tuple[_Stamp, LiveModel]] = LRUCache(PROJECTS_CACHED)
_lock = threading.Lock()


def write_live(settings: Settings, project_id: int, live: LiveModel) -> None:
    """Replace the two files of a live model. The array goes first, so a reader that catches the
    moment between sees newer scores with older lists, never a list of images without scores."""
    content = _FILE.dump_json(_File(live.fit, live.lists), by_alias=True, exclude_defaults=True)
    write_atomic(_rows_path(settings, project_id), lambda handle: np.save(handle, live.rows))
    write_atomic(_facts_path(settings, project_id), content)


def read_live(settings: Settings, project_id: int) -> LiveModel | None:
    """The newest live model of a project, None before the first. Read again only when replaced."""
    facts_path = _facts_path(settings, project_id)
    with _lock:
        try:
            status = facts_path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            cached = _cache.get(facts_path)
            if cached is not None and cached[0] == stamp:
                return cached[1]
            live = _read(facts_path, _rows_path(settings, project_id))
        except (FileNotFoundError, ValueError, EOFError):
            return None
        _cache[facts_path] = (stamp, live)
        return live


def _read(facts_path: Path, rows_path: Path) -> LiveModel:
    content = facts_path.read_bytes()
    rows = np.load(rows_path, mmap_mode="r", allow_pickle=False)
    if rows.dtype != LIVE_ROW:
        raise ValueError("The rows are of another release.")
    try:
        file = _FILE.validate_json(content)
    except ValidationError:  # earlier releases wrote all of it side by side
        file = _File(_FIT.validate_json(content), _LISTS.validate_json(content))
    return LiveModel(rows, file.fit, file.lists)


def forget_live(settings: Settings, project_id: int) -> None:
    """Remove the live model of a project that is no more."""
    for path in (_facts_path(settings, project_id), _rows_path(settings, project_id)):
        path.unlink(missing_ok=True)
        with _lock:
            _cache.pop(path, None)


def _rows_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.npy"


def _facts_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.json"
