"""Scores written in parts, so that a run which was stopped goes on where it was.

    parts = parts_of(source, scorer, on_error, progress, tell)
    written = write_parts(out, parts, scorer.about, low, high)

A part is an archive, some thousand pictures, or about a million embeddings. Its file is whole or
not there, and is named by a key of what it was made of: the head, the limits, and of every file its
name, size and time. The manifest lists what is done. What is done is not done again, and a part
whose source has changed is replaced.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from more_itertools import chunked, side_effect

from tastemaker.encoding.clip_retrieval import layout_files
from tastemaker.encoding.embedding_files import Block
from tastemaker.errors import Conflict, Invalid
from tastemaker.files import is_file, require_writable_folder, sweep_unfinished, write_atomic
from tastemaker.filtering.score_tables import Tables, within, write
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.shards import Shards
from tastemaker.filtering.sources import (
    OnError,
    Progress,
    Tell,
    archives_in,
    embedding_tables,
    embeddings_in,
    named_pictures,
    picture_tables,
    shard_tables,
)

MANIFEST = "manifest.json"
FORM = 1  # of the manifest
BLOCKS = 32  # blocks of embeddings in a part
PICTURES = 4096  # in a part


@dataclass(frozen=True)
class Part:
    """`made_of` tells what its rows follow from; `tables` scores them."""

    source: str
    made_of: Any
    tables: Callable[[], Iterator[pa.Table]]


@dataclass(frozen=True)
class Done:
    """A part that is written: rows in its file, and how many were scored for it."""

    file: str
    key: str
    source: str
    rows: int
    scored: int


@dataclass(frozen=True)
class Written:
    parts: list[Done]
    kept: int  # of them were there before


# --- what is to be done ---------------------------------------------------------------------------


def parts_of(
    source: Path, scorer: Scorer, on_error: OnError, progress: Progress, tell: Tell
) -> Iterator[Part]:
    """The parts of a source, in its order; to be gone through once, each scored or passed over.
    Raises as `score_source` does, but for a source of which nothing can be scored."""
    opened = embeddings_in(source)
    if opened is not None:
        scorer.check_width(opened.dim, source.name)
        return _of_embeddings(source, opened.blocks, opened.rows, scorer, on_error, progress, tell)
    archives = archives_in(source)
    if archives:
        scorer.load_encoder()
        return (
            Part(name, [_facts(name, path)], _scoring(
                lambda shards: shard_tables(shards, scorer, on_error, progress, tell),
                Shards([(name, path)], scorer.limits),
            ))
            for name, path in archives
        )  # fmt: skip
    pictures, total = named_pictures(source, on_error, tell)
    scorer.load_encoder()
    done = itertools.count(0, PICTURES)

    def scored(chunk: list[Any], before: int) -> Iterator[pa.Table]:
        def tell_progress(here: int) -> None:
            progress(before + here, max(before + here, total(before + len(chunk))))

        return picture_tables(iter(chunk), scorer, on_error, tell_progress)

    return (
        Part(
            f"{chunk[0][0]} and {len(chunk) - 1:,} more",
            [_facts(name, file) for name, file in chunk],
            _scoring(scored, chunk, next(done)),
        )
        for chunk in chunked(pictures, PICTURES)
    )


def _scoring(score: Callable[..., Iterator[pa.Table]], *of: Any) -> Callable[[], Any]:
    """Binds what a generator expression would bind too late."""
    return lambda: score(*of)


def _of_embeddings(
    source: Path, blocks: Iterator[Block], rows: int, scorer: Scorer, on_error: OnError,
    progress: Progress, tell: Tell,
) -> Iterator[Part]:  # fmt: skip
    files = layout_files(source) if source.is_dir() else [source]
    facts = [_facts(path.name, path) for path in files]
    passed = 0

    def counted(some: Iterable[Block]) -> Iterator[Block]:
        nonlocal passed
        for block in some:
            passed += len(block[1])
            yield block

    while passed < rows:
        start = passed
        here = counted(itertools.islice(blocks, BLOCKS))
        yield Part(f"{source.name} from row {start:,}", [start, facts], _scoring(
            embedding_tables, source.name, here, scorer, on_error,
            lambda _: progress(passed, rows), tell,
        ))  # fmt: skip
        for _ in here:  # what was passed over
            pass


def _facts(name: str, file: object) -> tuple[str, int, int]:
    """What tells a file from what it becomes when it is changed."""
    if not isinstance(file, Path) or not is_file(file):
        return name, 0, 0
    status = file.stat()
    return name, status.st_size, status.st_mtime_ns


# --- what is done ---------------------------------------------------------------------------------


def write_parts(
    out: Path,
    parts: Iterable[Part],
    about: Mapping[str, str],
    low: float = 0.0,
    high: float = 100.0,
    chosen: str = "",
    **made_with: str | None,
) -> Written:
    """Write the rows of `low` ≤ percentage ≤ `high`, and of the `chosen` classes, of each part into
    a Parquet file in the folder `out`, and the manifest after each. `made_with` is what else the
    scores follow from: the encoder, the precision. Raises `Conflict` where the folder holds another
    run, `Invalid` where nothing could be scored, `StorageFull`; what is whole stays."""
    require_writable_folder(out)
    run = {"format": FORM, "model_sha256": about["model_sha256"], "min": low, "max": high}
    run |= made_with | ({"classes": chosen} if chosen else {})
    before = _read_manifest(out, run)
    out.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(out)
    _write_manifest(out, run, about, list(before.values()), complete=False)
    done: list[Done] = []
    kept = 0
    for number, part in enumerate(parts):
        key = hashlib.sha256(json.dumps([run, part.made_of]).encode()).hexdigest()[:16]
        file = f"part-{number:05}-{key}.parquet"
        there = before.pop(file, None)
        if there is not None and is_file(out / file):
            kept += 1
        else:
            there = _write_part(out / file, key, part, about, low, high, bool(chosen))
            _write_manifest(out, run, about, [*done, there, *before.values()], complete=False)
        done.append(there)
    if not sum(part.scored for part in done):  # and what a run before has written stays
        raise Invalid("Nothing of the source could be scored.")
    current = {part.file for part in done}
    for path in out.glob("part-*.parquet"):  # of a source that has changed: it would count twice
        if path.name not in current:
            path.unlink(missing_ok=True)
    _write_manifest(out, run, about, done, complete=True)
    return Written(done, kept)


def _write_part(
    file: Path, key: str, part: Part, about: Mapping[str, str], low: float, high: float,
    chosen: bool,
) -> Done:  # fmt: skip
    scored = 0

    def count(rows: pa.Table) -> None:
        nonlocal scored
        scored += len(rows)

    tables: Tables = within(side_effect(count, part.tables()), low, high, chosen=chosen)
    rows = write(file, tables, about)
    return Done(file.name, key, part.source, rows, scored)


def _write_manifest(
    out: Path, run: Mapping[str, Any], about: Mapping[str, str], done: list[Done], complete: bool
) -> None:
    told = {**run, **about, "complete": complete, "parts": [asdict(part) for part in done]}
    write_atomic(out / MANIFEST, json.dumps(told, indent=1, ensure_ascii=False).encode())


def _read_manifest(out: Path, run: Mapping[str, Any]) -> dict[str, Done]:
    """The parts that a run before has written, by their files."""
    if not is_file(out / MANIFEST):
        if out.is_dir() and any(path.suffix != ".part" for path in out.iterdir()):
            raise Conflict(
                f"{out} is not empty, and no scores were written there before.",
                "Name an empty folder, or one that is not there.",
            )
        return {}
    try:
        told = json.loads((out / MANIFEST).read_bytes())
        parts = {part["file"]: Done(**part) for part in told["parts"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Conflict(
            f"{out / MANIFEST} is damaged.", "Name another folder; the parts there stay."
        ) from error
    differing = [name for name, value in run.items() if told.get(name) != value]
    if differing:
        raise Conflict(
            f"{out} holds scores of another run: {', '.join(differing)} differs.",
            "Name another folder, or give the same head and limits.",
        )
    return parts
