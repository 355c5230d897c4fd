"""A home with a classifier of three kinds, two projects that score, and routers made of them."""

import functools
import shutil
from pathlib import Path

import numpy as np
from class_world import IMAGES, Classes, class_home, looks, open_classes
from sqlmodel import select
from trained_world import Trained, taste
from web_world import World

from tastemaker import images, projects, versions
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow, Version
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.publishing import routers
from tests.conftest import made_once

KINDS = np.arange(IMAGES) % 3
X = looks(KINDS, seed=1)


def _fill(home: Path) -> None:
    """The classes photo, drawing and logo, and two projects that score: one likes what the other
    does not, from another threshold on."""
    made = open_classes(class_home(home, train=True))
    for name, sign, threshold in (("Photos", 1, 0.5), ("Drawings", -1, 0.6)):
        with sessions.writing(made.engine) as session:
            project = projects.create(session, name, encoder=BUNDLED, threshold=threshold)
            encoder = session.exec(select(EncoderRow)).one()
            projects.pin_encoder(session, project, encoder)
        world = World(made.settings, made.world.app, made.engine, made.world.client, project.id)
        scorer = Trained(world)
        ids = _pool(scorer)
        scorer.score(dict(list(zip(ids, taste(sign * X).tolist(), strict=True))[:40]))
        scorer.train()
    made.engine.dispose()


def _pool(made: Trained) -> list[int]:
    with sessions.writing(made.engine) as session:
        home = images.find_collection(session, "Pictures")
        projects.add_collection(session, made.project(session), home)
        return sorted(session.exec(projects.image_ids(made.project_id)))


@functools.cache
def _filled() -> Path:
    return made_once(_fill)


def router_home(home: Path) -> Classes:
    return open_classes(shutil.copytree(_filled(), home))


def version(made: Trained, name: str) -> Version:
    with sessions.reading(made.engine) as session:
        return versions.by_number(session, projects.by_name(session, name), "active")


def make(made: Trained, name: str = "Mixed", **options: object) -> Path:
    scorers = {"photo": version(made, "Photos"), "drawing": version(made, "Drawings"), "logo": None}
    with sessions.reading(made.engine) as session:
        return routers.make(
            session, made.settings, name, version(made, "Kinds"), scorers, **options
        ).folder
