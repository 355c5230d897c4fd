"""Predictions, of two kinds.

A *version's* predictions are rows: what its file says about every image, and, where an image or a
relative was trained on, what a head that never saw it says. The *live* model's are one array file
per project, replaced by a rename after every few scores and memory-mapped by the web process:
rewriting a hundred thousand rows would hold the write lock for half a second.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from app.config import Settings
from app.files import write_atomic
from app.tables import Prediction
from app.work import Work

# --- a version's rows --------------------------------------------------------------------------

ROWS_AT_ONCE = 1000


def write(
    work: Work,
    version_id: int,
    image_ids: np.ndarray,
    scores: np.ndarray,
    out_of_fold: np.ndarray,
    uncertainty: np.ndarray,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Rows for (N,) image ids; `out_of_fold` is NaN where the version's own score is honest."""
    for start in range(0, len(image_ids), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = [
            {
                "version_id": version_id,
                "image_id": int(image_id),
                "score": min(max(float(score), 0.0), 1.0),
                "out_of_fold": None if np.isnan(honest) else min(max(float(honest), 0.0), 1.0),
                "uncertainty": float(spread),
            }
            for image_id, score, honest, spread in zip(
                image_ids[part], scores[part], out_of_fold[part], uncertainty[part], strict=True
            )
        ]
        with work.writing() as session:
            session.execute(Prediction.__table__.insert(), rows)  # type: ignore[attr-defined]
        progress(start + len(rows))


def of_images(
    session: Session, version_id: int, image_ids: list[int]
) -> dict[int, tuple[float, float]]:
    """Image id -> (honest score, uncertainty) in [0, 1] of a version."""
    rows = session.exec(
        select(Prediction).where(
            Prediction.version_id == version_id, col(Prediction.image_id).in_(image_ids)
        )
    )
    return {
        row.image_id: (
            row.score if row.out_of_fold is None else row.out_of_fold,
            row.uncertainty,
        )
        for row in rows
    }


# --- the live model's array --------------------------------------------------------------------

LIVE_ROW = np.dtype(
    [
        ("image_id", "<i8"),
        ("score", "<f4"),  # in [0, 1]; of a labelled image: by the fit without its group
        ("uncertainty", "<f4"),  # standard deviation in score units, noise included
        ("labelled", "?"),
    ]
)


@dataclass(frozen=True)
class Live:
    """The live model as the web process sees it: `rows` ascending by image id, and what the
    resident process decided to show next (`queue`) or suspects (`suspected`)."""

    rows: np.ndarray
    facts: dict[str, Any]

    def of(self, image_id: int) -> tuple[float, float] | None:
        """(score, uncertainty) of an image, None if it is not embedded yet."""
        at = int(np.searchsorted(self.rows["image_id"], image_id))
        if at >= len(self.rows) or int(self.rows["image_id"][at]) != image_id:
            return None
        row = self.rows[at]
        if np.isnan(row["score"]):
            return None
        return float(row["score"]), float(row["uncertainty"])

    @property
    def queue(self) -> list[dict[str, Any]]:
        return self.facts.get("queue", [])

    def suspected(self, kind: str) -> list[dict[str, Any]]:
        return self.facts.get("suspected", {}).get(kind, [])


def write_live(
    settings: Settings, project_id: int, rows: np.ndarray, facts: dict[str, Any]
) -> None:
    """Replace the live model's two files. The array goes first; the facts name its generation, so
    a reader that catches the moment between sees a newer score with an older queue, never junk."""
    write_atomic(_rows_path(settings, project_id), lambda handle: np.save(handle, rows))
    write_atomic(_facts_path(settings, project_id), json.dumps(facts).encode())


_cache: dict[Path, tuple[tuple[int, int], Live]] = {}


def read_live(settings: Settings, project_id: int) -> Live | None:
    """The newest live model of a project, None before the first. Re-read only when replaced."""
    facts_path, rows_path = _facts_path(settings, project_id), _rows_path(settings, project_id)
    try:
        status = facts_path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        cached = _cache.get(facts_path)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        facts = json.loads(facts_path.read_bytes())
        rows = np.load(rows_path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError):
        return None
    live = Live(rows, facts)
    _cache[facts_path] = (stamp, live)
    return live


def _rows_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.npy"


def _facts_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.json"
