"""Scores that go to an address: made on this machine first, and sent once they are whole.

    outgoing = begin(parse("s3://bucket/scores"), in_parts=True)
    ...  # write the table `outgoing.place`, or parts and their manifest below it
    outgoing.send()

What is made lies in a folder that the same address finds again: a run that was stopped goes on
there, and so does one whose sending broke off. At the address the manifest comes last.
"""

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.files import is_bare_name, is_file
from tastemaker.files.addresses import Address
from tastemaker.filtering.manifests import MANIFEST
from tastemaker.filtering.stores import Store, store_of


@dataclass(frozen=True)
class Outgoing:
    """`place` is the file, or the folder of parts, that is written here for the address."""

    address: Address
    place: Path
    in_parts: bool
    store: Store

    def send(self) -> int:
        """Send what was written, and let go of it here; how many files that were. Raises what keeps
        it from being sent, with where it lies."""
        try:
            files = self._files()
            for file in files:
                self._send(file)
        except TastemakerError as error:
            raise type(error)(
                f"{error.message} What was scored is in {self.place}.",
                f"{error.hint} The same command sends it.".strip()
                if self.in_parts
                else f"{error.hint} Copy it from there.".strip(),
            ) from error
        shutil.rmtree(self.place.parent, ignore_errors=True)
        return len(files)

    def _files(self) -> list[Path]:
        """In the order in which they are sent. Raises `Conflict` where parts of another run came to
        lie at the address: whoever reads the folder would count them too."""
        if not self.in_parts:
            return [self.place]
        _check_free(self.store, self.address, self.place)
        return [*sorted(self.place.glob("part-*.parquet")), self.place / MANIFEST]

    def _send(self, file: Path) -> None:
        """A part that is there already is not sent again: its name says which rows it holds."""
        if not self.in_parts:
            return self.store.put(file, self.address)
        there = self.address.at(f"{self.address.path}/{file.name}")
        known = self.store.facts(there) if file.name != MANIFEST else None
        if known is None or known.size != file.stat().st_size:
            self.store.put(file, there)
        return None


def begin(address: Address, *, in_parts: bool) -> Outgoing:
    """Raises `Invalid` for an address that nothing can be written to, what keeps it from being
    asked, and `Conflict` where a folder there is not empty."""
    if not is_bare_name(address.name):
        raise Invalid(f"{address} has a name that no file can have here.", "Choose another name.")
    store = store_of(address)
    store.require_bucket()
    name = hashlib.sha256(str(address).encode()).hexdigest()[:16]
    place = Path.home() / ".cache" / "tastemaker" / "outgoing" / name / address.name
    if in_parts:
        _check_free(store, address, place)
    else:
        store.facts(address)  # whether there is a way to it
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Outgoing(address, place, in_parts, store)


def _check_free(store: Store, address: Address, place: Path) -> None:
    """Raises `Conflict` where anything lies at the address that was not sent from this place: the
    parts that lie here too, and the very manifest."""
    found = []
    with suppress(NotFound):  # no such folder is an empty one
        found = store.below(address.path)
    for file in found:
        name = file.address.path.removeprefix(f"{address.path}/")
        own = is_bare_name(name) and is_file(place / name)
        if own and name == MANIFEST:
            own = store.read(file, 0, file.size) == (place / name).read_bytes()
        if not own:
            raise Conflict(
                f"{address} is not empty: {name} lies there.",
                "Name another place; nothing there is replaced.",
            )
