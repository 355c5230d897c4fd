"""A small real world for the tests of the pages: a migrated SQLite file, pictures drawn on the
spot, and rows as the jobs would have left them."""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image as Picture
from PIL import ImageDraw
from sqlalchemy import Engine
from sqlmodel import Session, select

from tastemaker import projects, scores
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    EncoderRow,
    Image,
    Job,
    JobLog,
    Prediction,
    Project,
    ScoreEvent,
    Version,
    now,
)
from tastemaker.embeddings import store_vectors
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.learning.checkpoints import sidecar
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import THUMB, VIEW, make_thumbnails, thumb_path
from tests.conftest import made_once, migrated
from tests.flat_metrics import from_flat

ORIGIN = "http://localhost"
OWN_PAGE = {"Origin": ORIGIN}


@dataclass
class World:
    settings: Settings
    app: FastAPI
    engine: Engine
    client: TestClient
    project_id: int

    def project(self, session: Session) -> Project:
        return projects.get(session, self.project_id)

    @property
    def at(self) -> str:
        return f"/projects/{self.project_id}"


def settings_in(home: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, home=home, min_free_gb=0, **fields)


def client_of(app: FastAPI, **kwargs: object) -> TestClient:
    """A browser on our own pages: same-origin, and it does not follow redirects."""
    client = TestClient(
        app, base_url=ORIGIN, headers=OWN_PAGE, follow_redirects=False,
        raise_server_exceptions=False, **kwargs,
    )  # fmt: skip
    client.portal = one_loop()
    return client


@lru_cache
def one_loop() -> BlockingPortal:
    """The event loop of all clients, on a thread of its own: one for each request, as they would
    have otherwise, costs as much as a small page."""
    opened = start_blocking_portal()
    atexit.register(opened.__exit__, None, None, None)
    return opened.__enter__()


def make_world(home: Path, images: int = 12, **fields: object) -> World:
    """An application with one project, “Anime”, and so many images in its pool."""
    return _copied(home, _fill, images, fields)


def full_world(home: Path, **fields: object) -> World:
    """Scores, two versions, mistakes of both kinds, a finished and a failed job."""
    return _copied(home, _fill_fully, 30, fields)


def _copied(home: Path, fill: Callable[..., None], images: int, fields: dict[str, object]) -> World:
    """A world in a copy of the home that `fill` makes, with settings of its own."""
    assert "annotator" not in fields, "who that is was written into the home"
    shutil.copytree(made_once(fill, images), home, dirs_exist_ok=True)
    return open_world(home, **fields)


def open_world(home: Path, **fields: object) -> World:
    """The application on a home whose first project is meant."""
    settings = settings_in(home, **fields)
    app = create_app(settings)
    return World(settings, app, app.state.engine, client_of(app), project_id=1)


def _fill(home: Path, images: int) -> World:
    settings = settings_in(home)
    settings.make_folders()
    shutil.copy(migrated(), settings.root / "tastemaker.db")
    world = open_world(home)
    with writing(world.engine) as session:
        project = projects.create(session, "Anime", encoder=BUNDLED, holdout_share=0.0)
        assert project.id == world.project_id
        collection = Collection(name="Pictures")
        session.add(collection)
        session.flush()
        projects.add_collection(session, project, collection)
        for number in range(images):
            add_image(session, settings, collection, number)
    world.engine.dispose()  # which folds the log into the file
    return world


def _fill_fully(home: Path, images: int) -> None:
    world = _fill(home, images)
    score_some(world, [2, 3, 8, 9, 1, 7, 6, 5, 4, 10, 0, 6, 7, 2, 8, 5, 5, 6, 3, 7, 4])
    wrong = {1: 0.78, 2: 0.66, 3: 0.31, 4: 0.22, 5: 0.71}
    predicted = {image_id: wrong.get(image_id, 0.5) for image_id in range(1, images + 1)}
    add_version(world, 0, {})
    add_version(world, 1, predicted, event_high=21)
    add_job(world, "done", result={"version": "v1.1"}, finished_at=now(), rate=0.0)
    world.engine.dispose()


def add_image(session: Session, settings: Settings, collection: Collection, number: int) -> Image:
    sha256 = hashlib.sha256(f"picture {number}".encode()).hexdigest()
    image = Image(
        sha256=sha256, kind="file", name=f"picture-{number:03d}.jpg", format="JPEG", width=960,
        height=640, bytes=1000 + number, source_group=sha256[:16],
    )  # fmt: skip
    session.add(image)
    session.flush()
    session.add(CollectionImage(collection_id=collection.id, image_id=image.id))
    for size, content in thumbnails(number):
        path = thumb_path(settings.thumbs, sha256, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return image


@lru_cache(maxsize=64)
def thumbnails(number: int) -> tuple[tuple[int, bytes], ...]:
    """(size, WebP) of a picture, drawn once."""
    with tempfile.TemporaryDirectory() as folder:
        make_thumbnails(drawn(number), Path(folder), "0" * 64)
        return tuple((s, thumb_path(Path(folder), "0" * 64, s).read_bytes()) for s in (THUMB, VIEW))


def drawn(number: int) -> Picture.Image:
    """A landscape of sorts, in a colour of its own."""
    hue = (37 * number) % 360
    size = (960, 640) if number % 3 else (640, 900)
    picture = Picture.new("RGB", size, f"hsl({hue}, 40%, 55%)")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, size[1] * 0.65, *size), fill=f"hsl({(hue + 60) % 360}, 35%, 35%)")
    pen.ellipse((size[0] * 0.6, 60, size[0] * 0.6 + 140, 200), fill=f"hsl({hue}, 80%, 85%)")
    return picture


def embed_all(world: World) -> None:
    """Give every image a vector, so that the project can be trained."""
    with writing(world.engine) as session:
        project = world.project(session)
        encoder = EncoderRow(fingerprint="b" * 64, name=project.encoder, dim=8)
        session.add(encoder)
        session.flush()
        projects.pin_encoder(session, project, encoder)
        ids = list(session.exec(select(Image.id)))
        vectors = np.random.default_rng(0).normal(size=(len(ids), 8))
        store_vectors(session, encoder.id, zip(ids, vectors, strict=True))


def score_some(world: World, values: list[int], first: int = 1) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        person = projects.annotator(session, world.settings.annotator)
        for image_id, value in enumerate(values, first):
            scores.record(session, project, image_id, person, "set", value, origin="queue")


def add_version(
    world: World,
    minor: int,
    predicted: dict[int, float],
    metrics: dict[str, Any] | None = None,
    **fields: object,
) -> int:
    """A published version whose out-of-fold predictions are `predicted` (image id → 0–1); its
    metrics are in the form of `versions show --json`."""
    measured = {
        "n": 60, "mae": 1.32 - minor / 10, "mae_low": 1.08, "mae_high": 1.6, "spearman": 0.71,
        "fp_rate": 0.18, "fn_rate": 0.22,
    }  # fmt: skip
    usual = {
        "images": 240 + 80 * minor,
        "holdout": measured,
        "out_of_fold": measured,
        "label_histogram": [2, 5, 14, 25, 31, 36, 44, 38, 22, 14, 9],
        "prediction_histogram": [
            0, 1, 3, 9, 14, 22, 30, 41, 55, 61, 66, 58, 40, 31, 22, 12, 6, 2, 0, 0,
        ],
        "versus_parent": None if minor == 0 else {
            "verdict": "better", "difference": -0.1, "low": -0.18, "high": -0.02, "n": 60,
        },
        "aside": 0,
    }  # fmt: skip
    steps = list(range(0, 2001, 100))
    curve = {
        "step": steps,
        "train": [0.3 * 0.9**i + 0.06 for i in range(len(steps))],
        "validation": [0.26 * 0.9**i + 0.11 for i in range(len(steps))],
        "lr": [1e-4] * len(steps),
    }
    name = f"Anime-v1.{minor}.safetensors"
    content = f"the head of v1.{minor}".encode()
    (world.settings.checkpoints / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    with writing(world.engine) as session:
        encoder = session.get(EncoderRow, 1) or EncoderRow(
            fingerprint="a" * 64, name=BUNDLED, dim=1280
        )
        session.add(encoder)
        session.flush()
        about = {"name": encoder.name, "fingerprint": encoder.fingerprint}
        beside = sidecar("Anime", f"v1.{minor}", features=encoder.dim, encoder=about, sha256=sha256)
        config = world.settings.checkpoints / f"Anime-v1.{minor}.config.json"
        config.write_text(json.dumps(beside))
        row = Version(
            project_id=world.project_id, minor=minor, state="ready", active=minor == 1,
            made_by=f"test {minor}", encoder_id=encoder.id, file=name,
            sha256=sha256, bytes=len(content),
            parent_id=1 if minor else None,
            **{
                "recipe": {"name": "city96", "samples": 100_000, "learning_rate": 0.0001},
                "activation": "better than v1.0", "event_high": 0,
                "metrics": from_flat(usual if metrics is None else metrics),
                "curve": curve, **fields,
            },
        )  # fmt: skip
        session.add(row)
        session.flush()
        for image_id, score in predicted.items():
            session.add(
                Prediction(
                    version_id=row.id, image_id=image_id, score=score, out_of_fold=score,
                    uncertainty=0.1,
                )
            )  # fmt: skip
        return row.id


def add_job(world: World, state: str = "running", kind: str = "train", **fields: object) -> int:
    with writing(world.engine) as session:
        values = {
            "project_id": world.project_id, "done": 640, "total": 2000, "rate": 120.0,
            "message": "fitting fold 2 of 5", "attempts": 1, "started_at": now(),
            "curve": {"step": [0, 1, 2], "train": [0.3, 0.2, 0.15], "validation": [0.3, 0.22, 0.2]},
        }  # fmt: skip
        job = Job(kind=kind, title="Train “Anime”", state=state, **(values | fields))
        session.add(job)
        session.flush()
        for line in ("read 240 labels", "fitting fold 1 of 5", "fitting fold 2 of 5"):
            session.add(JobLog(job_id=job.id, line=line))
        return job.id


def events(world: World) -> list[tuple[int, str, int | None]]:
    """(image id, kind, value) of every score event, oldest first."""
    with reading(world.engine) as session:
        rows = session.exec(select(ScoreEvent).order_by(ScoreEvent.id)).all()
    return [(row.image_id, row.kind, row.value) for row in rows]
