"""The live model's predictions: one array file per project, replaced by a rename after every few
scores and memory-mapped by the web process. As rows they would hold the write lock for half a
second at a hundred thousand images.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.config import Settings
from tastemaker.files import write_atomic

LIVE_ROW = np.dtype(
    [
        ("image_id", "<i8"),
        ("score", "<f4"),  # in [0, 1]; of a labelled image: by the fit without its group
        ("uncertainty", "<f4"),  # standard deviation in score units, noise included
        ("labelled", "?"),
    ]
)


@dataclass(frozen=True)
class LiveModel:
    """The live model as the web process sees it: `rows` ascending by image id, and what the
    resident process decided to show next (`queue`) or suspects (`suspected`)."""

    rows: np.ndarray
    facts: dict[str, Any]

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """(N,) image ids, side by side: a search in the column of the rows would copy it."""
        return np.ascontiguousarray(self.rows["image_id"])

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """(N,) scores, side by side."""
        return np.ascontiguousarray(self.rows["score"])

    def of(self, image_id: int) -> tuple[float, float] | None:
        """(score, uncertainty) of an image, None if it is not embedded yet."""
        at = int(np.searchsorted(self.ids, image_id))
        if at >= len(self.ids) or int(self.ids[at]) != image_id:
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


_cache: dict[Path, tuple[tuple[int, int], LiveModel]] = {}


def read_live(settings: Settings, project_id: int) -> LiveModel | None:
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
    live = LiveModel(rows, facts)
    _cache[facts_path] = (stamp, live)
    return live


def forget_live(settings: Settings, project_id: int) -> None:
    """Remove the live model of a project that is no more."""
    for path in (_facts_path(settings, project_id), _rows_path(settings, project_id)):
        path.unlink(missing_ok=True)
        _cache.pop(path, None)


def _rows_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.npy"


def _facts_path(settings: Settings, project_id: int) -> Path:
    return settings.live / f"{project_id}.json"
