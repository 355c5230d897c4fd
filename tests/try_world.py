"""A small encoder, and the answering side of Try it in a thread of the test."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image as Picture
from sqlalchemy import Engine
from trained_world import DIM, Trained, vectors

from tastemaker.database import sessions
from tastemaker.encoding.preprocessing import Preprocessing, fitted
from tastemaker.live import model_requests
from tastemaker.live.inference_server import InferenceServer
from tastemaker.live.model_requests import ModelRequest

HOW = Preprocessing(32, 32, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROJECTION = np.random.default_rng(3).normal(size=(32 * 32 * 3, DIM)).astype(np.float32)


class PlainEncoder:
    """A linear encoder with the fingerprint of the tests' project; it can read words."""

    fingerprint, views, frames = "e" * 16, (HOW,), "first"
    spec = SimpleNamespace(name="plain")

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return (batch.reshape(len(batch), -1) / 255 - 0.5) @ PROJECTION / 20

    def encode_text(self, text: str) -> np.ndarray:
        return vectors(1, len(text))[0]


def file_of(picture: Picture.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def vector_of(picture: Picture.Image) -> np.ndarray:
    pixels = fitted(picture, HOW)
    vector: np.ndarray = PlainEncoder().encode(pixels[None])[0].astype("<f2").astype(np.float32)
    return vector


def answering_side(home: Trained, pool: list[Any]) -> InferenceServer:
    """The answering side of a home, with a small encoder already loaded. `pool` keeps the decoding
    child, which is started once for all tests of a module."""
    side = InferenceServer(home.settings, home.engine)
    with sessions.reading(home.engine) as session:
        side._encoders[home.project(session).encoder] = PlainEncoder()
    if pool:
        side._pool = pool[0]
    pool[:] = [side._decode_pool()]
    return side


@contextmanager
def answers(engine: Engine, handle: Callable[[ModelRequest], object]) -> Iterator[None]:
    """Questions are handled, as the model process does, until the block ends."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            for question in model_requests.claim(engine):
                handle(question)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
