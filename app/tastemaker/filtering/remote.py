"""Files behind addresses: S3-compatible object stores, by pyarrow's client, and web servers.

    store = store_of(address)
    for file in store.below("bucket/shards"):
        store.copy(file, into, threading.Event())

A connection that breaks is tried again, and goes on where it broke as far as the server does that.
"""

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

import httpx
import pyarrow as pa
from pyarrow import fs

from tastemaker.errors import (
    Forbidden,
    Invalid,
    NotFound,
    NotWritable,
    TastemakerError,
    Unavailable,
    of_the_disk,
)
from tastemaker.files.addresses import S3, WEB, Address

WAITS = (1.0, 4.0, 15.0)  # seconds before each further try
SECONDS = 60.0  # without a byte, until a server is taken for gone
CONNECT_SECONDS = 10.0
PIECE = 2**24  # bytes of an object that are asked for at once
CONNECTIONS = 8  # of one file, or for the heads of many

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """`version` changes when the content does: what the server says of it, or its time."""

    address: Address
    size: int  # bytes
    version: str

    @property
    def facts(self) -> tuple[str, int, str]:
        return str(self.address), self.size, self.version


NEVER = Event()  # what is set once nobody wants the rest any more, where that cannot be


class Store(Protocol):
    """All of it raises `TastemakerError` in words, what may pass after it was tried again."""

    def below(self, path: str) -> list[RemoteFile]:
        """The files below a folder, with those of its folders; `NotFound` where there is none."""

    def facts(self, address: Address) -> RemoteFile | None:
        """None where there is no such file."""

    def read(self, file: RemoteFile, start: int, count: int) -> bytes: ...

    def copy(self, file: RemoteFile, into: Path, stopped: Event) -> None: ...


def store_of(address: Address) -> Store:
    """The one that an address is of."""
    return _Web() if address.scheme in WEB else _Bucket(address.path.partition("/")[0])


def pause(seconds: float, stopped: Event) -> None:
    """Wait before a further try, as long as somebody wants it."""
    stopped.wait(seconds)


class NoHost(Unavailable):
    """Nobody knows the name of the host."""


_answered: set[tuple[str, str]] = set()  # hosts and buckets that this process has had something of


def tried(call: Callable[[], T], address: Address, stopped: Event = NEVER) -> T:
    """What the call gives, tried again where a connection breaks; not where the name of a host that
    never answered is unknown, which is mistyped. Raises what happened in words: nothing of the
    error itself is told, or kept as its cause, for it may hold a signed query."""
    waits, host = iter(WAITS), (address.scheme, address.path.partition("/")[0])
    while True:
        try:
            given = call()
        except (OSError, pa.ArrowException, httpx.HTTPError, httpx.InvalidURL) as error:
            told, wait = in_words(error, address), next(waits, None)
        else:
            _answered.add(host)
            return given
        mistyped = isinstance(told, NoHost) and host not in _answered
        if wait is None or stopped.is_set() or mistyped or not isinstance(told, Unavailable):
            raise told
        pause(wait, stopped)


REFUSED = (
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|MISSING_AUTH|"
    "UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN_ID|INVALID_TOKEN|EXPIRED_TOKEN|HTTP status 40[13]"
)


def in_words(error: Exception, address: Address) -> TastemakerError:
    """`Unavailable` for what may pass."""
    if isinstance(error, OSError) and error.filename:  # of this machine
        told = (error.strerror or "").lower()
        return of_the_disk(error) or NotWritable(
            f"{error.filename} cannot be written: {told}.", "Name another folder in TMPDIR."
        )
    if isinstance(error, pa.ArrowInvalid | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return Invalid(f"{address} is no address that can be asked for.", "Check how it is spelt.")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"There is nothing at {address}.", "Check the address.")
    if isinstance(error, httpx.HTTPStatusError):
        return _of_status(error.response.status_code, address)
    told = str(error)
    if address.scheme == S3:
        bucket = address.path.partition("/")[0]
        if "NO_SUCH_BUCKET" in told or re.search(r"Bucket '.*' not found", told):
            return NotFound(
                f"There is no bucket “{bucket}”.", "Check its name, and AWS_ENDPOINT_URL if it is "
                "not one of Amazon's.",
            )  # fmt: skip
        if re.search(REFUSED, told):
            return Forbidden(
                f"The store does not let {address} be read with the credentials that were found, "
                "or found none.",
                "They are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from "
                "~/.aws/credentials (AWS_PROFILE), or from the role of the machine.",
            )
        if "HTTP status 301" in told:
            return Invalid(f"The bucket “{bucket}” lies in another region.", "Set AWS_REGION.")
    if _is_no_host(error):
        endpoint = " and AWS_ENDPOINT_URL" if address.scheme == S3 else ""
        return NoHost(
            f"{address} cannot be read: nobody knows the name of its host.",
            f"Check how the address{endpoint} {'are' if endpoint else 'is'} spelt, and the "
            "connection to the network.",
        )
    return Unavailable(
        f"{address} cannot be read: {_why(error, told)}.", "Run it again when the server answers."
    )


def _is_no_host(error: BaseException | None) -> bool:
    """Whether the name of a host could not be found: what looked for it is told by what it caused,
    and by curl, whose numbers 5 and 6 are these."""
    while error is not None:
        if isinstance(error, socket.gaierror) or re.search(r"curlCode: [56]\b", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_status(status: int, address: Address) -> TastemakerError:
    if status in (401, 403):
        return Forbidden(
            f"The server does not let {address} be read (status {status}).",
            "A signed address may be too old.",
        )
    if status in (404, 410):
        return NotFound(f"There is nothing at {address}.", "Check the address.")
    if status == 429 or status >= 500:
        return Unavailable(
            f"{address} cannot be read: the server answers with status {status}.",
            "Run it again later.",
        )
    return Invalid(f"The server does not give {address}: status {status}.", "Check the address.")


def _why(error: Exception, told: str) -> str:
    """Of what others wrote, no more than words of our own."""
    if isinstance(error, _Short):
        return str(error)
    if isinstance(error, httpx.TimeoutException) or "timed out" in told.lower():
        return "the server does not answer in time"
    if isinstance(error, httpx.ConnectError) or re.search(r"curlCode: 7\b", told):
        return "there is no server, or no way to it"
    if "NETWORK_CONNECTION" in told or isinstance(error, httpx.TransportError):
        return "the connection broke"
    found = re.search(r"AWS Error ([A-Z_]+)", told)
    return f"the store answers {found[1]}" if found else "the connection broke"


class _Short(OSError):
    """Fewer bytes came than there are."""


# --- object stores --------------------------------------------------------------------------------


class _Bucket:
    """A bucket of Amazon's, or of the store at `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`."""

    def __init__(self, bucket: str) -> None:
        self._root = Address(S3, bucket)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        try:
            client, region_of = fs.S3FileSystem, fs.resolve_s3_region
        except ImportError:
            raise Invalid(
                "The pyarrow that is installed here was built without S3.",
                "Install it from PyPI: pip install --force-reinstall pyarrow.",
            ) from None
        if not endpoint and not region:

            def asked() -> str:  # pyarrow asks several times before it says that nobody knows it
                socket.getaddrinfo(f"{bucket}.s3.us-east-1.amazonaws.com", 443)
                return str(region_of(bucket))

            region = tried(asked, self._root)
        self._fs: Any = client(
            endpoint_override=endpoint or None, region=region, request_timeout=SECONDS,
            connect_timeout=CONNECT_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # `tried` does it
        )  # fmt: skip

    def below(self, path: str) -> list[RemoteFile]:
        place = self._root.at(path)
        selector = fs.FileSelector(path, recursive=True)
        found = tried(lambda: self._fs.get_file_info(selector), place)
        return [self._known(info) for info in found if info.type == fs.FileType.File]

    def facts(self, address: Address) -> RemoteFile | None:
        info = tried(lambda: self._fs.get_file_info(address.path), address)
        return self._known(info) if info.type == fs.FileType.File else None

    def _known(self, info: Any) -> RemoteFile:
        return RemoteFile(self._root.at(info.path), info.size, str(info.mtime_ns))

    def read(self, file: RemoteFile, start: int, count: int) -> bytes:
        def once() -> bytes:
            with self._fs.open_input_file(file.address.path) as opened:
                return self._read(opened, start, count)

        return tried(once, file.address)

    def _read(self, opened: Any, start: int, count: int) -> bytes:
        content: bytes = opened.read_at(count, start)
        if len(content) < count:
            raise _Short(f"only {start + len(content):,} bytes came")
        return content

    def copy(self, file: RemoteFile, into: Path, stopped: Event) -> None:
        opened = tried(lambda: self._fs.open_input_file(file.address.path), file.address, stopped)

        def copy_piece(start: int) -> None:
            if stopped.is_set():
                return
            count = min(PIECE, file.size - start)
            content = tried(lambda: self._read(opened, start, count), file.address, stopped)
            with into.open("r+b") as out:
                out.seek(start)
                out.write(content)

        with into.open("wb") as out:
            out.truncate(file.size)
        with opened:
            _each(copy_piece, range(0, file.size, PIECE))
        if not stopped.is_set() and self.facts(file.address) != file:
            raise Unavailable(
                f"{file.address} was changed while it was read.", "Run it again: it is read anew."
            )


# --- web servers ----------------------------------------------------------------------------------


class _Web:
    """Web servers, each file by itself: they list none."""

    def __init__(self) -> None:
        self._client = httpx.Client(
            follow_redirects=True, timeout=httpx.Timeout(SECONDS, connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},  # else sizes are those of something else
        )  # fmt: skip

    def below(self, path: str) -> list[RemoteFile]:
        raise Invalid(
            "A web server does not say which files it has.",
            "Name one, or a range: https://HOST/shards/{000..127}.tar",
        )

    def facts(self, address: Address) -> RemoteFile | None:
        try:
            return tried(lambda: self._asked(address), address)
        except NotFound:
            return None

    def _asked(self, address: Address) -> RemoteFile:
        """By a GET of its first byte: what is signed for GET is refused to HEAD."""
        with self._get(address, {"Range": "bytes=0-0"}) as answer:
            size = _size_told(answer)
            version = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
        if size is None:
            raise Invalid(
                f"The server does not say how large {address} is, so nobody knows when it is "
                "whole.", "Copy it here, and score the copy.",
            )  # fmt: skip
        return RemoteFile(address, size, version)

    @contextlib.contextmanager
    def _get(self, address: Address, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        with self._client.stream("GET", address.url, headers=dict(headers)) as answer:
            if answer.status_code != 416:  # of an empty file
                answer.raise_for_status()
            yield answer

    def read(self, file: RemoteFile, start: int, count: int) -> bytes:
        def once() -> bytes:
            wanted = {"Range": f"bytes={start}-{start + count - 1}"}
            with self._get(file.address, wanted) as answer:
                skip = 0 if answer.status_code == 206 else start
                content = b""
                for some in answer.iter_raw():
                    content += some
                    if len(content) >= skip + count:
                        break
            if len(content) < skip + count:
                raise _Short(f"only {len(content):,} bytes came")
            return content[skip : skip + count]

        return tried(once, file.address)

    def copy(self, file: RemoteFile, into: Path, stopped: Event) -> None:
        into.write_bytes(b"")
        tried(lambda: self._go_on(file, into, stopped), file.address, stopped)

    def _go_on(self, file: RemoteFile, into: Path, stopped: Event) -> None:
        """From where a broken connection left off, as far as the server does that and the file is
        the same."""
        there = into.stat().st_size
        strong = file.version.startswith('"') or (file.version and "W/" not in file.version)
        headers = {}
        if there and strong:
            headers = {"Range": f"bytes={there}-", "If-Range": file.version}
        if there == file.size:
            return
        with self._get(file.address, headers) as answer:
            goes_on = answer.status_code == 206
            if _size_told(answer) != file.size:
                raise Unavailable(
                    f"{file.address} was changed while it was read.",
                    "Run it again: it is read anew.",
                )
            with into.open("ab" if goes_on else "wb") as out:
                for some in answer.iter_raw():
                    if stopped.is_set():
                        return
                    out.write(some)
        if into.stat().st_size != file.size:
            raise _Short(f"{into.stat().st_size:,} of its {file.size:,} bytes came")


def _size_told(answer: httpx.Response) -> int | None:
    """Of the whole file, whichever part of it is answered with."""
    ranged = re.search(r"/(\d+)$", answer.headers.get("content-range", ""))
    told = ranged[1] if ranged else answer.headers.get("content-length", "")
    partial = answer.status_code in (206, 416) and not ranged
    return int(told) if told.isdigit() and not partial else None


# --- many at once ---------------------------------------------------------------------------------


def _each(call: Callable[[Any], T], many: Sequence[Any] | range) -> list[T]:
    """What the call gives for each, some at a time; where one fails, the rest is not begun."""
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        return list(pool.map(call, many))
    finally:
        pool.shutdown(cancel_futures=True)


def facts_of(store: Store, addresses: Sequence[Address]) -> list[RemoteFile | None]:
    return _each(store.facts, addresses)


def heads_of(store: Store, files: Sequence[RemoteFile], most: int) -> list[bytes]:
    """The first bytes of each, so many at most."""
    return _each(lambda file: store.read(file, 0, min(most, file.size)), files)


def tails_of(store: Store, files: Sequence[RemoteFile], most: int) -> list[bytes]:
    """The last bytes of each."""

    def read(file: RemoteFile) -> bytes:
        count = min(most, file.size)
        return store.read(file, file.size - count, count)

    return _each(read, files)
