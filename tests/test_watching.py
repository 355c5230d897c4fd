"""Watching the program: its log, its figures, whether it is ready, and what its doctor sees."""

import errno
import json
import logging
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import select
from web_world import World, add_image, add_job, client_of, full_world, make_world, settings_in

from tastemaker import images, jobs, projects
from tastemaker.cli import doctor
from tastemaker.cli.doctor import examine
from tastemaker.database.migration import newest_revision, revisions
from tastemaker.database.sessions import make_engine, reading, writing
from tastemaker.database.tables import Collection, EncoderRow, Job, Version
from tastemaker.encoding.weights import weights_of
from tastemaker.errors import (
    EncoderUnavailable,
    FilesGone,
    Invalid,
    NotTrainable,
    StorageFull,
    of_the_disk,
)
from tastemaker.files import require_free_space, visits
from tastemaker.jobs import failures, heartbeat
from tastemaker.jobs.failures import Failure
from tastemaker.pages.jobs import repair_of
from tastemaker.processes import logs
from tests.command_line import Run

PASSWORD = "an old and long password"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "home", images=3)


class Lines(logging.Handler):
    """What is logged, as JSON lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.JsonLines())
        self.all: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(json.loads(self.format(record)))

    @property
    def requests(self) -> list[dict[str, object]]:
        return [line for line in self.all if line["event"] == "request"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    ours, handler = logging.getLogger("tastemaker"), Lines()
    before = ours.level
    ours.setLevel(logging.DEBUG)
    ours.addHandler(handler)
    yield handler
    ours.removeHandler(handler)
    ours.setLevel(before)


# --- the log -------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_its_route_status_and_person(world: World, lines: Lines) -> None:
    answer = world.client.get(f"{world.at}/score?secret=nobody-shall-see")
    (line,) = lines.requests
    assert line["route"] == "/projects/{project_id}/score"
    assert (line["method"], line["status"], line["person"]) == ("GET", 200, "owner")
    assert isinstance(line["ms"], float) and line["level"] == "info"
    world.client.get("/jobs/list")
    assert lines.requests[-1]["level"] == "debug", "a page asks for it by itself"
    world.client.head("/jobs")
    assert lines.requests[-1]["route"] == "/jobs" and lines.requests[-1]["method"] == "HEAD"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("0af7651916cd43dd8448eb211c80319c", True), ("a line\tof mine", False), ("short", False),
     ("x" * 65, False), ("<script>alert(1)", False)],
)  # fmt: skip
def test_an_id_of_a_proxy_is_taken_only_if_it_is_one(world: World, given: str, kept: bool) -> None:
    answer = world.client.get("/healthz", headers={"X-Request-ID": given})
    assert (answer.headers["x-request-id"] == given) == kept


def test_an_error_shows_the_reference_of_its_line(world: World, lines: Lines) -> None:
    page = world.client.get("/nothing")
    reference = page.headers["x-request-id"]
    assert f"Reference {reference}" in page.text
    program = world.client.get("/api/v1/jobs/99").headers["x-request-id"]
    assert [line["request"] for line in lines.requests] == [reference, program]


def test_the_log_holds_no_password_cookie_search_or_name(tmp_path: Path, lines: Lines) -> None:
    world = make_world(tmp_path / "home", images=2, admin_password=PASSWORD)
    client = client_of(world.app)
    client.post("/login", data={"password": "a wrong and long password"})
    answer = client.post("/login", data={"password": PASSWORD})
    cookie = answer.cookies["tastemaker_session"]
    client.get(f"{world.at}/library?q=dearest-secret")
    client.get("/api/v1/projects", headers={"Authorization": "Basic bm9ib2R5OmFscGhhYmV0"})
    world.app.router.routes.insert(0, broken_route("dearest-secret"))
    broken = client.get("/broken")
    assert broken.status_code == 500
    assert f"Reference {broken.headers['x-request-id']}: the line of" in broken.text
    assert any("traceback" in line for line in lines.all)
    written = json.dumps(lines.all)
    for secret in (PASSWORD, "a wrong and long", cookie, "bm9ib2R5OmFscGhhYmV0", "dearest-secret"):
        assert secret not in written, secret
    assert len(lines.requests) == 5


def broken_route(value: str) -> object:
    """A route whose statement fails with what somebody typed in its parameters."""
    from fastapi import Request
    from sqlalchemy import text
    from starlette.routing import Route

    def fails(request: Request) -> None:
        with request.app.state.engine.connect() as connection:
            connection.execute(text("SELECT * FROM nowhere WHERE title = :it"), {"it": value})

    async def endpoint(request: Request) -> None:
        try:
            fails(request)
        except Exception as error:
            raise RuntimeError("a fault") from error

    return Route("/broken", endpoint)


def test_a_line_is_for_people_or_for_programs() -> None:
    record = logging.LogRecord("tastemaker.x", logging.INFO, "", 0, "job ended", (), None)
    record.fields = {"state": "done", "ms": 12}
    with logs.about(job=7):
        assert logs.PlainLines().format(record).endswith("info job ended job=7 state=done ms=12")
        line = json.loads(logs.JsonLines().format(record))
    assert (line["event"], line["job"], line["state"], line["ms"]) == ("job ended", 7, "done", 12)


@pytest.mark.slow
def test_the_process_of_a_job_names_it_in_every_line(
    tmp_path: Path, tastemaker: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A real child of a worker, with the log as programs read it."""
    world = make_world(tmp_path / "home", images=0)
    with writing(world.engine) as session:
        none = {"version_id": 7}
        session.add(Job(id=41, kind="predict", title="Predict", payload=none, state="failed"))
    as_json = {"TASTEMAKER_LOG_FORMAT": "json", "TASTEMAKER_LOG_LEVEL": "debug"}
    ran = tastemaker("jobs", "retry", 41, **as_json)
    assert ran.returncode == 1 and "This project does not exist" in ran.stderr, ran.stderr
    lines = [json.loads(line) for line in ran.stderr.splitlines() if line[:1] == "{"]
    assert lines and {line["job"] for line in lines} == {41}
    assert {line["kind"] for line in lines} == {"predict"}


# --- figures -------------------------------------------------------------------------------------


def test_the_figures_count_requests_scores_jobs_and_refusals(tmp_path: Path) -> None:
    world = full_world(tmp_path / "home")
    client = world.client
    scores = f"/api/v1{world.at}/scores"
    assert client.post(scores, json={"image_id": 3, "value": 5}).status_code == 200
    assert client.post(scores, json={"image_id": 9999, "value": 5}).status_code == 404
    other = {"Tastemaker-Library": "another"}
    assert client.post(scores, json={"image_id": 3, "value": 5}, headers=other).status_code == 409
    heartbeat.Heart(world.settings).beat()
    told = client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    route = 'route="/api/v1/projects/{project_id}/scores"'
    for line in (
        f'tastemaker_requests_total{{method="POST",{route},status="200"}} 1.0',
        f'tastemaker_request_seconds_count{{method="POST",{route}}} 2.0',
        f'tastemaker_refused_writes_total{{kind="NotFound",{route}}} 1.0',
        'tastemaker_refused_writes_total{kind="another-library",route="none"} 1.0',
        'tastemaker_jobs{kind="train",state="done"} 1.0',
        "tastemaker_jobs_waiting 0.0", "tastemaker_score_events_total 22.0",
    ):  # fmt: skip
        assert line in told.text.splitlines(), line
    for name in ("worker_heartbeat_age_seconds", "disk_free_bytes", "database_bytes"):
        assert f"tastemaker_{name} " in told.text


@pytest.mark.sqlite
def test_figures_that_cannot_be_looked_at_are_left_out(world: World) -> None:
    with closing(sqlite3.connect(world.settings.root / "tastemaker.db")) as file, file:
        file.execute("ALTER TABLE job RENAME TO elsewhere")
    told = world.client.get("/metrics")
    assert told.status_code == 200
    assert "tastemaker_disk_free_bytes" in told.text and "tastemaker_jobs" not in told.text


def test_the_figures_are_the_admins(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=0, admin_password=PASSWORD)
    client = client_of(world.app)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", auth=("admin", PASSWORD)).status_code == 200
    client.post("/login", data={"password": PASSWORD})
    for scope, status in (("admin", 200), ("score", 403)):
        made = client.post("/api/v1/tokens", json={"name": "prometheus", "scope": scope}).json()
        asks = client_of(world.app)
        asked = asks.get("/metrics", headers={"Authorization": f"Bearer {made['token']}"})
        assert asked.status_code == status


# --- ready ---------------------------------------------------------------------------------------


def test_it_is_ready_with_or_without_a_worker_and_says_which(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=0, admin_password=PASSWORD)
    stranger = client_of(world.app)
    answer = stranger.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "failed": [], "degraded": ["worker"]}
    heartbeat.Heart(world.settings).beat()
    assert stranger.get("/readyz").json()["degraded"] == []


@pytest.mark.sqlite
def test_it_is_not_ready_on_a_full_disk_another_schema_or_a_home_that_is_gone(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path / "home", images=0)
    world.settings.min_free_gb = 1e9
    full = world.client.get("/readyz")
    assert (full.status_code, full.json()["failed"]) == (503, ["disk"])
    world.settings.min_free_gb = 0
    with closing(sqlite3.connect(world.settings.root / "tastemaker.db")) as file, file:
        file.execute("UPDATE alembic_version SET version_num = 'of-tomorrow'")
    newer = world.client.get("/readyz")
    assert newer.json()["failed"] == ["schema"]
    assert str(tmp_path) not in newer.text
    shutil.rmtree(world.settings.root)
    assert "home" in world.client.get("/readyz").json()["failed"]


# --- the doctor ----------------------------------------------------------------------------------


def _file_for_home(home: Path) -> None:
    shutil.rmtree(home)
    home.write_bytes(b"no folder")


def _file_for_folder(home: Path) -> None:
    shutil.rmtree(home / "checkpoints")
    (home / "checkpoints").write_bytes(b"")


def _cut(home: Path) -> None:
    file = home / "tastemaker.db"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _folder_for_database(home: Path) -> None:
    (home / "tastemaker.db").unlink()
    (home / "tastemaker.db").mkdir()


def _another_program(home: Path) -> None:
    (home / "tastemaker.db").unlink()
    with closing(sqlite3.connect(home / "tastemaker.db")) as file, file:
        file.execute("CREATE TABLE things (id INTEGER)")


def _newer(home: Path) -> None:
    _tell_the_database(home, "UPDATE alembic_version SET version_num = 'of-tomorrow'")


def _older(home: Path) -> None:
    earlier = next(iter(revisions() - {newest_revision()}))
    _tell_the_database(home, f"UPDATE alembic_version SET version_num = '{earlier}'")


def _without_a_table(home: Path) -> None:
    _tell_the_database(home, "DROP TABLE label")


def _tell_the_database(home: Path, statement: str) -> None:
    """Whichever it is."""
    engine = make_engine(settings_in(home))
    with writing(engine) as session:
        session.connection().exec_driver_sql(statement)
    engine.dispose()


def _loop(home: Path) -> None:
    shutil.rmtree(home)
    home.symlink_to(home)


def _no_folders(home: Path) -> None:
    for folder in ("images", "thumbs", "checkpoints", "backups", "live", "incoming"):
        shutil.rmtree(home / folder, ignore_errors=True)


def _bad_backup(home: Path) -> None:
    (home / "backups" / "tastemaker-1.zip").write_bytes(b"PK and no more")


def _odd_live_model(home: Path) -> None:
    (home / "live" / "1.json").write_text("{")


def _tomorrow(home: Path) -> None:
    _tell_the_database(home, "UPDATE score_event SET at = '2150-01-01 00:00:00'")


def _open_to_others(home: Path) -> None:
    (home / "tastemaker.db").chmod(0o600)
    home.chmod(0o755)


Maimed = tuple[Callable[[Path], object], str, str]

OF_ITS_FILE: list[Maimed] = [
    (lambda home: (home / "tastemaker.db").write_bytes(b""), "damage", "is empty"),
    (lambda home: (home / "tastemaker.db").write_bytes(b"words" * 999), "damage", "not a database"),
    (_cut, "damage", "or is damaged"),
    (_folder_for_database, "damage", "is a folder, and a database is needed"),
    (_another_program, "damage", "no tables of Tastemaker"),
    (_bad_backup, "damage", "is damaged"),
    (lambda home: (home / "tastemaker.db").unlink(), "warning", "There is no database"),
]

MAIMED: list[Maimed] = [
    (_file_for_home, "damage", "is a file, and a folder is needed"),
    (_file_for_folder, "damage", "checkpoints is a file"),
    (_newer, "damage", "newer version (schema of-tomorrow)"),
    (_without_a_table, "damage", "The labels could not be looked at: "),
    (_loop, "damage", "leads nowhere"),
    (_older, "warning", "has an earlier schema"),
    (_no_folders, "warning", "is missing"),
    (lambda home: shutil.rmtree(home), "warning", "There is no home folder"),
    (lambda home: (home / "images" / "x.jpg").write_bytes(b"x"), "warning", "nothing refers to"),
    (_odd_live_model, "warning", "live model of “Anime” cannot be read"),
    (_tomorrow, "warning", "The clock stands before"),
    (_open_to_others, "warning", "Others on this machine may look"),
]


@pytest.mark.parametrize(
    ("maim", "level", "what"),
    [*MAIMED, *(pytest.param(*one, marks=pytest.mark.sqlite) for one in OF_ITS_FILE)],
)
def test_the_doctor_finds_what_is_wrong_and_never_dies_of_it(
    tmp_path: Path, maim: Callable[[Path], object], level: str, what: str
) -> None:
    home = tmp_path / "home"
    world = full_world(home)
    world.engine.dispose()
    maim(home)
    found = [one for one in examine(settings_in(home)) if what in one.what]
    assert found and found[0].level == level and found[0].hint, examine(settings_in(home))


def test_a_check_that_cannot_look_leaves_every_other_one_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    full_world(home).engine.dispose()
    _without_a_table(home)
    blind = [one.what for one in examine(settings_in(home)) if "not be looked at" in one.what]
    assert blind and all("label" in told.partition(": ")[2] for told in blind), blind


@pytest.mark.skipif(
    not Path("/proc/self/fdinfo").is_dir(),
    reason="only Linux has a folder that root cannot write",
)
def test_a_home_that_nobody_can_write_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASTEMAKER_HOME", "/proc/self/fdinfo")
    told = run("doctor", "--json")
    assert told.code == 1
    assert any("cannot be written" in one["what"] and one["hint"] for one in told.json)


def test_the_doctor_changes_nothing_in_a_home_that_is_not_there(run: Run, tmp_path: Path) -> None:
    told = run("doctor", "--json")
    assert told.code == 0 and told.json[0]["level"] == "warning"
    assert not (tmp_path / "home").exists()


UNUSED = "ViT-L-14-quickgelu@/of-no-project.safetensors"


def test_the_doctor_knows_the_weights_of_every_encoder_that_is_in_use(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=0)
    names = ("efficientnet_lite0+stages+whole/bundled", "ViT-L-14-quickgelu@/gone.safetensors")
    with writing(world.engine) as session:
        rows = [EncoderRow(fingerprint=name, name=name, dim=4) for name in (*names, UNUSED)]
        session.add_all(rows)
        session.flush()
        for called, row in zip(("Whole", "Large"), rows[:2], strict=True):
            project = projects.create(session, called)
            project.encoder, project.encoder_id = row.name, row.id
        declared = EncoderRow(fingerprint="declared", name=UNUSED, dim=4, declared=True)
        session.add(declared)
        session.flush()
        outside = projects.create(session, "Outside")
        outside.encoder, outside.encoder_id = UNUSED, declared.id
    found = [one for one in examine(world.settings) if one.level != "ok" and "weights" in one.what]
    assert [one.level for one in found] == ["warning"] and "/gone.safetensors" in found[0].what
    with writing(world.engine) as session:  # moved to where its weights lie now
        project.encoder = "ViT-L-14-quickgelu@/elsewhere.safetensors"
        session.add(project)
        active = Version(project_id=outside.id, state="ready", active=True, made_by="test",
                         encoder_id=rows[1].id, event_high=0)  # fmt: skip
        session.add(active)
    found = [one for one in examine(world.settings) if one.level != "ok" and "weights" in one.what]
    assert ["/gone" in one.what or "/elsewhere" in one.what for one in found] == [True, True]
    assert not any("could not be looked at" in one.what for one in examine(world.settings))


def test_the_doctor_waits_for_no_share_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a dead share never comes back; here it comes back when the test is over."""
    world = make_world(tmp_path / "home", images=0)
    dead = [Path(f"/mnt/dead/{n}.jpg") for n in range(9)]
    here = [tmp_path / f"{n}.jpg" for n in range(9)]
    here[0].touch()
    with writing(world.engine) as session:
        collection = session.exec(select(Collection)).one()
        for n, path in enumerate([here[0], dead[0], *here[1:], *dead[1:]]):
            image = add_image(session, world.settings, collection, n)
            images.note_file(session, image, path, images.FileStamp(1, 1))
    over = threading.Event()

    def look(path: Path) -> bool:
        return over.wait(60) if path in dead else path.is_file()

    monkeypatch.setattr(doctor, "is_file", look)
    monkeypatch.setattr(visits, "SECONDS", 0.1)
    try:
        told = [finding.what for finding in examine(world.settings)]
    finally:
        over.set()
    assert any(
        "9 scanned files could not be looked at, /mnt/dead/0.jpg first" in one for one in told
    )
    assert any("8 scanned files were moved or deleted" in one for one in told)


def test_what_a_look_raises_is_raised_where_it_was_asked_for() -> None:
    assert visits.visit(abs, [-1, 2]) == [1, 2]
    with pytest.raises(Invalid):
        visits.visit(weights_of, ["no name of an encoder at all"])


def test_the_doctor_tells_of_failed_jobs(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=0)
    with writing(world.engine) as session:
        session.add(Job(kind="embed", title="Embed", state="failed", error="x"))
    assert any("1 job failed" in one.what for one in examine(world.settings))


# --- why jobs fail -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "title"),
    [
        (Failure.of_exit(-9), "Out of memory"),
        (Failure.of(MemoryError()), "Out of memory"),
        (Failure.of(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "Out of memory"),
        (failures.WORKER_STOPPED, "The worker was stopped"),
        (Failure.of_exit(-15), "Its process was killed"),
        (Failure.of_exit(1), "Its process was killed"),
        (Failure.of(FilesGone("The share is away.")), "A folder or file is gone"),
        (Failure.of(FileNotFoundError(2, "x")), "A folder or file is gone"),
        (Failure.of(KeyError("x")), "A fault in the program"),
        (
            Failure.of(Invalid("Nothing to train on yet.", "Score more.")),
            "Nothing to train on yet.",
        ),
        (Failure.of(NotTrainable("No memory of labels.")), "No memory of labels."),
    ],
)
def test_every_cause_of_a_failure_has_its_own_words(failure: Failure, title: str) -> None:
    cause = failures.cause_of(failed(failure))
    assert cause.title == title
    assert bool(cause.remedy) == (failure.cause in failures.CAUSES)


def failed(failure: Failure) -> Job:
    return Job(kind="embed", title="x", state="failed", error=failure.error, cause=failure.cause)


def test_a_cause_is_that_of_the_error_wherever_it_is_raised(tmp_path: Path) -> None:
    with pytest.raises(StorageFull) as full:
        require_free_space(tmp_path, 1e9)
    told = {
        "The disk is full": [full.value, of_the_disk(OSError(errno.ENOSPC, "x"))],
        "The home folder cannot be written": [of_the_disk(OSError(errno.EROFS, "x"))],
        "The encoder's weights are missing": [EncoderUnavailable("It is not here.")],
    }
    for title, errors in told.items():
        for error in errors:
            assert error is not None
            assert failures.cause_of(failed(Failure.of(error))).title == title


def test_the_way_to_the_repair_follows_the_cause(world: World) -> None:
    at = world.at
    for kind, cause, way in (
        ("embed", failures.NO_WEIGHTS, f"{at}/add#encoder"),
        ("test-run", failures.NO_WEIGHTS, f"{at}/add#encoder"),
        ("import", failures.GONE, f"{at}/add"),
        ("import", "", f"{at}/add"),
        ("import", "disk-full", None),
        ("embed", failures.MEMORY, None),
        ("train", failures.FAULT, None),
        ("train", failures.NOT_TRAINABLE, f"{at}/score"),
        ("train", "", f"{at}/versions"),
    ):
        job_id = add_job(world, "failed", kind, error="It said so.", cause=cause)
        with reading(world.engine) as session:
            repair = repair_of(session, jobs.get(session, job_id))
        assert (repair and repair[1]) == way, (kind, cause)


def test_failures_of_one_cause_stand_together_each_with_its_log_repair_and_retry(
    world: World,
) -> None:
    killed = "Its process was ended from outside (signal 9). It was tried 3 times."
    for kind, error, cause in (
        ("embed", killed, failures.MEMORY), ("train", killed, failures.MEMORY),
        ("import", "Nothing was found.", ""),
    ):  # fmt: skip
        add_job(world, "failed", kind, error=error, cause=cause)
    page = world.client.get("/jobs").text
    assert page.count("Out of memory") == 1 and "2 jobs" in page
    assert page.count("Close other programs") == 1
    assert page.count("fitting fold 1 of 5") == 3
    for number in (1, 2, 3):
        assert f'action="/jobs/{number}/retry"' in page
    assert f'href="{world.at}/add"' in page
    assert f'href="{world.at}/versions">To the' not in page, "memory is found elsewhere"
    told = world.client.get("/api/v1/jobs/1").json()
    assert "memory" in told["remedy"] and told["log"]
    assert "Close other programs" in world.client.get("/jobs/1").text


def test_the_list_asks_for_what_runs_alone_and_is_loaded_anew_when_a_job_ends(
    world: World,
) -> None:
    add_job(world, "failed", error="Nothing was found.")
    for _ in range(2):
        add_job(world, "running")
    assert "/jobs/list?running=2" in world.client.get("/jobs").text
    same = world.client.get("/jobs/list?running=2", headers={"HX-Request": "true"})
    assert "hx-refresh" not in same.headers and "Nothing was found." not in same.text
    fewer = world.client.get("/jobs/list?running=3", headers={"HX-Request": "true"})
    assert fewer.headers["hx-refresh"] == "true"


# --- what the schema tells -----------------------------------------------------------------------


def test_the_schema_tells_every_refusal_that_a_route_gives(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=1, admin_password=PASSWORD)
    stranger, admin = client_of(world.app), client_of(world.app)
    admin.post("/login", data={"password": PASSWORD})
    schema = admin.get("/api/v1/openapi.json").json()
    assert "Error" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(schema)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            told = operation["responses"]
            assert {"401", "403", "409", "422", "429"} <= told.keys(), (method, path)
            assert "404" in told or "{" not in path
            address = re.sub("{[^}]*}", "9", path)
            headers = {"Tastemaker-Library": "another"}
            for answer in (
                stranger.request(method, address),
                admin.request(method, address),
                admin.request(method, address, params={"nonsense": "1"}),
                admin.request(method, address, headers=headers),
                admin.request(method, address, headers={"Host": "evil.example"}),
            ):
                assert str(answer.status_code) in told, (method, path, answer.status_code)
                if answer.status_code >= 400:
                    assert {"error", "hint"} <= answer.json().keys()
