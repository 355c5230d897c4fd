"""What the web process asks the resident model process, which holds the networks in memory.

    answer = ask(engine, "predict", {"staged": token, "versions": [3, 4]}, project_id=1)

A question is a row: `asked`, then `taken` by the resident process, then `answered` or `failed`.
Whoever asks waits for it and removes it, so nothing of it stays. If the resident process ends in
the middle, the next one takes the question again; `answered` is written by one UPDATE that counts
only while the question is open, so there is one answer at most.
"""

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, update
from sqlmodel import Session, col, delete, func, select

from tastemaker.database.sessions import reading, rows_changed, writing
from tastemaker.database.tables import Question, now
from tastemaker.errors import Invalid, TastemakerError, Unavailable

PICK_UP_SECONDS = 6.0  # a resident process that runs takes a question in a fraction of this
FIRST_LOOK, LAST_LOOK = 0.02, 0.1  # seconds between two looks, growing from one to the other
MOST_WAITING = 32
FORGET_AFTER = timedelta(minutes=5)  # the asker is gone by then


# --- asking ------------------------------------------------------------------------------------


def call(
    engine: Engine,
    kind: str,
    payload: dict[str, Any],
    *,
    project_id: int | None = None,
    blob: bytes | None = None,
    timeout: float = 10.0,
) -> dict[str, Any]:
    """Ask and wait for the answer, at most `timeout` seconds.

    Raises what the answering side raised (the same sentence and status), and `Unavailable` when
    nobody takes the question up or the answer is too slow.
    """
    question_id = submit(engine, kind, payload, project_id=project_id, blob=blob)
    try:
        return _wait(engine, question_id, timeout)
    finally:
        with writing(engine) as session:
            session.execute(delete(Question).where(col(Question.id) == question_id))


def submit(
    engine: Engine,
    kind: str,
    payload: dict[str, Any],
    *,
    project_id: int | None = None,
    blob: bytes | None = None,
) -> int:
    """Ask without waiting, as for warming up; returns the question's id. Nobody removes it but
    `sweep`. Raises `Unavailable` when too many wait already."""
    with writing(engine) as session:
        waiting = select(func.count()).where(col(Question.state).in_(("asked", "taken")))
        if int(session.exec(waiting).one()) >= MOST_WAITING:
            raise Unavailable(
                "Too many questions wait for the model at the moment.", "Try again in a moment."
            )
        question = Question(kind=kind, project_id=project_id, payload=payload, blob=blob)
        session.add(question)
        session.flush()
        return question.id


def _wait(engine: Engine, question_id: int, timeout: float) -> dict[str, Any]:
    began, pause = time.monotonic(), FIRST_LOOK
    look = select(Question.state, Question.answer, Question.error).where(Question.id == question_id)
    while True:
        with reading(engine) as session:
            row = session.execute(look).one_or_none()
        if row is None:
            raise Unavailable("The question was lost before it was answered.", "Ask again.")
        state, answer, error = row
        if state == "answered":
            return dict(answer)
        if state == "failed":
            raise _raised(answer, error)
        waited = time.monotonic() - began
        if state == "asked" and waited >= min(timeout, PICK_UP_SECONDS):
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


def _raised(told: dict[str, Any], message: str) -> TastemakerError:
    """The error of the other side, with its hint and its HTTP status."""
    error = TastemakerError(message, str(told.get("hint", "")))
    error.status = int(told.get("status", 503))
    return error


# --- the other side ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRequest:
    """A question as the answering side sees it; `project_id` is 0 where it is about none."""

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
    """Everything asked and not yet taken, oldest first; it is marked as taken. Cheap when there
    is nothing: then no write lock is taken."""
    with reading(engine) as session:
        if session.exec(select(Question.id).where(Question.state == "asked").limit(1)).first() is (
            None
        ):
            return []
    with writing(engine) as session:
        rows = session.exec(
            select(Question).where(Question.state == "asked").order_by(col(Question.id))
        ).all()
        for row in rows:
            row.state = "taken"
            session.add(row)
        return [
            ModelRequest(row.id, row.kind, row.project_id or 0, dict(row.payload), row.blob)
            for row in rows
        ]


def is_open(session: Session, question_id: int) -> bool:
    """Whether somebody still waits for this answer."""
    row = session.get(Question, question_id)
    return row is not None and row.state == "taken"


def resolve(engine: Engine, question_id: int, said: dict[str, Any]) -> bool:
    """Write the answer; False where nobody waits any more or it was answered already."""
    return _settle(engine, question_id, state="answered", answer=said)


def reject(engine: Engine, question_id: int, error: TastemakerError) -> bool:
    told = {"hint": error.hint, "status": error.status}
    return _settle(engine, question_id, state="failed", answer=told, error=error.message)


def _settle(engine: Engine, question_id: int, **values: Any) -> bool:
    with writing(engine) as session:
        statement = (
            update(Question)
            .where(col(Question.id) == question_id, col(Question.state) == "taken")
            .values(**values, blob=None)
            .execution_options(synchronize_session=False)
        )
        return rows_changed(session, statement) == 1


def requeue_claimed(engine: Engine) -> None:
    """At the start of the answering side: what an earlier one had taken is open again."""
    with writing(engine) as session:
        session.execute(
            update(Question).where(col(Question.state) == "taken").values(state="asked")
            .execution_options(synchronize_session=False)
        )  # fmt: skip


def sweep(session: Session) -> int:
    """Remove what askers left behind; returns how many."""
    gone = delete(Question).where(col(Question.asked_at) < now() - FORGET_AFTER)
    return rows_changed(session, gone)
