"""JSON that leaves is valid wherever it leaves: what is no number is null."""

import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.responses import Response
from web_world import World, add_version, make_world

from tastemaker import versions
from tastemaker.cli.terminal import print_json
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Version
from tastemaker.files.json_text import json_text
from tastemaker.pages.json_response import ValidJSON

APP = Path(__file__).parent.parent / "app" / "tastemaker"
NAN, INFINITY = float("nan"), float("inf")
CARRIED = {"loss": [0.5, NAN, {"low": -INFINITY}], "share": (INFINITY, 1.5), "name": "NaN"}
TOLD = {"loss": [0.5, None, {"low": None}], "share": [None, 1.5], "name": "NaN"}


def strictly(text: str | bytes) -> Any:
    """Read as other programs do, which know no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_no_number_is_null_at_any_depth() -> None:
    assert strictly(json_text(CARRIED)) == TOLD
    assert strictly(ValidJSON(CARRIED).body) == TOLD
    assert json_text({"é": [1, 0.1]}) == '{"é": [1, 0.1]}'
    with pytest.raises(TypeError):
        json_text({"path": Path("a")})


def test_a_command_prints_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([CARRIED])
    assert strictly(capsys.readouterr().out) == [TOLD]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A version that brought in, and was measured as, what is no number."""
    world = make_world(tmp_path, images=3)
    add_version(world, 0, {1: 0.5}, curve={"step": [1.0], "train": [NAN], "validation": [INFINITY]})
    return world


def test_what_is_stored_is_valid_and_so_is_every_answer_of_it(world: World) -> None:
    with writing(world.engine) as session:
        version = versions.get(session, 1)
        version.recipe = {**version.recipe, "lr": NAN, "choice": {"share": INFINITY}}
    with world.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT recipe, curve FROM version").one()
    recipe, curve = map(strictly, stored)
    assert recipe["lr"] is None and recipe["choice"] == {"share": None}
    assert curve == {"step": [1.0], "train": [None], "validation": [None]}
    with reading(world.engine) as session:
        assert session.get_one(Version, 1).recipe["choice"] == {"share": None}
    told = strictly(world.client.get("/api/v1/versions/1").content)
    assert told["recipe"]["lr"] is None and told["curve"]["train"] == [None]
    assert world.client.get("/versions/1").status_code == 200
    strictly(world.client.get("/api/v1/projects/1/versions").content)


def test_nothing_writes_json_in_another_way() -> None:
    """What is hashed keeps its own form, and the log lies below."""
    own = {"json_text.py", "parts.py", "encoders.py", "row_files.py", "logs.py"}
    writes = re.compile(r"json\.dumps?\(|[^_]JSONResponse\(")
    found = {p.name for p in APP.rglob("*.py") if writes.search(p.read_text(encoding="utf-8"))}
    assert found <= own | {"json_response.py"}


def test_every_answer_for_programs_is_typed_or_written_whole(world: World) -> None:
    """FastAPI writes null for NaN only where a route says what it returns."""
    untyped = []
    for route in world.client.app.routes:
        if not isinstance(route, APIRoute) or not route.path.startswith("/api/"):
            continue
        returned = typing.get_type_hints(route.endpoint).get("return", Any)
        whole = isinstance(returned, type) and issubclass(returned, Response)
        if not whole and returned is not type(None) and route.response_field is None:
            untyped.append(route.path)
    assert untyped == []
