"""The embeddings of pictures in the order of the pictures, some at a time."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tastemaker.encoding.encode_files import Source, embed_files
from tastemaker.encoding.encoders import Encoder
from tastemaker.errors import BadImage
from tastemaker.pictures.pictures import Limits

PICTURES_AT_ONCE = 32
Vector = tuple[int, NDArray[np.float32]]  # index into the pictures, (D,)


def in_order(
    encoder: Encoder,
    sources: Iterable[Source],
    limits: Limits,
    on_error: Callable[[int, BadImage], None],
    size: int | None,
    guarded: bool,
) -> Iterator[Vector]:
    """The vectors in the order of `sources`; what is done too early waits for its turn."""
    finished: dict[int, NDArray[np.float32] | None] = {}
    turn = 0

    def skip(index: int, error: BadImage) -> None:
        finished[index] = None
        on_error(index, error)

    def due() -> Iterator[Vector]:
        nonlocal turn
        while turn in finished:
            vector = finished.pop(turn)
            if vector is not None:
                yield turn, vector
            turn += 1

    for index, vector in embed_files(
        encoder, sources, batch=size, limits=limits, on_error=skip, guarded=guarded
    ):
        finished[index] = vector
        yield from due()
    yield from due()  # the last ones may have waited for one that was skipped


def batches(vectors: Iterable[Vector]) -> Iterator[list[Vector]]:
    """As many at a time as are scored at once: a large head is slow with one."""
    batch: list[Vector] = []
    for vector in vectors:
        batch.append(vector)
        if len(batch) == PICTURES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
