"""What the code of a job sees of its job: the payload, progress, a log, fenced transactions.

The job's code runs in a spawned child. Progress and log lines travel over a pipe to the worker,
which writes them (and the heartbeat) to the job's row; results are written by the child itself, in
transactions that check the fence first.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.statements import take_turn
from tastemaker.database.tables import Job

REPORT_SECONDS = 0.2
RATE_SECONDS = 15.0


class JobContext:
    """One running job, which is its own `Transactions` and its own `Progress`. `emit` takes typed
    events: ("progress", fields) and ("log", line); `turn_is_over` says whether to give way."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        job: Job,
        claim: jobs.Claim,
        emit: Callable[[str, Any], None],
        turn_is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings, self.engine = settings, engine
        self.payload, self.claim, self.attempt = job.payload, claim, job.attempts
        self.project_id = job.project_id or 0  # 0: of no project
        self.died_on: list[int] = list(job.result.get("died_on", []))  # what killed earlier tries
        self._emit, self._turn_is_over = emit, turn_is_over
        self._fields: dict[str, Any] = {}
        self._reported = 0.0
        self._seen: deque[tuple[float, int]] = deque()  # (when, how many) of the last seconds

    def stage(self, message: str, total: int = 0) -> None:
        """Begin a part of the work with its own count."""
        self._seen.clear()
        self.log(message)
        self._fields.update(message=message, done=0, total=total, rate=0.0)
        self._report()

    def progress(
        self,
        done: int,
        total: int | None = None,
        message: str | None = None,
        curve: dict[str, Any] | None = None,
    ) -> None:
        """Report how far it is. Cheap: at most five reports a second leave the process."""
        self._fields.update(done=done, rate=self._rate(done))
        if total is not None:
            self._fields["total"] = total
        if message is not None:
            self._fields["message"] = message
        if curve is not None:
            self._fields["curve"] = curve
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._report()

    def _rate(self, done: int) -> float:
        """How many a second, over the last seconds: what was slow at first, as loading libraries
        is, does not help to predict what is left. 0 while it is not known."""
        moment, seen = time.monotonic(), self._seen
        if not seen or moment - seen[-1][0] >= REPORT_SECONDS:
            seen.append((moment, done))
        while len(seen) > 2 and moment - seen[1][0] > RATE_SECONDS:
            seen.popleft()
        began, first = seen[0]
        return (done - first) / (moment - began) if moment - began >= REPORT_SECONDS else 0.0

    def give_way(self) -> None:
        """Call where a part of the work was just stored: raises `TurnOver` if others wait."""
        if self._turn_is_over():
            raise jobs.TurnOver

    @contextmanager
    def in_hand(self, item_id: int) -> Iterator[None]:
        """Around work that may end this process, for the memory it takes: if it does, the next try
        finds the item in `died_on`, and this one does not count (`jobs.blame`)."""
        self._note({"in_hand": item_id})
        yield
        self._note({})

    def _note(self, more: dict[str, Any]) -> None:
        with self.writing() as session:
            jobs.report(session, self.claim, result={"died_on": self.died_on} | more)

    def log(self, line: str) -> None:
        self._emit("log", line)

    def last_report(self) -> None:
        """Report how far it came, once the work has ended: the last of it came too soon after the
        report before."""
        if self._fields:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        self._emit("progress", self._fields)
        self._fields = {}

    @contextmanager
    def writing(self, turn: str = "") -> Iterator[Session]:
        """A write transaction that begins by checking that the job is still ours; after its `turn`
        of that name came, if one is named: who waits for it holds nobody up who reports on this
        job, or cancels it."""
        with sessions.writing(self.engine) as session:
            if turn:
                take_turn(session, turn)
            jobs.guard(session, self.claim)
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with sessions.reading(self.engine) as session:
            yield session
