"""Whether the worker of a running job still lives: for workers of other machines to see.

A worker that lives moves the heartbeat of its jobs, a counter. Whoever looks remembers, by their
own monotonic clock, since when it has stood still. So no clock is compared with another's: neither
two machines whose clocks differ nor a clock that is set takes a job from anybody.
"""

import time
from collections.abc import Iterable

from sqlmodel import Session, select

from tastemaker.database.tables import Job

LEASE_SECONDS = 30.0


class Leases:
    """What one worker has seen of the jobs of others."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}  # job -> (heartbeat, when it last moved)

    def run_out(self, session: Session, ours: Iterable[int]) -> list[int]:
        """The running jobs of others whose heartbeat has not moved for a lease."""
        mine = set(ours)
        rows = session.exec(select(Job.id, Job.heartbeat).where(Job.state == "running"))
        moment = time.monotonic()
        self._seen = {
            job_id: self._seen[job_id]
            if job_id in self._seen and self._seen[job_id][0] == beat
            else (beat, moment)
            for job_id, beat in rows
            if job_id not in mine
        }
        return [j for j, (_, since) in self._seen.items() if moment - since > LEASE_SECONDS]
