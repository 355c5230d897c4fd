"""What an address holds, as pieces that are scored as the local files they become:

    source = open_source(parse("s3://bucket/shards/{000..127}.tar"), keep_free_gb=1)
    for piece in source.pieces: ...

Archives or files of embeddings: one, those of a folder or of a pattern; a folder of
clip-retrieval's layout, or one that `--embeddings-out` wrote. The listing and the heads of files
are read at once, so that what cannot be scored is told before anything is; the files are read in
their turn.
"""

import contextlib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tastemaker.encoding import embedding_folders
from tastemaker.encoding.clip_retrieval import (
    Heads,
    fitting,
    metadata_name,
    open_layout,
)
from tastemaker.encoding.embedding_files import (
    EMBEDDING_SUFFIXES,
    columns_beside,
    open_embeddings,
)
from tastemaker.encoding.embedding_shards import APART, open_shards, two_before_ten, unified
from tastemaker.encoding.npy_headers import HEAD_BYTES, npy_rows
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import is_bare_name
from tastemaker.files.addresses import WEB, Address
from tastemaker.files.damage import HEAD, PARQUET, unreadable_from
from tastemaker.files.folders import lies_in_system
from tastemaker.filtering.fetched import Needed
from tastemaker.filtering.remote import (
    RemoteFile,
    Store,
    facts_of,
    heads_of,
    tails_of,
)
from tastemaker.filtering.shards import SHARD_SUFFIXES, is_shard, no_archive, ranges
from tastemaker.filtering.sources import Archive, Opened
from tastemaker.filtering.stores import store_of
from tastemaker.pictures.formats import IMAGE_SUFFIXES

ARCHIVE = "archive"  # what one is called while it is here, before its ending
TAIL_BYTES = 2**16  # of a Parquet file; where its footer has more, it is read again
LONGEST_NAME = 200  # characters


@dataclass(frozen=True)
class Piece:
    """Files that are scored together: an archive, or embeddings with what belongs to them. `files`
    has the path of each while it is here; `name` is what a local copy would be called."""

    name: str
    files: tuple[tuple[str, RemoteFile], ...]
    of_embeddings: bool
    keep_free_gb: float
    columns: pa.Schema | None = None  # of all files, where several of embeddings belong together

    @property
    def address(self) -> Address:
        return self.files[0][1].address

    @property
    def needed(self) -> Needed:
        return dict(self.files)

    @property
    def size(self) -> int:
        return sum(file.size for _, file in self.files)

    @property
    def made_of(self) -> list[Any]:
        return [self.name, *(file.facts for _, file in self.files)]

    def at(self, folder: Path) -> Archive | Opened:
        """The same, whose files are in a folder now. Raises as opening them does."""
        place = self.files[0][0]
        if not self.of_embeddings:
            return Archive(self.name, folder / place)
        if "/" in place:
            return Opened(open_layout(folder, self.columns), str(self.address))
        if self.columns is not None:
            one = open_shards([(self.name, folder / place)], self.columns)
            return Opened(one, str(self.address))
        return Opened(open_embeddings(folder / place), str(self.address))


@dataclass(frozen=True)
class RemoteSource:
    """`dim` is the number of values of its embeddings, as far as that is known, with `encoder` and
    `fingerprint` where their folder says which made them."""

    address: Address
    pieces: tuple[Piece, ...] = field(repr=False)
    dim: int | None = None
    encoder: str | None = None
    fingerprint: str | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def of_embeddings(self) -> bool:
        return self.pieces[0].of_embeddings


def open_source(address: Address, keep_free_gb: float) -> RemoteSource:
    """Raises `NotFound`, `Forbidden`, `Unavailable` and `Invalid` in words."""
    store = store_of(address)
    if _wild(address.scheme, address.path):
        found = _matching(store, address)
        if _is_embeddings(found[0][0]):
            return _several(store, address, found, keep_free_gb)
        return RemoteSource(address, _archives(found, keep_free_gb))
    if (file := store.facts(address)) is not None:
        return _one(store, file, keep_free_gb)
    if address.scheme in WEB:
        raise NotFound(f"There is nothing at {address}.", "Check the address.")
    return _folder(store, address, keep_free_gb)


def _one(store: Store, file: RemoteFile, keep_free_gb: float) -> RemoteSource:
    name = file.address.name
    if is_shard(PurePosixPath(name)):
        return RemoteSource(file.address, _archives([(name, file)], keep_free_gb))
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in EMBEDDING_SUFFIXES:
        raise _of_no_use(str(file.address))
    dim = None
    if suffix == ".npy":
        (head,) = heads_of(store, [file], HEAD_BYTES)
        _, dim = npy_rows(name, head, file.size)
    piece = Piece(name, ((_safe(name, file), file),), True, keep_free_gb)
    return RemoteSource(file.address, (piece,), dim)


def _of_no_use(what: str) -> Invalid:
    return Invalid(
        f"{what} is neither an archive of pictures nor a file of embeddings.",
        f"Archives are {', '.join(SHARD_SUFFIXES)}; embeddings .npy, .npz, .parquet. Pictures one "
        "by one are read from this machine only.",
    )


def _safe(name: str, file: RemoteFile) -> str:
    """A name that a file may have here too. A key of a bucket may be called anything."""
    if not is_bare_name(name) or len(name) > LONGEST_NAME or re.search(r"[\x00-\x1f:]", name):
        raise Invalid(f"{file.address} has a name that no file can have here.", "Rename it.")
    return name


def _archives(found: Sequence[tuple[str, RemoteFile]], keep_free_gb: float) -> tuple[Piece, ...]:
    """By their names, which may hold folders."""
    suffixes = [next(s for s in SHARD_SUFFIXES if name.lower().endswith(s)) for name, _ in found]
    return tuple(
        Piece(name, ((f"{ARCHIVE}{suffix}", file),), False, keep_free_gb)
        for (name, file), suffix in zip(found, suffixes, strict=True)
    )


# --- patterns -------------------------------------------------------------------------------------


def _wild(scheme: str, text: str) -> bool:
    """Whether it is a pattern. In the address of a web server most signs are only themselves."""
    return bool(re.search(r"[*{]" if scheme in WEB else r"[*?\[{]", text))


def _matching(store: Store, address: Address) -> list[tuple[str, RemoteFile]]:
    """The files of a pattern with their names below its fixed part, sorted: archives, or files of
    embeddings. As with local ones, a number that a range names and that is not there is an error.
    """
    parts = address.path.split("/")
    fixed = next(n for n, part in enumerate(parts) if _wild(address.scheme, part))
    if not fixed:
        raise Invalid(f"{address} names no bucket and no host.", "A pattern begins after it.")
    base, wanted = "/".join(parts[:fixed]), list(ranges(address.path))
    found: dict[str, RemoteFile] = {}
    if address.scheme in WEB and "*" not in address.path:
        known = facts_of(store, [address.at(path) for path in wanted])
        below = {file.address.path: file for file in known if file is not None}
    else:
        below = {file.address.path: file for file in store.below(base)}
    for path in wanted:
        here = [path] if path in below else []
        if _wild(address.scheme, path):
            pattern = path.split("/")
            here = [name for name in below if _fits(name.split("/"), pattern)]
        if not here and path != address.path:
            raise NotFound(f"There is nothing at {address.at(path)}.", "Check the range in braces.")
        found |= {name: below[name] for name in here}
    if not found:
        raise NotFound(f"No file is named like {address}.", "Check the pattern.")
    if not all(map(_is_embeddings, found)):
        for path, file in found.items():
            if not is_shard(PurePosixPath(path)):
                raise no_archive(file.address)
    return _named(base, found.values())


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As with local files: asterisks stop at a slash, two alone between slashes do not."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[skip:], pattern[1:]) for skip in range(len(path)))
    here = bool(path) and fnmatch.fnmatchcase(path[0], re.sub(r"\*+", "*", pattern[0]))
    return here and _fits(path[1:], pattern[1:])


def _named(base: str, files: Iterable[RemoteFile]) -> list[tuple[str, RemoteFile]]:
    named = [(file.address.path.removeprefix(f"{base}/"), file) for file in files]
    return sorted(named, key=lambda one: PurePosixPath(one[0]))


# --- folders --------------------------------------------------------------------------------------


def _folder(store: Store, address: Address, keep_free_gb: float) -> RemoteSource:
    files = _named(address.path, store.below(address.path))
    names = [name for name, _ in files]
    if not files:
        raise NotFound(f"There is nothing at {address}.", "Check the address.")
    if (listed := dict(files).get(embedding_folders.MANIFEST)) is not None:
        manifest = store.read(listed, 0, listed.size)
        told = embedding_folders.contents(manifest, address)
        if told is not None:
            return _kept(address, dict(files), told, keep_free_gb)
    if any(re.fullmatch(r"(img_emb/)?img_emb_[^/]*\.npy", name) for name in names):
        return _layout(store, address, dict(files), keep_free_gb)
    shown = [(name, file) for name, file in files if not lies_in_system(name)]
    if loose := [name for name, _ in shown if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]:
        raise Invalid(
            f"{address} holds pictures one by one ({loose[0]}).",
            "Pictures behind an address are read in archives: pack them into tars or zips, or copy "
            "them here.",
        )
    archives = [(name, file) for name, file in shown if is_shard(PurePosixPath(name))]
    if not archives and (vectors := [one for one in shown if _is_embeddings(one[0])]):
        return _several(store, address, vectors, keep_free_gb)
    if not archives:
        raise _of_no_use(f"What lies at {address}")
    return RemoteSource(address, _archives(archives, keep_free_gb))


def _is_embeddings(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EMBEDDING_SUFFIXES


def _several(
    store: Store, address: Address, found: Iterable[tuple[str, RemoteFile]], keep_free_gb: float
) -> RemoteSource:
    """Files of embeddings, told by these names."""
    files = dict(sorted(found, key=lambda one: two_before_ten(one[0])))
    arrays = {name: file for name, file in files.items() if name.lower().endswith(".npy")}
    heads = heads_of(store, [*arrays.values()], HEAD_BYTES)
    widths: dict[int, str] = {}
    for (name, file), head in zip(arrays.items(), heads, strict=True):
        widths.setdefault(npy_rows(name, head, file.size)[1], name)
    if len(widths) > 1:
        (dim, first), (other, name) = list(widths.items())[:2]
        raise Invalid(f"{name} holds vectors of {other} values, and {first} of {dim}.", APART)
    tables = {name: file for name, file in files.items() if name.lower().endswith(".parquet")}
    told = [
        columns_beside(foot.schema.to_arrow_schema(), Path(name))
        for name, foot in zip(tables, _footers(store, [*tables.values()]), strict=True)
    ]
    columns = unified(told, "The columns of the files do")
    pieces = tuple(
        Piece(name, ((_safe(PurePosixPath(name).name, file), file),), True, keep_free_gb, columns)
        for name, file in files.items()
    )
    return RemoteSource(address, pieces, next(iter(widths), None))


def _kept(
    address: Address, files: dict[str, RemoteFile], told: embedding_folders.Contents,
    keep_free_gb: float,
) -> RemoteSource:  # fmt: skip
    """A folder that `--embeddings-out` wrote."""
    missing = next((name for name, _ in told.parts if name not in files), None)
    if missing is not None:
        raise Invalid(f"{address}/{missing} is missing.", "Copy the folder again.")
    if not told.rows:
        raise Invalid(f"{address} holds no embedding.", "Embed the pictures again.")
    pieces = tuple(
        Piece(name, ((_safe(name, files[name]), files[name]),), True, keep_free_gb)
        for name, rows in told.parts
        if rows
    )
    return RemoteSource(address, pieces, told.dim, told.encoder, told.fingerprint)


def _layout(
    store: Store, address: Address, files: dict[str, RemoteFile], keep_free_gb: float
) -> RemoteSource:
    """clip-retrieval's, named by the folder itself or by that of its vectors."""
    inner = "img_emb/" if any(name.startswith("img_emb/img_emb_") for name in files) else ""
    pattern = re.compile(rf"{inner}(img_emb_[^/]*\.npy)")
    found = [(m[1], files[name]) for name in files if (m := pattern.fullmatch(name))]
    vectors = sorted(found, key=lambda one: two_before_ten(one[0]))
    around = address.path if inner else address.path.rpartition("/")[0]
    apart = f"{around}/metadata"
    beside: dict[str, RemoteFile] = {}
    if not inner and around:
        with contextlib.suppress(NotFound):
            beside = {file.address.path: file for file in store.below(apart)}
    beside |= {file.address.path: file for file in files.values()}

    def metadata_of(name: str) -> RemoteFile | None:
        told = metadata_name(name)
        return beside.get(f"{apart}/{told}") or beside.get(f"{address.path}/{inner}{told}")

    metadata = [metadata_of(name) for name, _ in vectors]
    heads = heads_of(store, [file for _, file in vectors], HEAD_BYTES)
    feet = iter(_footers(store, [file for file in metadata if file is not None]))
    told = []
    for (name, file), head, its in zip(vectors, heads, metadata, strict=True):
        rows, dim = npy_rows(name, head, file.size)
        foot = next(feet) if its is not None else None
        told.append(Heads(name, rows, dim, its.address.name if its else "", foot))
    columns = fitting(told, address.name)
    pieces = []
    for (name, file), its in zip(vectors, metadata, strict=True):
        here = [(f"img_emb/{_safe(name, file)}", file)]
        if its is not None:
            here.append((f"metadata/{metadata_name(name)}", its))
        pieces.append(Piece(name, tuple(here), True, keep_free_gb, columns))
    return RemoteSource(address, tuple(pieces), told[0].dim)


def _footers(store: Store, files: Sequence[RemoteFile]) -> list[pq.FileMetaData]:
    tails = tails_of(store, files, TAIL_BYTES)
    return [_footer(store, file, tail) for file, tail in zip(files, tails, strict=True)]


def _footer(store: Store, file: RemoteFile, tail: bytes) -> pq.FileMetaData:
    size = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and len(tail) < size <= file.size:
        (tail,) = tails_of(store, [file], size)
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        (head,) = heads_of(store, [file], HEAD)
        raise unreadable_from(str(file.address), head, PARQUET) from error
