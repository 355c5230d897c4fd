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

from tastemaker.encoding.clip_retrieval import is_layout, open_layout
from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES, Embeddings, open_embeddings
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
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        opened = open_embeddings(source)
        return _score_embeddings(source.name, opened, scorer, on_error, progress, tell)
    if is_list(source):
        scorer.load_encoder()
        listed = Listed(source)
        return _score_pictures(listed.pictures(), listed.total, scorer, on_error, progress)
    if source.is_dir() and is_layout(source) and not _has_pictures(source):
        return _score_embeddings(source.name, open_layout(source), scorer, on_error, progress, tell)
    archives = archives_in(source)
    if archives:
        scorer.load_encoder()
        return _score_archives(Shards(archives, scorer.limits), scorer, on_error, progress, tell)
    base, paths = pictures_in(source, on_error, tell)
    scorer.load_encoder()
    named = ((str(path.relative_to(base)), path) for path in paths)
    return _score_pictures(named, lambda done: len(paths), scorer, on_error, progress)


def archives_in(source: Path) -> list[Named]:
    """The archives that a source means; none where it is a picture, or a folder that holds any."""
    if is_pattern(source) or (is_shard(source) and source.is_file()):
        return archives_of(source)
    if not source.is_dir() or _has_pictures(source):
        return []
    return archives_of(source)


def _has_pictures(folder: Path) -> bool:
    return any(FolderWalk(folder, IMAGE_SUFFIXES.__contains__).files())


def _score_embeddings(
    name: str,
    embeddings: Embeddings,
    scorer: Scorer,
    on_error: OnError,
    progress: Progress,
    tell: Tell,
) -> Iterator[pa.Table]:
    scorer.check_width(embeddings.dim, name)

    def tables() -> Iterator[pa.Table]:
        done = scored = 0
        for paths, x, carried in embeddings.blocks:
            before = len(scorer.doubts)
            scores, faults = scorer.vectors(x, name)
            for doubt in scorer.doubts[before:]:
                tell(doubt)
            rows = table(paths, scores, carried)
            for row, reason in faults.items():
                on_error(paths[row].as_py(), reason)
            if faults:
                rows = rows.filter(pa.array(~np.isnan(scores)))
            done, scored = done + len(x), scored + len(rows)
            yield rows
            progress(done, embeddings.rows)
        if not scored:
            raise Invalid("None of the embeddings could be scored.")

    return tables()


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


def _score_archives(
    shards: Shards, scorer: Scorer, on_error: OnError, progress: Progress, tell: Tell
) -> Iterator[pa.Table]:
    def total(done: int) -> int:
        return round(done / shards.progress) if shards.progress else done

    yield from _score_pictures(shards.pictures(), total, scorer, on_error, progress)
    if left_out := formats.left_out_of(shards.left_out):
        tell(left_out)


def _score_pictures(
    pictures: Iterable[tuple[str, Source]],
    total: Callable[[int], int],
    scorer: Scorer,
    on_error: OnError,
    progress: Progress,
) -> Iterator[pa.Table]:
    """`pictures` are drawn as they are needed; `total` says, of so many that are done, how many
    there are in all, as far as that is known."""
    names: dict[int, str] = {}  # of those under way

    def drawn() -> Iterator[Source]:
        for index, (name, picture) in enumerate(pictures):
            names[index] = name
            yield picture

    def report(index: int, error: BadImage) -> None:
        on_error(names.pop(index), str(error))

    scored = 0
    for indices, scores in scorer.pictures(drawn(), report, guarded=True):
        scored += len(indices)
        yield table(pa.array(map(names.pop, indices), pa.string()), scores)
        done = indices[-1] + 1
        progress(done, max(done, total(done)))
    if not scored:
        raise Invalid("None of the pictures could be scored.")
