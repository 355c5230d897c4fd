"""A large library for measuring: synthetic rows and vectors, real pictures and thumbnails."""

import hashlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sqlmodel import Session

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Collection, CollectionImage, Embedding, EncoderRow, Image
from tastemaker.pictures.pictures import THUMB, VIEW, Examined, Limits, ingest, thumb_path
from tastemaker.sample.samples import make_sample_library

DIM = 768


def make_library(home: Path, count: int, labels: int, dim: int = DIM, pictures: int = 200) -> int:
    """A project with `count` images, of which `labels` are scored; returns its id.

    Vectors are drawn around 500 centres, and the score follows one direction with noise, so that
    the live model has something to learn. Every image has thumbnails: those of `pictures` real
    ones, linked under many names.
    """
    settings = Settings(home=home, min_free_gb=0, _env_file=None)
    engine = migrate(settings)
    samples = make_sample_library(home / "pictures", pictures)
    seen = [ingest(s.path, home / "seen", Limits()) for s in samples]
    random = np.random.default_rng(0)
    centres = random.normal(size=(500, dim)).astype(np.float32)
    taste = random.normal(size=dim).astype(np.float32) / np.sqrt(dim)
    with writing(engine) as session:
        project = projects.create(session, f"{count} images")
        encoder = EncoderRow(fingerprint=f"bench-{dim}", name=project.encoder, dim=dim)
        collection = Collection(name="bench")
        session.add_all([encoder, collection])
        session.flush()
        projects.add_collection(session, project, collection)
        projects.pin_encoder(session, project, encoder)
        project_id, encoder_id, collection_id = project.id, encoder.id, collection.id
    liked = np.empty(count, np.float32)
    for start in range(0, count, 5000):
        ids = range(start + 1, min(start + 5000, count) + 1)
        x = centres[random.integers(500, size=len(ids))]
        x = x + random.normal(size=x.shape).astype(np.float32)
        liked[start : start + len(ids)] = x @ taste
        names = [hashlib.sha256(str(i).encode()).hexdigest() for i in ids]
        with writing(engine) as session:
            _rows(session, ids, names, seen, x, encoder_id, collection_id)
        for i, name in zip(ids, names, strict=True):
            for size in (THUMB, VIEW):
                link = thumb_path(settings.thumbs, name, size)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(thumb_path(home / "seen", seen[i % len(seen)].sha256, size), link)
    noisy = 5 + 2 * liked + random.normal(size=count)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        person = projects.annotator(session, "imported", proxy=True)
        for i in random.permutation(count)[:labels].tolist():
            value = int(np.clip(np.round(noisy[i]), 0, 10))
            scores.record(session, project, i + 1, person, "set", value, origin="import")
    return project_id


def _rows(
    session: Session, ids: range, names: list[str], seen: list[Examined], x: np.ndarray,
    encoder: int, collection: int,
) -> None:  # fmt: skip
    session.execute(
        Image.__table__.insert(),  # type: ignore[attr-defined]
        [
            {
                "id": i, "sha256": name, "kind": "file", "name": f"{i:07d}.jpg", "format": "JPEG",
                "width": seen[i % len(seen)].width, "height": seen[i % len(seen)].height,
                "bytes": 100_000, "phash": None, "source_group": name[:16],
            }
            for i, name in zip(ids, names, strict=True)
        ],
    )  # fmt: skip
    session.execute(
        Embedding.__table__.insert(),  # type: ignore[attr-defined]
        [
            {"image_id": i, "encoder_id": encoder, "vector": row.tobytes()}
            for i, row in zip(ids, x.astype("<f2"), strict=True)
        ],
    )
    session.execute(
        CollectionImage.__table__.insert(),  # type: ignore[attr-defined]
        [{"collection_id": collection, "image_id": i} for i in ids],
    )


@contextmanager
def serving(
    home: Path, port: int, *words: str
) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """`tastemaker serve`: its URL, its process, and the seconds until `/healthz` answered."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "serve", "--port", str(port), *words],
        env=os.environ | {"TASTEMAKER_HOME": str(home), "TASTEMAKER_LOG_LEVEL": "warning"},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=1)
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError("the server did not come up") from None
                time.sleep(0.01)
        yield url, process, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)
