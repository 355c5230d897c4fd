"""Score what lies outside the library: pictures of a folder, of tar shards and zips, or one; or a
file of embeddings.

    rows = score_source(folder, Scorer(file))
    write(out, within(rows, 60, 100), scorer.about)

Whatever the size of the source, memory holds one table of rows, and they keep the source's order.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.encoding.clip_retrieval import is_layout, open_layout
from tastemaker.encoding.embedding_files import (
    EMBEDDING_SUFFIXES,
    Block,
    Embeddings,
    open_embeddings,
)
from tastemaker.encoding.encode_files import Source
from tastemaker.errors import BadImage, Invalid, NotFound
from tastemaker.files import is_text
from tastemaker.files.folders import FolderWalk
from tastemaker.filtering.file_lists import Listed, is_list
from tastemaker.filtering.score_tables import table
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.shards import Named, Shards, archives_of, is_pattern, is_shard
from tastemaker.pictures import formats
from tastemaker.pictures.formats import IMAGE_SUFFIXES

OnError = Callable[[str, str], None]  # path, reason
BESIDE = frozenset({".txt", ".json", ".npy", ".parquet"})  # may lie beside pictures
Progress = Callable[[int, int], None]  # rows done, rows in all
Done = Callable[[int], None]  # rows done
Tell = Callable[[str], None]


def score_source(
    source: Path,
    scorer: Scorer,
    *,
    on_error: OnError = lambda path, reason: None,
    progress: Progress = lambda done, total: None,
    tell: Tell = lambda line: None,
) -> Iterator[pa.Table]:
    """Score a folder (all its folders too), one picture, archives of pictures (one, those of a
    folder without pictures, or those of a pattern like `shards/{000..127}.tar`), the pictures that
    a list names (`@list.txt`, or `-` for standard input), a file of embeddings, or a folder that
    clip-retrieval made.

    What cannot be used goes to `on_error(path, reason)`; what is left out of a folder, with counts,
    and why the scores may be wrong goes to `tell`, in a line each. Raises before the first row when
    the source or the encoder cannot be used at all, on the way where L2-normalised embeddings turn
    up that the head cannot read, and after the last when nothing was of use.
    """
    opened = embeddings_in(source)
    if opened is not None:
        scorer.check_width(opened.dim, source.name)
        blocks = embedding_tables(
            source.name, opened.blocks, scorer, on_error,
            lambda done: progress(done, opened.rows), tell,
        )  # fmt: skip
        return _some(blocks, "embeddings")
    archives = archives_in(source)
    if archives:
        scorer.load_encoder()
        shards = Shards(archives, scorer.limits)
        return _some(shard_tables(shards, scorer, on_error, progress, tell), "pictures")
    pictures, total = named_pictures(source, on_error, tell)
    scorer.load_encoder()
    return _some(
        picture_tables(
            pictures, scorer, on_error, lambda done: progress(done, max(done, total(done)))
        ),
        "pictures",
    )


def embeddings_in(source: Path) -> Embeddings | None:
    """The embeddings that a source is; None where it is pictures."""
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        return open_embeddings(source)
    if source.is_dir() and is_layout(source) and not _has_pictures(source):
        return open_layout(source)
    return None


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


def archives_in(source: Path) -> list[Named]:
    """The archives that a source means; none where it is a picture, or a folder that holds any."""
    if is_pattern(source) or (is_shard(source) and source.is_file()):
        return archives_of(source)
    if not source.is_dir() or _has_pictures(source):
        return []
    return archives_of(source)


def _has_pictures(folder: Path) -> bool:
    return any(FolderWalk(folder, IMAGE_SUFFIXES.__contains__).files())


def embedding_tables(
    name: str,
    blocks: Iterable[Block],
    scorer: Scorer,
    on_error: OnError,
    progress: Done,
    tell: Tell,
) -> Iterator[pa.Table]:
    """The scores of embeddings, block by block."""
    done = 0
    for paths, x, carried in blocks:
        before = len(scorer.doubts)
        scores, faults = scorer.vectors(x, name)
        for doubt in scorer.doubts[before:]:
            tell(doubt)
        for row, reason in faults.items():
            on_error(paths[row].as_py(), reason)
        if faults:
            fine = np.ones(len(x), bool)
            fine[list(faults)] = False
            paths, scores = paths.filter(pa.array(fine)), scores[fine]
            carried = None if carried is None else carried.filter(pa.array(fine))
        done += len(x)
        yield scorer_table(scorer, paths, scores, carried)
        progress(done)


def scorer_table(
    scorer: Scorer, paths: pa.Array, scores: NDArray[np.float32], carried: pa.Table | None = None
) -> pa.Table:
    """What a head says of paths (n,): scores (n,), or probabilities of classes (n, K)."""
    if scorer.classes is not None:
        return scorer.classes.table(paths, scores, carried)
    return table(paths, scores, carried)


def pictures_in(source: Path, on_error: OnError, tell: Tell) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the pictures in it, sorted."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_dir():
        base, walk = source, FolderWalk(source, IMAGE_SUFFIXES.__contains__, BESIDE)
        pictures = list(walk.files())
        for folder, reason in walk.unreadable.items():
            name = os.fsencode(folder.relative_to(base)).decode("utf-8", "replace")
            on_error(name, f"It cannot be entered: {reason}.")
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
            readable = os.fsencode(path.relative_to(base)).decode("utf-8", "replace")
            on_error(readable, "Its name is not in UTF-8; rename it.")
    return base, sorted(named)


def shard_tables(
    shards: Shards, scorer: Scorer, on_error: OnError, progress: Progress, tell: Tell
) -> Iterator[pa.Table]:
    """The scores of the pictures in archives. How many there are in all is judged by how far the
    archives were read."""

    def tell_progress(done: int) -> None:
        progress(done, max(done, round(done / shards.progress)) if shards.progress else done)

    yield from picture_tables(shards.pictures(), scorer, on_error, tell_progress)
    if left_out := formats.left_out_of(shards.left_out):
        tell(left_out)


def picture_tables(
    pictures: Iterable[tuple[str, Source]], scorer: Scorer, on_error: OnError, progress: Done
) -> Iterator[pa.Table]:
    """The scores of named pictures, which are drawn as they are needed."""
    names: dict[int, str] = {}  # of those under way

    def drawn() -> Iterator[Source]:
        for index, (name, picture) in enumerate(pictures):
            names[index] = name
            yield picture

    def report(index: int, error: BadImage) -> None:
        on_error(names.pop(index), str(error))

    for indices, scores in scorer.pictures(drawn(), report, guarded=True):
        yield scorer_table(scorer, pa.array(map(names.pop, indices), pa.string()), scores)
        progress(indices[-1] + 1)
