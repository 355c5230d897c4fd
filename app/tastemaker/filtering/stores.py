"""Files behind addresses: S3-compatible object stores, by pyarrow's client, those of other makers,
by their packages, and web servers.

    store = store_of(address)
    for file in store.below("bucket/shards"):
        store.copy(file, into, threading.Event())

A connection that breaks is tried again, and goes on where it broke as far as the server does that.
"""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import httpx
from pyarrow import fs

from tastemaker.errors import Forbidden, Invalid, NotFound, Unavailable
from tastemaker.files.addresses import PACKAGES, S3, WEB, Address
from tastemaker.filtering.remote import (
    RemoteFile,
    ShortRead,
    Store,
    changed,
    each,
    no_bucket,
    require_same,
    tried,
)

SECONDS = 60.0  # without a byte, until a server is taken for gone
CONNECT_SECONDS = 10.0
PIECE = 2**24  # bytes of an object that are asked for at once


def store_of(address: Address) -> Store:
    """The one that an address is of."""
    if address.scheme in PACKAGES:
        return _Foreign(address)
    return _Web() if address.scheme in WEB else _Bucket(address.path.partition("/")[0])


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
            raise ShortRead(f"only {start + len(content):,} bytes came")
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
            each(copy_piece, range(0, file.size, PIECE))
        if not stopped.is_set():
            require_same(self, file)

    def require_bucket(self) -> None:
        with contextlib.suppress(Forbidden):  # who may only write there
            info = tried(lambda: self._fs.get_file_info(self._root.path), self._root)
            if info.type == fs.FileType.NotFound:
                raise no_bucket(self._root.path)

    def put(self, file: Path, address: Address) -> None:
        """The store shows an object once all of it came. One that is broken off on this side is
        shown too, as far as it came, and is deleted."""
        before = self.facts(address)

        def once() -> None:
            try:
                with file.open("rb") as content, self._fs.open_output_stream(address.path) as out:
                    shutil.copyfileobj(content, out, PIECE)
            except BaseException:
                with contextlib.suppress(Exception):
                    if self.facts(address) != before:
                        self._fs.delete_file(address.path)
                raise

        tried(once, address, done="written")
        _require_whole(self, file, address)


class _Foreign:
    """The stores that packages of others read, by their common interface, fsspec."""

    def __init__(self, address: Address) -> None:
        package = PACKAGES[address.scheme]
        try:
            import fsspec

            fsspec.get_filesystem_class(address.scheme)
        except ImportError:
            raise Invalid(
                f"{address.scheme}:// addresses need the package {package}, which is not "
                "installed here.",
                f"pip install {package}",
            ) from None
        self._root = address.at(address.path.partition("/")[0])
        self._fs: Any = tried(
            lambda: fsspec.filesystem(address.scheme, use_listings_cache=False), self._root
        )

    def below(self, path: str) -> list[RemoteFile]:
        found = tried(lambda: self._fs.find(path, detail=True), self._root.at(path))
        return [self._known(info) for info in found.values()]

    def facts(self, address: Address) -> RemoteFile | None:
        try:
            info = tried(lambda: self._fs.info(address.path), address)
        except NotFound:
            return None
        return self._known(info) if info["type"] == "file" else None

    def _known(self, info: Mapping[str, Any]) -> RemoteFile:
        told = ("etag", "md5Hash", "generation", "updated", "last_modified", "mtime")
        version = next((str(info[name]) for name in told if info.get(name)), "")
        return RemoteFile(self._root.at(info["name"].strip("/")), info["size"], version)

    def read(self, file: RemoteFile, start: int, count: int) -> bytes:
        def once() -> bytes:
            content: bytes = self._fs.cat_file(file.address.path, start=start, end=start + count)
            if len(content) < count:
                raise ShortRead(f"only {start + len(content):,} bytes came")
            return content

        return tried(once, file.address)

    def copy(self, file: RemoteFile, into: Path, stopped: Event) -> None:
        with into.open("wb") as out:
            for start in range(0, file.size, PIECE):
                if stopped.is_set():
                    return
                out.write(self.read(file, start, min(PIECE, file.size - start)))
        require_same(self, file)

    def require_bucket(self) -> None:
        with contextlib.suppress(Forbidden):  # who may only write there
            tried(lambda: self._fs.info(self._root.path), self._root)

    def put(self, file: Path, address: Address) -> None:
        tried(lambda: self._fs.put_file(str(file), address.path), address, done="written")
        _require_whole(self, file, address)


def _require_whole(store: Store, file: Path, address: Address) -> None:
    there, size = store.facts(address), file.stat().st_size
    if there is None or there.size != size:
        came = 0 if there is None else there.size
        raise Unavailable(
            f"{address} has {came:,} of the {size:,} bytes that were sent.", "Send it again."
        )


# --- web servers ----------------------------------------------------------------------------------


class _Web:
    """Web servers, each file by itself: they list none."""

    def __init__(self) -> None:
        self._client = httpx.Client(
            follow_redirects=True, timeout=httpx.Timeout(SECONDS, connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},  # else sizes are those of something else
        )  # fmt: skip

    def require_bucket(self) -> None:
        raise Invalid("A web server takes no files.", "Write to s3://…, or to a file here.")

    def put(self, file: Path, address: Address) -> None:
        raise Invalid(f"A web server takes no files: {address}.", "Write to s3://….")

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
                raise ShortRead(f"only {len(content):,} bytes came")
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
                raise changed(file)
            with into.open("ab" if goes_on else "wb") as out:
                for some in answer.iter_raw():
                    if stopped.is_set():
                        return
                    out.write(some)
        if into.stat().st_size != file.size:
            raise ShortRead(f"{into.stat().st_size:,} of its {file.size:,} bytes came")


def _size_told(answer: httpx.Response) -> int | None:
    """Of the whole file, whichever part of it is answered with."""
    ranged = re.search(r"/(\d+)$", answer.headers.get("content-range", ""))
    told = ranged[1] if ranged else answer.headers.get("content-length", "")
    partial = answer.status_code in (206, 416) and not ranged
    return int(told) if told.isdigit() and not partial else None
