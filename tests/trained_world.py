"""A small project with a trained version, made of vectors alone: fast, and true to the last row."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import Engine
from sqlmodel import Session, select
from web_world import World, make_world, open_world

from tastemaker import images, jobs, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Image, Job, Project, Version
from tastemaker.embeddings import store_vectors
from tastemaker.training import retrain
from tests.conftest import made_once, work_on

DIM = 24
TASTE = np.random.default_rng(7).normal(size=DIM).astype(np.float32)


@dataclass
class Trained:
    world: World

    @property
    def settings(self) -> Settings:
        return self.world.settings

    @property
    def engine(self) -> Engine:
        return self.world.engine

    @property
    def project_id(self) -> int:
        return self.world.project_id

    def project(self, session: Session) -> Project:
        return projects.get(session, self.project_id)

    def version(self, number: str = "active") -> Version:
        with sessions.reading(self.engine) as session:
            return versions.by_number(session, self.project(session), number)

    def train(self, note: str = "") -> Version:
        with sessions.writing(self.engine) as session:
            job = retrain.request_training(
                session, self.settings, self.project(session), note=note, recipe="ridge"
            )
        result = self.run(job, retrain.run)
        return self.version(result["version"])

    def run(self, job: Job, handler: object) -> dict[str, object]:
        """Do a queued job here, and end it as the worker would."""
        work = work_on(self.settings, self.engine, job.id)
        result = handler(work)  # type: ignore[operator]
        with sessions.writing(self.engine) as session:
            jobs.finish(session, work.claim, result)
        return result

    def add(
        self,
        count: int,
        collection: str,
        role: str | None,
        seed: int,
        group: str = "",
        x: np.ndarray | None = None,
    ) -> list[int]:
        """Images with vectors in a collection, used by the project as `role` (None: not at all)."""
        x = vectors(count, seed) if x is None else x
        with sessions.writing(self.engine) as session:
            home = images.collection_named(session, collection)
            if role:
                projects.add_collection(session, self.project(session), home, role)
            encoder = encoder_of(session, self.project(session))
            made = []
            for number in range(count):
                sha256 = hashlib.sha256(f"{collection} {seed} {number}".encode()).hexdigest()
                image = Image(
                    sha256=sha256, kind="file", name=f"{collection}-{number:03d}.jpg",
                    format="JPEG", width=960, height=640, source_group=group or sha256[:16],
                )  # fmt: skip
                session.add(image)
                session.flush()
                images.put_in_collection(session, home.id, image.id)
                made.append(image.id)
            store_vectors(session, encoder.id, zip(made, x, strict=True))
        return made

    def score(self, values: dict[int, int], origin: str = "control") -> None:
        with sessions.writing(self.engine) as session:
            project = self.project(session)
            person = projects.annotator(session, self.settings.annotator)
            for image_id, value in values.items():
                scores.record(session, project, image_id, person, "set", value, origin=origin)


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def taste(x: np.ndarray) -> np.ndarray:
    """(N,) hand scores 0–10 of vectors."""
    return np.clip(np.round(5 + 3 * (x @ TASTE) / np.linalg.norm(TASTE)), 0, 10).astype(int)


def encoder_of(session: Session, project: Project) -> EncoderRow:
    row = session.exec(select(EncoderRow)).first()
    if row is None:
        row = EncoderRow(fingerprint="e" * 16, name=project.encoder, dim=DIM)
        session.add(row)
        session.flush()
        projects.pin_encoder(session, project, row)
    return row


def trained_home(home: Path) -> Path:
    """A project “Anime” with 80 scored images and v1.0."""
    return Path(shutil.copytree(made_once(_train_in), home, dirs_exist_ok=True))


def _train_in(home: Path) -> None:
    made = Trained(make_world(home, images=0))
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        project.holdout_share, project.seed = 0.1, 5
        session.add(project)
    ids = made.add(80, "Pictures", "pool", seed=1)
    made.score(dict(zip(ids, taste(vectors(80, 1)).tolist(), strict=True)))
    made.train()
    made.engine.dispose()


def open_trained(home: Path) -> Trained:
    return Trained(open_world(home))
