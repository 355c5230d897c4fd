"""A small class project of vectors alone, with labels and, where asked for, a version."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw
from sqlmodel import select
from trained_world import DIM, Trained
from web_world import World, client_of, settings_in

from tastemaker import projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Image
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import THUMB, VIEW, make_thumbnails, thumb_path
from tastemaker.scores import classes
from tests.conftest import made_once, migrated

NAMES = ("photo", "drawing", "logo")
CENTRES = 0.55 * np.random.default_rng(3).normal(size=(3, DIM)).astype(np.float32)
IMAGES = 90


def looks(kinds: np.ndarray, seed: int) -> np.ndarray:
    """(N, DIM) vectors of images of these kinds (N,)."""
    random = np.random.default_rng(seed)
    return (CENTRES[kinds] + random.normal(size=(len(kinds), DIM))).astype(np.float32)


class Classes(Trained):
    """`kinds` is what each image is in truth, by its id."""

    kinds: dict[int, int]

    def label(self, values: dict[int, int | str], origin: str = "control", name: str = "") -> None:
        with sessions.writing(self.engine) as session:
            project = self.project(session)
            person = projects.annotator(session, name or self.settings.annotator)
            for image_id, value in values.items():
                scores.record(session, project, image_id, person, "set", value, origin=origin)

    def labelled(self, image_id: int) -> float | None:
        with sessions.reading(self.engine) as session:
            return scores.values_of(session, self.project_id, [image_id]).get(image_id)


def class_home(home: Path, *, labels: int = 60, train: bool = False, several: bool = False) -> Path:
    """90 images of three kinds, of which the first so many are labelled as what they are; with
    `several`, logos are tagged as drawings too."""
    filled = made_once(_fill, labels, train, several)
    return Path(shutil.copytree(filled, home, dirs_exist_ok=True))


def open_classes(home: Path, **fields: object) -> Classes:
    settings = settings_in(home, **fields)
    app = create_app(settings)
    made = Classes(World(settings, app, app.state.engine, client_of(app), project_id=1))
    with sessions.reading(made.engine) as session:
        ids = sorted(session.exec(projects.image_ids(1)))
    made.kinds = {image_id: number % 3 for number, image_id in enumerate(ids)}
    return made


def _fill(home: Path, labels: int, train: bool, several: bool) -> None:
    settings = settings_in(home)
    settings.make_folders()
    shutil.copy(migrated(), settings.root / "tastemaker.db")
    app = create_app(settings)
    made = Classes(World(settings, app, app.state.engine, client_of(app), project_id=1))
    with sessions.writing(made.engine) as session:
        project = classes.create_project(
            session, "Kinds", NAMES, several=several, encoder=BUNDLED, holdout_share=0.2
        )
        project.seed = 5
        session.add(project)
        assert project.id == made.project_id
    kinds = np.arange(IMAGES) % 3
    ids = made.add(IMAGES, "Pictures", "pool", seed=1, x=looks(kinds, seed=1))
    as_tags = {0: 0b001, 1: 0b010, 2: 0b110}
    truth = [as_tags[k] if several else k for k in kinds.tolist()]
    made.label(dict(list(zip(ids, truth, strict=True))[:labels]))
    if train:
        made.train()
    made.engine.dispose()


def draw_all(made: Classes) -> None:
    """A picture for every image: a photograph of sorts, a line drawing, or a logo."""
    with sessions.reading(made.engine) as session:
        sha256_of = dict(session.exec(select(Image.id, Image.sha256)).all())
    for image_id, kind in made.kinds.items():
        for size, content in drawn_as(kind, image_id % 4):
            path = thumb_path(made.settings.thumbs, sha256_of[image_id], size)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@lru_cache(maxsize=16)
def drawn_as(kind: int, variant: int) -> tuple[tuple[int, bytes], ...]:
    """(size, WebP) of a picture of this kind."""
    picture = Picture.new("RGB", (720, 480), "white")
    pen = ImageDraw.Draw(picture)
    if kind == 0:
        shades = np.linspace(40, 220, 480 * 720).reshape(480, 720)
        noise = np.random.default_rng(variant).normal(0, 24, (480, 720))
        pixels = np.stack([shades, shades[::-1], shades * 0.6], axis=-1) + noise[..., None]
        picture = Picture.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    elif kind == 1:
        for n in range(12):
            x = 50 * n + 20 * variant
            pen.line((x, 40, 700 - x, 430), fill="black", width=3)
        pen.ellipse((200, 120, 480, 380), outline="black", width=5)
    else:
        colour = ("navy", "crimson", "seagreen", "darkorange")[variant]
        pen.rectangle((180, 100, 540, 380), fill=colour)
        pen.ellipse((270, 150, 450, 330), fill="white")
    with tempfile.TemporaryDirectory() as folder:
        make_thumbnails(picture, Path(folder), "0" * 64)
        return tuple((s, thumb_path(Path(folder), "0" * 64, s).read_bytes()) for s in (THUMB, VIEW))
