"""Files of other machines, and what is done where they cannot be had: tried again, or told."""

import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

import httpx
import pyarrow as pa

from tastemaker.errors import (
    Forbidden,
    Invalid,
    NotFound,
    NotWritable,
    TastemakerError,
    Unavailable,
    of_the_disk,
)
from tastemaker.files.addresses import PACKAGES, S3, Address

WAITS = (1.0, 4.0, 15.0)  # seconds before each further try
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

    def require_bucket(self) -> None:
        """Raises `NotFound` where there is none to write to, and what keeps it from being asked."""

    def put(self, file: Path, address: Address) -> None:
        """Write a file of this machine there, whole or not at all; in the place of what lies there
        under that name."""


def pause(seconds: float, stopped: Event) -> None:
    """Wait before a further try, as long as somebody wants it."""
    stopped.wait(seconds)


class NoHost(Unavailable):
    """Nobody knows the name of the host."""


_answered: set[tuple[str, str]] = set()  # hosts and buckets that this process has had something of


def tried(
    call: Callable[[], T], address: Address, stopped: Event = NEVER, *, done: str = "read"
) -> T:
    """What the call gives, tried again where a connection breaks; not where the name of a host that
    never answered is unknown, which is mistyped. `done` is what it would have been. Raises what
    happened in words: nothing of the error itself is told, or kept as its cause, for it may hold a
    signed query."""
    waits, host = iter(WAITS), (address.scheme, address.path.partition("/")[0])
    while True:
        try:
            given = call()
        except Exception as error:
            if not isinstance(error, ERRORS) and _maker(error) not in MAKERS:
                raise
            told, wait = in_words(error, address, done), next(waits, None)
        else:
            _answered.add(host)
            return given
        mistyped = isinstance(told, NoHost) and host not in _answered
        if wait is None or stopped.is_set() or mistyped or not isinstance(told, Unavailable):
            raise told
        pause(wait, stopped)


ERRORS = (OSError, pa.ArrowException, httpx.HTTPError, httpx.InvalidURL)
MAKERS = ("fsspec", "gcsfs", "google", "adlfs", "azure", "aiohttp")  # their errors are of any kind


def _maker(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


REFUSED = (
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|MISSING_AUTH|"
    "UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN_ID|INVALID_TOKEN|EXPIRED_TOKEN|HTTP status 40[13]"
)


def in_words(error: Exception, address: Address, done: str = "read") -> TastemakerError:
    """`Unavailable` for what may pass."""
    if isinstance(error, OSError) and error.filename and address.scheme not in PACKAGES:  # here
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
            return no_bucket(bucket)
        if re.search(REFUSED, told):
            return Forbidden(
                f"The store does not let {address} be {done} with the credentials that were found, "
                "or found none.",
                "They are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from "
                "~/.aws/credentials (AWS_PROFILE), or from the role of the machine.",
            )
        if "HTTP status 301" in told:
            return Invalid(f"The bucket “{bucket}” lies in another region.", "Set AWS_REGION.")
    of_maker = f"{type(error).__name__}: {told}"
    if address.scheme in PACKAGES and re.search("Credential|Auth|Permission|Forbidden", of_maker):
        return Forbidden(
            f"The store does not let {address} be {done} with the credentials that were found, or "
            "found none.",
            f"They are taken from where {PACKAGES[address.scheme]} looks for them.",
        )
    if _is_no_host(error):
        endpoint = " and AWS_ENDPOINT_URL" if address.scheme == S3 else ""
        return NoHost(
            f"{address} cannot be {done}: nobody knows the name of its host.",
            f"Check how the address{endpoint} {'are' if endpoint else 'is'} spelt, and the "
            "connection to the network.",
        )
    return Unavailable(
        f"{address} cannot be {done}: {_why(error, told)}.", "Run it again when the server answers."
    )


def no_bucket(bucket: str) -> NotFound:
    return NotFound(
        f"There is no bucket “{bucket}”.",
        "Check its name, and AWS_ENDPOINT_URL if it is not one of Amazon's.",
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
    if isinstance(error, ShortRead):
        return str(error)
    if isinstance(error, httpx.TimeoutException) or "timed out" in told.lower():
        return "the server does not answer in time"
    if isinstance(error, httpx.ConnectError) or re.search(r"curlCode: 7\b", told):
        return "there is no server, or no way to it"
    if "NETWORK_CONNECTION" in told or isinstance(error, httpx.TransportError):
        return "the connection broke"
    found = re.search(r"AWS Error ([A-Z_]+)", told)
    return f"the store answers {found[1]}" if found else "the connection broke"


def require_same(store: Store, file: RemoteFile) -> None:
    if store.facts(file.address) != file:
        raise changed(file)


def changed(file: RemoteFile) -> Unavailable:
    return Unavailable(
        f"{file.address} was changed while it was read.", "Run it again: it is read anew."
    )


class ShortRead(OSError):
    """Fewer bytes came than there are."""


# --- many at once ---------------------------------------------------------------------------------


def each(call: Callable[[Any], T], many: Sequence[Any] | range) -> list[T]:
    """What the call gives for each, some at a time; where one fails, the rest is not begun."""
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        return list(pool.map(call, many))
    finally:
        pool.shutdown(cancel_futures=True)


def facts_of(store: Store, addresses: Sequence[Address]) -> list[RemoteFile | None]:
    return each(store.facts, addresses)


def heads_of(store: Store, files: Sequence[RemoteFile], most: int) -> list[bytes]:
    """The first bytes of each, so many at most."""
    return each(lambda file: store.read(file, 0, min(most, file.size)), files)


def tails_of(store: Store, files: Sequence[RemoteFile], most: int) -> list[bytes]:
    """The last bytes of each."""

    def read(file: RemoteFile) -> bytes:
        count = min(most, file.size)
        return store.read(file, file.size - count, count)

    return each(read, files)
