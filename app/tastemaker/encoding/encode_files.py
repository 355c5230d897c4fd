"""Many picture files through one encoder: decoding overlaps with computing, and nothing stops it.

    for index, vector in embed_files(encoder, paths, on_error=...): ...

The size of a batch is measured on the files themselves, a bad file is reported and passed over,
and where memory runs out the batches shrink.
"""

import contextlib
import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.encoding.encoders import Encoder
from tastemaker.encoding.frame_rules import put_together
from tastemaker.encoding.preprocessing import read_fitted
from tastemaker.errors import BadImage
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import KnownPicture, Limits

MOST_HELD = 2**26  # bytes of files in memory that a batch waits for

# A path, the bytes of a file, a file whose bytes are known, or a picture in memory; or why it could
# not be had, which is reported in its turn.
Readable = Path | bytes | KnownPicture | Image.Image
Source = Readable | BadImage
Vector = NDArray[np.float32]
Report = Callable[[int, BadImage], object]
Pixels = NDArray[np.uint8]
Chunk = Sequence[tuple[int, Readable]]
Read = Callable[[Chunk], Iterator[tuple[int, Pixels | BadImage]]]


def embed_files(
    encoder: Encoder,
    paths: Iterable[Source],
    *,
    batch: int | None = None,
    limits: Limits | None = None,
    on_error: Report | None = None,
    lanes: int | None = None,
    guarded: bool = False,
) -> Iterator[tuple[int, Vector]]:
    """Yield (index into `paths`, (dim,) float32) for every picture, in the order they get done.

    Work runs in lanes: threads that each decode a batch and encode it on one torch thread. So
    decoding overlaps with computing, and no core waits for another inside a layer. There are as
    many lanes as torch may use threads (the caller's `torch.set_num_threads`); on a GPU, lanes
    decode side by side and compute one after the other. Memory holds one batch of inputs and one
    decoded picture per lane. `paths` may be a stream: lanes draw from it in turn, and of bytes a
    batch holds no more than `MOST_HELD` and one file.

    A picture that cannot be decoded goes to `on_error(index, BadImage)` in the caller's thread, and
    the others go on. When memory runs out, the batch is halved down to 1; then the picture is
    reported in the same way. `batch` fixes the batch size instead of probing it.

    With `guarded`, each lane decodes in a child process that a bad file may kill, for memory or
    time: then only that file is reported. The main module must allow that (`DecodePool`), so a
    script of somebody else's is not asked to.
    """
    import torch

    on_cpu = encoder.device == "cpu"
    threads = torch.get_num_threads()
    lanes = lanes or (threads if on_cpu else os.cpu_count() or 1)
    if isinstance(paths, Sized):
        lanes = min(lanes, max(1, len(paths)))
    candidates = (batch,) if batch else (1, 2, 4, 8) if on_cpu else (8, 32, 128)
    # A lane computes on its own thread: how long others kept it from that says nothing of a size.
    sizes = _BatchSize(candidates, time.thread_time if on_cpu else time.perf_counter)
    waiting = iter(enumerate(paths))
    taking, computing = threading.Lock(), contextlib.nullcontext() if on_cpu else threading.Lock()
    finished: queue.Queue[tuple[int, Vector | BadImage] | BaseException | None]
    finished = queue.Queue(maxsize=64)
    stopped = threading.Event()

    def lane() -> None:
        try:
            if on_cpu:
                torch.set_num_threads(1)  # of this thread only
            with _reading(encoder, limits, guarded) as read:
                while not stopped.is_set():
                    size = sizes.next()
                    with taking:
                        chunk = _drawn(waiting, size)
                    if not chunk:
                        break
                    for result in _embed_chunk(encoder, chunk, read, sizes, computing):
                        finished.put(result)
        except BaseException as error:  # handed to the caller, who raises it
            finished.put(error)
        finally:
            finished.put(None)

    running = [threading.Thread(target=lane, daemon=True) for _ in range(lanes)]
    for thread in running:
        thread.start()
    working = lanes
    try:
        while working:
            result = finished.get()
            if result is None:
                working -= 1
            elif isinstance(result, BaseException):
                raise result
            elif isinstance(result[1], BadImage):
                if on_error:
                    on_error(result[0], result[1])
            else:
                yield result[0], result[1]
    finally:  # also when the caller stops early: no lane may stay blocked on a full queue
        stopped.set()
        while working:
            working -= finished.get() is None
        for thread in running:
            thread.join()
        torch.set_num_threads(threads)  # else threads started later would inherit the lanes' 1


def _drawn(waiting: Iterator[tuple[int, Source]], size: int) -> list[tuple[int, Source]]:
    """The next `size` pictures, or fewer where their bytes are many."""
    chunk, held = [], 0
    for index, source in itertools.islice(waiting, size):
        chunk.append((index, source))
        held += len(source) if isinstance(source, bytes) else 0
        if held > MOST_HELD:
            break
    return chunk


class _BatchSize:
    """Finds, on the real data, the batch size with the least time per picture, then keeps it.

    The candidates are tried from the smallest up, until one is clearly worse than the best so far:
    batches that outgrow the cache only get slower, and take memory while they are tried. Each is
    timed twice (the first run of a shape also pays for its set-up) and judged by its best. Shared
    by the lanes, hence the lock.
    """

    TRIES = 2
    WORSE = 1.25

    def __init__(self, candidates: Sequence[int], clock: Callable[[], float]) -> None:
        self.clock = clock
        self._times: dict[int, list[float]] = {size: [] for size in candidates}
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            quickest, least = 1, float("inf")
            for size, times in self._times.items():
                if len(times) < self.TRIES:
                    return size
                if min(times) > self.WORSE * least:
                    break
                if min(times) < least:
                    quickest, least = size, min(times)
            return quickest

    def record(self, size: int, seconds: float) -> None:
        with self._lock:
            if size in self._times and len(self._times[size]) < self.TRIES:
                self._times[size].append(seconds / size)

    def cap(self, size: int) -> None:
        """No batch above `size` from now on: that is what memory allows."""
        with self._lock:
            fitting = {known: times for known, times in self._times.items() if known <= size}
            self._times = fitting or {size: []}


@contextlib.contextmanager
def _reading(encoder: Encoder, limits: Limits | None, guarded: bool) -> Iterator[Read]:
    """What decodes a chunk of numbered files and makes them ready for the encoder."""

    task = functools.partial(read_fitted, views=encoder.views, limits=limits, frames=encoder.frames)

    def read_one(item: tuple[int, Readable]) -> Pixels | BadImage:
        try:
            return task(item)
        except BadImage as error:
            return error

    def read_here(chunk: Chunk) -> Iterator[tuple[int, Pixels | BadImage]]:
        return ((item[0], read_one(item)) for item in chunk)

    if not guarded:
        yield read_here
        return
    with DecodePool(1, limits) as pool:

        def read_in_child(chunk: Chunk) -> Iterator[tuple[int, Pixels | BadImage]]:
            files = [item for item in chunk if not isinstance(item[1], Image.Image)]
            for (index, _), outcome in pool.map(task, files):
                yield index, outcome
            yield from read_here([item for item in chunk if isinstance(item[1], Image.Image)])

        yield read_in_child


def _embed_chunk(
    encoder: Encoder,
    chunk: list[tuple[int, Source]],
    read: Read,
    sizes: _BatchSize,
    computing: contextlib.AbstractContextManager[Any],
) -> Iterator[tuple[int, Vector | BadImage]]:
    readable: list[tuple[int, Readable]] = []
    for index, source in chunk:
        if isinstance(source, BadImage):
            yield index, source
        else:
            readable.append((index, source))
    held: list[tuple[int, Pixels]] = []
    frames = 0  # of all that are held: animations fill a batch sooner
    for index, outcome in read(readable):
        if isinstance(outcome, BadImage):
            yield index, outcome
            continue
        held.append((index, outcome))
        frames += len(outcome)
        if frames >= len(chunk):
            yield from _encode_held(encoder, held, sizes, computing)
            held, frames = [], 0
    if held:
        yield from _encode_held(encoder, held, sizes, computing)


def _encode_held(
    encoder: Encoder,
    held: list[tuple[int, Pixels]],
    sizes: _BatchSize,
    computing: contextlib.AbstractContextManager[Any],
) -> Iterator[tuple[int, Vector | BadImage]]:
    """The vector of each picture, of all its frames put together."""
    with computing:
        found = iter(_encode_within_memory(encoder, [row for _, p in held for row in p], sizes))
    for index, pictures in held:
        vectors = []
        bad: BadImage | None = None
        for vector in itertools.islice(found, len(pictures)):
            if isinstance(vector, BadImage):
                bad = vector
            else:
                vectors.append(vector)
        yield index, bad or put_together(np.stack(vectors))


def _encode_within_memory(
    encoder: Encoder, pictures: list[NDArray[np.uint8]], sizes: _BatchSize
) -> list[Vector | BadImage]:
    """Encode a batch, in halves if memory does not allow the whole."""
    count = len(pictures)
    try:
        began = sizes.clock()
        vectors = encoder.encode(np.stack(pictures))
        sizes.record(count, sizes.clock() - began)
        return list(vectors)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    if count == 1:
        return [BadImage("There is not enough memory to encode this picture.")]
    half = count // 2
    sizes.cap(half)
    return [
        *_encode_within_memory(encoder, pictures[:half], sizes),
        *_encode_within_memory(encoder, pictures[half:], sizes),
    ]


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
