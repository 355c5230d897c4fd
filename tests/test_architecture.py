"""The map is true: the packages, their order and the walks of `docs/architecture.md`."""

import ast
import re
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import trained_world
import web_world
from sqlmodel import select

from tastemaker import embeddings, projects
from tastemaker.cli import filtering
from tastemaker.database import sessions
from tastemaker.database.tables import Job
from tastemaker.importing import imports
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.training import retrain
from tests import slow_tests
from tests.conftest import work_on
from tests.desk import request_import

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "app" / "tastemaker"
MAP = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = re.findall(r"(?m)^\| `(\w+)` \|", MAP.split("## Packages")[1].split("## Words")[0])
MOST_PACKAGES, MOST_LINES = 28, 450


def modules() -> dict[str, Path]:
    """Package or top-level module → its files."""
    return {
        name: sorted(HOUSE.glob(f"{name}.py")) or sorted((HOUSE / name).rglob("*.py"))
        for name in PACKAGES
    }  # type: ignore[misc]


def imported_by(path: Path) -> set[str]:
    """The packages of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tastemaker"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("tastemaker.")
            }
    return found & set(PACKAGES)


def test_the_list_of_packages_is_what_stands_there() -> None:
    there = {
        path.stem
        for path in HOUSE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(PACKAGES) == there - {"__init__", "__main__"}
    assert len(PACKAGES) == len(set(PACKAGES)) <= MOST_PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_those_above_it(package: str) -> None:
    above = set(PACKAGES[: PACKAGES.index(package) + 1])
    for path in modules()[package]:
        assert imported_by(path) <= above, path.relative_to(ROOT)


def test_no_module_is_longer_than_one_can_hold_in_mind() -> None:
    lines = {p.relative_to(HOUSE): len(p.read_text().splitlines()) for p in HOUSE.rglob("*.py")}
    assert not {path: n for path, n in lines.items() if n > MOST_LINES}


def test_one_contract_holds_the_siblings_and_one_each_what_may_not_be_known() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert sorted(contract["type"] for contract in contracts["contracts"]) == [
        "acyclic_siblings", "forbidden", "forbidden",
    ]  # fmt: skip


# --- the walks -----------------------------------------------------------------------------------

GROUND = {"errors", "config", "files", "processes", "database", "auth", "__init__"}
WALKS = {
    letter: re.findall(r"(?m)^\d+\. `app/tastemaker/([\w/.]+)`", text)
    for letter, text in re.findall(r"### \((\w)\)[^\n]*\n(.*?)(?=\n### |\Z)", MAP, re.DOTALL)
}
MOST_ROOMS = {"a": 7, "b": 7, "c": 12, "d": 8}


def room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


@contextmanager
def footsteps() -> Iterator[set[str]]:
    """The files of ours that any thread enters meanwhile."""
    entered: set[str] = set()

    def step(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(HOUSE)):
            entered.add(path.removeprefix(f"{HOUSE}/"))

    threading.setprofile(step)
    sys.setprofile(step)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def check_walk(letter: str, entered: set[str]) -> None:
    listed = WALKS[letter]
    assert set(listed) <= entered, set(listed) - entered
    rooms = {room(file) for file in entered} - GROUND
    assert rooms == {room(file) for file in listed}
    assert len(rooms) <= MOST_ROOMS[letter]
    assert f"{len(rooms)} rooms" in MAP.split(f"### ({letter})")[1].split("\n")[0]
    assert max(map(listed.count, listed)) <= 2, "each file is visited once or twice"


def test_a_score_and_the_next_page_walk_as_the_map_says(tmp_path: Path) -> None:
    world = web_world.full_world(tmp_path / "home")
    world.client.get(f"{world.at}/score")
    fresh = web_world.client_of(world.app)
    fresh.portal = None  # its thread begins within the walk
    with footsteps() as entered:
        saved = fresh.post(f"/api/v1{world.at}/scores", json={"image_id": 3, "value": 5})
        page = fresh.get(f"{world.at}/score")
    assert (saved.status_code, page.status_code) == (200, 200)
    check_walk("a", entered)


@pytest.mark.slow
def test_an_import_walks_as_the_map_says(tmp_path: Path) -> None:
    world = web_world.make_world(tmp_path / "home", images=2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        web_world.drawn(100 + number).save(folder / f"{number}.png")
    with sessions.writing(world.engine) as session:
        project = projects.get(session, world.project_id)
        job_id = request_import(session, world.settings, [str(folder)], project=project).id
    with footsteps() as entered:
        imports.run(work_on(world.settings, world.engine, job_id))
        with sessions.reading(world.engine) as session:
            queued = session.exec(select(Job).where(Job.kind == "embed")).one()
        embeddings.run(work_on(world.settings, world.engine, queued.id))
    check_walk("b", entered - {"jobs/__init__.py"})


def test_a_training_walks_as_the_map_says(tmp_path: Path) -> None:
    home = trained_world.open_trained(trained_world.trained_home(tmp_path / "home"))
    with sessions.writing(home.engine) as session:
        project = projects.get(session, home.project_id)
        job_id = retrain.request_training(session, home.settings, project, recipe="ridge").id
    job = work_on(home.settings, home.engine, job_id)
    with footsteps() as entered:
        assert retrain.run(job)["version"] == "v1.1"
    check_walk("c", entered)


@pytest.mark.slow
def test_scoring_a_folder_walks_as_the_map_says(tmp_path: Path) -> None:
    folder, head = tmp_path / "pictures", tmp_path / "head.safetensors"
    folder.mkdir()
    web_world.drawn(1).save(folder / "a.png")
    features = np.ones(1280, np.float32)
    tensors = linear_head(features / 1280, 0.0, 0 * features, features)
    save_checkpoint(head, tensors, {"encoder": "efficientnet_lite0/bundled"})
    with footsteps() as entered:
        filtering.score(folder, model=[str(head)], to=tmp_path / "scores.csv")
    check_walk("d", entered)


def test_what_is_left_out_of_the_quick_check_is_there() -> None:
    """A test that was renamed or taken out is no longer in the list of the slow ones."""
    listed = [name.split("::") for name in slow_tests.known()]
    texts = {path: (ROOT / path).read_text() for path in {path for path, *_ in listed}}
    gone = [
        test for path, *_, test in listed
        if not re.search(rf"(?m)^ *def {re.escape(test)}\(", texts[path])
    ]  # fmt: skip
    assert listed and not gone
