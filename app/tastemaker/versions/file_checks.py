"""Whether the file of a version is still the one that was published, and what it proves.

Three questions, asked of the bytes on the disk: are they those of the published hash; are they a
head in the original's strict layout; and does a forward pass written down here, straight from
that layout and sharing nothing with `heads`, give the scores that the version gave its images.
Answers are kept until the file changes, so a page may ask each time it is shown.
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
from tastemaker.database.tables import EncoderRow, Prediction, Project, Version
from tastemaker.errors import TastemakerError
from tastemaker.files import sha256_of
from tastemaker.learning.checkpoints import Checkpoint, load_checkpoint

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
    """What is on the disk under a version's name. `told` is a sentence where it is not intact."""

    state: State
    told: str = ""
    sha256: str = ""
    bytes: int = 0

    @property
    def intact(self) -> bool:
        return self.state == "intact"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_hash(session: Session, settings: Settings, version: Version) -> FileState:
    """The state of a version's file now. Reads it only if it changed since it was last read."""
    path = versions.checkpoint_path(settings, version)
    try:
        stamp = _stamp(path)
        sha256 = _sha256_of(path, stamp)
    except OSError:
        told = f"The file of {version.number} is missing from the checkpoints folder."
        return FileState("missing", told)
    size = stamp[0]
    if sha256 == version.sha256:
        return FileState("intact", "", sha256, size)
    other = session.exec(
        select(Version).where(Version.sha256 == sha256, Version.state == "ready")
    ).first()
    if other is not None:
        found = f"now holds the file of {other.number}"
    elif size < version.bytes:
        found = f"was cut short: {size:,} of {version.bytes:,} bytes are left"
    else:
        found = "was altered after publishing"
    return FileState("altered", f"The file of {version.number} {found}.", sha256, size)


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
        found = []
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
                found.append(f"“{name}”: {state.told}{active} {WAY_OUT}")
    return found


def check_all_files(engine: Engine, settings: Settings) -> threading.Thread:
    """Called when the program starts: read every published file once, behind everything else, and
    warn in the log of each that is not the published one. The pages then know already."""

    def read() -> None:
        for told in damaged(engine, settings):
            log.warning(told)

    thread = threading.Thread(target=read, name="look over the published files", daemon=True)
    thread.start()
    return thread


# --- the format ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreCheck:
    """What was checked of a version's file as a file of the original's format. `why` says what
    is wrong where `holds` is false; `images` and `largest` tell how many scores were computed
    anew, and the largest difference (0–1) to those of the version."""

    holds: bool
    why: str = ""
    tensors: int = 0
    parameters: int = 0
    features: int = 0
    outputs: int = 0
    sidecar: bool = False
    images: int = 0
    largest: float | None = None

    def as_dict(self) -> dict[str, Any]:
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
        check = _prove(session, settings, version, path)
        with _checks_lock:
            _checks[key] = check
    return check


def _prove(session: Session, settings: Settings, version: Version, path: Path) -> ScoreCheck:
    try:
        head = load_checkpoint(path)
    except TastemakerError as error:
        return ScoreCheck(False, error.message)
    told: dict[str, Any] = {
        "tensors": len(head.tensors),
        "parameters": sum(tensor.size for tensor in head.tensors.values()),
        "features": head.features,
        "outputs": head.outputs,
        "sidecar": _has_sidecar(session, settings, version, head),
    }
    if head.outputs == 1:
        told |= _recomputed(session, version, head)
        if told["images"] and told["largest"] > CLOSE:
            why = "Computed anew, its scores differ from those the version gave its images."
            return ScoreCheck(False, why, **told)
    return ScoreCheck(True, **told)


def _has_sidecar(session: Session, settings: Settings, version: Version, head: Checkpoint) -> bool:
    """Whether the sidecar is there and describes this very file."""
    try:
        said = json.loads(versions.config_path(settings, version).read_bytes())
    except (OSError, ValueError):
        return False
    if not describes(session, version, said):
        return False
    model = said["model_params"]
    told = (said["sha256"], model["features"], model["outputs"])
    return told == (head.sha256, head.features, head.outputs)


def describes(session: Session, version: Version, said: Any) -> bool:
    """Whether what a sidecar holds is said of this version: its number, its file, its encoder."""
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    try:
        model, named = said["model_params"], said["encoder"]
        told = (said["rev"], said["sha256"], model["features"], named["name"], named["fingerprint"])
    except (KeyError, TypeError):
        return False
    mine = (version.number, version.sha256, encoder.dim, encoder.name, encoder.fingerprint)
    return told == mine and "outputs" in model


def _recomputed(session: Session, version: Version, head: Checkpoint) -> dict[str, Any]:
    scores = dict(
        session.execute(
            select(Prediction.image_id, Prediction.score)
            .where(Prediction.version_id == version.id)
            .order_by(col(Prediction.image_id))
            .limit(SAMPLED)
        ).all()
    )
    ids, x = embeddings.matrix(session, version.encoder_id, scores)
    if not len(ids) or x.shape[1] != head.features:
        return {"images": 0, "largest": None}
    anew = forward(head.tensors, x.astype(np.float64))
    largest = np.abs(anew - np.array([scores[i] for i in ids.tolist()])).max()
    return {"images": len(ids), "largest": float(largest)}


def forward(
    tensors: Mapping[str, NDArray[np.float32]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, D) embeddings → (N,) scores in 0–1, as the original's network does it."""

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
    z = linear("down.5", linear("down.4", neck))[:, 0]
    return (np.tanh(z) + 1) / 2
