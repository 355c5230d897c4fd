"""A desk for tests that import: a folder of pictures, a project, and the jobs that a worker's child
would run, with one pool of decoders for the whole run."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from sqlalchemy import Engine
from sqlmodel import Session, select

from tastemaker import images, jobs, projects
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Image, ImagePath, Job, Project, SkippedFile, Tag
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.importing import imports, requests
from tastemaker.pictures.decode_pool import DecodePool
from tests.pictures import encoded, write

ELSEWHERE = "ViT-B-32/of_unknown_width"  # what gave the vectors of the tests


def noise(seed: int, size: int = 48) -> Picture.Image:
    """A picture unlike any other seed's, to the eye and to the perceptual hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Picture.fromarray(coarse).resize((size, size), Picture.Resampling.BICUBIC)


def png(seed: int) -> bytes:
    return encoded(noise(seed))


def request_import(
    session: Session, settings: Settings, paths: Iterable[str | Path], **asked: Any
) -> Job:
    """An import as the page and the command ask for it."""
    vectors = asked.get("scores_from_folders", False)
    resolved = requests.validate_paths(settings, paths, with_vectors=vectors)
    return requests.enqueue_import(session, settings, resolved, **asked)


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecodePool]:
    with DecodePool(workers=2) as pool:
        yield pool


class Desk:
    """A folder of pictures, a project, and the import that a worker's child would run."""

    def __init__(self, settings: Settings, engine: Engine, folder: Path) -> None:
        self.settings, self.engine, self.folder = settings, engine, folder
        self.read: list[Path] = []  # every file that was opened as a picture
        self.meanwhile: dict[Path, Callable[[], object]] = {}  # done after a file was read
        with sessions.writing(engine) as session:
            self.project = projects.create(session, "Desk", encoder=BUNDLED)
            self.elsewhere = projects.create(session, "Elsewhere", encoder=ELSEWHERE)
        folder.mkdir()

    def put(self, name: str, content: bytes | str) -> Path:
        return write(self.folder / name, content.encode() if isinstance(content, str) else content)

    def bring_in(self, *paths: str | Path, project: Project | None = None, **options: Any) -> Any:
        """Import the folder, or the named places; the job's result."""
        with sessions.writing(self.engine) as session:
            job = request_import(
                session, self.settings, paths or [self.folder], project=project or self.project,
                **options,
            )  # fmt: skip
        return self.run(job.id)

    def upload(self, *files: tuple[str, bytes]) -> Any:
        """Import uploads as the web process stages them: under numbers, with their names."""
        staging = self.settings.incoming / "staged"
        for number, (_, content) in enumerate(files):
            write(staging / f"{number:06d}", content)
        with sessions.writing(self.engine) as session:
            job = requests.request_upload_import(
                session, self.settings, staging,
                [(f"{number:06d}", name) for number, (name, _) in enumerate(files)],
                project=self.project,
            )  # fmt: skip
        return self.run(job.id)

    def run(self, job_id: int) -> Any:
        from tests.conftest import work_on

        work = work_on(self.settings, self.engine, job_id)
        result = imports.run(work)
        with sessions.writing(self.engine) as session:
            jobs.finish(session, work.claim, result)
        return result

    def all(self, table: Any, *conditions: Any) -> list[Any]:
        with sessions.reading(self.engine) as session:
            key = table.__table__.primary_key
            return list(session.exec(select(table).where(*conditions).order_by(*key)))

    def image(self, content: bytes) -> Image:
        with sessions.reading(self.engine) as session:
            found = images.by_sha256(session, hashlib.sha256(content).hexdigest())
        assert found is not None
        return found

    def tags(self, content: bytes) -> set[str]:
        return {row.tag for row in self.all(Tag, Tag.image_id == self.image(content).id)}

    def paths(self) -> dict[str, str]:
        """File name -> state of every path that is known."""
        return {Path(row.path).name: row.state for row in self.all(ImagePath)}

    def reasons(self) -> dict[str, str]:
        return {Path(row.path).name: row.reason for row in self.all(SkippedFile)}


@pytest.fixture
def desk(
    settings: Settings, engine: Engine, tmp_path: Path, decoders: DecodePool,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:  # fmt: skip
    desk = Desk(settings, engine, tmp_path / "pictures")

    class Shared:
        """The import's pool of decoders, started once for all tests."""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def start(self) -> None: ...

        def close(self) -> None: ...

        def map(self, task: Callable[[Any], Any], items: Iterable[Path]) -> Iterator[Any]:
            items = list(items)
            desk.read += items
            for item, outcome in decoders.map(task, items):
                desk.meanwhile.get(item, lambda: None)()
                yield item, outcome

    monkeypatch.setattr(imports, "DecodePool", Shared)
    return desk
