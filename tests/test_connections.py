"""Clients that are slow, stand idle or are too many, against a real server and real sockets."""

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tastemaker.auth.connections import PROGRESS
from tests.conftest import serving, until
from tests.web_world import make_world

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MOST = 8
SECONDS = 0.6


@dataclass
class Server:
    port: int
    home: Path

    @contextlib.contextmanager
    def opened(self, request: bytes = b"", receive_buffer: int = 0) -> Iterator[socket.socket]:
        """A connection over which so much of a request was sent."""
        with socket.socket() as client:
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.settimeout(20)
            client.connect(("127.0.0.1", self.port))
            client.sendall(request)
            yield client

    def post(self, path: str, body: bytes, kind: str, announced: int | None = None) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {announced or len(body)}\r\n\r\n"
        ).encode() + body

    def score(self, image: int, announced: int | None = None) -> bytes:
        body = json.dumps({"image_id": image, "value": 5, "key": f"key-of-image-{image}"}).encode()
        path = "/api/v1/projects/1/scores"
        return self.post(path, body, "application/json", announced)

    def upload(self, announced: int = 10**6) -> bytes:
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nPNG'
        path = "/projects/1/add/files"
        return self.post(path, part, "multipart/form-data; boundary=b", announced)

    def state_of(self, client: socket.socket) -> str:
        """In what state the kernel has the server's end of a connection; "" once it is gone."""
        ends = [f"0100007F:{port:04X}" for port in (self.port, client.getsockname()[1])]
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return next((row[3] for row in rows if row[1:3] == ends), "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    world = make_world(tmp_path_factory.mktemp("world"), images=40)
    world.engine.dispose()
    bounds = {"TASTEMAKER_IDLE_SECONDS": str(SECONDS), "TASTEMAKER_MAX_CONNECTIONS": str(MOST)}
    with serving(world.settings.home, "--no-worker", **bounds) as url:
        yield Server(int(url.rpartition(":")[2]), world.settings.home)


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(2**16):
            answer += piece
    return answer


def first_line(client: socket.socket) -> bytes:
    return client.recv(2**16).split(b"\r\n")[0]


def dripped(client: socket.socket, drop: bytes) -> bytes:
    """The answer to a body or head of which a byte comes now and then."""
    client.settimeout(0.1)
    for _ in range(200):
        try:
            client.sendall(drop)
            if answer := client.recv(2**16):
                client.settimeout(20)
                return answer + everything(client)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
    return b""


def test_a_body_that_drips_is_answered_with_408_and_nothing_of_it_is_kept(server: Server) -> None:
    with server.opened(server.upload()) as client:
        answer = dripped(client, b"x")
    assert answer.startswith(b"HTTP/1.1 408") and b"nothing of it was kept" in answer
    assert b"connection: close" in answer.lower()
    assert list((server.home / "incoming").glob("*")) == []
    with server.opened(server.score(1, announced=500)) as client:
        answer = everything(client)  # nothing more is sent at all
    assert answer.startswith(b"HTTP/1.1 408") and b'"error"' in answer
    with server.opened(server.score(1)) as client:
        assert first_line(client) == b"HTTP/1.1 200 OK"


def test_a_body_that_goes_on_slowly_comes_in(server: Server) -> None:
    """Longer in all than a pause may be, but never so long without progress."""
    said = json.dumps({"image_id": 2, "value": 5, "key": "key-of-image-2"}).encode()
    body = said + b" " * 4 * PROGRESS
    request = server.post("/api/v1/projects/1/scores", body, "application/json")
    cut = len(request) - len(body)
    began = time.monotonic()
    with server.opened(request[:cut]) as client:
        client.settimeout(SECONDS / 2)
        for start in range(0, len(body), PROGRESS):
            with contextlib.suppress(TimeoutError):
                assert not client.recv(1), "it was refused while it went on"
            client.sendall(body[start : start + PROGRESS])
        client.settimeout(20)
        assert first_line(client) == b"HTTP/1.1 200 OK"
    assert time.monotonic() - began > 2 * SECONDS


def test_a_head_that_drips_is_answered_and_a_silent_connection_is_closed(server: Server) -> None:
    with server.opened(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ") as client:
        answer = dripped(client, b"x")
    assert answer.startswith(b"HTTP/1.1 408") and b"nothing was changed" in answer
    with server.opened() as client:
        assert everything(client) == b""


def test_an_answer_that_nobody_reads_is_given_up(server: Server) -> None:
    largest = max((ROOT / "static").rglob("*.js"), key=lambda path: path.stat().st_size)
    request = f"GET /{largest.relative_to(ROOT)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with server.opened(receive_buffer=4096) as client:
        client.settimeout(0.2)
        assert server.state_of(client) == "01"
        with contextlib.suppress(TimeoutError):
            for _ in range(400):
                client.sendall(request)
        until(lambda: server.state_of(client) != "01", 20, "for the server to close")


def test_however_many_connections_stand_open_a_score_is_saved(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        standing = [
            stack.enter_context(server.opened(kind))
            for kind in (b"", b"GET / HT", server.upload(), server.score(3, announced=900))
            for _ in range(MOST)
        ]
        began = time.monotonic()
        with server.opened(server.score(4)) as client:
            assert first_line(client) == b"HTTP/1.1 200 OK"
            assert server.state_of(client) == "01"
        assert time.monotonic() - began < 20 * SECONDS
        opened = [one for one in standing if server.state_of(one) == "01"]
        assert len(opened) <= MOST, "the others made room"


def test_where_every_connection_is_at_work_the_next_is_told_to_come_again(server: Server) -> None:
    database = sqlite3.connect(server.home / "tastemaker.db", isolation_level=None)
    with contextlib.closing(database), contextlib.ExitStack() as stack:
        database.execute("BEGIN IMMEDIATE")  # so that the scores wait in the server
        waiting = [stack.enter_context(server.opened(server.score(10 + n))) for n in range(MOST)]

        def told() -> bool:
            with server.opened(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
                answer = client.recv(2**16)
            return b" 503 " in answer and b"retry-after" in answer and b"at work" in answer

        until(told, 20, "for every connection to be at work")
        database.execute("ROLLBACK")
        assert {first_line(client) for client in waiting} == {b"HTTP/1.1 200 OK"}
