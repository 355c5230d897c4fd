"""Single pictures behind addresses, among others of this machine."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from tastemaker.encoding.encode_files import Readable, Source
from tastemaker.errors import BadImage, NotFound
from tastemaker.files.addresses import Address, is_address, parse

Picture = str | os.PathLike[str] | Image.Image
NOTHING = ("There is nothing at this address.", "Check how it is spelt.")


def sources_of(pictures: Iterable[Picture], most_bytes: int) -> Iterable[Source]:
    """The pictures as an encoder takes them: what lies at an address is read as it is drawn. In the
    place of one that is not there, or has more bytes than are read, stands why. Raises `Invalid`
    for an address of no known kind, and as it is drawn from, what keeps all of them from being
    read: no such host, no permission."""
    named = [_named(picture) for picture in pictures]
    if any(isinstance(source, Address) for source in named):
        return _drawn(named, most_bytes)
    return [source for source in named if not isinstance(source, Address)]


def _named(picture: Picture) -> Readable | Address:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, str) and is_address(picture):
        return parse(picture)
    return Path(os.fsdecode(picture))


def _drawn(named: Sequence[Readable | Address], most_bytes: int) -> Iterator[Source]:
    from tastemaker.filtering.stores import Store, store_of  # only who needs them loads clients

    stores: dict[tuple[str, str], Store] = {}

    def read(address: Address) -> bytes | BadImage:
        place = (address.scheme, address.path.partition("/")[0])
        store = stores.get(place) or stores.setdefault(place, store_of(address))
        try:
            file = store.facts(address)
            if file is None:
                return BadImage(*NOTHING)
            if file.size > most_bytes:
                return BadImage(
                    f"It has {file.size / 2**20:,.0f} MB; at most {most_bytes // 2**20} are read.",
                    "TASTEMAKER_MAX_IMAGE_MB raises the limit.",
                )
            return store.read(file, 0, file.size)
        except NotFound:
            return BadImage(*NOTHING)

    return (read(source) if isinstance(source, Address) else source for source in named)
