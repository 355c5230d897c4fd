"""Score what lies outside the library, a folder or a file of embeddings, and copy what passes.

    rows = score_source(folder, Scorer(file))
    write(out, within(rows, 60, 100), scorer.about)

Whatever the size of the source, memory holds one table of rows, and they keep the source's order.
"""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES, open_embeddings
from tastemaker.errors import BadImage, Invalid, NotFound
from tastemaker.files import is_text, place_named, require_writable_folder
from tastemaker.filtering.score_tables import table
from tastemaker.filtering.scorer import Scorer
from tastemaker.pictures.pictures import IMAGE_SUFFIXES

OnError = Callable[[str, str], None]  # path, reason
Progress = Callable[[int, int], None]  # rows done, rows in all


def score_source(
    source: Path,
    scorer: Scorer,
    *,
    on_error: OnError = lambda path, reason: None,
    progress: Progress = lambda done, total: None,
) -> Iterator[pa.Table]:
    """Score a folder (all its folders too), one picture, or a file of embeddings.

    What cannot be used goes to `on_error(path, reason)`. Raises before the first row when the
    source or the encoder cannot be used at all, on the way where L2-normalised embeddings turn up
    that the head cannot read, and after the last when nothing was of use.
    """
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        return _score_embeddings(source, scorer, on_error, progress)
    base, paths = _pictures_in(source, on_error)
    scorer.load_encoder()
    return _score_pictures(base, paths, scorer, on_error, progress)


def _score_embeddings(
    source: Path, scorer: Scorer, on_error: OnError, progress: Progress
) -> Iterator[pa.Table]:
    embeddings = open_embeddings(source)
    scorer.check_width(embeddings.dim, source.name)

    def tables() -> Iterator[pa.Table]:
        done = scored = 0
        for paths, x in embeddings.blocks:
            scores, faults = scorer.vectors(x, source.name)
            rows = table(paths, scores)
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


def _pictures_in(source: Path, on_error: OnError) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the pictures in it, sorted."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_dir():
        base = source
        files = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    else:
        base, files = source.parent, [source]
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        wrong = "is not a picture" if source.is_file() else "holds no picture"
        raise Invalid(f"{source} {wrong}.", "Pictures are JPEG, PNG, WebP or GIF files.")
    named = []
    for path in pictures:
        if is_text(str(path)):
            named.append(path)
        else:
            readable = os.fsencode(path.relative_to(base)).decode("utf-8", "replace")
            on_error(readable, "Its name is not in UTF-8; rename it.")
    return base, sorted(named)


def _score_pictures(
    base: Path, paths: list[Path], scorer: Scorer, on_error: OnError, progress: Progress
) -> Iterator[pa.Table]:
    def relative(index: int) -> str:
        return str(paths[index].relative_to(base))

    def report(index: int, error: BadImage) -> None:
        on_error(relative(index), str(error))

    scored = 0
    for indices, scores in scorer.pictures(paths, report, guarded=True):
        scored += len(indices)
        yield table(pa.array(map(relative, indices), pa.string()), scores)
        progress(indices[-1] + 1, len(paths))
    if not scored:
        raise Invalid("None of the pictures could be scored.")


# --- copying what passes -----------------------------------------------------------------------


def check_target(source: Path, into: Path) -> None:
    """`Invalid` where the copies would become part of the source, `NotWritable` where there is no
    room for them."""
    base = (source if source.is_dir() else source.parent).resolve()
    if into.resolve() == base or base in into.resolve().parents:
        raise Invalid("The folder to copy into lies inside the source.", "Choose another one.")
    require_writable_folder(into)


def copy_pictures(
    paths: Iterable[str],
    source: Path,
    into: Path,
    *,
    keep: bool,
    on_error: OnError = lambda path, reason: None,
) -> tuple[int, int]:
    """Copy pictures, named by their `paths` under the source, into a folder, keeping the folder
    structure or not. A name that is taken gets a number, unless the same content has it already;
    nothing is overwritten. What is gone meanwhile, or cannot be read, goes to `on_error`. Returns
    how many were copied, and how many were there already."""
    check_target(source, into)
    base = source if source.is_dir() else source.parent
    copied = there = 0
    for path in paths:
        origin = base / path
        try:
            origin.open("rb").close()
        except OSError as error:
            on_error(path, f"It was not copied: {(error.strerror or str(error)).lower()}.")
            continue
        target = into / (path if keep else origin.name)
        with place_named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            free = _free_name(target, origin)
            if free is None:
                there += 1
            else:
                _copy(origin, free)
                copied += 1
    return copied, there


def _free_name(wanted: Path, origin: Path) -> Path | None:
    """The name, with a number where it is taken; None where what took it is the same file."""
    target, number = wanted, 0
    while target.exists():
        if target.is_file() and filecmp.cmp(origin, target, shallow=False):
            return None
        number += 1
        target = wanted.with_stem(f"{wanted.stem}-{number}")
    return target


def _copy(origin: Path, target: Path) -> None:
    """A copy, or nothing."""
    try:
        shutil.copy2(origin, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
