"""What was acknowledged is there, however the server ends."""

import os
import signal
import sqlite3
import threading
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest
from web_world import make_world

from tests.conftest import free_port, running, until

KILLS = int(os.environ.get("KILLS", "3"))  # a hundred before a release: a few minutes
PEOPLE = 4


class Person(threading.Thread):
    """Scores images as fast as the server answers, and remembers what it was told is saved. After
    an error it sends the same score again under the same key, as the page does."""

    def __init__(self, url: str, project: str, images: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.at, self.images = f"{url}/api/v1{project}/scores", images
        self.random = np.random.default_rng(seed)
        self.acknowledged: dict[str, tuple[int, int, int]] = {}  # key -> event, image, value
        self.refused: list[str] = []  # anything but "saved" and "busy"
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
                    try:
                        answer = client.post(self.at, json=said)
                    except httpx.TransportError:
                        self.ending.wait(0.05)  # the server is away: the page tries again too
                        continue
                    if answer.status_code not in (200, 503):
                        self.refused.append(answer.text)
                        return
                    if answer.status_code == 200:
                        self.acknowledged[key] = (answer.json()["event_id"], image, value)


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


def check(home: Path, people: list[Person]) -> None:
    """Every acknowledged score stands once, as it was said; the file is sound, and each label is
    what its newest score says."""
    assert [text for person in people for text in person.refused] == []
    told = {key: said for person in people for key, said in list(person.acknowledged.items())}
    with sqlite3.connect(f"file:{home / 'tastemaker.db'}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute('SELECT "key", id, image_id, value FROM score_event').fetchall()
        stored = {key: (event, image, value) for key, event, image, value in rows}
        assert len(stored) == len(rows), "a score was stored twice"
        assert {key: stored.get(key) for key in told} == told
        newest = {image: value for _, _, image, value in sorted(rows, key=lambda row: row[1])}
        labels = dict(database.execute("SELECT image_id, value FROM label"))
        assert labels == newest
    database.close()
