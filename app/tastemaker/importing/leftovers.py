"""What uploads leave behind: refused ones, killed ones, archives that were unpacked by a job that
died. Whoever still needs a folder is a job; the others go after a day."""

import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Job, now
from tastemaker.database.tables.base import in_utc

UNTOUCHED_SECONDS = 24 * 3600.0
RETRY_WITHIN = timedelta(days=7)  # a job that failed can be tried again with what was uploaded


def sweep_incoming(settings: Settings, engine: Engine) -> int:
    """Remove the folders of uploads that no job needs any more. Returns how many."""
    before, swept = time.time() - UNTOUCHED_SECONDS, 0
    with writing(engine) as session:
        needed = _needed(session)
    for folder in settings.incoming.iterdir():
        if folder.name not in needed and folder.is_dir() and _newest(folder) < before:
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
    return swept


def _needed(session: Session) -> set[str]:
    """The folders that jobs wait for. One that failed long ago is told that its files are gone."""
    names: set[str] = set()
    for job in session.exec(select(Job).where(col(Job.state) != "done")):
        staging = _staging_of(job.payload)
        ended = job.state in ("failed", "cancelled")
        if ended and job.finished_at and now() - in_utc(job.finished_at) > RETRY_WITHIN:
            if staging and not job.payload.get("swept"):
                job.payload = job.payload | {"swept": True}
                session.add(job)
            continue
        names |= {staging} if staging else set()
        names |= {f"unpacked-{job.id}", f"samples-{job.id}"} if not ended else set()
    return names


def _staging_of(payload: dict[str, Any]) -> str:
    """A test run carries the import of its uploads inside its own payload."""
    return str(payload.get("staging") or payload.get("import", {}).get("staging") or "")


def _newest(folder: Path) -> float:
    """When anything in it was last written, in seconds; now for one that goes away meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()
