"""A home folder that an earlier program made: nothing in it is lost, and the work goes on.

`data/make_former_home.py` made it, and says how to make it again.
"""

import copy
import hashlib
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from routes import filled, page_routes
from sqlmodel import col, select
from typer.testing import CliRunner
from web_world import client_of, settings_in

from tastemaker.cli import commands
from tastemaker.database import tables
from tastemaker.database.migration import current_revision, migrate
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Image, Job, Version
from tastemaker.pages.app import create_app
from tastemaker.queues import reviews

DATA = Path(__file__).parent / "data"
FORMER_SCHEMA = "0002"
FORMER: dict[str, Any] = json.loads((DATA / "former-outputs.json").read_text())
PROJECTS = ("Colours", "Vectors")

Command = Callable[..., Any]

pytestmark = pytest.mark.sqlite


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home as it was made. Read only."""
    home = tmp_path_factory.mktemp("former") / "home"
    with zipfile.ZipFile(DATA / "former-home.zip") as archive:
        archive.extractall(home)
    return home


@pytest.fixture
def home(unpacked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unpacked, tmp_path / "home"))


@pytest.fixture
def command(home: Path) -> Command:
    """Runs a command that prints JSON in the home; gives the JSON, with {home} for the folder."""

    def run(*words: str) -> Any:
        environment = {"TASTEMAKER_HOME": str(home), "TASTEMAKER_MIN_FREE_GB": "0"}
        done = CliRunner().invoke(commands.app, [*words, "--json"], env=environment)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.replace(str(home), "{home}"))

    return run


def missing(former: Any, now: Any, at: str = "") -> list[str]:
    """Where `now` lacks or contradicts what was there; keys may have been added."""
    if isinstance(former, dict) and isinstance(now, dict):
        return [
            problem for key, value in former.items()
            for problem in (missing(value, now[key], f"{at}.{key}") if key in now
                            else [f"{at}.{key} is gone"])
        ]  # fmt: skip
    if isinstance(former, list) and isinstance(now, list) and len(former) == len(now):
        pairs = enumerate(zip(former, now, strict=True))
        return [p for n, (a, b) in pairs for p in missing(a, b, f"{at}[{n}]")]
    return [] if former == now else [f"{at}: {former!r} is now {now!r}"]


def rows(database: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def test_it_opens_and_is_backed_up_before_its_schema_changes(unpacked: Path, home: Path) -> None:
    engine = migrate(settings_in(home))
    changed = current_revision(engine) != FORMER_SCHEMA
    engine.dispose()
    copies = list((home / "backups").glob("before-*.db"))
    assert len(copies) == changed
    for database in (home / "tastemaker.db", *copies):
        for table in ("score_event", "label", "comparison", "image_tag", "removed_image"):
            assert rows(database, table) == rows(unpacked / "tastemaker.db", table), table


def test_labels_versions_and_files_leave_as_the_former_program_wrote_them(
    home: Path, command: Command
) -> None:
    assert missing(FORMER["project list"], command("project", "list")) == []
    for name in PROJECTS:
        assert command("scores", "export", "-p", name) == FORMER["scores export"][name]
        assert missing(FORMER["stats"][name], command("stats", "-p", name)) == []
        former = copy.deepcopy(FORMER["versions list"][name])
        for version in former:  # what stands in front is chosen anew; what was measured is below it
            del version["mae"], version["fp_rate"], version["fn_rate"]
        assert missing(former, command("versions", "list", "-p", name)) == []
    for path, sha256 in FORMER["sha256"].items():
        assert hashlib.sha256((home / path).read_bytes()).hexdigest() == sha256, path


def test_every_page_is_there_for_each_of_its_projects(home: Path) -> None:
    app = create_app(settings_in(home))
    client = client_of(app)
    with reading(app.state.engine) as session:
        jobs = [str(job_id) for job_id in session.exec(select(Job.id))]
        for project_id, name in enumerate(PROJECTS, 1):
            version = select(Version.id).where(Version.project_id == project_id)
            run = select(tables.TestRun.id).where(tables.TestRun.project_id == project_id)
            image = select(Image.id).where((Image.kind == "vector") == (name == "Vectors"))
            values = {
                "project_id": [str(project_id)], "job_id": jobs,
                "version_id": [str(number) for number in session.exec(version)],
                "run_id": [str(number) for number in session.exec(run)],
                "image_id": [str(session.exec(image.order_by(col(Image.id))).first())],
                "kind": list(reviews.REVIEWS), "token": [], "audit_id": [],
            }  # fmt: skip
            paths = [path for route in page_routes(app) for path in filled(route, values)]
            assert len(paths) > 20
            for path in paths:
                answer = client.get(path)
                assert answer.status_code == 200 and "<html" in answer.text, path


def test_scores_are_given_corrected_and_taken_back(home: Path, command: Command) -> None:
    client = client_of(create_app(settings_in(home)))
    api = "/api/v1/projects/1"
    (first, *_) = client.get(f"{api}/scores?limit=1").json()
    image_id = next(e["image_id"] for e in client.get(f"{api}/scores?limit=20").json())
    answer = client.post(
        f"{api}/scores", json={"image_id": image_id, "value": 9, "key": "a-new-key"}
    )
    assert answer.status_code == 200
    newest = client.get(f"{api}/scores?limit=1").json()[0]
    assert (newest["image_id"], newest["value"]) == (image_id, 9)
    assert client.post(f"{api}/undo", json={}).status_code == 200
    assert client.get(f"{api}/scores?limit=1").json()[0] == first
    assert command("scores", "export", "-p", "Colours") == FORMER["scores export"]["Colours"]


def test_a_key_that_was_used_is_known_and_a_password_fits(home: Path) -> None:
    client = client_of(create_app(settings_in(home, admin_password="the server's own")))
    signed_in = client.post("/login", data={"name": "ada", "password": "a former password"})
    assert signed_in.status_code == 303
    owner = client_of(create_app(settings_in(home)))
    control = next(
        event for event in owner.get("/api/v1/projects/1/scores?limit=100").json()
        if event["origin"] == "control" and event["value"] == 1
    )  # fmt: skip
    again = {"image_id": control["image_id"], "value": 1, "key": "control-1"}
    answer = owner.post("/api/v1/projects/1/scores", json=again).json()
    assert answer["event_id"] == control["event_id"], "the same request is the same score"


@pytest.mark.slow
def test_it_trains_on_and_finds_no_damage(command: Command) -> None:
    made = command("train", "-p", "Colours", "--recipe", "ridge", "--note", "by the new program")
    assert (made["version"], made["parent"]) == ("v1.2", "v1.1")
    listed = command("versions", "list", "-p", "Colours")
    assert [version["version"] for version in listed] == ["v0.0", "v1.0", "v1.1", "v1.2"]
    assert listed[-1]["images"] == listed[-2]["images"] + 1, "the one scored in the test run"
    levels = {finding["level"] for finding in command("doctor")}
    assert "damage" not in levels
