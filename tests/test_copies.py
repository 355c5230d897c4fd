"""A library keeps its id when it is moved or restored; a copy beside its original is told.

Whether a home folder is a copy is asked of the file of its database."""

import json
import shutil
from pathlib import Path

import pytest
from web_world import World, client_of, make_world, open_world

from tastemaker.cli.doctor import examine
from tastemaker.database import backups, copies, installation
from tastemaker.database.sessions import reading
from tastemaker.pages.app import create_app
from tests.command_line import Run
from tests.conftest import serving

pytestmark = pytest.mark.sqlite


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path / "home", images=2)
    assert copies.note_place(world.settings, library(world)) is None  # as `serve` does
    return world


def library(world: World) -> str:
    return str(world.app.state.library)


def copy(world: World, to: Path) -> World:
    world.engine.dispose()
    shutil.copytree(world.settings.home, to)
    return open_world(to)


def test_a_copy_beside_its_original_is_told_until_it_has_an_id_of_its_own(
    world: World, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = copy(world, tmp_path / "copy")
    assert library(second) == library(world)
    for _ in range(2):  # again at the next start
        assert copies.note_place(second.settings, library(second)) == world.settings.root
    assert copies.original_of(world.settings, library(world)) is None
    told = [one for one in examine(second.settings) if "is a copy" in one.what]
    assert [one.level for one in told] == ["warning"] and str(world.settings.root) in told[0].what
    assert "tastemaker library-id --new" in told[0].hint
    second.engine.dispose()

    monkeypatch.setenv("TASTEMAKER_HOME", str(second.settings.home))
    new = run("library-id", "--new", "--json").json["library"]
    assert new != library(world)
    assert run("library-id").out.strip() == new
    installation._known.clear()  # as a new process
    third = open_world(second.settings.home)
    assert library(third) == new and copies.note_place(third.settings, new) is None
    page = {"Tastemaker-Library": library(world)}
    score = {"image_id": 1, "value": 3}
    address = f"/api/v1{third.at}/scores"
    assert third.client.post(address, json=score, headers=page).status_code == 409
    offers = third.client.get(f"/api/v1{third.at}/queue").json()
    assert third.client.post(address, json=score | {"offer": offers[0]["offer"]}).is_success


def test_a_moved_library_is_the_same_one_and_is_told_nothing(world: World, tmp_path: Path) -> None:
    world.engine.dispose()
    world.settings.home.rename(tmp_path / "elsewhere")
    moved = open_world(tmp_path / "elsewhere")
    assert library(moved) == library(world)
    assert copies.note_place(moved.settings, library(moved)) is None
    note = json.loads((moved.settings.root / copies.NOTE).read_text())
    assert note == {"home": str(moved.settings.root.resolve())}
    (tmp_path / "link").symlink_to(moved.settings.root)
    linked = open_world(tmp_path / "link")
    assert copies.note_place(linked.settings, library(linked)) is None


@pytest.mark.parametrize("note", ["", "{", "[]", '{"home": 3}', '{"home": "/nowhere/at/all"}'])
def test_a_note_that_says_nothing_is_passed_over(world: World, note: str) -> None:
    (world.settings.root / copies.NOTE).write_text(note)
    assert copies.note_place(world.settings, library(world)) is None
    assert json.loads((world.settings.root / copies.NOTE).read_text())


def test_a_restored_library_keeps_its_id_wherever_it_is_restored(
    world: World, tmp_path: Path
) -> None:
    backup = backups.back_up(world.settings, tmp_path / "backup.zip")
    other = make_world(tmp_path / "other", images=3)
    other.engine.dispose()
    backups.restore(other.settings, backup.path)
    installation._known.clear()  # as a new process
    restored = create_app(other.settings)
    assert restored.state.library == library(world)
    score = {"image_id": 1, "value": 3}
    answer = client_of(restored).post(
        f"/api/v1{world.at}/scores", json=score, headers={"Tastemaker-Library": library(world)}
    )
    assert answer.json()["library"] == library(world)
    with reading(restored.state.engine) as session:
        assert installation.identity(session).library == library(world)


@pytest.mark.slow
def test_the_id_of_a_library_is_not_changed_under_a_running_program(world: World, run: Run) -> None:
    world.engine.dispose()
    home = world.settings.home
    with serving(home):
        refused = run("library-id", "--new")
        assert refused.code == 1 and "Stop `tastemaker serve`" in refused.sentence
    assert run("library-id").out.strip() == library(world)
