"""The worker: a clock, the resident model process, and one child per long job.

A child does the work and writes its results itself (guarded by the fence); its reports of
progress come through a pipe, and the worker writes that to the job's row. Cancelling is TERM,
then KILL. A child that dies without a word gives its job back to the queue, three times.

One worker of a home folder holds a file lock for as long as it lives, and the system lets go of the
lock however the worker ends. With SQLite it is the only one: whoever gets the lock knows that every
job marked as running is an orphan, and takes it up at once. With PostgreSQL others work beside it,
on jobs alone; the one that holds the lock also keeps the model process, the watch and the sweeps,
and when it ends another one comes to hold it.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from tastemaker import files, jobs
from tastemaker.config import Settings
from tastemaker.database import backups, sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Job
from tastemaker.errors import Unavailable
from tastemaker.importing import leftovers, watching
from tastemaker.jobs import children, heartbeat, lanes, leases
from tastemaker.jobs.clock import Clock, log_expected_errors
from tastemaker.jobs.failures import Failure
from tastemaker.processes import call, logs, systems
from tastemaker.training import auto_train
from tastemaker.versions import file_checks

log = logging.getLogger(__name__)

MODEL_PROCESS = "tastemaker.live.model_process:main"  # by name: the worker fits nothing itself
TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
KILL_AFTER_SECONDS = 5.0
AUTO_TRAIN_SECONDS = REAP_SECONDS = 5.0
BACKUP_SECONDS = 3600.0  # between two looks whether one is due
SWEEP_SECONDS = 24 * 3600.0
WATCH_SECONDS = 30.0  # between two looks into watched folders

# A job's process is a copy of one that has what every job needs, and what imports need: people wait
# for their first picture. No library that cannot be copied while it is at work.
COMMON = ("tastemaker.jobs.children", "tastemaker.importing.imports")


@dataclass
class Running:
    """A child at work on a job, and its reports that are not written yet."""

    claim: jobs.Claim
    job: Job  # as it was when it began
    process: Any
    pipe: Connection
    fields: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    ending: tuple[str, Any] | None = None  # how the child reported to have ended, and with what
    beat: float = 0.0
    began: float = field(default_factory=time.monotonic)
    stopped_at: float | None = None
    asked_to_give_way: bool = False

    @property
    def kind(self) -> str:
        return self.job.kind

    @property
    def place(self) -> lanes.Place:
        return lanes.Place.of(self.job, seconds=time.monotonic() - self.began)


# --- the worker --------------------------------------------------------------------------------


class Worker:
    """Runs jobs until it is stopped. The invariant: a job in `running` has exactly one child here,
    and no lane holds more than it may."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.running: list[Running] = []
        self._leases = leases.Leases()
        self._turn = threading.Lock()  # the clock ticks in a thread of its own
        self._stopped = False
        self._heart = heartbeat.Heart(settings)

    def tick(self) -> None:
        """Listen to the children, then start what is queued."""
        with self._turn:
            self._heart.beat()
            if not self._stopped:
                self._tick()

    def _tick(self) -> None:
        for running in list(self.running):
            self._attend(running)
        while True:
            at_work = [running.place for running in self.running]
            with sessions.reading(self.engine) as session:  # no lock when idle
                queued = lanes.waiting(session)
            for running in self.running:
                if lanes.turn_is_over(running.place, queued):
                    self._ask_to_give_way(running)
            # Those seen here and no others: one that came since may not go beside what was seen.
            may_start = [
                job.job_id
                for job in queued
                if job.kind in children.HANDLERS and lanes.may_start(job, at_work)
            ]
            if not may_start:
                return
            with sessions.writing(self.engine) as session:
                if (taken := jobs.claim_next(session, may_start)) is None:
                    return
            self._start(*taken)

    def _start(self, job: Job, claim: jobs.Claim) -> None:
        beginning = systems.children_with(COMMON)
        ours, theirs = beginning.Pipe()
        process = beginning.Process(
            target=children.main,
            args=(self.settings, claim.job_id, claim.fence, theirs),
            name=f"tastemaker-{job.kind}-{claim.job_id}",
        )
        try:
            systems.begin(process)
        except OSError as error:
            with sessions.writing(self.engine) as session:
                jobs.give_back(session, claim, Failure(f"Its process could not begin: {error}."))
            return ours.close()
        finally:
            theirs.close()
        self.running.append(Running(claim, job, process, ours, beat=time.monotonic()))
        tries = job.attempts
        return logs.write(log, logging.INFO, "job started", job=job.id, kind=job.kind, tries=tries)

    def _attend(self, running: Running) -> None:
        alive = running.process.is_alive()
        self._listen(running)
        try:
            self._write_reports(running)
            stopping = running.stopped_at
            if stopping is not None and time.monotonic() - stopping > KILL_AFTER_SECONDS:
                running.process.kill()
            if alive and running.ending is None:
                return
            systems.join_or_kill(running.process, KILL_AFTER_SECONDS)
            self._listen(running)
            self._write_reports(running)
            self._conclude(running)
        except jobs.LostJob:
            log.warning("job %s was taken over by another worker", running.claim.job_id)
            running.process.kill()
            running.process.join()
        self.running.remove(running)
        running.pipe.close()

    def _listen(self, running: Running) -> None:
        try:
            while running.pipe.poll():
                kind, value = running.pipe.recv()
                if kind == "progress":
                    running.fields |= value
                elif kind == "log":
                    running.lines.append(value)
                else:
                    running.ending = (kind, value)
        except (EOFError, OSError):
            pass  # the child is gone; `_attend` sees that

    def _write_reports(self, running: Running) -> None:
        """Progress, log and heartbeat in one small transaction; then whether to stop."""
        due = time.monotonic() - running.beat >= HEARTBEAT_SECONDS
        if running.fields or running.lines or due:
            with sessions.writing(self.engine) as session:
                stop = jobs.report(session, running.claim, **running.fields)
                for line in running.lines:
                    jobs.log(session, running.claim.job_id, line)
            running.fields, running.lines, running.beat = {}, [], time.monotonic()
        else:
            with sessions.reading(self.engine) as session:
                stop = jobs.get(session, running.claim.job_id).cancel_requested
        if stop and running.stopped_at is None:
            self._stop(running)

    @staticmethod
    def _stop(running: Running) -> None:
        running.stopped_at = time.monotonic()
        running.process.terminate()

    @staticmethod
    def _ask_to_give_way(running: Running) -> None:
        if not running.asked_to_give_way:
            running.asked_to_give_way = True
            with contextlib.suppress(OSError):  # it has ended: `_attend` sees that
                running.pipe.send("others wait")

    def _conclude(self, running: Running) -> None:
        kind, value = running.ending or ("killed", None)
        claim = running.claim
        with sessions.writing(self.engine) as session:
            if kind == "done":
                jobs.finish(session, claim, value or {})
            elif kind == "gave way":
                state = jobs.give_back(session, claim, Failure(""), counts=False)
                after = "it goes on after them" if state == "queued" else "and it was cancelled"
                jobs.log(session, claim.job_id, f"others had waited: {after}")
            elif running.stopped_at is not None:
                jobs.cancelled(session, claim)
                jobs.log(session, claim.job_id, "cancelled")
            elif kind == "failed":
                why = value or Failure("")
                jobs.fail(session, claim, why)
                jobs.log(session, claim.job_id, why.error)
            elif kind != "lost":
                code = running.process.exitcode
                why = value or Failure.of_exit(code)
                killed = code is not None and code < 0
                counts = not (killed and jobs.blame(session, claim))
                state = jobs.give_back(session, claim, why, counts=counts)
                jobs.log(session, claim.job_id, f"{why.error} The job is {state}.")
            state = jobs.get(session, claim.job_id).state
        took = round(1000 * (time.monotonic() - running.began))
        about = {"kind": running.kind, "state": state}
        logs.write(log, logging.INFO, "job ended", job=claim.job_id, ms=took, **about)

    def reap(self) -> None:
        """Give back the jobs of other workers that are gone."""
        with sessions.reading(self.engine) as session:
            dead = self._leases.run_out(session, [r.claim.job_id for r in self.running])
        if dead:
            with sessions.writing(self.engine) as session:
                jobs.requeue_orphans(session, dead)

    def stop(self) -> None:
        """End the children; their jobs go back to the queue untouched by the attempt. Nothing is
        started after this."""
        with self._turn:
            self._stopped = True
            self._end_children()

    def _end_children(self) -> None:
        for running in self.running:
            running.process.terminate()
        for running in self.running:
            systems.join_or_kill(running.process, KILL_AFTER_SECONDS)
        if self.running:
            with sessions.writing(self.engine) as session:
                jobs.requeue_orphans(session, [r.claim.job_id for r in self.running], counts=False)
        self.running.clear()


class Resident:
    """The resident model process: started, watched, started again until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process: Any = None
        self._not_before = 0.0
        self._turn = threading.Lock()  # the clock ticks in a thread of its own
        self._stopped = False

    def tend(self) -> None:
        with self._turn:
            if not self._stopped:
                self._tend()

    def _tend(self) -> None:
        if self.process is not None and self.process.is_alive():
            return
        if self.process is not None:
            log.warning("the resident model process ended (%s)", self.process.exitcode)
            self.process = None
            self._not_before = time.monotonic() + 2.0
        if time.monotonic() >= self._not_before:
            self._not_before = time.monotonic() + 2.0
            process = systems.children_with(COMMON).Process(
                target=call, args=(MODEL_PROCESS, self.settings), name="tastemaker-resident"
            )
            try:
                systems.begin(process)
                self.process = process
            except OSError as error:
                log.warning("the model process could not begin: %s", error)

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            if self.process is not None:
                self.process.terminate()
                systems.join_or_kill(self.process, KILL_AFTER_SECONDS)


# --- running it --------------------------------------------------------------------------------


def worker_lock(settings: Settings) -> FileLock:
    return FileLock(settings.root / "worker.lock", thread_local=False)


def is_running(settings: Settings) -> bool:
    """Whether a worker holds the lock of this home folder."""
    lock = worker_lock(settings)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def run_forever(settings: Settings) -> None:
    """The `tastemaker worker` command. With SQLite, raises `Timeout` when another worker is at
    work; under `serve` it stands by until that one ends (a `demo` or a waiting command line runs
    one), or the server does."""
    engine = migrate(settings)
    # The server's own number: it may be gone by now, and `getppid` name who took its children.
    supervisor = os.environ.get("TASTEMAKER_SUPERVISED", "")
    parent = int(supervisor) if supervisor.isdecimal() else None
    lock = worker_lock(settings)
    if engine.dialect.name != "sqlite" or _comes_to_hold(lock, parent):
        try:
            _run(settings, engine, parent, lock)
        finally:
            lock.release()


def _comes_to_hold(lock: FileLock, parent: int | None) -> bool:
    """Wait for the lock; under a server for as long as that lives. False when it ended first."""
    while parent is None or os.getppid() == parent:
        try:
            lock.acquire(timeout=10 if parent is None else 1)
            return True
        except Timeout:
            if parent is None:
                raise
    return False


def _holds_now(lock: FileLock) -> bool:
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    return lock.is_locked


def _take_up_orphans(engine: Engine) -> None:
    """Whoever holds a home's lock is alone at its jobs; a database elsewhere may have workers
    elsewhere, and there only the end of a lease tells (`Worker.reap`)."""
    if engine.dialect.name == "sqlite":
        with sessions.writing(engine) as session:
            jobs.requeue_orphans(session)


def _run(settings: Settings, engine: Engine, parent: int | None, lock: FileLock) -> None:
    _take_up_orphans(engine)
    worker, resident = Worker(settings, engine), Resident(settings)
    clock = Clock()
    if parent is None:  # else the web process does it
        file_checks.check_all_files(engine, settings)

    # A signal's handler runs between any two instructions of this thread, which may hold any lock:
    # so it takes none, and this thread does nothing but wait for its byte.
    ended, end_now = os.pipe()

    def end(number: int = 0, *_: Any) -> None:
        if number:
            signal.signal(number, signal.SIG_IGN)  # once is enough: a hail of them would nest here
        os.write(end_now, b".")

    def watch_parent() -> None:
        if parent is not None and os.getppid() != parent:
            end()

    clock.every(TICK_SECONDS, log_expected_errors(worker.tick))
    clock.every(REAP_SECONDS, log_expected_errors(worker.reap))
    clock.every(1, watch_parent)

    def lead() -> None:
        """What one worker of a home does, once it is this one."""
        clock.every(1, resident.tend)
        clock.every(SWEEP_SECONDS, files.sweep_unfinished, settings.root, at_once=True)
        sweep = log_expected_errors(leftovers.sweep_incoming)
        clock.every(SWEEP_SECONDS, sweep, settings, engine, at_once=True)
        clock.every(AUTO_TRAIN_SECONDS, log_expected_errors(auto_train.tick), settings, engine)
        watcher = watching.Watcher(settings, engine)
        clock.every(WATCH_SECONDS, log_expected_errors(watcher.tick))
        backup = log_expected_errors(backups.nightly_backup)
        clock.every(BACKUP_SECONDS, backup, settings, at_once=True)
        resident.tend()

    def stand_by() -> None:
        if not lock.is_locked and _holds_now(lock):
            lead()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    clock.start()
    try:
        if lock.is_locked:
            lead()
        else:
            clock.every(1, stand_by, at_once=True)
        os.read(ended, 1)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # it is ending already
            signal.signal(number, signal.SIG_IGN)
        clock.shutdown(wait=False)
        resident.stop()
        worker.stop()


def run_here(settings: Settings, engine: Engine, finished: Callable[[], bool]) -> None:
    """Work in this process until `finished()`: for a command that found no live worker. If one
    comes up meanwhile, leave the work to it."""
    lock = worker_lock(settings)
    worker = Worker(settings, engine)
    owner = False
    try:
        while not finished():
            if not owner:
                try:
                    lock.acquire(timeout=0)
                    owner = True
                    _take_up_orphans(engine)
                except Timeout:
                    pass
            if owner:
                with contextlib.suppress(Unavailable):  # a busy database: the next tick tries again
                    worker.tick()
                    worker.reap()
            pipes = [running.pipe for running in worker.running]
            if pipes:
                wait(pipes, timeout=TICK_SECONDS)
            else:
                threading.Event().wait(TICK_SECONDS)
    finally:
        worker.stop()
        if owner:
            lock.release()
