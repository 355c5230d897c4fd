"""Whatever is killed, and whenever: the pages answer, the work gets done, once."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base
import apscheduler.triggers.interval
import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, func, select
from trained_world import trained_home
from web_world import drawn

from tastemaker import embeddings, files, jobs, projects, scores, versions, worker
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Embedding, Job, Label, Project, Version
from tastemaker.errors import Unavailable
from tastemaker.jobs import children as job_process
from tastemaker.jobs import clock, context, lanes, leases
from tastemaker.jobs.clock import log_expected_errors
from tastemaker.library import bulk
from tastemaker.live import live_model
from tastemaker.processes import systems
from tastemaker.training import retrain
from tastemaker.worker import Worker, run_here
from tests.conftest import environment, free_port, running, until
from tests.desk import request_import


def settings_in(home: Path) -> Settings:
    return Settings(home=home, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]


def sample_project(session: Session) -> Project:
    return projects.by_name(session, "Sample")


def seen(engine: Engine, job_id: int) -> Job:
    with sessions.reading(engine) as session:
        return jobs.get(session, job_id)


def log_of(engine: Engine, job_id: int) -> str:
    with sessions.reading(engine) as session:
        return "\n".join(entry.line for entry in jobs.log_of(session, job_id))


def fewer_labels(engine: Engine, kept: int = 40) -> None:
    """Take most scored images out of the project: a training is over sooner."""
    with sessions.writing(engine) as session:
        project = sample_project(session)
        labelled = session.exec(select(Label.image_id).order_by(Label.image_id)).all()
        bulk.remove(session, project, labelled[kept:])


def request_training(settings: Settings, engine: Engine) -> int:
    """A small network: long enough to be killed in, short enough to wait for."""
    with sessions.writing(engine) as session:
        project = sample_project(session)
        return retrain.request_training(session, settings, project, recipe="mlp").id


def train_undisturbed(settings: Settings, engine: Engine, version: Version) -> Version:
    """What this version learned from, learned in this process."""
    threads = torch.get_num_threads()
    request = retrain.Request(
        version.project_id, made_by="undisturbed", event_high=version.event_high,
        seed=version.seed, recipe="mlp",
    )  # fmt: skip
    try:
        return retrain.train_and_publish(sessions.PlainTransactions(engine), settings, request)
    finally:
        torch.set_num_threads(threads)


# --- under `tastemaker serve` ------------------------------------------------------------------


def worker_of(server: psutil.Process) -> psutil.Process | None:
    """The live worker of a server, once it has started its resident model process."""
    for child in server.children():
        try:
            if child.cmdline()[-1:] == ["worker"] and child.children():
                return child
        except psutil.Error:
            pass
    return None


def children(process: psutil.Process) -> dict[int, psutil.Process]:
    """The processes that do its work: its own, or copies of one of them that only makes copies (but
    not the little helper that multiprocessing keeps)."""
    found = {}
    for child in process.children():
        with contextlib.suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if "multiprocessing.forkserver" in line:
                found |= {copy.pid: copy for copy in child.children()}
            elif "resource_tracker" not in line:
                found[child.pid] = child
    return found


def started_by(process: psutil.Process) -> list[psutil.Process]:
    """What does its work and is Python's: a library asks small programs about the system."""
    with contextlib.suppress(psutil.Error):
        return [c for c in children(process).values() if "multiprocessing" in " ".join(c.cmdline())]
    return []


class Served:
    """The sample project under `tastemaker serve`, to kill what works there."""

    def __init__(
        self, settings: Settings, engine: Engine, process: subprocess.Popen[bytes], port: int
    ) -> None:
        self.settings, self.engine, self.process, self.port = settings, engine, process, port
        self.server = psutil.Process(process.pid)
        self.at_work: psutil.Process = until(lambda: worker_of(self.server), 30, "for the worker")
        assert self.answers()

    def answers(self) -> bool:
        for page in ("healthz", "projects/1/score", "projects/1/versions"):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{page}", timeout=10) as got:
                assert got.status == 200
        return True

    def request_training(self) -> int:
        return request_training(self.settings, self.engine)

    def kill_the_worker(self) -> None:
        """Its children must not outlive it, the pages must not notice, another comes."""
        killed, below = self.at_work, self.at_work.children(recursive=True)
        assert below
        killed.kill()
        assert self.answers()
        until(lambda: not any(alive(child) for child in below), 30, "for the children to end")
        self.at_work = until(
            lambda: (new := worker_of(self.server)) and new.pid != killed.pid and new,
            30,
            "for the next worker",
        )

    def reaches(self, job_id: int, phase: str) -> None:
        """Wait until a job runs and says that it is in a phase."""

        def in_phase() -> bool:
            job = seen(self.engine, job_id)
            assert job.state in ("queued", "running"), job.state
            return job.state == "running" and phase in job.message

        until(in_phase, 90, f"for {phase or 'the claim'}")

    def kill_the_worker_late(self, job_id: int) -> int:
        """Kill the worker while a job is past its training: predicts, measures or publishes. On so
        few images that is over in a moment: if it was missed, the next training is caught. Gives
        the job that got done in the end."""
        for _ in range(5):
            if self._stopped_late(job_id):
                break
            job_id = self.request_training()
        attempts = seen(self.engine, job_id).attempts
        self.kill_the_worker()
        assert self.done(job_id).attempts == attempts + 1
        return job_id

    def _stopped_late(self, job_id: int) -> bool:
        """Stop the worker in its tracks while a job is past its training; False where it was over
        before."""
        late = ("Predicting", "Measuring", "Writing")

        def is_late_or_over() -> bool:
            job = seen(self.engine, job_id)
            return job.state == "done" or any(phase in job.message for phase in late)

        until(is_late_or_over, 120, "for the end")
        self.at_work.suspend()
        if seen(self.engine, job_id).state == "running":
            return True
        self.at_work.resume()
        return False

    def done(self, job_id: int) -> Job:
        return until(lambda: (j := seen(self.engine, job_id)).state == "done" and j, 300, "for it")

    def newest_are_whole(self, count: int) -> None:
        """The newest versions are what a training that nobody disturbed makes of these labels."""
        with sessions.reading(self.engine) as session:
            killed = versions.list_ready(session, sample_project(session))[:count]
            whole = train_undisturbed(self.settings, self.engine, killed[0])
            for version in killed:
                assert version.metrics.holdout == whole.metrics.holdout
                assert version.metrics.out_of_fold == whole.metrics.out_of_fold
                versions.verify(self.settings, version)


@pytest.fixture
def served(sample: Path) -> Iterator[Served]:
    settings = settings_in(sample).model_copy(update={"torch_threads": 1})
    engine = migrate(settings)
    fewer_labels(engine)
    port, one = free_port(), {"TASTEMAKER_TORCH_THREADS": "1"}  # the same numbers in every process
    with running(sample, "serve", "--port", str(port), **one) as process:
        yield Served(settings, engine, process, port)
    assert process.returncode == 0
    engine.dispose()


@pytest.mark.slow
def test_the_worker_is_killed_while_it_trains_and_while_it_publishes_and_the_training_gets_done(
    served: Served,
) -> None:
    job_id = served.request_training()
    served.reaches(job_id, "Training")
    served.kill_the_worker()
    served.kill_the_worker_late(job_id)
    served.newest_are_whole(1)

    # the resident model process is killed, and comes back to see the next score
    for child_process in children(served.at_work).values():
        child_process.kill()
    with sessions.writing(served.engine) as session:
        project = sample_project(session)
        image = project_images(session, project)[0]
        person = projects.annotator(session, "me")
        event = scores.record(session, project, image, person, "set", 5).event.id
    until(lambda: live_event(served.settings) == event, 30, "for the live model")

    second = subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", "worker"], timeout=60,
        env=environment(served.settings.root), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert second.returncode == 1, "one worker is enough"
    assert "Another worker is running" in " ".join(second.stderr.split())


@pytest.mark.soak
@pytest.mark.slow
def test_the_worker_is_killed_in_every_phase_of_a_training_and_the_training_gets_done(
    served: Served,
) -> None:
    # queued: the worker is stopped in its tracks before it can see the job
    served.at_work.suspend()
    first = served.request_training()
    assert seen(served.engine, first).state == "queued"
    served.kill_the_worker()
    # loading: claimed, and the child has said nothing yet
    served.reaches(first, "")
    served.kill_the_worker()
    # training
    served.reaches(first, "Training")
    served.kill_the_worker()
    done = served.done(first)
    assert (done.result["version"], done.attempts) == ("v1.2", 3)

    # the job's own process is killed; then the worker while it predicts, or what follows that
    resident = set(children(served.at_work))
    job_id = served.request_training()
    child = until(lambda: set(children(served.at_work)) - resident, 30, "for the child")
    psutil.Process(child.pop()).kill()
    until(lambda: seen(served.engine, job_id).attempts == 2, 30, "for the second attempt")
    assert "signal 9" in log_of(served.engine, job_id)
    served.kill_the_worker_late(job_id)
    served.newest_are_whole(2)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def project_images(session: Session, project: Project) -> list[int]:
    return sorted(set(session.exec(projects.image_ids(project.id))))


def live_event(settings: Settings) -> int:
    live = live_model.read_live(settings, 1)
    return live.fit.event_high if live else 0


# --- one job, its child, its end ---------------------------------------------------------------


class Bench:
    """A worker whose ticks the test gives."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.engine = settings, migrate(settings)
        self.worker = Worker(settings, self.engine)

    def until(self, condition: Any, seconds: float = 60, what: str = "") -> Any:
        def tick_and_look() -> Any:
            self.worker.tick()
            return condition()

        return until(tick_and_look, seconds, what)

    def ended(self, job_id: int) -> Job:
        return self.until(
            lambda: (j := seen(self.engine, job_id)).state in jobs.FINISHED and j, 90, "for its end"
        )

    def enqueue(self, kind: str, payload: dict[str, Any] | None = None, project: int = 1) -> int:
        with sessions.writing(self.engine) as session:
            return jobs.enqueue(session, kind, kind.title(), payload, project).id


@pytest.fixture
def bench(sample: Path) -> Iterator[Bench]:
    bench = Bench(settings_in(sample))
    yield bench
    bench.worker.stop()
    bench.engine.dispose()


@pytest.fixture
def empty_bench(settings: Settings) -> Iterator[Bench]:
    bench = Bench(settings)
    yield bench
    bench.worker.stop()
    bench.engine.dispose()


@pytest.mark.slow
def test_a_job_that_always_raises_fails_visibly_after_three_attempts_with_its_log(
    empty_bench: Bench,
) -> None:
    with sessions.writing(empty_bench.engine) as session:
        project_id = projects.create(session, "P").id
    job_id = empty_bench.enqueue("import", {"paths": 5}, project_id)
    job = empty_bench.ended(job_id)
    assert (job.state, job.attempts) == ("failed", 3)
    assert "ValidationError" in job.error and "tried 3 times" in job.error
    said = log_of(empty_bench.engine, job_id)
    assert said.count("Traceback") == 3 and "The job is queued." in said

    with sessions.writing(empty_bench.engine) as session:
        jobs.retry(session, job_id)
    assert seen(empty_bench.engine, job_id).attempts == 0


@pytest.mark.slow
def test_a_running_embedding_survives_kill_9_and_ends_quickly_when_cancelled(
    bench: Bench, sample_home: Path
) -> None:
    with sessions.writing(bench.engine) as session:
        project = sample_project(session)
        assert project.encoder_id is not None
        encoder_id = project.encoder_id
        everything, there = embeddings.matrix(session, encoder_id)
        gone = everything[:200].tolist()
        session.execute(delete(Embedding).where(col(Embedding.image_id).in_(gone)))
    kept = len(everything) - 200

    def stored() -> int:
        with sessions.reading(bench.engine) as session:
            return session.exec(select(func.count()).select_from(Embedding)).one()

    job_id = bench.enqueue("embed")
    bench.until(lambda: stored() > kept, 120, "for the first vectors")
    (at_work,) = bench.worker.running
    at_work.process.kill()
    at_work.process.join()
    survived = stored()
    assert survived > kept
    bench.until(lambda: seen(bench.engine, job_id).attempts == 2, 30, "for the second attempt")
    bench.until(lambda: stored() > survived, 60, "for more vectors")
    with sessions.writing(bench.engine) as session:
        jobs.cancel(session, job_id)
    job = bench.until(
        lambda: (j := seen(bench.engine, job_id)).state != "running" and j, 8, "for the cancel"
    )
    assert job.state == "cancelled" and not bench.worker.running

    # What is there is whole and right; nothing is there twice; the others did not move.
    with sessions.reading(bench.engine) as session:
        ids, now_there = embeddings.matrix(session, encoder_id)
    assert len(set(ids.tolist())) == len(ids) < len(everything)
    at = np.searchsorted(everything, ids)
    assert np.array_equal(everything[at], ids)
    unmoved = ~np.isin(ids, gone)
    assert np.array_equal(now_there[unmoved], there[at][unmoved])
    assert np.allclose(now_there, there[at], rtol=0.02, atol=0.01)


@pytest.mark.slow
def test_a_cancelled_training_leaves_the_versions_as_they_were(bench: Bench) -> None:
    job_id = request_training(bench.settings, bench.engine)
    bench.until(lambda: "Training" in seen(bench.engine, job_id).message, 60, "for the training")
    with sessions.writing(bench.engine) as session:
        jobs.cancel(session, job_id)
    assert bench.ended(job_id).state == "cancelled"
    with sessions.reading(bench.engine) as session:
        listed = [v.number for v in versions.list_ready(session, sample_project(session))]
    assert listed == ["v1.1", "v1.0"]


@pytest.mark.slow
def test_what_the_person_must_mend_is_not_tried_again_by_itself(empty_bench: Bench) -> None:
    """A full disk, for example."""
    with sessions.writing(empty_bench.engine) as session:
        project_id = projects.create(session, "P").id
    empty_bench.worker.settings = empty_bench.settings.model_copy(update={"min_free_gb": 1e9})
    job = empty_bench.ended(job_id := empty_bench.enqueue("embed", None, project_id))
    assert (job.state, job.attempts) == ("failed", 1)
    assert "are kept free" in job.error and "Scoring goes on" in job.error
    with sessions.writing(empty_bench.engine) as session:
        assert jobs.retry(session, job_id).state == "queued"


def test_each_kind_has_one_lane_and_an_orderly_stop_hands_the_work_back(
    empty_bench: Bench,
) -> None:
    with sessions.writing(empty_bench.engine) as session:
        for name in ("P", "Q"):
            projects.create(session, name)
    ids = [empty_bench.enqueue(kind) for kind in ("embed", "embed", "train", "train")]
    empty_bench.worker.tick()
    started = [running.claim.job_id for running in empty_bench.worker.running]
    assert started == [ids[0], ids[2]]
    states = [seen(empty_bench.engine, job_id).state for job_id in ids]
    assert states == ["running", "queued", "running", "queued"]
    processes = [running.process for running in empty_bench.worker.running]
    empty_bench.worker.stop()
    assert not any(process.is_alive() for process in processes)
    assert [seen(empty_bench.engine, i).attempts for i in ids] == [0, 0, 0, 0]
    assert {seen(empty_bench.engine, i).state for i in ids} == {"queued"}


@pytest.mark.slow
def test_ten_files_of_one_come_in_while_another_s_thousands_go_on(
    empty_bench: Bench, tmp_path: Path
) -> None:
    """The first import is stopped in its tracks, so that it surely outlasts the second."""
    folders = [tmp_path / "thousands", tmp_path / "ten"]
    for folder in folders:
        folder.mkdir()
        drawn(len(folder.name)).save(folder / "a.png")
    with sessions.writing(empty_bench.engine) as session:
        ids = [
            request_import(session, empty_bench.settings, [folder], asked_by=person).id
            for person, folder in enumerate(folders, 1)
        ]
    empty_bench.worker.tick()
    (first, second) = empty_bench.worker.running
    assert [first.claim.job_id, second.claim.job_id] == ids
    os.kill(first.process.pid, signal.SIGSTOP)

    def second_is_done() -> bool:
        empty_bench.worker.tick()
        return seen(empty_bench.engine, ids[1]).state == "done"

    until(second_is_done, 60, "for the ten files")
    assert seen(empty_bench.engine, ids[0]).state == "running"
    os.kill(first.process.pid, signal.SIGCONT)


def test_a_long_embedding_goes_on_after_that_of_another_project(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn is over at once, and is not cut off: something is stored in each."""
    with sessions.writing(bench.engine) as session:
        first = sorted(session.exec(select(Embedding.image_id)))[: 2 * embeddings.CHUNK]
        session.execute(delete(Embedding).where(col(Embedding.image_id).in_(first)))
        other = projects.create(session, "Other").id
    ids = [bench.enqueue("embed", {}, project) for project in (1, other)]
    monkeypatch.setattr(lanes, "TURN_SECONDS", 0.0)

    def at_work() -> list[int]:
        return [running.claim.job_id for running in bench.worker.running]

    bench.until(lambda: at_work() == [ids[1]], 300, "for the turn of the other")
    job = seen(bench.engine, ids[0])
    assert (job.state, job.attempts, job.error) == ("queued", 0, "")
    assert "goes on after them" in log_of(bench.engine, ids[0])
    with sessions.reading(bench.engine) as session:
        stored = session.exec(
            select(func.count()).where(col(Embedding.image_id).in_(first))
        ).one()  # fmt: skip
    assert 0 < stored <= embeddings.CHUNK  # fewer where they took longer than a portion may


def test_a_job_whose_process_cannot_begin_is_tried_again_and_then_told(
    empty_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have no process left."""
    job_id = empty_bench.enqueue("embed", project=None)
    with monkeypatch.context() as patch:
        error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        patch.setattr(systems, "begin", fails_with(error))
        empty_bench.worker.tick()
    job = seen(empty_bench.engine, job_id)
    assert (job.state, job.attempts, empty_bench.worker.running) == ("failed", 3, [])
    assert job.error.startswith("Its process could not begin: [Errno 11]")
    with sessions.writing(empty_bench.engine) as session:
        jobs.retry(session, job_id)
    assert "could not begin" not in empty_bench.ended(job_id).error


def fails_with(error: Exception) -> Any:
    def fails(*_: Any) -> None:
        raise error

    return fails


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_interrupted_with_its_children_while_they_begin_ends_without_a_fault(
    tmp_path: Path, told: signal.Signals
) -> None:
    """Ctrl-C goes to all processes of a terminal, also to those that still import."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "worker"], env=environment(tmp_path / "home"),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    below = until(lambda: started_by_or_copied(psutil.Process(process.pid)), 60, "for its children")
    os.killpg(process.pid, told)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    _, left = psutil.wait_procs(below, 10)
    assert not left


def started_by_or_copied(process: psutil.Process) -> list[psutil.Process]:
    return [c for c in process.children() if "multiprocessing" in " ".join(c.cmdline())]


def test_a_job_taken_over_by_another_worker_is_let_go(empty_bench: Bench) -> None:
    job_id = empty_bench.enqueue("embed", project=None)  # type: ignore[arg-type]
    empty_bench.worker.tick()
    (ours,) = empty_bench.worker.running
    ours.process.kill()  # it cannot end the job before it is taken from us
    ours.process.join()
    with sessions.writing(empty_bench.engine) as session:
        jobs.requeue_orphans(session)
        taken = jobs.claim_next(session, [job_id])
    assert taken is not None
    empty_bench.worker._attend(ours)
    assert not empty_bench.worker.running
    job = seen(empty_bench.engine, job_id)
    assert (job.state, job.fence) == ("running", taken[1].fence)


def test_only_a_heart_that_stands_still_is_taken_for_dead(
    empty_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    elsewhere = [empty_bench.enqueue("train", {"n": n}, None) for n in range(2)]  # type: ignore[arg-type]
    with sessions.writing(empty_bench.engine) as session:
        claims = [jobs.claim_next(session, [job_id])[1] for job_id in elsewhere]  # type: ignore[index]
    empty_bench.worker.reap()
    for _ in range(3):
        with sessions.writing(empty_bench.engine) as session:
            jobs.report(session, claims[0])
        empty_bench.worker.reap()
    assert [seen(empty_bench.engine, i).state for i in elsewhere] == ["running", "queued"]


def test_a_lease_is_counted_on_the_monotonic_clock(
    empty_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock may be set by a day, forth or back: nobody is dead of it, nobody lives on."""
    job_id = empty_bench.enqueue("train", {}, None)
    with sessions.writing(empty_bench.engine) as session:
        jobs.claim_next(session, [job_id])
    passed, wall = [0.0], [0.0]

    class Clocks:
        monotonic = staticmethod(lambda: passed[0])
        time = staticmethod(lambda: wall[0])

    monkeypatch.setattr(leases, "time", Clocks)
    for day in (0.0, 86_400.0, -86_400.0):
        wall[0] = day
        empty_bench.worker.reap()
        assert seen(empty_bench.engine, job_id).state == "running"
    passed[0] = leases.LEASE_SECONDS + 1
    empty_bench.worker.reap()
    assert seen(empty_bench.engine, job_id).state == "queued"


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(days=1)], ids=["back", "forth"])
def test_duties_go_on_when_the_wall_clock_is_set(
    step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_by = [timedelta(0)]

    class Wall(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + set_by[0]

    for module in (clock, apscheduler.schedulers.base, apscheduler.triggers.interval):
        monkeypatch.setattr(module, "datetime", Wall)
    often, seldom = [], []
    ticking = clock.Clock()
    ticking.every(0.05, often.append, 1)
    ticking.every(3600, seldom.append, 1, at_once=True)
    ticking.start()
    try:
        until(lambda: len(often) > 1 and seldom, 10, "for the first ticks")
        set_by[0] = step
        before = len(often)
        until(lambda: len(often) > before + 30, 10, "for more ticks")
        assert len(seldom) == 1, "an hour is an hour, whatever the clock says"
    finally:
        ticking.shutdown()


@pytest.mark.slow
def test_a_worker_whose_server_was_killed_while_it_started_ends(
    settings: Settings, engine: Engine
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    began = subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", "worker"], timeout=60,
        env=environment(settings.root) | {"TASTEMAKER_SUPERVISED": str(gone.pid)},
    )  # fmt: skip
    assert began.returncode == 0


def test_whether_a_worker_runs_is_told_by_its_lock_and_looking_leaves_no_trace(
    settings: Settings, engine: Engine
) -> None:
    assert not worker.is_running(settings)
    with worker.worker_lock(settings):
        assert worker.is_running(settings)
    assert not worker.is_running(settings)


@pytest.mark.slow
def test_under_a_server_a_worker_stands_by_until_the_other_ends_or_the_server_does(
    settings: Settings, engine: Engine
) -> None:
    # Taken in a thread here, and let go of outside it.
    lock = FileLock(worker.worker_lock(settings).lock_file, thread_local=False)
    gone = -1  # no process has this number
    other = worker.worker_lock(settings)
    with other:
        assert not worker._comes_to_hold(lock, gone)
        with ThreadPoolExecutor() as pool:
            standing_by = pool.submit(worker._comes_to_hold, lock, os.getppid())
            with pytest.raises(TimeoutError):
                standing_by.result(1.5)
            other.release()
            assert standing_by.result(30)
    assert lock.is_locked
    lock.release()


@pytest.mark.slow
def test_a_worker_alone_ends_when_told_to_and_takes_its_children_along(settings: Settings) -> None:
    with running(settings.root, "worker") as process:
        here = psutil.Process(process.pid)
        until(lambda: started_by(here), 30, "for the resident")
        below = here.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    until(lambda: not any(alive(child) for child in below), 30, "for the children to end")


@pytest.mark.slow
def test_a_worker_told_again_and_again_to_end_hands_its_job_back_all_the_same(
    settings: Settings, engine: Engine
) -> None:
    """Ctrl-C pressed twice, or a container that is stopped while it is being stopped."""
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        job_id = jobs.enqueue(session, "train", "Train", project_id=project.id).id
    with running(settings.root, "worker") as process:
        until(lambda: seen(engine, job_id).state == "running", 30, "for the claim")
        below = psutil.Process(process.pid).children(recursive=True)

        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGTERM)
    until(lambda: not any(alive(child) for child in below), 30, "for the children to end")
    job = seen(engine, job_id)
    assert (job.state, job.attempts) == ("queued", 0)


def test_what_a_killed_write_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "thumbs" / "ab"
    folder.mkdir(parents=True)
    old, young, finished = folder / ".x1.part", folder / ".x2.part", folder / "ab.webp"
    upload = folder / "cd.part"  # what keeping an upload is called while it is copied
    for path in (old, young, finished, upload):
        path.write_bytes(b"half")
    for path in (old, finished, upload):
        os.utime(path, (time.time() - 7200,) * 2)
    assert files.sweep_unfinished(tmp_path) == 2
    left = [path.exists() for path in (old, upload, young, finished)]
    assert left == [False, False, True, True]
    assert files.sweep_unfinished(tmp_path / "nowhere") == 0


def test_a_busy_database_does_not_end_a_command_that_works_itself(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[int] = []

    def tick(self: Worker) -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise Unavailable("The database is busy with another change; nothing was saved.")

    monkeypatch.setattr(Worker, "tick", tick)
    run_here(settings, engine, lambda: len(ticks) == 2)
    assert len(ticks) == 2


def test_a_busy_database_is_a_line_in_the_log_of_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def tick() -> None:
        raise Unavailable("The database is busy with another change; nothing was saved.")

    log_expected_errors(tick)()
    assert "tick was not done: The database is busy" in caplog.text
    assert "Traceback" not in caplog.text
    with pytest.raises(ZeroDivisionError):
        log_expected_errors(lambda: 1 / 0)()


def test_the_rate_is_of_the_last_seconds_and_forgets_a_slow_start(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes until the first step, then two steps a second."""
    moment = [0.0]
    monkeypatch.setattr(context.time, "monotonic", lambda: moment[0])
    rates = []
    claimed = Job(kind="train", title="")
    one = context.JobContext(
        settings, engine, claimed, jobs.Claim(1, 1),
        lambda kind, said: rates.append(said.get("rate") if kind == "progress" else None),
    )  # fmt: skip
    one.stage("Training", 1000)
    for step in range(1, 200):
        moment[0] = 600 + step / 2
        one.progress(step)
    told = [rate for rate in rates if rate]
    assert told == pytest.approx([2.0] * len(told)) and len(told) > 190
    for step in range(200, 300):  # four times as slow: soon known
        moment[0] = 700 + 2 * (step - 200)
        one.progress(step)
    assert rates[-1] == pytest.approx(0.5)


def test_a_job_that_ended_tells_the_last_of_what_it_did(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came within a fifth of a second of the report before, and “24 of 30” stood for good."""

    def work(path: str, job: context.JobContext) -> dict[str, int]:
        job.stage("Importing", 30)
        for done in range(1, 31):
            job.progress(done)
        return {"added": 30}

    monkeypatch.setattr(job_process, "call", work)
    monkeypatch.setattr(job_process, "lower_priority", lambda by: None)
    monkeypatch.setattr(job_process.logs, "configure", lambda settings: None)
    with sessions.writing(engine) as session:
        job_id = jobs.enqueue(session, "import", "Import", {}).id
        jobs.claim_next(session, [job_id])
    ours, theirs = multiprocessing.Pipe()
    job_process.main(settings, job_id, 1, theirs)
    events = []
    while ours.poll():
        events.append(ours.recv())
    assert events[-1] == ("done", {"added": 30})
    assert [said["done"] for kind, said in events if kind == "progress"][-1] == 30


@pytest.mark.slow
def test_the_worker_begins_a_training_by_itself(tmp_path: Path) -> None:
    settings = settings_in(trained_home(tmp_path / "home"))
    engine = migrate(settings)
    with sessions.writing(engine) as session:
        project = projects.by_name(session, "Anime")
        projects.change(session, project, auto_train_every=2, recipe="ridge")
        person = projects.annotator(session, "me")
        for image_id in project_images(session, project)[:2]:
            scores.record(session, project, image_id, person, "set", 6)

    def made() -> Version | None:
        with sessions.reading(engine) as session:
            newest = select(Version).order_by(col(Version.id).desc()).limit(1)
            version = session.exec(newest).one()
            return version if version.state == "ready" and version.number == "v1.1" else None

    with running(settings.root, "worker"):
        version = until(made, 240, "for v1.1")
    assert version.note == "by itself: 2 new scores"
    engine.dispose()
