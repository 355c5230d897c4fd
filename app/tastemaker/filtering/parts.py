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
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from more_itertools import chunked, side_effect, spy

from tastemaker.encoding import embedding_folders
from tastemaker.encoding.embedding_files import BLOCK, Block, Embeddings
from tastemaker.encoding.embedding_folders import EmbeddingFolder
from tastemaker.errors import Conflict, Invalid
from tastemaker.files import (
    is_file,
    readable,
    require_writable_folder,
    sweep_unfinished,
    write_atomic,
)
from tastemaker.filtering.columns import Columns
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.score_tables import Ranking, Tables, within, write
from tastemaker.filtering.sources import (
    Archive,
    OnError,
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

MANIFEST = "manifest.json"
FORM = 1  # of the manifest
BLOCKS = 32  # blocks of embeddings in a part
PICTURES = 4096  # in a part


@dataclass(frozen=True)
class Part:
    """A piece of a source. `made_of` tells what its rows follow from, `share` how much of the whole
    source it is, as far as that is known (0–1)."""

    source: str
    made_of: Any
    piece: Piece
    share: float


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


def parts_of(source: Path, panel: Panel, on_error: OnError, tell: Tell) -> Iterator[Part]:
    """The parts of a source, in its order. Raises as `score_source` does, but for a source of which
    nothing can be scored."""
    opened = embeddings_in(source)
    if opened is not None:
        panel.check_source(opened, source.name)
        return _of_embeddings(source, opened)
    archives = archives_in(source)
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


def tables_of(
    part: Part, panel: Panel, embeddings: EmbeddingFolder | None, on_error: OnError,
    progress: Share, tell: Tell,
) -> Iterator[pa.Table]:  # fmt: skip
    """The scores of a part; its embeddings are kept on the way, or read where they are kept."""

    def made() -> Iterator[Block]:
        return blocks_of(part.piece, panel, on_error, progress, tell)

    blocks = made() if embeddings is None else embeddings.kept(key_of(part.made_of), made)
    encoded = not isinstance(part.piece, Rows)
    rows = panel.tables(blocks, part.source, on_error, tell, encoded=encoded)
    first, rows = spy(rows)
    return rows if first else iter([panel.empty()])  # one without a row has the same columns


def stream(
    parts: Iterable[Part], panel: Panel, embeddings: EmbeddingFolder, on_error: OnError,
    tell: Tell, progress: Progress,
) -> Iterator[pa.Table]:  # fmt: skip
    """The scores of all parts, one after the other, whose embeddings are kept. Raises as
    `score_source`."""
    embeddings.begin()
    course, keys, scored = _Course(progress), list[str](), 0
    for part in parts:
        keys.append(key_of(part.made_of))
        before, watch = scored, partial(course.tell, part)
        for rows in tables_of(part, panel, embeddings, on_error, watch, tell):
            scored += len(rows)
            yield rows
        course.done(part, scored - before)
    if not scored:
        raise Invalid("None of the pictures could be scored.")
    embeddings.close(keys)


def write_part(
    order: Order, terms: Terms, panel: Panel, on_error: OnError, progress: Share, tell: Tell
) -> Done:
    """Score a part and write its file, whole or not at all."""
    scored = 0

    def count(rows: pa.Table) -> None:
        nonlocal scored
        scored += len(rows)

    made = tables_of(order.part, panel, terms.embeddings, on_error, progress, tell)
    tables: Tables = within(
        side_effect(count, made), terms.low, terms.high, chosen=bool(terms.chosen)
    )
    rows = write(terms.out / order.file, terms.columns.added(tables), panel.about)
    return Done(order.file, order.key, order.part.source, rows, scored)


# --- all parts ------------------------------------------------------------------------------------


Watch = Callable[[Part, int, float], None]  # rows done of a part, and which share of it that is


class Engine(Protocol):
    """Who writes parts, in any order; a part that is written twice is the same."""

    def write(
        self, orders: Iterable[Order], terms: Terms, watch: Watch
    ) -> Generator[tuple[Order, Done], None, None]: ...


@dataclass(frozen=True)
class Here:
    """This process, one part after the other."""

    panel: Panel
    on_error: OnError
    tell: Tell

    def write(
        self, orders: Iterable[Order], terms: Terms, watch: Watch
    ) -> Generator[tuple[Order, Done], None, None]:
        for order in orders:
            progress = partial(watch, order.part)
            yield order, write_part(order, terms, self.panel, self.on_error, progress, self.tell)


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
    before = _read_manifest(out, run)
    out.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(out)
    if terms.embeddings is not None:
        terms.embeddings.begin()
    _write_manifest(out, run, about, list(before.values()), complete=False)
    done: dict[str, Done] = {}  # by file
    files: list[str] = []  # in the order of the source
    keys: list[str] = []  # of the embeddings
    kept, course = 0, _Course(progress)

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
            before.pop(order.file, None)
            done[order.file] = written
            course.done(order.part, written.scored)
            _write_manifest(out, run, about, [*in_order(), *before.values()], complete=False)
    if not sum(part.scored for part in done.values()):  # and what was written before stays
        raise Invalid("Nothing of the source could be scored.")
    for path in out.glob("part-*.parquet"):  # of a source that has changed: it would count twice
        if path.name not in done:
            path.unlink(missing_ok=True)
    if terms.embeddings is not None:
        terms.embeddings.close(keys)
    _write_manifest(out, run, about, in_order(), complete=True)
    return Written(in_order(), kept)


def best_of(out: Path, most: int) -> pa.Table:
    """The best rows of all parts in a folder."""
    ranking = Ranking(most)
    for path in sorted(out.glob("part-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches():
            ranking.add(pa.Table.from_batches([batch]))
    return ranking.best()


def _is_there(order: Order, there: Done, terms: Terms) -> bool:
    """Whether a part is as it was written, and so are its embeddings, if they are kept."""
    kept, file = terms.embeddings, terms.out / order.file
    try:
        whole = is_file(file) and pq.read_metadata(file).num_rows == there.rows
    except (pa.ArrowException, OSError):
        return False
    return whole and (kept is None or kept.has(key_of(order.part.made_of)))


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
    if embedding_folders.is_one(out):
        raise Conflict(f"{out} holds embeddings, not scores.", "Name another folder.")
    try:
        told = json.loads((out / MANIFEST).read_bytes())
        parts = {part["file"]: Done(**part) for part in told["parts"]}
        if not all(type(n) is int for part in parts.values() for n in (part.rows, part.scored)):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise Conflict(
            f"{out / MANIFEST} is damaged.", "Name another folder; the parts there stay."
        ) from error
    differing = [name for name, value in run.items() if told.get(name) != value]
    differing += [
        name for name in ("heads", "columns", "classes") if name in told and name not in run
    ]
    if differing:
        raise Conflict(
            f"{out} holds scores of another run: {', '.join(differing)} differs.",
            "Name another folder, or give the same head and limits.",
        )
    return parts
