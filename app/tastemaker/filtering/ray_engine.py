"""Ray Data as an engine: the parts of a run are scored on all machines of a cluster.

Nothing of the scoring is done anew here. An actor holds encoder and heads, and writes parts as this
process would; a part that was under way on a machine that died is given to another. Heads travel
with the run. The source and the folder of the result lie where every machine sees them under the
same path, or the source at an address that each of them reads; and every machine has this version
of Tastemaker and the weights of the encoder.
"""

import contextlib
import logging
import os
import pickle
import platform
import re
import socket
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from more_itertools import chunked

from tastemaker import __version__
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError, Unavailable
from tastemaker.filtering.class_columns import ClassReading
from tastemaker.filtering.losses import OnError
from tastemaker.filtering.manifests import MANIFEST, Done
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.parts import Order, Terms, Watch, write_here
from tastemaker.filtering.router import Router, load_model
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.sources import Archive, Pictures, Rows, Tell
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.learning.router_files import MANIFEST as MANIFEST_OF_ROUTER
from tastemaker.processes import ready_to_compute

AT_ONCE = 4096  # parts that are handed to Ray in one go, so that a source may be of any length
PORT, CLIENT_PORT = 6379, 10001
SECONDS = 5.0  # until a machine that does not answer is taken for absent


@dataclass(frozen=True)
class OnRay:
    """The cluster at `address` (“HOST:6379”, or “ray://HOST:10001” from outside of it); without
    one, the one this process is connected to, else Ray on this machine for the time of the run."""

    panel: Panel
    on_error: OnError
    tell: Tell
    address: str | None = None

    def write(
        self, orders: Iterable[Order], terms: Terms, watch: Watch
    ) -> Generator[tuple[Order, Done | None], None, None]:
        """Raises `NotFound` where there is no such cluster or no Ray, `Conflict` where one of its
        machines has another version of this program or sees other folders."""
        packed = _Packed.of(self.panel, terms)
        told: set[str] = set()
        with _connected(self.address) as ray:
            for some in chunked(orders, AT_ONCE):
                by_file = {order.file: order for order in some}
                for file, done, faults, lines, error in _results(ray, packed, some):
                    if error is not None:
                        raise error
                    for path, fault in faults:
                        self.on_error(path, fault)
                    for line in (line for line in lines if line not in told):
                        told.add(line)
                        self.tell(line)
                    yield by_file[file], done


# What an actor gives back of a part: its file, that it is done, what could not be used, what else
# is to be said; or why the run cannot go on.
Result = tuple[
    str, Done | None, list[tuple[str, TastemakerError]], list[str], TastemakerError | None
]


def _results(ray: Any, packed: "_Packed", orders: list[Order]) -> Iterator[Result]:
    """The parts as they get done, through Ray Data."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it tells of every step
    rows = [{"order": pickle.dumps(_anywhere(order))} for order in orders]
    cores, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    if gpus:  # an actor has one, and its share of the cores to decode for it
        packed = replace(packed, cores=max(1, cores // gpus), gpus=1)
    graph = from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartWriter, fn_constructor_args=([ray.put(packed)],), batch_size=1, num_cpus=packed.cores,
        num_gpus=packed.gpus or None,
        compute=ActorPoolStrategy(min_size=1, max_size=min(len(rows), max(1, gpus or cores))),
    )  # fmt: skip
    try:
        for row in graph.iter_rows():
            yield pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        raise _in_words(error) from error


def _anywhere(order: Order) -> Order:
    """The same, with paths that mean the same on every machine."""
    piece = order.part.piece
    if isinstance(piece, Rows):
        piece = replace(piece, source=piece.source.absolute())
    elif isinstance(piece, Archive):
        piece = replace(piece, path=piece.path.absolute())
    elif isinstance(piece, Pictures):
        named = ((n, p.absolute() if isinstance(p, Path) else p) for n, p in piece.named)
        piece = replace(piece, named=tuple(named))
    return replace(order, part=replace(order.part, piece=piece))


# What to load of the files of a head: the name of one, or "" for a router, which is their folder
# itself; and all of them by their bare names.
_Files = tuple[str, tuple[tuple[str, bytes], ...]]


@dataclass(frozen=True)
class _Packed:
    """All that a machine needs to know of a run: the heads as the bytes of their files."""

    version: str
    python: str
    heads: tuple[_Files, ...]
    options: tuple[dict[str, Any], ...]  # of each
    promises: tuple[Any, ...]
    classes: tuple[ClassReading | None, ...]  # and which of them were chosen
    terms: Terms
    manifest: bytes  # of the folder of the result: who sees another, sees another folder
    cores: int = 1  # of one actor
    gpus: int = 0

    @classmethod
    def of(cls, panel: Panel, terms: Terms) -> "_Packed":
        absolute = terms.at(terms.out.absolute())
        return cls(
            __version__, platform.python_version(),
            tuple(_files_of(one) for one in panel.scorers),
            tuple(one.options for one in panel.scorers),
            tuple(one.promises for one in panel.scorers),
            tuple(one.classes for one in panel.scorers),
            absolute, (terms.out / MANIFEST).read_bytes(),
        )  # fmt: skip

    def panel(self, folder: Path) -> Panel:
        """The heads, their files laid down in a folder of this machine."""
        scorers: list[Scorer] = []
        for (name, files), options, promises, classes in zip(
            self.heads, self.options, self.promises, self.classes, strict=True
        ):
            place = folder / str(len(scorers))
            place.mkdir()
            for file, content in files:
                (place / file).write_bytes(content)
            scorers.append(load_model(place / name, **options))
            scorers[-1].promises, scorers[-1].classes = promises, classes
        return Panel(scorers)


def _files_of(scorer: Scorer) -> _Files:
    """Those of a head and its sidecar, or of a router and its members; nothing else that lies
    beside them."""
    path = scorer.path
    if isinstance(scorer, Router):
        heads = [path / member.file for member in scorer.manifest.members]
        files = [path / MANIFEST_OF_ROUTER, *heads, *map(sidecar_path, heads)]
        return "", tuple((file.name, file.read_bytes()) for file in files)
    there = [file for file in (path, sidecar_path(path)) if file.is_file()]
    return path.name, tuple((file.name, file.read_bytes()) for file in there)


class PartWriter:
    """An actor: it writes the parts it is given, one after the other."""

    def __init__(self, sent: list[Any]) -> None:
        """`sent` refers to the one `_Packed` of the run, which may be large."""
        import ray

        packed: _Packed = ray.get(sent[0])
        self._fault = _why_unfit(packed)
        self._terms = packed.terms
        if self._fault is None:
            ready_to_compute(packed.cores)
            try:
                with tempfile.TemporaryDirectory(prefix="tastemaker-heads-") as folder:
                    self._panel = packed.panel(Path(folder))
            except TastemakerError as error:  # as where the device is not there
                self._fault = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [pickle.dumps(self._written(pickle.loads(batch["order"][0])))]}

    def _written(self, order: Order) -> Result:
        faults: list[tuple[str, TastemakerError]] = []
        lines: list[str] = []
        if self._fault is not None:
            return order.file, None, [], [], self._fault
        try:
            ((_, done),) = write_here(
                [order], self._terms, self._panel, lambda *one: faults.append(one),
                lambda part, rows, share: None, lines.append,
            )  # fmt: skip
        except TastemakerError as error:
            return order.file, None, [], [], error
        return order.file, done, faults, lines, None


def _why_unfit(packed: _Packed) -> TastemakerError | None:
    """Why this machine cannot take part in a run."""
    here, out = socket.gethostname(), packed.terms.out
    if packed.version != __version__:
        return Conflict(
            f"Machine {here} of the cluster has Tastemaker {__version__}, and the run was started "
            f"by {packed.version}; nothing was scored by it.",
            "Install the same version on every machine, then run again: it goes on where it was.",
        )
    manifest = out / MANIFEST
    if not manifest.is_file() or not _same_run(manifest.read_bytes(), packed.manifest):
        return Conflict(
            f"Machine {here} of the cluster does not see {out}, or sees another folder there.",
            "Source and result lie where all machines see them under the same path.",
        )
    return None


def _same_run(one: bytes, other: bytes) -> bool:
    """The manifest grows while the run goes on; its first lines do not change."""
    return one.partition(b'"complete"')[0] == other.partition(b'"complete"')[0]


# --- the cluster ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster for the time of a run; one that was connected before stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of the run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its own log has all; not the terminal
    try:
        import ray
    except ImportError as error:
        raise NotFound(
            "Ray is not installed here, so there is no engine “ray”.",
            "pip install 'FOLDER-OF-TASTEMAKER[scale]', or leave --engine out.",
        ) from error
    if ray.is_initialized():
        yield ray
        return
    if address is not None:
        _check_there(address)
    # Little travels through Ray itself: parts are written where they are made.
    alone: dict[str, Any] = (
        {} if address else {"include_dashboard": False, "object_store_memory": 2**29}
    )
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _not_joined(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_there(address: str) -> None:
    """Raises `Unavailable` where nobody listens; Ray itself would wait for a minute to say so."""
    bare = address.removeprefix("ray://")
    host, _, port = bare.rpartition(":") if re.search(r":\d+$", bare) else (bare, "", "")
    usual = CLIENT_PORT if address.startswith("ray://") else PORT
    if address == "auto" or not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port or usual)), SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise Unavailable(
            f"There is no Ray cluster at {address}: {reason}.",
            f"Start it (`ray start --head --port={PORT}`), or leave --ray-address out to run on "
            "this machine. What was scored before is safe.",
        ) from error


def _not_joined(address: str | None, error: Exception) -> TastemakerError:
    told = " ".join(str(error).split())
    if "version mismatch" in told.lower():
        return Conflict(
            f"The cluster at {address} runs another version of Ray or Python: {told[:300]}",
            "Every machine needs the same of both.",
        )
    return Unavailable(
        f"Ray could not be joined at {address or 'this machine'}: {told[:300]}",
        "What was scored before is safe; run again when the cluster is up.",
    )


def _in_words(error: Exception) -> TastemakerError:
    told = str(error)
    if "ModuleNotFoundError" in told or "No module named" in told:
        found = re.search(r"No module named '([^']+)'", told)
        return Conflict(
            f"A machine of the cluster lacks {found[1] if found else 'a module'}.",
            "Install 'FOLDER-OF-TASTEMAKER[scale]' of this version on every machine, then run "
            "again: it goes on where it was.",
        )
    causes = re.findall(r"(?m)^\s*([\w.]*(?:Error|Exception): .+)$", told)
    return Invalid(
        f"The cluster could not finish: {causes[-1][:300] if causes else type(error).__name__}.",
        "The parts that are done are kept; run again, and it goes on where it was.",
    )
