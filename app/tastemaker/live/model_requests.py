"""Requests of the web process to the model process, which holds the networks in memory.

    answer = call(engine, "predict", {"staged": token, "versions": [3, 4]}, project_id=1)

A request is a row. The web process submits it (`asked`); the model process claims it (`taken`) and
resolves or rejects it (`answered`, `failed`); the web process reads the answer and removes the row.
If the model process ends in the middle, the next one claims the request again. An answer is written
by one UPDATE that counts only while the request is open, so there is one answer at most.
"""

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, update
from sqlmodel import Session, col, delete, func, select

from tastemaker.database.sessions import reading, rows_changed, writing
from tastemaker.database.tables import ModelRequestRow, now
from tastemaker.errors import Invalid, TastemakerError, Unavailable

CLAIM_SECONDS = 6.0  # a model process that runs claims a request in a fraction of this
FIRST_LOOK, LAST_LOOK = 0.02, 0.1  # seconds between two looks, growing from one to the other
MOST_WAITING = 32
FORGET_AFTER = timedelta(minutes=5)  # the caller is gone by then


# --- the web process ---------------------------------------------------------------------------


def call(
    engine: Engine,
    kind: str,
    payload: dict[str, Any],
    *,
    project_id: int | None = None,
    blob: bytes | None = None,
    timeout: float = 10.0,
) -> dict[str, Any]:
    """Submit a request and wait for its answer, at most `timeout` seconds.

    Raises what the model process raised (the same sentence, hint and status), and `Unavailable`
    when no process claims the request or the answer is too slow.
    """
    request_id = submit(engine, kind, payload, project_id=project_id, blob=blob)
    try:
        return _wait(engine, request_id, timeout)
    finally:
        with writing(engine) as session:
            session.execute(delete(ModelRequestRow).where(col(ModelRequestRow.id) == request_id))


def submit(
    engine: Engine,
    kind: str,
    payload: dict[str, Any],
    *,
    project_id: int | None = None,
    blob: bytes | None = None,
) -> int:
    """Submit a request without waiting, as for warming up; returns its id. Nobody removes it but
    `sweep`. Raises `Unavailable` when too many wait already."""
    with writing(engine) as session:
        waiting = select(func.count()).where(col(ModelRequestRow.state).in_(("asked", "taken")))
        if int(session.exec(waiting).one()) >= MOST_WAITING:
            raise Unavailable(
                "Too many questions wait for the model at the moment.", "Try again in a moment."
            )
        row = ModelRequestRow(kind=kind, project_id=project_id, payload=payload, blob=blob)
        session.add(row)
        session.flush()
        return row.id


def _wait(engine: Engine, request_id: int, timeout: float) -> dict[str, Any]:
    began, pause = time.monotonic(), FIRST_LOOK
    outcome = select(ModelRequestRow.state, ModelRequestRow.answer, ModelRequestRow.error).where(
        ModelRequestRow.id == request_id
    )
    while True:
        with reading(engine) as session:
            row = session.execute(outcome).one_or_none()
        if row is None:
            raise Unavailable("The question was lost before it was answered.", "Ask again.")
        state, answer, error = row
        if state == "answered":
            return dict(answer)
        if state == "failed":
            raise _error_of(answer, error)
        waited = time.monotonic() - began
        if state == "asked" and waited >= min(timeout, CLAIM_SECONDS):
            raise Unavailable(
                f"Nobody took the question within {waited:.0f} seconds: the worker is not running, "
                "has only just started, or has too much to do.",
                "If none runs, start one with `tastemaker serve` or `tastemaker worker`; then try "
                "again.",
            )
        if waited >= timeout:
            raise Unavailable(
                f"The model did not answer within {timeout:g} seconds.",
                "It may still be loading its encoder, or the machine is busy; try again.",
            )
        threading.Event().wait(pause)
        pause = min(LAST_LOOK, pause * 1.2)


def _error_of(details: dict[str, Any], message: str) -> TastemakerError:
    """The error of a rejected request, with its hint and its HTTP status."""
    error = TastemakerError(message, str(details.get("hint", "")))
    error.status = int(details.get("status", 503))
    return error


# --- the model process -------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRequest:
    """A request as the model process sees it; `project_id` is 0 where it is about none."""

    id: int
    kind: str
    project_id: int
    payload: dict[str, Any]
    blob: bytes | None

    def integer(self, name: str, default: int | None = None, most: int = 2**62) -> int:
        """A whole number of the payload, at most `most`."""
        value = self.payload.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid(f"“{name}” must be a whole number.")
        return min(value, most)


def claim(engine: Engine) -> list[ModelRequest]:
    """Take all requests that nobody has claimed, oldest first. Cheap when there are none: then no
    write lock is taken."""
    unclaimed = ModelRequestRow.state == "asked"
    with reading(engine) as session:
        if session.exec(select(ModelRequestRow.id).where(unclaimed).limit(1)).first() is None:
            return []
    with writing(engine) as session:
        rows = session.exec(
            select(ModelRequestRow)
            .where(unclaimed)
            .order_by(col(ModelRequestRow.id))
            .with_for_update(skip_locked=True)  # SQLite, with one writer, needs none and says none
        ).all()
        for row in rows:
            row.state = "taken"
            session.add(row)
        return [
            ModelRequest(row.id, row.kind, row.project_id or 0, dict(row.payload), row.blob)
            for row in rows
        ]


def is_open(session: Session, request_id: int) -> bool:
    """Whether somebody still waits for this answer."""
    row = session.get(ModelRequestRow, request_id)
    return row is not None and row.state == "taken"


def resolve(engine: Engine, request_id: int, answer: dict[str, Any]) -> bool:
    """Write the answer; False where nobody waits any more or it was answered already."""
    return _close(engine, request_id, state="answered", answer=answer)


def reject(engine: Engine, request_id: int, error: TastemakerError) -> bool:
    """Write why there is no answer; False as for `resolve`."""
    details = {"hint": error.hint, "status": error.status}
    return _close(engine, request_id, state="failed", answer=details, error=error.message)


def _close(engine: Engine, request_id: int, **values: Any) -> bool:
    with writing(engine) as session:
        statement = (
            update(ModelRequestRow)
            .where(col(ModelRequestRow.id) == request_id, col(ModelRequestRow.state) == "taken")
            .values(**values, blob=None)
            .execution_options(synchronize_session=False)
        )
        return rows_changed(session, statement) == 1


def requeue_claimed(engine: Engine) -> None:
    """At the start of the model process: what an earlier one had claimed is open again."""
    claimed = update(ModelRequestRow).where(col(ModelRequestRow.state) == "taken")
    with writing(engine) as session:
        session.execute(claimed.values(state="asked").execution_options(synchronize_session=False))


def sweep(session: Session) -> int:
    """Remove what callers left behind; returns how many."""
    old = delete(ModelRequestRow).where(col(ModelRequestRow.asked_at) < now() - FORGET_AFTER)
    return rows_changed(session, old)
