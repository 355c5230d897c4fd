"""What must hold where several write at once: on a real PostgreSQL, if there is one here."""

import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import InternalError
from sqlmodel import Session, delete, func, select
from trained_world import open_trained, trained_home
from web_world import client_of, drawn

from tastemaker import images, jobs, projects, scores, versions, worker
from tastemaker.config import Settings
from tastemaker.database import installation, moving, sessions, table_rows
from tastemaker.database.installation import identity
from tastemaker.database.migration import migrate, upgrade
from tastemaker.database.statements import take_turn
from tastemaker.database.tables import (
    Annotator,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    Installation,
    Job,
    Label,
    Prediction,
    Project,
    ScoreEvent,
    Version,
    in_utc,
    now,
)
from tastemaker.errors import Conflict, Invalid, TastemakerError
from tastemaker.evaluation import expectations, slices
from tastemaker.images import FileStamp
from tastemaker.importing import imports
from tastemaker.jobs import leases
from tastemaker.library import scopes
from tastemaker.library.filters import LibraryFilter
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import ingest
from tastemaker.queues import confusion
from tastemaker.scores import class_changes, classes, labels
from tastemaker.training import retrain
from tastemaker.versions import publication
from tests import former_expectations, former_images
from tests.conftest import add_images, migrated, running, until, work_on
from tests.desk import request_import
from tests.postgres_server import NoServer, postgres

PEOPLE = ("Ada", "Bob")
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="the driver is not installed: tastemaker[postgres]")
    try:
        with postgres() as address:
            yield address
    except NoServer as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def settings(address: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"), database_url=address, min_free_gb=0, _env_file=None
    )


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = migrate(settings)
    with sessions.writing(engine) as session:
        for name in PEOPLE:
            projects.annotator(session, name)
    yield engine
    engine.dispose()


def other_process(settings: Settings) -> Engine:
    """An engine as another web process has it, which does not share this one's turn to write."""
    return sessions.make_engine(settings)


def write(engine: Engine) -> Session:
    """A write transaction as another process would open it."""
    return Session(sessions._immediate(engine), expire_on_commit=False)


def project_of(engine: Engine, name: str, count: int) -> tuple[int, list[int]]:
    with sessions.writing(engine) as session:
        project = projects.create(session, name, holdout_share=0.0)
        made = add_images(session, count, collection=name, project=project)
        return project.id, [image.id for image in made]


def record(session: Session, project_id: int, image_id: int, name: str, value: int) -> None:
    person = session.exec(select(Annotator).where(Annotator.name == name)).one()
    project = session.get_one(Project, project_id)
    scores.record(session, project, image_id, person, "set", value)


def waits_for(first: Session, act: Future[Any]) -> None:
    """The act is done once the first has committed, and not before."""
    with pytest.raises(TimeoutError):
        act.result(0.5)
    first.commit()
    act.result(20)


def test_a_reading_session_sees_one_state_and_writes_nothing_while_others_write_on(
    engine: Engine,
) -> None:
    project_id, (first, second) = project_of(engine, "Snapshot", 2)
    events = select(func.count()).where(ScoreEvent.project_id == project_id)
    labelled = select(func.count()).where(Label.project_id == project_id)
    with sessions.writing(engine) as session:
        record(session, project_id, first, "Ada", 4)
    with sessions.reading(engine) as reader:
        assert reader.exec(events).one() == 1
        with sessions.writing(engine) as session:  # READ COMMITTED, as ever: it sees what came
            record(session, project_id, second, "Ada", 6)
            assert session.exec(events).one() == 2
        assert reader.exec(events).one() == reader.exec(labelled).one() == 1
        with pytest.raises(InternalError, match="read-only transaction"):
            projects.annotator(reader, "Nobody yet")
    with sessions.reading(engine) as reader:
        assert reader.exec(events).one() == reader.exec(labelled).one() == 2
    with sessions.writing(engine) as session:  # on a connection that a reader has had
        assert session.exec(text("SHOW transaction_isolation")).one()[0] == "read committed"
        assert session.exec(text("SHOW transaction_read_only")).one()[0] == "off"
        session.execute(delete(Installation))
    installation._known.clear()
    with sessions.reading(engine) as reader:  # who reads first makes what a library is known by
        assert installation.identity(reader).library


def test_of_two_people_on_one_image_the_label_knows_both(
    engine: Engine, settings: Settings
) -> None:
    """The second begins while the first is not done: it does not see the first one's event."""
    project_id, (image_id, *_) = project_of(engine, "Both", 2)
    elsewhere = other_process(settings)

    def second() -> None:
        with sessions.writing(engine) as session:
            record(session, project_id, image_id, "Bob", 8)

    with write(elsewhere) as first, ThreadPoolExecutor(1) as pool:
        record(first, project_id, image_id, "Ada", 2)
        waits_for(first, pool.submit(second))
    with sessions.reading(engine) as session:
        (label,) = session.exec(select(Label).where(Label.project_id == project_id)).all()
    assert (label.annotators, label.value) == (2, 5.0)
    elsewhere.dispose()


def test_whoever_changes_the_rule_waits_for_who_is_amid_a_score_and_leaves_no_label_out(
    engine: Engine, settings: Settings
) -> None:
    project_id, (image_id, *_) = project_of(engine, "Rule", 3)
    elsewhere = other_process(settings)
    with write(elsewhere) as scoring, ThreadPoolExecutor(1) as pool:
        record(scoring, project_id, image_id, "Ada", 4)

        def change() -> None:
            with sessions.writing(engine) as session:
                row = session.get_one(Project, project_id)
                labels.change_project(session, row, aggregate="mean")

        waits_for(scoring, pool.submit(change))
    with sessions.reading(engine) as session:
        (label,) = session.exec(select(Label).where(Label.project_id == project_id)).all()
    assert label.value == 4
    elsewhere.dispose()


def test_scores_of_many_images_hold_them_at_once_and_not_one_after_the_other(
    engine: Engine,
) -> None:
    project_id, ids = project_of(engine, "Many", 12)
    held: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        held.extend(name for name in ("image", "project") if f"FROM {name} " in statement
                    and " FOR " in statement)  # fmt: skip

    with sessions.writing(engine) as session:
        person = session.exec(select(Annotator).where(Annotator.name == "Ada")).one()
        project = session.get_one(Project, project_id)
        event.listen(engine, "before_cursor_execute", note)
        given = [scores.Given(image_id, person.id, 7) for image_id in ids]
        written = scores.record_many(session, project, given, origin=scores.Origin.LIBRARY)
        event.remove(engine, "before_cursor_execute", note)
    assert written == [True] * 12 and sorted(held) == ["image", "project"]


def test_two_web_processes_answer_the_same_key_with_one_event(
    engine: Engine, settings: Settings
) -> None:
    project_id, ids = project_of(engine, "Keys", 8)
    clients = [client_of(create_app(settings)) for _ in range(2)]

    def say(n: int) -> list[httpx.Response]:
        address = f"/api/v1/projects/{project_id}/scores"
        bodies = [{"image_id": i, "value": 5, "key": f"key of image {i}"} for i in ids]
        return [clients[n].post(address, json=body) for body in bodies]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(say, range(2))
    assert {answer.status_code for answer in [*first, *second]} == {200}
    assert [a.json()["event_id"] for a in first] == [a.json()["event_id"] for a in second]


@pytest.mark.parametrize(
    ("refuses", "said"),
    [
        ("RAISE 'could not extend file: No space left' USING ERRCODE = '53100'", "disk is full"),
        ("SET transaction_read_only = on; CREATE TABLE more (n integer)", "takes no changes"),
    ],
)
def test_a_server_that_takes_no_more_is_told_as_a_disk_that_takes_none(
    engine: Engine, settings: Settings, refuses: str, said: str
) -> None:
    """The server raises what it raises then, at the next event."""
    project_id, (first, second) = project_of(engine, said, 2)
    client = client_of(create_app(settings))

    def say(image_id: int) -> httpx.Response:
        body = {"image_id": image_id, "value": 5}
        return client.post(f"/api/v1/projects/{project_id}/scores", json=body)

    assert say(first).status_code == 200
    with engine.begin() as connection:
        run = connection.exec_driver_sql
        run(f"CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN {refuses}; END $$ "
            "LANGUAGE plpgsql")  # fmt: skip
        run("CREATE TRIGGER refuse BEFORE INSERT ON score_event EXECUTE FUNCTION refuse()")
    try:
        answer = say(second)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION refuse CASCADE")
    assert answer.status_code == 507 and said in answer.json()["error"], answer.text
    assert say(second).status_code == 200
    with sessions.reading(engine) as session:
        kept = select(func.count()).where(ScoreEvent.project_id == project_id)
        assert session.exec(kept).one() == 2


def test_while_the_server_is_away_pages_say_so_and_go_on_when_it_is_back(
    address: str, tmp_path: Path
) -> None:
    admin = create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def say(*words: str) -> None:
        with admin.connect() as connection:
            for each in words:
                connection.exec_driver_sql(each)

    say("CREATE DATABASE away")
    url = admin.url.set(database="away").render_as_string(hide_password=False)
    home = Settings(home=tmp_path, database_url=url, min_free_gb=0, _env_file=None)
    engine = migrate(home)
    project_id, (image_id, _) = project_of(engine, "Away", 2)
    client = client_of(create_app(home))
    score = {"image_id": image_id, "value": 5}
    pages = ("/", f"/projects/{project_id}/library", f"/projects/{project_id}/score", "/jobs")
    assert all(client.get(page).status_code == 200 for page in pages)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'away'"
    say("ALTER DATABASE away ALLOW_CONNECTIONS false", ended)
    for answer in (
        *map(client.get, pages), *map(client.get, pages),  # of lost connections, and of new ones
        client.post(f"/api/v1/projects/{project_id}/scores", json=score),
        client.post("/projects", data={"name": "Another"}),
    ):  # fmt: skip
        assert answer.status_code == 503, (answer.request.url, answer.text)
        assert "server of the database does not answer" in answer.text, answer.request.url
    assert client.get("/healthz").status_code == 200 and client.get("/readyz").status_code == 503
    say("ALTER DATABASE away ALLOW_CONNECTIONS true")
    assert all(client.get(page).status_code == 200 for page in pages)
    assert client.post(f"/api/v1/projects/{project_id}/scores", json=score).status_code == 200
    with sessions.reading(engine) as session:
        assert session.exec(select(func.count()).select_from(ScoreEvent)).one() == 1
    engine.dispose()
    admin.dispose()


def test_what_cannot_be_stored_is_refused_with_a_sentence(
    engine: Engine, settings: Settings
) -> None:
    project_id, _ = project_of(engine, "Odd", 1)
    client = client_of(create_app(settings))
    for image_id in (2**31, 2**62):
        answer = client.post(
            f"/api/v1/projects/{project_id}/scores", json={"image_id": image_id, "value": 1}
        )
        assert answer.status_code in (404, 422), answer.text
    assert client.get(f"/images/{2**31}/thumb").status_code in (404, 422)
    assert client.post("/projects", data={"name": "a\0b"}).status_code == 422


def test_an_audit_is_drawn_answered_and_read_here_too(engine: Engine, settings: Settings) -> None:
    project_id, ids = project_of(engine, "Audited", 40)
    with sessions.writing(engine) as session:
        encoder = EncoderRow(fingerprint="a" * 64, name="e", dim=2)
        session.add(encoder)
        session.flush()
        version = Version(project_id=project_id, state="ready", active=True, made_by="audited",
                          encoder_id=encoder.id, event_high=0)  # fmt: skip
        session.add(version)
        session.flush()
        session.add_all(
            Prediction(version_id=version.id, image_id=i, score=0.8, uncertainty=0.1) for i in ids
        )
        version_id = version.id
    client, at = client_of(create_app(settings)), f"/api/v1/projects/{project_id}"
    body = {"version_id": version_id, "filter": {}, "cut": 0.6, "good_from": 6}
    made = client.post(f"{at}/audits", json=body)
    assert made.status_code == 201, made.text
    asked = f"{at}/queue?queue=audit&collection={made.json()['id']}&n=30"
    for card in client.get(asked).json():
        said = {"image_id": card["image_id"], "value": 7, "offer": card["offer"]}
        assert client.post(f"{at}/scores", json=said).status_code == 200
    (told,) = client.get(f"{at}/audits").json()
    assert (told["kept_good"], told["verdict"]) == (30, "promised")


def test_a_worker_that_starts_leaves_the_jobs_of_others_alone(
    engine: Engine, settings: Settings
) -> None:
    with sessions.writing(engine) as session:
        job_id = jobs.enqueue(session, "train", "Train").id
        jobs.claim_next(session, [job_id])
    worker._take_up_orphans(engine)
    with sessions.reading(engine) as session:
        assert jobs.get(session, job_id).state == "running"


def test_two_workers_whose_clocks_are_a_day_apart_take_nothing_from_each_other(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts by its own monotonic clock since when a heartbeat stands still, so what the other
    machine's clocks show does not matter; a worker that is gone is seen all the same."""
    elsewhere = other_process(settings)
    here, there = (worker.Worker(settings, one) for one in (engine, elsewhere))
    moments = {"here": 0.0, "there": 86_400.0}
    turn = ["here"]

    class Clocks:
        monotonic = staticmethod(lambda: moments[turn[0]])

    monkeypatch.setattr(leases, "time", Clocks)

    def reap(name: str, one: worker.Worker) -> None:
        turn[0] = name
        one.reap()

    with sessions.writing(engine) as session:
        ids = [jobs.enqueue(session, "train", "Train").id for _ in range(2)]
    with sessions.writing(engine) as session:
        _, mine = jobs.claim_next(session, [ids[0]]) or pytest.fail("it is queued")
    with sessions.writing(elsewhere) as session:
        _, theirs = jobs.claim_next(session, [ids[1]]) or pytest.fail("it is queued")

    def states() -> list[str]:
        with sessions.reading(engine) as session:
            return [jobs.get(session, job_id).state for job_id in ids]

    for _ in range(4):  # two minutes, in which both live
        for at in (engine, elsewhere):
            with sessions.writing(at) as session:
                jobs.report(session, mine if at is engine else theirs)
        reap("here", here)
        reap("there", there)
        moments = {name: moment + leases.LEASE_SECONDS for name, moment in moments.items()}
    assert states() == ["running", "running"]
    reap("there", there)  # sees the last heartbeats
    with sessions.writing(elsewhere) as session:
        jobs.report(session, theirs)
    moments = {name: moment + leases.LEASE_SECONDS + 1 for name, moment in moments.items()}
    reap("there", there)
    assert states() == ["queued", "running"], "the one here is gone, the one there lives"
    with pytest.raises(jobs.LostJob), sessions.writing(engine) as session:
        jobs.finish(session, mine, {})
    elsewhere.dispose()


def test_two_imports_at_once_of_the_same_pictures_add_each_once_and_in_one_group(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """The other one is in the middle of its writing when this one comes to its own."""
    place = tmp_path / "same.png"
    drawn(1).save(place)
    drawn(1).resize((200, 200)).save(tmp_path / "smaller.png")
    same, stamp = ingest(place, settings.thumbs), FileStamp.of(place.stat())
    with sessions.writing(engine) as session:
        job_id = request_import(session, settings, [tmp_path], collection="Both").id
    elsewhere = other_process(settings)
    with write(elsewhere) as first, ThreadPoolExecutor(1) as pool:
        take_turn(first, "import")
        collection = images.collection_named(first, "Both")
        image, _ = images.add_picture(first, same, place.name, None, uploaded=False)
        images.note_file(first, image, place, stamp)
        images.put_in_collection(first, collection.id, image.id)
        images.add_tags(first, image.id, ["sky"])
        first.flush()
        second = pool.submit(imports.run, work_on(settings, engine, job_id))
        waits_for(first, second)
        mine = select(Job.id).where(Job.id == job_id)
        assert first.exec(mine.with_for_update(nowait=True)).all(), "it can be cancelled meanwhile"
        group = image.source_group
    assert (second.result()["added"], second.result()["known"]) == (1, 1)
    with sessions.reading(engine) as session:
        groups = session.exec(select(Image.source_group).where(Image.name == "smaller.png")).all()
    assert groups == [group]
    elsewhere.dispose()


def test_two_workers_at_once_start_no_job_twice(engine: Engine, settings: Settings) -> None:
    elsewhere = other_process(settings)
    with sessions.writing(engine) as session:
        session.execute(delete(Job))
        ids = {jobs.enqueue(session, "train", "Train", {"n": n}).id for n in range(20)}

    def take(at: Engine) -> list[int]:
        taken = []
        while True:
            with sessions.writing(at) as session:
                if (got := jobs.claim_next(session)) is None:
                    return taken
                taken.append(got[0].id)

    with ThreadPoolExecutor(4) as pool:
        taken = [n for part in pool.map(take, [engine, elsewhere] * 2) for n in part]
    assert sorted(taken) == sorted(ids)
    elsewhere.dispose()


def test_the_figures_tell_how_large_the_database_is(settings: Settings, engine: Engine) -> None:
    text = client_of(create_app(settings)).get("/metrics").text
    (line,) = [one for one in text.splitlines() if one.startswith("tastemaker_database_bytes ")]
    assert float(line.split()[1]) > 10**6, "an empty PostgreSQL database has seven megabytes"


def test_classes_and_tags_are_labelled_counted_filtered_and_merged(engine: Engine) -> None:
    with sessions.writing(engine) as session:
        project = classes.create_project(session, "Tags", ["dog", "beach", "sky"], several=True)
        made = [image.id for image in add_images(session, 3, collection="T", project=project)]
        for image_id, value in zip(made, (0b011, 0b100, 0), strict=True):
            record(session, project.id, image_id, "Ada", value)
    with sessions.writing(engine) as session:
        project = session.get_one(Project, project.id)
        wanted = scopes.filtered_ids(session, project, LibraryFilter(labelled=1))
        assert session.exec(wanted).all() == [made[0]]
        class_changes.merge(session, project, 1, into=2)
        known = classes.of(session, project.id)
        assert classes.count_labels(session, project, known) == {0: 1, 1: 0, 2: 2}
        assert confusion.confusion(session, project) is None


# --- from a file to PostgreSQL, and back ---------------------------------------------------------


@pytest.fixture
def elsewhere(address: str) -> Iterator[str]:
    """The address of an empty database whose server has another time zone."""
    name = f"moved{next(NUMBERS)}"
    server = create_engine(address, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'"))
    yield address.replace("+psycopg", "").replace("/postgres?", f"/{name}?")
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def library(tmp_path: Path) -> Settings:
    """A home folder whose database holds something odd of every kind of value."""
    settings = Settings(home=tmp_path / "home", min_free_gb=0, _env_file=None)
    settings.make_folders()
    shutil.copy(migrated(), settings.root / "tastemaker.db")
    engine = migrate(settings)
    with sessions.writing(engine) as session:
        identity(session)
        person = projects.annotator(session, "Zoë\t\\N ⟨1⟩")
        project = projects.create(session, 'A\'b "c"', holdout_share=0.0)
        one, two = (image.id for image in add_images(session, 2, project=project))
        session.add(
            EncoderRow(fingerprint="f", name="e", dim=3, details={"a": "\\u0000 é", "b": 1e-7})
        )
        session.flush()
        session.add(Embedding(image_id=two, encoder_id=1, vector=bytes(range(256))))
        images.add_tags(session, one, ["Ünï", "a\\tb"])
        event = scores.record(session, project, one, person, "set", 7)
        kinds = classes.create_project(session, "Kinds", ["photo", "logo"])
        row = slices.add(session, kinds, "filter", {"filter": {"labelled": 1}}, "Lögos")
        expectations.expect(session, kinds, row.id, "recall:logo", "at least", 0.9)
        expectations.expect(session, kinds, row.id, "accuracy", "at least", 0.5)
        session.add(Job(kind="train", title="T", rate=-0.0, result={"x": [1.5, None, True, "ø"]}))
    assert event is not None
    engine.dispose()
    return settings


def rows_of(settings: Settings) -> dict[str, list[Any]]:
    """Every table as SQLite holds it."""
    with closing(sessions.sqlite.connect(settings.root / "tastemaker.db")) as file:
        names = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: sorted(map(repr, file.execute(f'SELECT * FROM "{name}"'))) for (name,) in names
        }


def test_what_was_expected_of_classes_is_moved_into_its_table_here_too(
    tmp_path: Path, elsewhere: str
) -> None:
    there = Settings(home=tmp_path, database_url=elsewhere, min_free_gb=0, _env_file=None)
    former = sessions.make_engine(there)
    upgrade(former, former_expectations.FORMER)
    former_expectations.fill(former)
    former.dispose()
    engine = migrate(there)
    former_expectations.check(engine)
    engine.dispose()


def test_of_images_that_are_there_nobody_has_asked_yet_when_they_were_taken_here_too(
    tmp_path: Path, elsewhere: str
) -> None:
    there = Settings(home=tmp_path, database_url=elsewhere, min_free_gb=0, _env_file=None)
    former = sessions.make_engine(there)
    upgrade(former, former_images.FORMER)
    former_images.fill(former)
    former.dispose()
    engine = migrate(there)
    former_images.check(engine)
    engine.dispose()


def test_a_library_moves_to_postgres_and_back_with_every_row(
    library: Settings, elsewhere: str
) -> None:
    before = rows_of(library)
    assert {table.name for table in table_rows.EVERY} | {"alembic_version"} == set(before)
    told: list[tuple[int, int]] = []
    moved = moving.move(library, elsewhere, lambda *done: told.append(done))
    assert moved.kept is not None and not (library.root / "tastemaker.db").exists()
    assert moved.rows == {table.name: len(before[table.name]) for table in table_rows.EVERY}

    there = library.model_copy(update={"database_url": elsewhere})
    engine = migrate(there)
    with sessions.writing(engine) as session:
        (event,) = session.exec(select(ScoreEvent)).all()
        assert abs((in_utc(event.at) - now()).total_seconds()) < 600, "the server's zone got in"
        added = add_images(session, 1)[0]
        assert added.id == 3, "the next image goes on from those that came"
        session.delete(session.get_one(CollectionImage, (1, added.id)))
        session.flush()
        session.delete(added)
    engine.dispose()
    back = moving.move(there, "")
    assert back.kept is None and rows_of(library) == before


def test_a_move_to_where_something_is_changes_nothing(library: Settings, elsewhere: str) -> None:
    before = rows_of(library)
    there = library.model_copy(update={"database_url": elsewhere})
    server = sessions.make_engine(there)

    def refused(kind: type[TastemakerError], words: str, address: str = elsewhere) -> None:
        with pytest.raises(kind, match=words):
            moving.move(library, address)
        assert rows_of(library) == before

    refused(Invalid, "is in this database already", "")
    refused(Invalid, "not the address of a database", "mysql://u:secret@h/x")
    refused(TastemakerError, "cannot be opened", elsewhere.replace("/moved", "/nowhere"))
    with server.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0005')"))
    refused(TastemakerError, "of another version of the program")
    with server.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version; CREATE TABLE shop (id int)"))
    refused(TastemakerError, "another program")
    with server.begin() as connection:
        connection.execute(text("DROP TABLE shop"))
    with server.connect():
        refused(Conflict, "Somebody else is connected")
    server.dispose()
    with closing(sessions.sqlite.connect(library.root / "tastemaker.db")) as file:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("SELECT 1 FROM job").fetchone()
        refused(Conflict, "The program is running")
    with closing(sessions.sqlite.connect(library.root / "tastemaker.db")) as file, file:
        file.execute("UPDATE job SET result = '{\"loss\": NaN}'")
    before = rows_of(library)
    refused(TastemakerError, "json .COPY job, line 1, column result")
    with closing(sessions.sqlite.connect(library.root / "tastemaker.db")) as file, file:
        file.execute("UPDATE job SET result = '{}'")
    moving.move(library, elsewhere)
    shutil.copy(next(library.backups.glob("moved-*.db")), library.root / "tastemaker.db")
    before = rows_of(library)
    refused(Conflict, "is not empty")


def test_a_move_that_is_killed_can_be_made_again(
    library: Settings, elsewhere: str, tastemaker: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(library)
    killed = tastemaker("migrate-to", elsewhere, home=library.root, TASTEMAKER_FAULT="move.written")
    assert killed.returncode < 0, killed.stderr
    assert rows_of(library) == before
    done = run("migrate-to", elsewhere, "--json")
    assert done.json["rows"]["score_event"] == 1
    assert run("migrate-to").code == 2
    monkeypatch.setenv("TASTEMAKER_DATABASE_URL", elsewhere)
    assert "read back and the same" in run("migrate-to", "--back").out
    assert rows_of(library) == before


# --- several workers -----------------------------------------------------------------------------


class Killed(BaseException):
    """What happens to a process and leaves nothing of it."""


STEPS = ("begun", "linked", "ready")  # those between: tests/test_versions.py


@pytest.mark.slow
def test_of_two_workers_the_second_ends_a_training_that_killed_the_first_with_one_version(
    tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it publishes, at three steps; whoever comes back late can write nothing."""
    made = open_trained(trained_home(tmp_path / "home"))
    made.engine.dispose()
    moving.move(made.settings, elsewhere)
    settings = made.settings.model_copy(update={"database_url": elsewhere})
    first, second = migrate(settings), other_process(settings)

    def ready() -> int:
        with sessions.reading(second) as session:
            query = select(func.count()).select_from(Version).where(Version.state == "ready")
            return session.exec(query).one()

    for step in STEPS:
        before = ready()
        with sessions.writing(first) as session:
            project = session.get_one(Project, made.project_id)
            job_id = retrain.request_training(session, settings, project, recipe="ridge").id

        def die(point: str, at: str = f"publish.{step}") -> None:
            if point == at:
                raise Killed

        work = work_on(settings, first, job_id)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(publication, "failpoint", die)
            retrain.run(work)
        with sessions.writing(second) as session:
            assert jobs.requeue_orphans(session, [job_id]) == [job_id]
        with pytest.raises(jobs.LostJob), work.writing():
            pytest.fail("a worker that lost its job comes to write")
        again = work_on(settings, second, job_id)
        result = retrain.run(again)
        with sessions.writing(second) as session:
            jobs.finish(session, again.claim, result)
        assert ready() == before + 1, step
    with sessions.reading(second) as session:
        for version in session.exec(select(Version).where(Version.state == "ready")):
            versions.verify(settings, version)
    first.dispose()
    second.dispose()


@pytest.mark.soak
@pytest.mark.slow
def test_of_two_workers_on_one_library_either_is_killed_and_each_training_makes_one_version(
    sample: Path, elsewhere: str
) -> None:
    settings = Settings(home=sample, min_free_gb=0, torch_threads=1, _env_file=None)
    moving.move(settings, elsewhere)
    settings = settings.model_copy(update={"database_url": elsewhere})
    engine = migrate(settings)
    env = {"TASTEMAKER_DATABASE_URL": elsewhere, "TASTEMAKER_TORCH_THREADS": "1"}

    def ready() -> int:
        with sessions.reading(engine) as session:
            query = select(func.count()).select_from(Version).where(Version.state == "ready")
            return session.exec(query).one()

    def begin(stack: ExitStack) -> psutil.Process:
        return psutil.Process(stack.enter_context(running(sample, "worker", **env)).pid)

    with ExitStack() as stack:
        victim, other = begin(stack), begin(stack)
        for phase in ("", "Training", "Predicting", "Writing"):
            other.suspend()
            before = ready()
            with sessions.writing(engine) as session:
                project = session.exec(select(Project)).one()
                job_id = retrain.request_training(session, settings, project, recipe="mlp").id

            def seen(job_id: int = job_id) -> Job:
                with sessions.reading(engine) as session:
                    return jobs.get(session, job_id)

            def in_phase(phase: str = phase) -> bool:
                job = seen()
                return job.state == "done" or (job.state == "running" and phase in job.message)

            until(in_phase, 180, f"for {phase or 'the claim'}")
            victim.kill()
            other.resume()
            until(lambda: seen().state == "done", 240, "for the other")
            assert ready() == before + 1, phase
            victim, other = other, begin(stack)
    engine.dispose()
