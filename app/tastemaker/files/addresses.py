"""Addresses of what lies on other machines: `s3://bucket/key`, `https://host/path`.

What is secret in one, a name with its password or a signed query, is in no text that is made of it.
"""

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from tastemaker.errors import Invalid
from tastemaker.files import is_text, readable, typed_path

_BEGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
WEB = ("http", "https")
S3 = "s3"
READERS = (
    "only `tastemaker score` and `embed --out`, and `score` of a head in Python, read from "
    "addresses, and only `score --out` writes to one"
)
PACKAGES = {"gs": "gcsfs", "az": "adlfs"}  # what reads from other stores, where it is installed


@dataclass(frozen=True)
class Address:
    """`path` begins with the bucket or the host, and has no slash at its end; `query` is what a
    web server is asked with, and may be a signature."""

    scheme: str
    path: str
    query: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """With the query: for the server alone, never to be told."""
        return f"{self}?{self.query}" if self.query else str(self)

    def at(self, path: str) -> "Address":
        """Another path of the same store."""
        return replace(self, path=path)


def is_address(text: str | os.PathLike[str]) -> bool:
    return isinstance(text, str) and bool(_BEGIN.match(text))


def parse(text: str) -> Address:
    """Raises `Invalid` where it holds a password, is of a kind that nothing here reads, or names no
    bucket and no host."""
    scheme, path, query = _parts(text)
    if _holds_secret(scheme, path):
        raise Invalid(
            f"An address {scheme}://… with a name and a password in it is not taken: the shell and "
            "the list of processes keep both.",
            "Take them out. Those of a bucket go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or ~/.aws/credentials.",
        )
    if scheme not in (S3, *WEB, *PACKAGES):
        raise Invalid(
            f"Nothing here reads {scheme}:// addresses.",
            "Known are s3:// (any store that speaks S3, at AWS_ENDPOINT_URL), gs://, az://, "
            "https:// and http://.",
        )
    if not is_text(text):
        raise Invalid(f"{readable(text)} is not in UTF-8.", "Rename what lies there.")
    path = path.rstrip("/")
    if not path or path.startswith("/"):
        what = "host" if scheme in WEB else "bucket"
        raise Invalid(f"{scheme}://{path} names no {what}.", f"Write {scheme}://{what.upper()}/….")
    return Address(scheme, path, query)


def shown(text: str) -> str:
    """An address as it may be told, whether or not it can be parsed."""
    scheme, path, _ = _parts(text)
    return f"{scheme}://…" if _holds_secret(scheme, path) else f"{scheme}://{path}"


def local_path(text: str | os.PathLike[str]) -> Path:
    """A path of this machine as a person types it. Raises `Invalid` for an address."""
    if isinstance(text, str) and is_address(text):
        raise Invalid(
            f"{shown(text)} lies on another machine, and this takes a path of this one.",
            f"Copy it here first, or there once it is written: {READERS}.",
        )
    return typed_path(text)


def _parts(text: str) -> tuple[str, str, str]:
    """Scheme, path and query; only web servers are asked with one."""
    found = _BEGIN.match(text)
    if found is None:
        raise ValueError("not an address")
    scheme, path, query = found[1].lower(), text[found.end() :], ""
    if scheme in WEB:
        path, _, query = path.partition("#")[0].partition("?")
    return scheme, path, query


def _holds_secret(scheme: str, path: str) -> bool:
    """A password may hold slashes; after a host there may be a port; and in an address of another
    kind an @ alone may be a part of its name."""
    begin, _, rest = path.partition("/")
    if "@" in begin:
        return scheme in (*WEB, S3, *PACKAGES) or ":" in begin.partition("@")[0]
    _, colon, port = begin.partition(":")
    return bool(colon) and not port.isdigit() and "@" in rest
