"""Home folders worth a photograph: one where everything has happened, and one where nothing has."""

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores, versions
from tastemaker.auth import accounts
from tastemaker.config import Settings
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Image, Job, JobLog, Label, Project, TestRun, now
from tastemaker.evaluation import test_run_cards, test_runs
from tastemaker.library import filters, saved_filters
from tastemaker.scores import comparisons

OTHERS = 48  # pictures that the test runs look at


def settings_of(home: Path) -> Settings:
    return Settings(home=home, _env_file=None)  # type: ignore[call-arg]


def environment(home: Path, **more: str) -> dict[str, str]:
    return os.environ | {"TASTEMAKER_HOME": str(home)} | more


def make_sample(home: Path) -> None:
    """The sample project, as `tastemaker demo` makes it."""
    words = [sys.executable, "-m", "tastemaker.cli", "demo", "--no-serve"]
    subprocess.run(words, env=environment(home), check=True)


def empty(home: Path) -> None:
    """A project in which nothing has been done."""
    with writing(migrate(settings_of(home))) as session:
        projects.create(session, "City photos")


# --- the home where everything has happened ------------------------------------------------------


def live_in(home: Path) -> None:
    """What people say in the sample project within a week: a second person's scores, flags, skips,
    pairs, a saved filter, a job that failed."""
    engine = migrate(settings_of(home))
    with writing(engine) as session:
        project = projects.get(session, 1)
        me = projects.annotator(session, settings_of(home).annotator)
        scored = _labelled(session, project)
        for place, (image_id, label) in enumerate(scored[:60]):
            mine = min(10, max(0, round(label) + (0, 0, 1, -1, 0)[place % 5]))
            scores.record(session, project, image_id, me, "set", mine)
        accounts.add(session, "Mira", "a long enough password")
        mira = projects.annotator(session, "Mira")
        for place, (image_id, label) in enumerate(scored[20:90]):
            hers = min(10, max(0, round(label) + (1, 2, 0, 1, -1)[place % 5]))
            scores.record(session, project, image_id, mira, "set", hers)
        waiting = _unlabelled(session, project)
        for image_id in waiting[:3]:
            scores.record(session, project, image_id, me, "flag", note="is this one a copy?")
        for image_id in waiting[3:8]:
            scores.record(session, project, image_id, me, "skip")
        best = comparisons.labels_between(session, project, 8)
        for first, second in itertools.pairwise(best[:9]):
            comparisons.record(session, project, me, first, second, "first")
        saved_filters.save(session, project, "Good portraits", filters.LibraryFilter(label_min=7))
        _failed(session, project)
    engine.dispose()


def _labelled(session: Session, project: Project) -> list[tuple[int, float]]:
    """(image id, label) of every image with a score, in the order of the ids."""
    query = select(Label.image_id, Label.value).where(Label.project_id == project.id)
    rows = session.exec(query.order_by(col(Label.image_id))).all()
    return [(image_id, value) for image_id, value in rows]


def _unlabelled(session: Session, project: Project) -> list[int]:
    scored = {image_id for image_id, _ in _labelled(session, project)}
    ids = session.exec(select(Image.id).order_by(col(Image.id))).all()
    return [i for i in ids if i is not None and i not in scored]


def _failed(session: Session, project: Project) -> None:
    job = Job(
        project_id=project.id, kind="embed", title="Embed “Holiday”", state="failed", done=640,
        total=2000, attempts=3, started_at=now(), finished_at=now(),
        error="The worker stopped while it ran. It was tried 3 times.",
    )  # fmt: skip
    session.add(job)
    session.flush()
    for line in ("found 2,000 images", "640 embedded", "the process was killed by signal 9"):
        session.add(JobLog(job_id=job.id, line=line))  # type: ignore[arg-type]


def a_training_under_way(home: Path) -> None:
    """A running job as rows alone. Only where no worker looks: it would take the job for dead."""
    engine = migrate(settings_of(home))
    with writing(engine) as session:
        steps = list(range(0, 2001, 100))
        job = Job(
            project_id=1, kind="train", title="Train “Sample”", state="running", done=2000,
            total=5000, rate=310.0, message="fitting fold 2 of 5", attempts=1, started_at=now(),
            curve={
                "step": steps,
                "train": [0.3 * 0.9**i + 0.06 for i in range(len(steps))],
                "validation": [0.26 * 0.9**i + 0.11 for i in range(len(steps))],
            },
        )  # fmt: skip
        session.add(job)
    engine.dispose()


def try_on_others(home: Path) -> None:
    """Test runs of both versions on a collection, with three scores given there. Its pictures come
    from the pool, so that nothing has to be embedded."""
    engine = migrate(settings_of(home))
    with writing(engine) as session:
        project = projects.get(session, 1)
        others = images.collection_named(session, "Holiday")
        for image_id in _unlabelled(session, project)[8 : 8 + OTHERS]:
            images.put_in_collection(session, others.id, image_id)
        projects.add_collection(session, project, others, "test-run")
        me = projects.annotator(session, settings_of(home).annotator)
        for version in reversed(versions.list_ready(session, project)):
            run = TestRun(
                project_id=project.id, version_id=version.id, collection_id=others.id
            )  # fmt: skip
            session.add(run)
            session.flush()
            run.summary = test_runs.summarise(session, project, run, version)
        told = test_run_cards.get(session, project, run.id)
        for card in test_run_cards.cards(session, settings_of(home), project, told, "top", me, n=3):
            scores.record(session, project, card.image_id, me, "set", 3, offer=card.offer)
    engine.dispose()


@contextmanager
def writes_held(home: Path) -> Iterator[None]:
    """The write lock is taken, as by a program that hangs."""
    with writing(migrate(settings_of(home))) as session:
        session.connection()
        yield


@contextmanager
def serving(home: Path, *words: str, **more: str) -> Iterator[str]:
    """`tastemaker serve` on a free port. Yields its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "serve", "--port", str(port), *words],
        env=environment(home, **more), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                httpx.get(f"{url}/healthz", timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)
