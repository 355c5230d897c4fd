"""How fast a head scores embeddings and pictures, beside what the machine could do at best.

    python -m bench.scoring [--rows 200000] [--pictures 200] [--rounds 3]

Embeddings go from an `.npy` of float16 to a Parquet file, as `tastemaker score` does it, through a
city96 head of random weights (nothing in it can be left out, as it can in a linear one). The limit
is its four large matrix products in bfloat16 and nothing else; the peer is the original's loop,
one embedding at a time through the torch module. Pictures are those of the sample library; their
limit is the processor time of decoding and encoding one, spread over all threads without a gap. It
is taken before and after each round of the folder, by as many processes at once as there are
threads: a processor whose neighbour is at work gives less than one that has the machine to itself.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tastemaker.encoding.embedding_files import BLOCK
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load
from tastemaker.filtering.score_tables import write
from tastemaker.filtering.scorer import Precision, Scorer
from tastemaker.filtering.sources import score_source
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import HIDDEN, fold_platt
from tastemaker.learning.network import City96, tensors_of
from tastemaker.pictures.pictures import decode
from tastemaker.processes import ready_to_compute
from tastemaker.sample.samples import make_sample_library

WIDTH = 768  # of the embeddings: CLIP ViT-L/14
BATCH = 1024


def make_model(folder: Path, features: int, about: Mapping[str, str] = {}) -> Path:
    """A city96 head of random weights whose scores spread, as a file."""
    torch.manual_seed(0)
    tensors = fold_platt(tensors_of(City96(features)), 8.0, 0.0)
    path = folder / f"random-{features}.safetensors"
    save_checkpoint(path, tensors, about)
    return path


def make_embeddings(path: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
    for start in range(0, rows, 8192):
        part = x[start : start + 8192]
        part[:] = random.standard_normal(part.shape, np.float32)


def products(model: Scorer, dtype: torch.dtype) -> Callable[[int], None]:
    """The large matrix products of so many rows, on data that lie in the caches; every thread has
    its own, so that none waits for another."""
    names = ("up.0", "up.1.long.0", "up.1.long.2", "up.1.long.4")
    first, *rest = (
        torch.from_numpy(np.array(model.checkpoint.tensors[f"{name}.weight"])).to(dtype)
        for name in names
    )
    x, hidden = torch.randn(BATCH, WIDTH).to(dtype), torch.randn(BATCH, HIDDEN).to(dtype)
    threads = torch.get_num_threads()

    def batch(_: int) -> None:
        with torch.inference_mode():
            F.linear(x, first)
            for weight in rest:
                F.linear(hidden, weight)

    def run(rows: int) -> None:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(batch, range(rows // BATCH)))
        torch.set_num_threads(threads)

    return run


def one_at_a_time(source: Path, model: Scorer) -> Callable[[int], None]:
    """The original's loop: each embedding alone through the module, its score taken to Python."""
    module = City96(model.checkpoint.features).eval()
    tensors = model.checkpoint.tensors.items()
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors})
    x = np.load(source, mmap_mode="r")

    def run(rows: int) -> None:
        with torch.inference_mode():
            for row in range(rows):
                z = module(torch.from_numpy(np.array(x[row : row + 1], np.float32)))
                float((torch.tanh(z) + 1) / 2)

    return run


class Clock:
    """Seconds spent in one kind of work that takes turns with others, and the rows it did."""

    def __init__(self) -> None:
        self.rows, self.seconds = 0, 0.0

    def __call__(self, work: Callable[[int], None], rows: int) -> None:
        start = time.perf_counter()
        work(rows)
        self.seconds += time.perf_counter() - start
        self.rows += rows

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


def taking_turns(
    source: Path, model: Scorer, others: Mapping[str, tuple[Callable[[int], None], int]]
) -> dict[str, Clock]:
    """File to Parquet, interrupted after every block for some of the other work, so that whatever
    else the machine does meets all alike. `others`: name -> (work, rows a turn)."""
    # The first run of each also pays for what is set up once.
    for work, rows in others.values():
        work(rows)
    first = source.with_name(f"first-of-{source.name}")
    np.save(first, np.load(source, mmap_mode="r")[:BLOCK])
    write(first.with_suffix(".parquet"), score_source(first, model), model.about)
    clocks = {name: Clock() for name in others}

    def interrupted() -> Iterator[pa.Table]:
        for table in score_source(source, model):
            for name, (work, rows) in others.items():
                clocks[name](work, rows)
            yield table

    def to_parquet(_: int) -> None:
        write(source.with_suffix(".parquet"), interrupted(), model.about)

    whole = Clock()
    whole(to_parquet, len(np.load(source, mmap_mode="r")))
    whole.seconds -= sum(clock.seconds for clock in clocks.values())
    return {"ours": whole, **clocks}


def embeddings(folder: Path, rows: int) -> None:
    file = make_model(folder, WIDTH)
    print(f"{rows:,} × {WIDTH} float16, {torch.get_num_threads()} threads; the program, the limit "
          "and the loop take turns, block by block.\n")  # fmt: skip
    print("| precision | file → Parquet, per second | matrix products alone | share of the limit "
          "| one at a time | ratio |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|")
    kinds: tuple[tuple[Precision, torch.dtype, int], ...] = (
        ("fast", torch.bfloat16, rows),
        ("fp32", torch.float32, rows // 5),  # takes five to ten times as long
    )
    for precision, dtype, many in kinds:
        source, model = folder / f"{precision}.npy", Scorer(file, precision=precision)
        make_embeddings(source, many)
        others = {
            "peer": (one_at_a_time(source, model), 200),
            "limit": (products(model, dtype), 32 * BATCH),
        }
        clocks = taking_turns(source, model, others)
        ours, limit, peer = (clocks[name].rate for name in ("ours", "limit", "peer"))
        print(f"| {precision} | {ours:,.0f} | {limit:,.0f} ({str(dtype)[6:]}) | {ours / limit:.0%} "
              f"| {peer:,.0f} | {ours / peer:.1f} |", flush=True)  # fmt: skip


class Alone:
    """What one picture costs where nothing but decoding and encoding is done, in a process for each
    thread, all at once."""

    def __init__(self, paths: list[Path], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes = processes
        self.pool = ProcessPoolExecutor(
            processes, context, _get_ready, (paths, context.Barrier(processes))
        )

    def __call__(self) -> NDArray[np.float64]:
        """CPU seconds per picture of decoding, then of encoding in batches of each size."""
        asked = [self.pool.submit(_decode_and_encode) for _ in range(self.processes)]
        return np.mean([one.result() for one in asked], axis=0)


SIZES = (1, 2, 4, 8, 16)  # of batches
_kept: tuple[list[Path], Any, Any] | None = None


def _get_ready(paths: list[Path], together: Any) -> None:
    global _kept
    ready_to_compute(1)
    _kept = paths, load(parse(BUNDLED)), together


def _decode_and_encode() -> list[float]:
    """CPU seconds per picture of decoding, then of encoding in batches of each size."""
    assert _kept is not None
    paths, encoder, together = _kept
    together.wait()
    began = time.process_time()
    ready = [encoder.preprocess(decode(path)) for path in paths]
    took = [time.process_time() - began]
    for size in SIZES:
        began = time.process_time()
        for first in range(0, len(ready), size):
            encoder.encode(np.stack(ready[first : first + size]))
        took.append(time.process_time() - began)
    return [seconds / len(paths) for seconds in took]


def pictures(folder: Path, count: int, rounds: int) -> None:
    """A folder through `score_source`, beside the cost of each picture alone."""
    samples = make_sample_library(folder / "pictures", count)
    ready_to_compute()
    encoder, threads = load(parse(BUNDLED)), torch.get_num_threads()
    about = {"encoder": BUNDLED, "encoder_fingerprint": encoder.fingerprint}
    model = Scorer(make_model(folder, encoder.dim, about))
    alone = Alone([sample.path for sample in samples[:: max(1, count // 48)]][:48], threads)

    def whole() -> tuple[float, float]:
        """Wall and CPU seconds per picture of the folder, the encoder being loaded."""
        tables = score_source(folder / "pictures", model)
        wall, cpu = time.perf_counter(), _cpu_seconds()
        scored = sum(map(len, tables))
        return (time.perf_counter() - wall) / scored, (_cpu_seconds() - cpu) / scored

    whole()
    costs, runs = [alone()], []
    for _ in range(rounds):
        runs.append(whole())
        costs.append(alone())
    # The best size is that of all rounds: the least of each round would be one that noise favours.
    best = 1 + int(np.argmin(np.median(costs, axis=0)[1:]))
    beside = np.array([np.mean(pair, axis=0)[[0, best]] for pair in pairwise(costs)])
    wall, cpu = np.transpose(runs)
    limit = threads / beside.sum(1)
    shares = 1 / wall / limit
    decoding, encoding = np.median(1000 * beside, axis=0)
    print(f"\nA folder of {count} pictures, {BUNDLED} in float32, median of {rounds} rounds.\n")
    print("| what | pictures/s | processor time a picture | share of the limit |")
    print("|---|--:|--:|--:|")
    print(f"| {threads} cores ÷ (decoding + encoding) | {np.median(limit):.1f} | {decoding:.1f} + "
          f"{encoding:.1f} ms | |")  # fmt: skip
    print(f"| the folder | {np.median(1 / wall):.1f} | {1000 * np.median(cpu):.1f} ms | "
          f"{np.median(shares):.0%} by the clock ({shares.min():.0%} to {shares.max():.0%}), "
          f"{np.median(beside.sum(1) / cpu):.0%} by processor time |")  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process, of its children and of theirs that have ended, as those that decode have."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(one.ru_utime + one.ru_stime for one in used)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()  # from the third one, its state
            if int(fields[1]) == os.getpid():
                seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of the pictures")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="tastemaker-bench-") as folder:
        embeddings(Path(folder), args.rows)
        pictures(Path(folder), args.pictures, args.rounds)


if __name__ == "__main__":
    # Each process that decodes imports the main module. That of `tastemaker score` brings no torch.
    again = [sys.executable, "-c", "from bench.scoring import main; main()", *sys.argv[1:]]
    sys.exit(subprocess.call(again))
