"""The contact sheet of what scored best, as the original's Top 100: the pictures themselves, from
wherever they were scored."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from PIL import Image

from tastemaker.encoding import embedding_folders
from tastemaker.errors import BadImage
from tastemaker.files import is_file, typed_path
from tastemaker.files.percentages import probability
from tastemaker.filtering.file_lists import is_list
from tastemaker.filtering.shards import Shards
from tastemaker.filtering.sources import archives_in
from tastemaker.pictures import contact_sheet
from tastemaker.pictures.pictures import Limits, decode

MOST = 200  # tiles
USUAL = 100


def draw(ranked: pa.Table, source: Path, limits: Limits, title: str) -> tuple[bytes, int]:
    """A PNG of the rows in their order, each with its percentage, and how many of its frames are
    empty: of a picture that is not there any more, or lies beside embeddings and cannot be
    found."""
    rows = ranked.slice(0, MOST)
    names = rows["path"].to_pylist()
    small = dict(_small(names, source, limits))
    told = [probability(percent / 100) for percent in rows["percent"].to_pylist()]
    tiles = [(small.get(name), text) for name, text in zip(names, told, strict=True)]
    return contact_sheet.draw(tiles, title), sum(tile is None for tile, _ in tiles)


def _small(names: list[str], source: Path, limits: Limits) -> Iterator[tuple[str, Image.Image]]:
    for name, content in _contents(names, source, limits).items():
        try:
            picture = decode(content, limits)
        except BadImage:
            continue
        picture.thumbnail((contact_sheet.SIDE, contact_sheet.SIDE))
        yield name, picture


def _contents(names: list[str], source: Path, limits: Limits) -> Mapping[str, Path | bytes]:
    """Where the named pictures of a source lie, or their bytes."""
    if embedding_folders.is_one(source):
        made_of = embedding_folders.source_of(source)
        if made_of is None:
            return {}
        source = made_of
    if is_list(source):
        return {name: typed_path(name) for name in names}
    if archives := archives_in(source):
        holding = [one for one in archives if any(n.startswith(f"{one[0]}/") for n in names)]
        found = Shards(holding, limits, only=frozenset(names)).pictures()
        return {name: content for name, content in found if isinstance(content, bytes)}
    base = source if source.is_dir() else source.parent
    return {name: base / name for name in names if is_file(base / name)}
