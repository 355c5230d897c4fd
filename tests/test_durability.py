"""What was acknowledged is there, however the server ends and whatever runs beside it."""

import math
import os
import signal
import sqlite3
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlmodel import col, delete, func, select
from web_world import make_world, settings_in

from tastemaker import jobs, projects
from tastemaker.cli.doctor import examine
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Embedding, Image, Job, ScoreEvent
from tastemaker.training import retrain
from tests.conftest import free_port, running, serving, until

# `make soak`, before a release: a hundred kills, twenty minutes of load.
KILLS = int(os.environ.get("KILLS", "3"))
LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS", "6"))
PEOPLE, CROWD, EACH_PER_SECOND = 4, 10, 5


class Person(threading.Thread):
    """Scores images as fast as the server answers, or at a pace, and remembers what it was told is
    saved. After an error it sends the same score again under the same key, as the page does."""

    def __init__(
        self, url: str, project: str, images: int, seed: int, per_second: float = math.inf
    ) -> None:
        super().__init__(daemon=True)
        self.at, self.images = f"{url}/api/v1{project}/scores", images
        self.pause = 1 / per_second
        self.took: list[float] = []  # milliseconds of each answer
        self.random = np.random.default_rng(seed)
        self.acknowledged: dict[str, tuple[int, int, int]] = {}  # key -> event, image, value
        self.refused: list[str] = []  # anything but "saved" and "busy"
        self.busy = 0  # answers that it is, and to come again
        self.ending = threading.Event()

    def run(self) -> None:
        with httpx.Client(headers={"Origin": self.at.split("/api")[0]}, timeout=10) as client:
            while not self.ending.is_set():
                image, value = (
                    int(self.random.integers(1, self.images + 1)),
                    int(self.random.integers(11)),
                )
                key = uuid.uuid4().hex
                said = {"image_id": image, "value": value, "key": key}
                while key not in self.acknowledged and not self.ending.is_set():
                    began = time.perf_counter()
                    try:
                        answer = client.post(self.at, json=said)
                    except httpx.TransportError:
                        self.ending.wait(0.05)  # the server is away: the page tries again too
                        continue
                    self.busy += answer.status_code == 503
                    if answer.status_code not in (200, 503):
                        self.refused.append(answer.text)
                        return
                    if answer.status_code == 200:
                        self.took.append(1000 * (time.perf_counter() - began))
                        self.acknowledged[key] = (answer.json()["event_id"], image, value)
                        self.ending.wait(self.pause)


@pytest.mark.slow
def test_a_score_that_was_acknowledged_survives_every_kill_of_the_server(tmp_path: Path) -> None:
    images = 40
    world = make_world(tmp_path, images=images)
    world.engine.dispose()
    home, port = world.settings.home, free_port()
    url = f"http://127.0.0.1:{port}"
    people = [Person(url, world.at, images, seed) for seed in range(PEOPLE)]
    random = np.random.default_rng(0)

    def acknowledged() -> int:
        return sum(len(person.acknowledged) for person in people)

    for number in range(KILLS + 1):
        with running(home, "serve", "--port", str(port), "--no-worker") as server:
            if not number:
                for person in people:
                    person.start()
            enough = acknowledged() + int(random.integers(20, 120))
            until(lambda enough=enough: acknowledged() >= enough, 60, "for scores")
            if number < KILLS:
                server.send_signal(signal.SIGKILL)
                server.wait()
                check(home, people)
                continue
            for person in people:
                person.ending.set()
            for person in people:
                person.join()
                assert person.acknowledged
    check(home, people)
    assert acknowledged() > 20 * KILLS


@pytest.mark.slow
def test_ten_people_lose_nothing_beside_an_embedding_and_a_training(sample: Path) -> None:
    """Fifty scores a second while the worker embeds and trains again and again. The times are told
    and fail nothing: they are this machine's."""
    settings = settings_in(sample)
    engine = migrate(settings)
    with reading(engine) as session:
        before = session.exec(select(func.count()).select_from(ScoreEvent)).one()
        images = session.exec(select(func.count()).select_from(Image)).one()

    def keep_the_worker_busy() -> None:
        """An embedding and a training run, or wait to."""
        with writing(engine) as session:
            at_work = session.exec(
                select(Job.kind).where(col(Job.state).not_in(jobs.FINISHED))
            ).all()
            project = projects.get(session, 1)
            begins = "train" not in at_work
            if begins:
                retrain.request_training(session, settings, project, recipe="ridge")
            if begins and "embed" not in at_work:  # no vector goes from under a training
                session.execute(delete(Embedding).where(col(Embedding.image_id) % 10 == 0))
                jobs.enqueue(session, "embed", "Embed", {}, project.id)

    with serving(sample) as url:
        people = [
            Person(url, "/projects/1", images, seed, EACH_PER_SECOND) for seed in range(CROWD)
        ]
        for person in people:
            person.start()
        end = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < end:
            keep_the_worker_busy()
            people[0].ending.wait(1)
        for person in people:
            person.ending.set()
        for person in people:
            person.join()
    stored_once(sample, people)
    assert [finding for finding in examine(settings) if finding.level == "damage"] == []
    took = np.concatenate([person.took for person in people])
    p50, p95, p99 = np.percentile(took, [50, 95, 99])
    busy = sum(person.busy for person in people)
    print(
        f"\n| {CROWD} people, {len(took):,} scores in {LOAD_SECONDS:g} s beside an embedding and "
        f"a training | p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms | {busy} answers of 5xx "
        "| 0 lost |"
    )
    with reading(engine) as session:
        after = session.exec(select(func.count()).select_from(ScoreEvent)).one()
        failed = session.exec(select(Job.message).where(Job.state == "failed")).all()
    assert after - before == len(took) > CROWD and failed == []


def check(home: Path, people: list[Person]) -> None:
    """Every acknowledged score stands once; the file is sound, and each label is what its newest
    score says."""
    stored_once(home, people)
    with closing(sqlite3.connect(f"file:{home / 'tastemaker.db'}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT image_id, value FROM score_event ORDER BY id").fetchall()
        assert dict(database.execute("SELECT image_id, value FROM label")) == dict(rows)


def stored_once(home: Path, people: list[Person]) -> None:
    """What was acknowledged is stored once, as it was said; nothing was refused."""
    assert [text for person in people for text in person.refused] == []
    told = {key: said for person in people for key, said in list(person.acknowledged.items())}
    with closing(sqlite3.connect(f"file:{home / 'tastemaker.db'}?mode=ro", uri=True)) as database:
        rows = database.execute(
            'SELECT "key", id, image_id, value FROM score_event WHERE "key" IS NOT NULL'
        ).fetchall()
        stored = {key: (event, image, value) for key, event, image, value in rows}
        assert len(stored) == len(rows), "a score was stored twice"
        assert {key: stored.get(key) for key in told} == told
