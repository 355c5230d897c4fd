"""Score what lies outside the library: pictures of a folder, of tar shards and zips, or one; or a
file of embeddings.

    rows = score_source(folder, Scorer(file))
    write(out, within(rows, 60, 100), scorer.about)

Whatever the size of the source, memory holds one table of rows, and they keep the source's order.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tastemaker.encoding import embedding_folders
from tastemaker.encoding.clip_retrieval import is_layout, open_layout
from tastemaker.encoding.embedding_files import (
    EMBEDDING_SUFFIXES,
    Block,
    Embeddings,
    open_embeddings,
    some_rows,
)
from tastemaker.encoding.embedding_shards import open_shards, two_before_ten
from tastemaker.encoding.encode_files import Source
from tastemaker.errors import BadImage, Incomplete, Invalid, NotFound
from tastemaker.files import is_text, readable
from tastemaker.files.folders import FolderWalk
from tastemaker.filtering.file_lists import Listed, is_list
from tastemaker.filtering.losses import OnError
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.shards import (
    Named,
    Shards,
    archives_below,
    archives_of,
    is_pattern,
    is_shard,
    matching,
)
from tastemaker.pictures import formats
from tastemaker.pictures.formats import IMAGE_SUFFIXES

BESIDE = frozenset({".txt", ".json", ".npy", ".parquet"})  # may lie beside pictures
Progress = Callable[[int, int], None]  # rows done, rows in all
Done = Callable[[int], None]  # rows done
Tell = Callable[[str], None]


def score_source(
    source: Path,
    scorers: Scorer | Sequence[Scorer] | Panel,
    *,
    on_error: OnError = lambda path, error: None,
    progress: Progress = lambda done, total: None,
    tell: Tell = lambda line: None,
) -> Iterator[pa.Table]:
    """Score a folder (all its folders too), one picture, archives of pictures (one, those of a
    folder without pictures, or those of a pattern like `shards/{000..127}.tar`), the pictures that
    a list names (`@list.txt`, or `-` for standard input), a file of embeddings, or several: those
    of a folder or a pattern, also as clip-retrieval or `--embeddings-out` made them. Of several
    heads each has its column.

    What cannot be used goes to `on_error(path, error)`, as `Incomplete` where that is an archive or
    a folder that could not be read to its end; what is left out of a folder, with counts,
    and why the scores may be wrong goes to `tell`, in a line each. Raises before the first row when
    the source or the encoder cannot be used at all, on the way where L2-normalised embeddings turn
    up that the head cannot read, and after the last when nothing was of use.
    """
    panel = scorers if isinstance(scorers, Panel) else Panel(scorers)
    opened = embeddings_in(source)
    if opened is not None:
        panel.check_source(opened, source.name)
        blocks = _counted(opened.blocks, lambda done: progress(done, opened.rows))
        tables = panel.tables(blocks, source.name, on_error, tell, encoded=False)
        return _some(tables, "embeddings")
    archives = archives_in(source, on_error)
    if archives:
        panel.load_encoder()
        shards = Shards(archives, panel.first.limits)

        def judged(done: int) -> None:  # how many there are in all
            progress(done, max(done, round(done / shards.progress)) if shards.progress else done)

        blocks = shard_blocks(shards, panel, on_error, judged, tell)
    else:
        pictures, total = named_pictures(source, on_error, tell)
        panel.load_encoder()
        blocks = picture_blocks(
            pictures, panel, on_error, lambda done: progress(done, max(done, total(done)))
        )
    return _some(panel.tables(blocks, source.name, on_error, tell, encoded=True), "pictures")


def _counted(blocks: Iterable[Block], progress: Done) -> Iterator[Block]:
    done = 0
    for block in blocks:
        done += len(block[1])
        yield block
        del block  # not held while the next one is read
        progress(done)


def embeddings_in(source: Path) -> Embeddings | None:
    """The embeddings that a source is; None where it is pictures."""
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        return open_embeddings(source)
    if embedding_folders.is_one(source):
        return embedding_folders.open_folder(source)
    if source.is_dir() and is_layout(source) and not _has_pictures(source):
        return open_layout(source)
    files = _embedding_files(source)
    return open_shards(files) if files else None


def _embedding_files(source: Path) -> list[Named]:
    """The files of embeddings that a pattern names, or a folder holds that has neither pictures nor
    archives in it; in the order of their names, 2 before 10."""
    if is_pattern(source):
        base, paths = matching(source)
        if not all(path.suffix.lower() in EMBEDDING_SUFFIXES for path in paths):
            return []
    elif source.is_dir() and not _has_pictures(source) and not archives_of(source):
        base, paths = source, list(FolderWalk(source, EMBEDDING_SUFFIXES.__contains__).files())
    else:
        return []
    named = [(readable(path.relative_to(base).as_posix()), path) for path in paths]
    return sorted(named, key=lambda one: two_before_ten(one[0]))


def named_pictures(
    source: Path, on_error: OnError, tell: Tell
) -> tuple[Iterator[tuple[str, Path | BadImage]], Callable[[int], int]]:
    """The pictures of a folder, of a list, or the one, each with its name; and what says, of so
    many that are done, how many there are in all, as far as that is known."""
    if is_list(source):
        listed = Listed(source)
        return listed.pictures(), listed.total
    base, paths = pictures_in(source, on_error, tell)
    return ((str(path.relative_to(base)), path) for path in paths), lambda done: len(paths)


def _some(tables: Iterator[pa.Table], what: str) -> Iterator[pa.Table]:
    """The same; `Invalid` after the last where there was no row."""
    scored = 0
    for rows in tables:
        scored += len(rows)
        yield rows
    if not scored:
        raise Invalid(f"None of the {what} could be scored.")


def archives_in(source: Path, on_error: OnError = lambda path, error: None) -> list[Named]:
    """The archives that a source means; none where it is a picture, or a folder that holds any.
    Where it holds archives, the folders in it that cannot be entered go to `on_error`."""
    if is_pattern(source) or (is_shard(source) and source.is_file()):
        return archives_of(source)
    if not source.is_dir() or _has_pictures(source):
        return []
    walk = FolderWalk(source, lambda suffix: True)
    archives = archives_below(walk)
    if archives:
        _tell_unreadable(walk, on_error)
    return archives


def _tell_unreadable(walk: FolderWalk, on_error: OnError) -> None:
    for folder, reason in walk.unreadable.items():
        name = readable(str(folder.relative_to(walk.root)))
        on_error(name, Incomplete(f"It cannot be entered: {reason}."))


def _has_pictures(folder: Path) -> bool:
    return any(FolderWalk(folder, IMAGE_SUFFIXES.__contains__).files())


def pictures_in(source: Path, on_error: OnError, tell: Tell) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the pictures in it, sorted."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_dir():
        base, walk = source, FolderWalk(source, IMAGE_SUFFIXES.__contains__, BESIDE)
        pictures = list(walk.files())
        _tell_unreadable(walk, on_error)
        left_out = formats.left_out_of(walk.left_out)
        if not pictures:
            raise Invalid(
                f"{source} holds no picture.",
                f"Pictures are {formats.NAMES} files. {left_out}".rstrip(),
            )
        if left_out:
            tell(left_out)
    else:
        base, pictures = source.parent, [source]
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise Invalid(f"{source} is not a picture.", f"Pictures are {formats.NAMES} files.")
    named = []
    for path in pictures:
        if is_text(str(path)):
            named.append(path)
        else:
            unnamed = BadImage("Its name is not in UTF-8; rename it.")
            on_error(readable(str(path.relative_to(base))), unnamed)
    return base, sorted(named)


def shard_blocks(
    shards: Shards, panel: Panel, on_error: OnError, progress: Done, tell: Tell
) -> Iterator[Block]:
    """The embeddings of the pictures in archives."""
    yield from picture_blocks(shards.pictures(), panel, on_error, progress)
    if left_out := formats.left_out_of(shards.left_out):
        tell(left_out)


def picture_blocks(
    pictures: Iterable[tuple[str, Source]], panel: Panel, on_error: OnError, progress: Done
) -> Iterator[Block]:
    """The embeddings of named pictures, which are drawn as they are needed."""
    names: dict[int, str] = {}  # of those under way

    def drawn() -> Iterator[Source]:
        for index, (name, picture) in enumerate(pictures):
            names[index] = name
            yield picture

    def report(index: int, error: BadImage) -> None:
        on_error(names.pop(index), error)

    for indices, vectors in panel.embed(drawn(), report):
        yield pa.array(map(names.pop, indices), pa.string()), vectors, None
        progress(indices[-1] + 1)


# --- a piece of a source, as it is sent to who does it ------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows of a source of embeddings, which is `made_of` the files of this key."""

    source: Path
    made_of: str
    start: int
    count: int


@dataclass(frozen=True)
class Pictures:
    """Pictures by their names, where they lie or why they cannot be read."""

    named: tuple[tuple[str, Path | BadImage], ...]


@dataclass(frozen=True)
class Archive:
    name: str
    path: Path


@dataclass(frozen=True)
class Opened:
    """Embeddings whose files are here for now, told by the name of where they are from."""

    embeddings: Embeddings
    name: str


@functools.lru_cache(maxsize=1)
def _opened(source: Path, made_of: str) -> Embeddings:
    """The embeddings of a source as it is while it is `made_of` this, opened once for all of its
    pieces that a process reads: a folder may hold thousands of files."""
    opened = embeddings_in(source)
    if opened is None:
        raise NotFound(f"{source} is not there any more.", "Bring it back, and run again.")
    return opened


Piece = Rows | Pictures | Archive | Opened
Share = Callable[[int, float], None]  # rows done of a piece, and which share of it that is


def blocks_of(
    piece: Piece, panel: Panel, on_error: OnError, progress: Share, tell: Tell
) -> Iterator[Block]:
    """The embeddings of a piece: read, or made by the encoder."""
    if isinstance(piece, Rows):
        opened = _opened(piece.source, piece.made_of)
        blocks = some_rows(opened.read(piece.start), 0, piece.count)
        return _counted(blocks, lambda done: progress(done, done / piece.count))
    if isinstance(piece, Opened):
        many = piece.embeddings.rows
        panel.check_source(piece.embeddings, piece.name)
        return _counted(piece.embeddings.blocks, lambda done: progress(done, done / many))
    if isinstance(piece, Archive):
        shards = Shards([(piece.name, piece.path)], panel.first.limits)
        return shard_blocks(
            shards, panel, on_error, lambda done: progress(done, shards.progress), tell
        )
    many = len(piece.named)
    return picture_blocks(
        iter(piece.named), panel, on_error, lambda done: progress(done, done / many)
    )
