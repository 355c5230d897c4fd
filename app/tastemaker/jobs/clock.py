"""The worker's clock: APScheduler, whose intervals here count on the monotonic clock.

APScheduler makes its appointments by the wall clock, and that can be set: a step back by a day, as
after a dead battery, and nothing would be done for a day. So whenever the wall clock has moved
against the monotonic one, all appointments move with it.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler

from tastemaker.errors import TastemakerError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at how the clocks stand
LEAST_STEP = 0.1  # seconds; less is the ordinary correction of a clock


class Clock(BackgroundScheduler):
    """Does things again and again, each at most once at a time. What could not be done in time is
    done once, later."""

    def __init__(self) -> None:
        once = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        super().__init__(job_defaults=once)
        self._apart = self._wall_ahead()

    def every(self, seconds: float, do: Any, *arguments: Any, at_once: bool = False) -> None:
        """Call `do(*arguments)` each so many seconds, the first time after as many or `at_once`."""
        now = {"next_run_time": datetime.now(self.timezone)} if at_once else {}
        self.add_job(do, "interval", args=arguments, seconds=seconds, **now)

    def _process_jobs(self) -> float:
        """What APScheduler's thread does each time it wakes: do what is due, return the seconds
        that it may sleep, by the monotonic clock."""
        apart = self._wall_ahead()
        step, self._apart = apart - self._apart, apart
        if abs(step) >= LEAST_STEP:
            with self._jobstores_lock:
                for job in self.get_jobs():
                    if job.next_run_time is not None:
                        job.modify(next_run_time=job.next_run_time + timedelta(seconds=step))
        return min(super()._process_jobs() or LOOK_SECONDS, LOOK_SECONDS)

    def _wall_ahead(self) -> float:
        """Seconds by which the wall clock is ahead of the monotonic one."""
        return datetime.now(self.timezone).timestamp() - time.monotonic()


def log_expected_errors(do: Callable[..., Any]) -> Callable[..., None]:
    """The same, but an error with a sentence (the database is busy, or damaged) is a line in the
    log without a traceback: the clock comes round again."""

    def logged(*args: Any) -> None:
        try:
            do(*args)
        except TastemakerError as error:
            log.warning("%s was not done: %s", do.__name__, error)

    return logged
