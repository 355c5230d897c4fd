"""An import and a training that go on and on in a running server, to measure beside."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ("queued", "running")


class Busy:
    """A server in which an import and a training run: the one into a project of its own, with the
    embedding behind it, the other in the project that is measured. Both were running at `seen` of
    `looks`."""

    def __init__(self, url: str, project: int, photos: Path, folder: Path) -> None:
        self._url, self._project, self._photos, self._folder = url, project, photos, folder
        self._into: int = self._post("projects", {"name": "Beside"})["id"]
        self._jobs: dict[str, int] = {}
        self._rounds = 0
        self.looks, self.seen = 0, 0

    def keep_up(self) -> None:
        """Begin what does not run (any more)."""
        states = {kind: self._state(job) for kind, job in self._jobs.items()}
        self.looks += 1
        self.seen += set(states.values()) == {"running"}
        if states.get("import") not in UNFINISHED:
            body = {"folder": str(self._new_photos())}
            self._jobs["import"] = self._post(f"projects/{self._into}/imports", body)["id"]
        if states.get("train") not in UNFINISHED:
            made = self._post(f"projects/{self._project}/train", {"recipe": "city96"})
            self._jobs["train"] = made["id"]

    def wait(self, seconds: float = 60) -> None:
        """Until both run. Raises `RuntimeError` if one does not begin."""
        for _ in range(int(20 * seconds)):
            if {self._state(job) for job in self._jobs.values()} == {"running"}:
                return
            threading.Event().wait(0.05)
        raise RuntimeError("an import or a training did not begin")

    def _new_photos(self) -> Path:
        """The photographs once more, as files of other bytes."""
        self._rounds += 1
        folder = self._folder / str(self._rounds)
        folder.mkdir(parents=True)
        for photo in self._photos.iterdir():
            (folder / photo.name).write_bytes(photo.read_bytes() + b"%d" % self._rounds)
        return folder

    def _state(self, job: int) -> str:
        with urllib.request.urlopen(f"{self._url}/api/v1/jobs/{job}") as answer:
            return str(json.load(answer)["state"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/api/v1/{path}", json.dumps(body).encode(),
            {"Content-Type": "application/json"}, method="POST",
        )  # fmt: skip
        with urllib.request.urlopen(request) as answer:
            made: dict[str, Any] = json.load(answer)
        return made


@contextmanager
def busy(url: str, project: int, photos: Path, folder: Path) -> Iterator[Busy]:
    """Meanwhile an import of `photos`, each time from a new folder in `folder` (outside the home),
    and a training run; a thread looks twice a second and begins what has ended."""
    load, ended = Busy(url, project, photos, folder), threading.Event()
    load.keep_up()
    load.wait()

    def keep_up() -> None:
        while not ended.wait(0.5):
            load.keep_up()

    thread = threading.Thread(target=keep_up, daemon=True)
    thread.start()
    try:
        yield load
    finally:
        ended.set()
        thread.join()
