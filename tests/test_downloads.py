"""Weights are fetched with progress, from a server that stands in for the Hugging Face hub, and
half of a file is never taken for one."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from sqlalchemy import Engine

from tastemaker import projects
from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Job
from tastemaker.encoding import downloads
from tastemaker.jobs.progress import download_of
from tests import pictures
from tests.conftest import work_on

REPOSITORY, FILE = "nobody/tiny", "open_clip_pytorch_model.bin"
NAMES = ["open_clip_model.safetensors", FILE]
WEIGHTS = os.urandom(3_000_000)


class Hub(ThreadingHTTPServer):
    """Has one file of weights. `broken`: it sends half of the file, ends the connection, and
    answers no further request for it. `busy`: it does not say whether it has another file."""

    broken = False
    busy = False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        there = self.path.endswith(f"/{FILE}")
        if self.server.busy and not there:
            self.send_error(503)
            return
        self.send_response(200 if there else 404)
        if not there:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"the-hash"')
        self.send_header("Content-Length", str(len(WEIGHTS) if there else 0))
        self.end_headers()

    def do_GET(self) -> None:
        if self.server.broken and "Range" in self.headers:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(WEIGHTS)))
        self.end_headers()
        self.wfile.write(WEIGHTS[: len(WEIGHTS) // 2] if self.server.broken else WEIGHTS)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(("127.0.0.1", 0), Answer)
    url = f"http://127.0.0.1:{hub.server_address[1]}"
    constants: dict[str, Any] = {
        "ENDPOINT": url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": False,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "DOWNLOAD_CHUNK_SIZE": 300_000,
    }  # fmt: skip
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def test_half_of_a_file_is_never_one_and_the_next_try_brings_it_whole(
    hub: Hub, tmp_path: Path
) -> None:
    blobs = tmp_path / "hub" / "models--nobody--tiny" / "blobs"
    left = pictures.write(blobs / "killed.incomplete", b"of a process that was killed")
    os.utime(left, (0, 0))
    other = pictures.write(blobs / "other.incomplete", b"of one that is at it now")
    told: list[tuple[int, int]] = []
    hub.broken = True
    with downloads.reported_to(lambda *at: told.append(at)), pytest.raises(Exception, match="503"):
        downloads.fetch(REPOSITORY, NAMES)
    assert 0 < told[-1][0] < told[-1][1] == len(WEIGHTS)
    assert [*blobs.iterdir()] == [other], "no half is left, but for another's that still grows"
    assert huggingface_hub.try_to_load_from_cache(REPOSITORY, FILE) is None

    hub.broken, told[:] = False, []
    with downloads.reported_to(lambda *at: told.append(at)):
        file = downloads.fetch(REPOSITORY, NAMES)
    assert file.read_bytes() == WEIGHTS
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS)) and len(told) >= 10
    assert downloads.fetch(REPOSITORY, NAMES) == file, "from the cache"


def test_where_the_hub_does_not_answer_no_other_file_is_fetched_in_its_place(hub: Hub) -> None:
    hub.busy = True
    with pytest.raises(LocalEntryNotFoundError):
        downloads.fetch(REPOSITORY, NAMES)
    assert huggingface_hub.try_to_load_from_cache(REPOSITORY, FILE) is None
    hub.busy = False
    file = downloads.fetch(REPOSITORY, NAMES)
    hub.busy = True
    assert downloads.fetch(REPOSITORY, NAMES) == file, "what was fetched before serves"


def test_the_job_tells_megabytes_and_then_that_the_encoder_is_loaded(
    hub: Hub, settings: Settings, engine: Engine
) -> None:
    with writing(engine) as session:
        project = projects.create(session, "Photos")
        job = Job(project_id=project.id, kind="embed", title="Embed", state="queued")
        session.add(job)
        session.flush()
        job_id = job.id
    events: list[tuple[str, Any]] = []
    work = work_on(settings, engine, job_id)
    work._emit = lambda *event: events.append(event)
    with downloads.reported_to(download_of(work, "A/b")):
        downloads.fetch(REPOSITORY, NAMES)
    stages = [fields for kind, fields in events if kind == "progress" and "message" in fields]
    assert [(fields["message"], fields["total"]) for fields in stages] == [
        ("Fetching the weights of A/b, in MB", 3), ("Loading the encoder A/b", 0),
    ]  # fmt: skip
