"""A real S3-compatible store in the process of the tests: moto's, with a door in front of it that
counts what is asked for, and breaks connections off or refuses where a test wants it."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
from moto import settings
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

BUCKET = "pictures"
NO_ENTRY = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Store:
    """`got` counts the GETs of contents by key, `asked` has their ranges in order. A key in
    `broken` is broken off in the middle so many times more; one in `refused` is not
    given to anybody. `arrived` is called with the key before it is answered. Who shows no
    credentials is given what is public."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.reset()
        self._server = make_server("127.0.0.1", 0, self._door, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.got: Counter[str] = Counter()
        self.asked: list[tuple[str, str | None]] = []
        self.queries: list[str] = []
        self.broken: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.arrived: Callable[[str], None] = lambda key: None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="test",
            aws_secret_access_key="test",
        )  # fmt: skip

    def put(self, folder: Path, prefix: str) -> str:
        """Every file of a folder below a prefix; gives the address of the prefix."""
        client = self.client
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def replace(self, key: str, content: bytes) -> None:
        """Other content for a key, written a minute after the first: times are told in seconds."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        written = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET].keys[key]
        written.last_modified += timedelta(minutes=1)

    def _door(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        _, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        reads = environ["REQUEST_METHOD"] == "GET" and bool(key)
        if reads:
            self.got[key] += 1
            self.asked.append((key, environ.get("HTTP_RANGE")))
            self.queries.append(environ.get("QUERY_STRING", ""))
            self.arrived(key)
        if key in self.refused:
            start("403 Forbidden", [("Content-Type", "text/xml"),
                                    ("Content-Length", str(len(NO_ENTRY)))])  # fmt: skip
            return [NO_ENTRY]
        answer = self._app(environ, start)
        if reads and self.broken[key] > 0:
            self.broken[key] -= 1
            return _half(answer)
        return answer


def _half(answer: Iterable[bytes]) -> Iterator[bytes]:
    """What was promised in the header does not come: the server closes the connection."""
    content = b"".join(answer)
    yield content[: len(content) // 2]


@contextmanager
def serving() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    settings.S3_IGNORE_SUBDOMAIN_BUCKETNAME = True
    store = Store()
    store.client.create_bucket(Bucket=BUCKET)
    try:
        yield store
    finally:
        store.close()
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
