"""Pictures by their names, wherever they lie: those of a folder, of archives, or behind an address,
as a stream that an encoder draws from."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tastemaker.encoding.encode_files import Source
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files.addresses import Address
from tastemaker.filtering.fetched import brought_here
from tastemaker.filtering.losses import OnError
from tastemaker.filtering.remote_sources import RemoteSource, open_source
from tastemaker.filtering.shards import Shards
from tastemaker.filtering.sources import Archive, Tell, archives_in, pictures_in
from tastemaker.pictures import formats
from tastemaker.pictures.pictures import Limits


class EveryPicture(NamedTuple):
    """`total` is how many there are; None in archives, which are counted once they are read."""

    named: Iterator[tuple[str, Source]]
    total: int | None


def every_picture(
    source: Path | Address, limits: Limits, keep_free_gb: float, on_error: OnError, tell: Tell
) -> EveryPicture:
    """The pictures of a folder, one picture, or those of archives (one, those of a folder or of a
    pattern), here or at an address. Raises before the first where the source cannot be used, and on
    the way where an archive cannot be had."""
    if isinstance(source, Address):
        opened = open_source(source, keep_free_gb)
        if opened.of_embeddings:
            raise Invalid(
                f"{source} holds embeddings, which need no encoder any more.",
                "`tastemaker score` reads them as they are.",
            )
        return EveryPicture(_of_remote(opened, limits, keep_free_gb, tell), None)
    if archives := archives_in(source, on_error):
        return EveryPicture(_in_archives(Shards(archives, limits), tell), None)
    base, paths = pictures_in(source, on_error, tell)
    return EveryPicture(((str(path.relative_to(base)), path) for path in paths), len(paths))


def _in_archives(shards: Shards, tell: Tell) -> Iterator[tuple[str, Source]]:
    yield from shards.pictures()
    if left_out := formats.left_out_of(shards.left_out):
        tell(left_out)


def _of_remote(
    source: RemoteSource, limits: Limits, keep_free_gb: float, tell: Tell
) -> Iterator[tuple[str, Source]]:
    with closing(brought_here(source.pieces, lambda piece: piece.needed, keep_free_gb)) as brought:
        for piece, folder in brought:
            if isinstance(folder, TastemakerError):
                raise folder
            here = piece.at(folder)
            assert isinstance(here, Archive), "embeddings were refused before"
            yield from _in_archives(Shards([(here.name, here.path)], limits), tell)
