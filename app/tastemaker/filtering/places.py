"""Where a run writes, held against where it reads: nothing of it takes the place of something else.

A folder of scores and one of embeddings each clear away what is not theirs, so no two outputs share
a folder, and none is, or lies among, what is read.
"""

from collections.abc import Mapping
from pathlib import Path

from tastemaker.errors import Invalid
from tastemaker.files import require_apart, typed_path
from tastemaker.filtering.file_lists import is_list
from tastemaker.filtering.sources import archives_in, embeddings_in

ANOTHER = "Choose another place."
OUT, SHEET = "--out", "--sheet"


def check_places(
    source: Path | None, *, table: Path | None, sheet: Path | None,
    owned: Mapping[str, Path | None], filled: Mapping[str, Path | None],
) -> None:  # fmt: skip
    """`table` and `sheet` are files that would be written, the folders `owned`, by the options that
    name them, would hold nothing else, and into the folders `filled` pictures would be put; None is
    not wanted; a source of None lies on another machine. Writes nothing. Raises `Invalid` where two
    are the same place, where the table or an owned folder lies in another, or where one of them is
    what is read."""
    read = _files_of(source) if source is not None else set()
    require_apart([(OUT, table), *owned.items(), (SHEET, sheet), *filled.items()], read)
    own = [(option, place.resolve()) for option, place in owned.items() if place is not None]
    rows = [(OUT, table.resolve())] if table is not None else []
    for option, place in (*rows, *own):
        if inside := [other for other, folder in own if folder in place.parents]:
            raise Invalid(f"{option} lies in the folder of {inside[0]}.", ANOTHER)
    for option, folder in own:
        if any(folder in file.parents for file in read):
            raise Invalid(f"The source lies in the folder of {option}.", ANOTHER)
    scored = source.resolve() if source is not None and source.is_dir() else None
    if sheet is not None and scored in sheet.resolve().parents:
        raise Invalid(
            f"{SHEET} lies in the folder that is scored: the next run would score it too.", ANOTHER
        )


def _files_of(source: Path) -> set[Path]:
    """What a source is read from, as far as it is not told picture by picture."""
    if is_list(source):
        name = str(source).removeprefix("@")
        return set() if name == "-" else {typed_path(name).resolve()}
    opened = embeddings_in(source)
    files = [path for _, path in archives_in(source)] if opened is None else opened.files
    return {source.resolve(), *(file.resolve() for file in files)}
