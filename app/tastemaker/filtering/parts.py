"""Scores written in parts, so that a run which was stopped goes on where it was.

    parts = parts_of(source, panel, on_error, tell)
    written = write_parts(parts, Terms(out), Here(panel, on_error, tell), panel.about)

A part is an archive, some thousand pictures, or about a million embeddings. Its file is whole or
not there, and is named by a key of what it was made of: the heads, the limits, and of every file
its name, size and time. The manifest lists what is done. What is done is not done again, and a part
whose source has changed is replaced. Who does them, this process or a cluster, is an `Engine`.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from more_itertools import chunked, side_effect, spy

from tastemaker.encoding.embedding_files import BLOCK, Block, Embeddings
from tastemaker.encoding.embedding_folders import EmbeddingFolder
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files import (
    is_file,
    readable,
    require_writable_folder,
    sweep_unfinished,
)
from tastemaker.filtering.columns import Columns
from tastemaker.filtering.fetched import Needed, brought_here
from tastemaker.filtering.losses import ErrorCount, Missing, OnError
from tastemaker.filtering.manifests import FORM, Done, read_manifest, write_manifest
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.remote_sources import Piece as RemotePiece
from tastemaker.filtering.remote_sources import RemoteSource
from tastemaker.filtering.score_tables import Ranking, Tables, within, write
from tastemaker.filtering.sources import (
    Archive,
    Opened,
    Pictures,
    Piece,
    Progress,
    Rows,
    Share,
    Tell,
    archives_in,
    blocks_of,
    embeddings_in,
    named_pictures,
)

BLOCKS = 32  # blocks of embeddings in a part
PICTURES = 4096  # in a part

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A piece of a source. `made_of` tells what its rows follow from, `share` how much of the whole
    source it is, as far as that is known (0–1)."""

    source: str
    made_of: Any
    piece: Piece | RemotePiece
    share: float


@dataclass(frozen=True)
class Written:
    parts: list[Done]
    kept: int  # of them were there before
    missing: int = 0  # that could not be read


# --- what is to be done ---------------------------------------------------------------------------


def parts_of(
    source: Path | RemoteSource, panel: Panel, on_error: OnError, tell: Tell
) -> Iterator[Part]:
    """The parts of a source, in its order. Raises as `score_source` does, but for a source of which
    nothing can be scored."""
    if isinstance(source, RemoteSource):
        return _of_remote(source, panel)
    opened = embeddings_in(source)
    if opened is not None:
        panel.check_source(opened, source.name)
        return _of_embeddings(source, opened)
    archives = archives_in(source, on_error)
    panel.load_encoder()
    if archives:
        facts = [_facts(name, path) for name, path in archives]
        every = max(1, sum(size for _, size, _ in facts))
        return (
            Part(readable(name), [fact], Archive(name, path), fact[1] / every)
            for (name, path), fact in zip(archives, facts, strict=True)
        )
    pictures, total = named_pictures(source, on_error, tell)

    def of_pictures() -> Iterator[Part]:
        done = 0
        for chunk in chunked(pictures, PICTURES):
            done += len(chunk)
            yield Part(
                f"{chunk[0][0]} and {len(chunk) - 1:,} more",
                [_facts(name, file) for name, file in chunk],
                Pictures(tuple(chunk)),
                len(chunk) / max(done, total(done)),
            )

    return of_pictures()


def _of_embeddings(source: Path, opened: Embeddings) -> Iterator[Part]:
    made_of = key_of([_facts(path.name, path) for path in opened.files])  # maybe of thousands
    size = BLOCKS * BLOCK
    for start in range(0, opened.rows, size):
        count = min(size, opened.rows - start)
        piece = Rows(source, made_of, start, count)
        name = f"{source.name} from row {start:,}"
        yield Part(name, [start, made_of], piece, count / opened.rows)


def _of_remote(source: RemoteSource, panel: Panel) -> Iterator[Part]:
    if source.of_embeddings:
        panel.check_make(source.dim, source.encoder, source.fingerprint, str(source))
    else:
        panel.load_encoder()
    every = max(1, sum(piece.size for piece in source.pieces))
    return (
        Part(str(piece.address), piece.made_of, piece, piece.size / every)
        for piece in source.pieces
    )


def _facts(name: str, file: object) -> tuple[str, int, int]:
    """What tells a file from what it becomes when it is changed."""
    try:
        if isinstance(file, Path) and is_file(file):
            status = file.stat()
            return name, status.st_size, status.st_mtime_ns
    except OSError:  # it is gone since
        pass
    return name, 0, 0


def key_of(*made_of: Any) -> str:
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


# --- one part -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What the rows of a run are, besides their source: those of `low` ≤ percentage ≤ `high` and of
    the `chosen` classes, if any are, in a folder `out` with `columns` for other programs; and the
    `embeddings`, where they are kept."""

    out: Path
    low: float = 0.0
    high: float = 100.0
    columns: Columns = field(default_factory=Columns)
    embeddings: EmbeddingFolder | None = None
    chosen: str = ""

    @property
    def run(self) -> dict[str, Any]:
        """What a manifest says of them."""
        told = {"min": self.low, "max": self.high} | self.columns.as_run
        return told | ({"classes": self.chosen} if self.chosen else {})

    def at(self, out: Path) -> "Terms":
        """The same in another folder."""
        return replace(self, out=out)


@dataclass(frozen=True)
class Order:
    """A part that is to be written into `file`, under the run's `key` for it."""

    file: str
    key: str
    part: Part


def _here(
    items: Iterable[T], part_of: Callable[[T], Part], embeddings: EmbeddingFolder | None
) -> Iterator[tuple[T, Piece | TastemakerError]]:
    """Each item with the piece of its part as it can be scored on this machine; or why its files
    are not to be had. Those of which the embeddings are kept are not read."""
    first, items = spy(items)
    piece = part_of(first[0]).piece if first else None
    if not isinstance(piece, RemotePiece):  # then none is
        yield from ((item, cast(Piece, part_of(item).piece)) for item in items)
        return

    def remote(item: T) -> RemotePiece:
        return cast(RemotePiece, part_of(item).piece)

    def needs(item: T) -> Needed:
        kept = embeddings is not None and embeddings.has(key_of(part_of(item).made_of))
        return {} if kept else remote(item).needed

    with closing(brought_here(items, needs, piece.keep_free_gb)) as brought:
        for item, there in brought:
            yield item, there if isinstance(there, TastemakerError) else remote(item).at(there)


def tables_of(
    part: Part, piece: Piece, panel: Panel, embeddings: EmbeddingFolder | None, on_error: OnError,
    progress: Share, tell: Tell,
) -> Iterator[pa.Table]:  # fmt: skip
    """The scores of a part, of which this `piece` is here; its embeddings are kept on the way, or
    read where they are kept."""
    told = ErrorCount(on_error)

    def made() -> Iterator[Block]:
        return blocks_of(piece, panel, told, progress, tell)

    def whole() -> bool:
        return not told.incomplete

    blocks = made() if embeddings is None else embeddings.kept(key_of(part.made_of), made, whole)
    encoded = not isinstance(piece, Rows | Opened)
    rows = panel.tables(blocks, part.source, on_error, tell, encoded=encoded)
    first, rows = spy(rows)
    return rows if first else iter([panel.empty()])  # one without a row has the same columns


def stream(
    parts: Iterable[Part], panel: Panel, embeddings: EmbeddingFolder | None, on_error: OnError,
    tell: Tell, progress: Progress, missing: Missing,
) -> Iterator[pa.Table]:  # fmt: skip
    """The scores of all parts, one after the other; their embeddings are kept where there is a
    folder for them. Raises as `score_source`, and as `missing` does."""
    if embeddings is not None:
        embeddings.begin()
    course, keys, scored = _Course(progress), list[str](), 0
    for part, piece in _here(parts, lambda part: part, embeddings):
        missing.tell(isinstance(piece, TastemakerError))
        if isinstance(piece, TastemakerError):
            on_error(part.source, piece)
            continue
        keys.append(key_of(part.made_of))
        before, watch = scored, partial(course.tell, part)
        for rows in tables_of(part, piece, panel, embeddings, on_error, watch, tell):
            scored += len(rows)
            yield rows
        course.done(part, scored - before)
    if not scored:
        what = "the source" if embeddings is None else "the pictures"
        raise missing.in_words() if missing.count else Invalid(f"None of {what} could be scored.")
    if embeddings is not None and not missing.count:
        embeddings.close(keys)


def write_here(
    orders: Iterable[Order], terms: Terms, panel: Panel, on_error: OnError, watch: "Watch",
    tell: Tell,
) -> Iterator[tuple[Order, Done | None]]:  # fmt: skip
    """Score parts in this process and write their files, each whole or not at all; None for one
    whose own files were not to be had, which `on_error` is told."""
    for order, piece in _here(orders, lambda order: order.part, terms.embeddings):
        if isinstance(piece, TastemakerError):
            on_error(order.part.source, piece)
            yield order, None
            continue
        progress = partial(watch, order.part)
        yield order, _write_part(order, piece, terms, panel, on_error, progress, tell)


def _write_part(
    order: Order, piece: Piece, terms: Terms, panel: Panel, on_error: OnError, progress: Share,
    tell: Tell,
) -> Done:  # fmt: skip
    scored = 0

    def count(rows: pa.Table) -> None:
        nonlocal scored
        scored += len(rows)

    kept, told = terms.embeddings, ErrorCount(on_error)
    made = side_effect(count, tables_of(order.part, piece, panel, kept, told, progress, tell))
    tables: Tables = within(made, terms.low, terms.high, chosen=bool(terms.chosen))
    rows = write(terms.out / order.file, terms.columns.added(tables), panel.about)
    whole = not told.incomplete
    return Done(order.file, order.key, order.part.source, rows, scored, whole)


# --- all parts ------------------------------------------------------------------------------------


Watch = Callable[[Part, int, float], None]  # rows done of a part, and which share of it that is


class Engine(Protocol):
    """Who writes parts, in any order; a part that is written twice is the same. None is given for
    one whose files were not to be had, which was told."""

    def write(
        self, orders: Iterable[Order], terms: Terms, watch: Watch
    ) -> Generator[tuple[Order, Done | None], None, None]: ...


@dataclass(frozen=True)
class Here:
    """This process, one part after the other."""

    panel: Panel
    on_error: OnError
    tell: Tell

    def write(
        self, orders: Iterable[Order], terms: Terms, watch: Watch
    ) -> Generator[tuple[Order, Done | None], None, None]:
        yield from write_here(orders, terms, self.panel, self.on_error, watch, self.tell)


class _Course:
    """How far a run is, whatever the order in which its parts are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows, self._share = 0, 0.0

    def tell(self, part: Part, rows: int, share: float) -> None:
        self._tell(self._rows + rows, self._share + share * part.share)

    def done(self, part: Part, rows: int) -> None:
        self._rows, self._share = self._rows + rows, self._share + part.share
        self._tell(self._rows, self._share)

    def _tell(self, rows: int, share: float) -> None:
        self._progress(rows, max(rows, round(rows / share)) if share else rows)


def write_parts(
    parts: Iterable[Part], terms: Terms, engine: Engine, about: Mapping[str, str],
    progress: Progress = lambda done, total: None, **made_with: Any,
) -> Written:  # fmt: skip
    """Write the rows of each part into a Parquet file in the folder of the `terms`, and the
    manifest after each. `about` is what the heads say of themselves, and `made_with` what else the
    scores follow from: the encoder, the precision, all heads where there are several. Raises
    `Conflict` where the folder holds another run, `Invalid` where nothing could be scored,
    `StorageFull`; what is whole stays."""
    out = terms.out
    require_writable_folder(out)
    run = {"format": FORM, "model_sha256": about["model_sha256"]} | terms.run | made_with
    before = read_manifest(out, run)
    out.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(out)
    if terms.embeddings is not None:
        terms.embeddings.begin()
    write_manifest(out, run, about, list(before.values()), complete=False)
    done: dict[str, Done] = {}  # by file
    files: list[str] = []  # in the order of the source
    keys: list[str] = []  # of the embeddings
    kept, course, missing = 0, _Course(progress), Missing()

    def in_order() -> list[Done]:
        return [done[file] for file in files if file in done]

    def due() -> Iterator[Order]:
        """The parts that are not there yet."""
        nonlocal kept
        for number, part in enumerate(parts):
            key = key_of(run, part.made_of)
            order = Order(f"part-{number:05}-{key}.parquet", key, part)
            files.append(order.file)
            keys.append(key_of(part.made_of))
            there = before.get(order.file)
            if there is not None and _is_there(order, there, terms):
                kept += 1
                done[order.file] = before.pop(order.file)
                course.done(part, there.scored)
            else:
                yield order

    with closing(engine.write(due(), terms, course.tell)) as writing:
        for order, written in writing:
            missing.tell(written is None)
            if written is None:
                continue
            before.pop(order.file, None)
            done[order.file] = written
            course.done(order.part, written.scored)
            write_manifest(out, run, about, [*in_order(), *before.values()], complete=False)
    if not sum(part.scored for part in done.values()):  # and what was written before stays
        nothing = Invalid("Nothing of the source could be scored.")
        raise missing.in_words() if missing.count else nothing
    if missing.count:  # the rest is for the next run
        return Written(in_order(), kept, missing.count)
    for path in out.glob("part-*.parquet"):  # of a source that has changed: it would count twice
        if path.name not in done:
            path.unlink(missing_ok=True)
    if terms.embeddings is not None:
        terms.embeddings.close(keys)
    write_manifest(out, run, about, in_order(), complete=True)
    return Written(in_order(), kept)


def best_of(out: Path, most: int) -> pa.Table:
    """The best rows of all parts in a folder."""
    ranking = Ranking(most)
    for path in sorted(out.glob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches():
            ranking.add(pa.Table.from_batches([batch]))
    return ranking.best()


def _is_there(order: Order, there: Done, terms: Terms) -> bool:
    """Whether a part is as it was written, and so are its embeddings, if they are kept. One whose
    archive could not be read to its end is done again, for it may be whole now."""
    kept, file = terms.embeddings, terms.out / order.file
    try:
        whole = is_file(file) and pq.read_metadata(file).num_rows == there.rows
    except (pa.ArrowException, OSError):
        return False
    return there.whole and whole and (kept is None or kept.has(key_of(order.part.made_of)))
