"""Whether the file of a version is still the one that was published, and whether it works.

Three checks of the bytes on the disk: have they the published hash; are they a head in the
original's strict layout; and does a forward pass written down here, straight from that layout and
sharing nothing with `heads`, give the scores that the version gave its images. Results are cached
until the file changes, so a page may check each time it is rendered.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import embeddings, versions
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import ClassPrediction, EncoderRow, Prediction, Project, Version
from tastemaker.errors import TastemakerError
from tastemaker.files import sha256_of
from tastemaker.learning.checkpoints import Checkpoint, described_sha256, load_checkpoint

log = logging.getLogger(__name__)

State = Literal["intact", "missing", "altered"]

SAMPLED = 32  # images whose scores are computed anew
CLOSE = 1e-3  # float32 arithmetic in another order is off by 1e-6; anything real, by far more

SAFE = (
    "Your scores, the labels of every version and all predictions are in the database and safe. "
    "The file is not given out, and nothing is scored with it."
)
WAY_OUT = (
    "Restore the file from a backup, activate a version whose file is intact, or train again: the "
    "same labels and seed are still there."
)

Stamp = tuple[int, ...]


# --- the bytes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileState:
    """What is on the disk under a version's name; `message` says so where it is not intact."""

    state: State
    message: str = ""
    sha256: str = ""
    bytes: int = 0

    @property
    def intact(self) -> bool:
        return self.state == "intact"

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state, "told": self.message, "sha256": self.sha256, "bytes": self.bytes,
        }  # fmt: skip


def check_hash(session: Session, settings: Settings, version: Version) -> FileState:
    """The state of a version's file now. Reads it only if it changed since it was last read."""
    path = versions.checkpoint_path(settings, version)
    try:
        stamp = _stamp(path)
        sha256 = _sha256_of(path, stamp)
    except OSError:
        message = f"The file of {version.number} is missing from the checkpoints folder."
        return FileState("missing", message)
    size = stamp[0]
    if sha256 == version.sha256:
        return FileState("intact", "", sha256, size)
    other = session.exec(
        select(Version).where(Version.sha256 == sha256, Version.state == "ready")
    ).first()
    if other is not None:
        change = f"now holds the file of {other.number}"
    elif size < version.bytes:
        change = f"was cut short: {size:,} of {version.bytes:,} bytes are left"
    else:
        change = "was altered after publishing"
    return FileState("altered", f"The file of {version.number} {change}.", sha256, size)


@cached(LRUCache(1000), lock=threading.Lock())
def _sha256_of(path: Path, _: Stamp) -> str:
    """The hash, read once for every stamp of the file."""
    return sha256_of(path)


def _stamp(path: Path) -> Stamp:
    """Changes with every write, also one that keeps the size and sets the old time again."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _stamp_if_there(path: Path) -> Stamp:
    return _stamp(path) if path.exists() else ()


def damaged(engine: Engine, settings: Settings) -> list[str]:
    """A sentence for each version of any project whose file is not the published one. Meant for
    the start of the program; every file is read once."""
    with reading(engine) as session:
        sentences = []
        rows = session.execute(
            select(Version, Project.name)
            .join(Project, col(Project.id) == Version.project_id)
            .where(Version.state == "ready")
            .order_by(col(Version.active).desc(), col(Version.id).desc())
        ).all()
        for version, name in rows:
            state = check_hash(session, settings, version)
            if not state.intact:
                active = " It is the active version." if version.active else ""
                sentences.append(f"“{name}”: {state.message}{active} {WAY_OUT}")
    return sentences


def check_all_files(engine: Engine, settings: Settings) -> threading.Thread:
    """Called when the program starts: read every published file once, in the background, and warn
    in the log of each that is not the published one. The pages then know already."""

    def read() -> None:
        for sentence in damaged(engine, settings):
            log.warning(sentence)

    thread = threading.Thread(target=read, name="look over the published files", daemon=True)
    thread.start()
    return thread


# --- the format ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreCheck:
    """What was checked of a version's file as a file of the original's format. `why` says what
    is wrong where `holds` is false; `images` says how many scores were computed anew, `largest` is
    the largest difference (0–1) to those of the version."""

    holds: bool
    why: str = ""
    tensors: int = 0
    parameters: int = 0
    features: int = 0
    outputs: int = 0
    sidecar: bool = False
    images: int = 0
    largest: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


_checks: LRUCache[tuple[int, Stamp, Stamp], ScoreCheck] = LRUCache(1000)
_checks_lock = threading.Lock()


def verify_scores(session: Session, settings: Settings, version: Version) -> ScoreCheck:
    """Load the file as the original's loader would, with strict keys and shapes, and recompute
    the scores of some images from it."""
    path = versions.checkpoint_path(settings, version)
    try:
        key = (version.id, _stamp(path), _stamp_if_there(versions.config_path(settings, version)))
    except OSError:
        return ScoreCheck(False, "There is no file to check.")
    with _checks_lock:
        check = _checks.get(key)
    if check is None:
        check = _check_scores(session, settings, version, path)
        with _checks_lock:
            _checks[key] = check
    return check


def _check_scores(session: Session, settings: Settings, version: Version, path: Path) -> ScoreCheck:
    try:
        head = load_checkpoint(path)
    except TastemakerError as error:
        return ScoreCheck(False, error.message)
    images, largest = 0, None
    if version.classes.numbers:
        images, largest = _recompute_classes(session, version, head)
    elif head.outputs == 1:
        images, largest = _recompute(session, version, head)
    differs = largest is not None and largest > CLOSE
    return ScoreCheck(
        not differs,
        "Computed anew, its scores differ from those the version gave its images." * differs,
        tensors=len(head.tensors),
        parameters=sum(tensor.size for tensor in head.tensors.values()),
        features=head.features,
        outputs=head.outputs,
        sidecar=_has_sidecar(session, settings, version, head),
        images=images,
        largest=largest,
    )


def _has_sidecar(session: Session, settings: Settings, version: Version, head: Checkpoint) -> bool:
    """Whether the sidecar is there and describes this very file."""
    try:
        sidecar = json.loads(versions.config_path(settings, version).read_bytes())
    except (OSError, ValueError):
        return False
    if not describes(session, version, sidecar):
        return False
    model = sidecar["model_params"]
    described = (described_sha256(sidecar), model["features"], model["outputs"])
    return bool(described == (head.sha256, head.features, head.outputs))


def describes(session: Session, version: Version, sidecar: Any) -> bool:
    """Whether what a sidecar holds describes this version: its number, its file, its encoder."""
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    try:
        model, named = sidecar["model_params"], sidecar["encoder"]
        described = (
            sidecar["rev"], described_sha256(sidecar), model["features"], named["name"],
            named["fingerprint"],
        )  # fmt: skip
    except (KeyError, TypeError):
        return False
    actual = (version.number, version.sha256, encoder.dim, encoder.name, encoder.fingerprint)
    return bool(described == actual) and "outputs" in model


def _recompute(session: Session, version: Version, head: Checkpoint) -> tuple[int, float | None]:
    """How many scores were computed anew, and the largest difference to those of the version."""
    rows = session.exec(
        select(Prediction.image_id, Prediction.score)
        .where(Prediction.version_id == version.id)
        .order_by(col(Prediction.image_id))
        .limit(SAMPLED)
    )
    scores = dict(rows.all())
    ids, x = embeddings.matrix(session, version.encoder_id, scores)
    if not len(ids) or x.shape[1] != head.features:
        return 0, None
    anew = forward(head.tensors, x.astype(np.float64))
    largest = np.abs(anew - np.array([scores[i] for i in ids.tolist()])).max()
    return len(ids), float(largest)


def _recompute_classes(
    session: Session, version: Version, head: Checkpoint
) -> tuple[int, float | None]:
    """The same of a classifier's probabilities."""
    rows = session.exec(
        select(ClassPrediction.image_id, ClassPrediction.probabilities)
        .where(ClassPrediction.version_id == version.id)
        .order_by(col(ClassPrediction.image_id))
        .limit(SAMPLED)
    )
    held = {image_id: np.frombuffer(content, "<f4") for image_id, content in rows}
    ids, x = embeddings.matrix(session, version.encoder_id, held)
    if not len(ids) or x.shape[1] != head.features:
        return 0, None
    z = outputs(head.tensors, x.astype(np.float64))
    if version.classes.labelling == "tags":
        anew = (np.tanh(z) + 1) / 2
    else:
        anew = np.exp(z - z.max(axis=1, keepdims=True))
        anew = anew / anew.sum(axis=1, keepdims=True)
    return len(ids), float(np.abs(anew - np.stack([held[i] for i in ids.tolist()])).max())


def forward(
    tensors: Mapping[str, NDArray[np.float32]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, D) embeddings → (N,) scores in 0–1, as the original's network does it."""
    return np.asarray((np.tanh(outputs(tensors, x)[:, 0]) + 1) / 2)


def outputs(
    tensors: Mapping[str, NDArray[np.float32]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, D) embeddings → (N, K) outputs of the original's network, before any read-out."""

    def linear(name: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return rows @ weight.T.astype(np.float64) + bias

    def leaky(rows: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
        return np.where(rows > 0, rows, slope * rows)

    up = linear("up.0", x)
    long = leaky(linear("up.1.long.0", up), 0.1)
    long = leaky(linear("up.1.long.2", long), 0.1)
    residual = np.maximum(linear("up.1.long.4", long) + up, 0)
    neck = leaky(linear("down.1", linear("down.0", residual)), 0.01)
    return linear("down.5", linear("down.4", neck))
