"""The schema grows and no score is lost on the way."""

import json
import multiprocessing
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Session, SQLModel, func, select

from tastemaker import config, errors, jobs, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database import installation, migration, sessions
from tastemaker.database.tables import (
    Audit,
    AuditImage,
    EncoderRow,
    Image,
    Job,
    Label,
    LoginSession,
    Project,
    ScoreEvent,
    Tag,
    Version,
)
from tastemaker.errors import TastemakerError
from tastemaker.jobs import failures, lanes
from tastemaker.learning.version_metrics import VersionMetrics
from tests import former_expectations, former_images, starting
from tests.conftest import add_images, environment
from tests.flat_metrics import from_flat

pytestmark = [
    pytest.mark.sqlite,
    pytest.mark.filterwarnings("ignore:.*expression-based index"),
]

NEXT = '''"""a column for the tests; and the trap: a table that scores refer to is rebuilt"""

import os

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{parent}"


def upgrade() -> None:
    with op.batch_alter_table("image", recreate="always") as batch:
        batch.add_column(sa.Column("camera", sa.String(), server_default="", nullable=False))
    {then}
'''


def newest() -> str:
    (script,) = sorted((config.shipped("migrations") / "versions").glob("*.py"))[-1:]
    return script.stem.split("_")[0]


def test_the_name_of_a_migration_begins_with_its_revision_and_the_highest_is_the_newest() -> None:
    scripts = ScriptDirectory(str(config.shipped("migrations")))
    assert {script.revision for script in scripts.walk_revisions()} == migration.revisions()
    assert scripts.get_current_head() == migration.newest_revision()


def write_next(root: Path, then: str = "pass", revision: str = "9999") -> Path:
    """The program's migrations with one more."""
    folder = root / "migrations"
    shutil.copytree(config.shipped("migrations"), folder)
    text = NEXT.format(revision=revision, parent=newest(), then=then)
    (folder / "versions" / f"{revision}_next.py").write_text(text)
    return folder


@pytest.fixture
def populated(settings: Settings) -> Iterator[Engine]:
    """Five images, three scores, one of them undone."""
    engine = migration.migrate(settings)
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        person = projects.annotator(session, "me")
        for value, image in enumerate(add_images(session, 5, project=project)[:3]):
            scores.record(session, project, image.id, person, "set", value)
        scores.undo(session, project, person)
    yield engine
    engine.dispose()


def counts(engine: Engine) -> tuple[int, int, int]:
    with sessions.reading(engine) as session:
        images, events, labels = (
            session.exec(select(func.count()).select_from(table)).one()
            for table in (Image, ScoreEvent, Label)
        )
    return images, events, labels


WHOLE = (5, 4, 2)


def columns(engine: Engine) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns("image")}


def test_a_fresh_home_gets_the_newest_schema_and_a_second_start_changes_nothing(
    settings: Settings,
) -> None:
    engine = migration.migrate(settings)
    assert migration.current_revision(engine) == newest()
    before = (settings.root / "tastemaker.db").stat().st_size
    migration.migrate(settings).dispose()
    assert (settings.root / "tastemaker.db").stat().st_size == before
    assert list(settings.backups.iterdir()) == [], "there was nothing to back up"
    with engine.connect() as connection:
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    engine.dispose()


def test_models_and_migrations_agree_but_for_indexes_on_expressions(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, SQLModel.metadata)
    assert differences == [], "expression indexes aside, which cannot be compared"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master").all()
        there = dict(row for row in rows if row[1])
    assert all(f"ix_image_phash{i}" in there for i in range(4))
    for table in SQLModel.metadata.tables.values():
        for rule in table.constraints:
            if type(rule).__name__ == "CheckConstraint":
                said = " ".join(str(rule.sqltext).split())  # type: ignore[attr-defined]
                assert said in " ".join(there[table.name].split()), f"{table.name}: {said}"


def test_rebuilding_the_image_table_keeps_every_score_and_a_backup_is_made_first(
    settings: Settings, populated: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_next(tmp_path)
    monkeypatch.setattr(migration, "shipped", lambda name: folder)
    upgraded = migration.migrate(settings)
    assert migration.current_revision(upgraded) == "9999" and "camera" in columns(upgraded)
    assert counts(upgraded) == WHOLE
    with upgraded.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    (backup,) = settings.backups.iterdir()
    assert backup.name.startswith("before-9999-")
    upgraded.dispose()
    with sessions.sqlite.connect(backup) as old:
        assert old.execute("SELECT count(*) FROM score_event").fetchone() == (4,)
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == (newest(),)
        assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORMER = """
INSERT INTO image (id, sha256, kind, name, format, width, height, bytes, source_group, added_at)
VALUES (1, '{sha256}', 'file', 'a.jpg', '', 0, 0, 0, 'group', '2026-01-01');
INSERT INTO collection (id, name, created_at) VALUES (1, 'Pictures', '2026-01-01');
INSERT INTO collection_image VALUES (1, 1);
INSERT INTO project (id, name, kind, encoder, threshold, holdout_share, seed, recipe, brackets,
    show_prediction_first, card, created_at)
VALUES (1, 'P', 'score', 'e', 0.5, 0.1, 1, 'auto', '[]', 0, '{{}}', '2026-01-01');
INSERT INTO project_collection VALUES (1, 1, 'pool');
INSERT INTO annotator (id, name, stand_in) VALUES (1, 'me', 0);
INSERT INTO score_event (id, project_id, image_id, annotator_id, kind, value, origin, reason, note,
    at)
VALUES (1, 1, 1, 1, 'set', 7, 'control', '', '', '2026-01-01');
INSERT INTO label VALUES (1, 1, 7, 1, 1, 1, 1);
"""


def test_a_database_of_the_former_schema_keeps_its_scores_and_is_given_an_identity(
    settings: Settings,
) -> None:
    settings.make_folders()
    former = sessions.make_engine(settings)
    migration.upgrade(former, "0002")
    with former.begin() as connection:
        for statement in FORMER.format(sha256="a" * 64).split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
    former.dispose()
    engine = migration.migrate(settings)
    with sessions.reading(engine) as session:
        known = installation.identity(session)
        assert installation.identity(session) == known and known.secret not in repr(known)
        assert session.exec(select(ScoreEvent.value, ScoreEvent.origin)).one() == (7, "control")
    assert counts(engine) == (1, 1, 1)
    with sessions.writing(engine) as session:
        project, person = projects.get(session, 1), projects.annotator(session, "me")
        offer = scores.sign_offer(session, 1, 1, person.id, scores.Offer(scores.Origin.QUEUE))
        assert scores.record(session, project, 1, person, "set", 3, offer=offer).fresh
        _audited(session, person.id)
    engine.dispose()


def _audited(session: Session, person_id: int) -> None:
    """The rows of before can be audited; what cannot be one is refused, and all of it goes with its
    project."""
    session.add(EncoderRow(id=1, fingerprint="f", name="e", dim=2))
    session.flush()
    session.add(Version(id=1, project_id=1, made_by="x", encoder_id=1, event_high=1))
    session.flush()
    fields = {"project_id": 1, "version_id": 1, "annotator_id": person_id, "kind": "library",
              "name": "the library", "good_from": 6}  # fmt: skip
    audit = Audit(**fields, cut=0.6, population={"kept": 1, "below": 0, "cuts": [(0.6, 1)]})
    session.add(audit)
    session.flush()
    session.add(AuditImage(audit_id=audit.id, position=0, image_id=1, score=0.7, expected=0.8))
    session.flush()
    for wrong in ({"cut": 1.5}, {"cut": 0.5, "goal": 1.0}, {"cut": 0.5, "good_from": 11}):
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Audit(**fields | wrong))
            session.flush()
    session.delete(session.get_one(Project, 1))
    session.flush()
    session.expire_all()
    assert session.exec(select(AuditImage)).all() == []


def test_jobs_that_failed_before_causes_were_kept_are_told_by_their_sentences(
    settings: Settings,
) -> None:
    sentences = {
        "Its process was ended from outside (signal 9).": failures.MEMORY,
        "Its process was ended from outside (signal 15).": failures.KILLED,
        "The disk is full.": errors.DISK_FULL,
        "The weights of x are not there.": errors.NO_WEIGHTS,
        "There is no folder /a.": errors.GONE,
        "It stopped with an error: ValueError: 3": failures.FAULT,
        "Score more images first.": "",
    }
    settings.make_folders()
    former = sessions.make_engine(settings)
    migration.upgrade(former, "0009")
    with former.begin() as connection:
        for sentence in sentences:
            connection.exec_driver_sql(
                "INSERT INTO job (kind, title, payload, state, fence, attempts, heartbeat,"
                " cancel_requested, done, total, rate, message, curve, result, error, created_at)"
                " VALUES ('train', '', '{}', 'failed', 0, 1, 0, 0, 0, 0, 0, '', '[]', '{}', ?,"
                " '2026-01-01')",
                (sentence,),
            )
    former.dispose()
    engine = migration.migrate(settings)
    with sessions.reading(engine) as session:
        kept = session.exec(select(Job)).all()
        assert {job.error: job.cause for job in kept} == sentences
    engine.dispose()


@pytest.mark.slow
def test_processes_that_need_an_identity_at_once_agree_on_one(settings: Settings) -> None:
    migration.migrate(settings).dispose()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(starting.find_identity, [str(settings.home)] * 6, chunksize=1)
    assert len(set(found)) == 1 and starting.find_identity(str(settings.home)) == found[0]


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("raise RuntimeError('half-way')", RuntimeError),
        ("op.execute('SELECT nonsense')", OperationalError),
        ("op.execute('DELETE FROM image WHERE id = 1')", TastemakerError),
    ],
)
def test_an_upgrade_that_fails_or_would_lose_rows_changes_nothing(
    settings: Settings, populated: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    then: str, error: type[Exception],
) -> None:  # fmt: skip
    folder = write_next(tmp_path, then)
    with monkeypatch.context() as patched:
        patched.setattr(migration, "shipped", lambda name: folder)
        with pytest.raises(error):
            migration.migrate(settings)
    assert migration.current_revision(populated) == newest() and "camera" not in columns(populated)
    assert counts(populated) == WHOLE
    assert len(list(settings.backups.iterdir())) == 1
    migration.migrate(settings).dispose()  # and the old program still works


MIGRATE = """
import sys
from pathlib import Path
from tastemaker.config import Settings
from tastemaker.database import migration

migration.shipped = lambda name: Path(sys.argv[2])
migration.migrate(Settings(home=Path(sys.argv[1]), _env_file=None))
"""


def test_killed_in_the_middle_of_an_upgrade_the_old_state_stands(
    settings: Settings, populated: Engine, tmp_path: Path
) -> None:
    folder = write_next(tmp_path, "os.kill(os.getpid(), 9)")
    populated.dispose()
    here = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", MIGRATE, settings.root, folder], cwd=here,
        env=environment(settings.root),
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    assert "camera" not in columns(populated) and counts(populated) == WHOLE
    with populated.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    migration.migrate(settings).dispose()


def test_a_newer_schema_is_refused_and_left_alone(settings: Settings, populated: Engine) -> None:
    with sessions.writing(populated) as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '7777'")
    with pytest.raises(TastemakerError, match=r"newer version of Tastemaker \(schema 7777\)"):
        migration.migrate(settings)
    assert migration.current_revision(populated) == "7777"
    assert counts(populated) == WHOLE and not list(settings.backups.iterdir())


@pytest.mark.slow
def test_processes_that_start_at_once_agree(settings: Settings) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(starting.bring_up_to_date, [str(settings.home)] * 6, chunksize=1)
    assert set(found) == {newest()}
    engine = migration.migrate(settings)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nonsense", "not the address of a database"),
        ("postgresql+nothing://me:secret@host/db", "not the address of a database"),
        ("mysql+mysqldb://me:secret@host/db", "MySQLdb, which is not installed"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened: unable to open"),
        ("sqlite://", "not the address of a database"),
        ("sqlite:///a.db?timeout=5", "not the address of a database"),
        ("sqlite+aiosqlite:////tmp/a.db", "not the address of a database"),
        ("postgresql+psycopg://me:secret@host:port/db", "not the address of a database"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_in_a_sentence_without_its_password(
    settings: Settings, address: str, sentence: str
) -> None:
    with pytest.raises(TastemakerError, match=sentence) as told:
        migration.migrate(settings.model_copy(update={"database_url": address}))
    assert told.value.hint and "secret" not in str(told.value)


def test_a_database_of_another_program_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with sqlite3.connect(file) as theirs:
        theirs.execute("CREATE TABLE project (title TEXT)")
    theirs.close()
    before = file.read_bytes()
    settings = settings.model_copy(update={"database_url": f"sqlite:///{file}"})
    with pytest.raises(TastemakerError, match="tables of another program"):
        migration.migrate(settings)
    assert inspect(sessions.make_engine(settings)).get_table_names() == ["project"]
    assert len(before) == file.stat().st_size


def test_a_new_home_folder_is_its_owners_alone_and_one_that_is_there_keeps_its_mode(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    for name, mode in (("new", 0o700), ("there", 0o755)):
        settings.model_copy(update={"home": tmp_path / name}).make_folders()
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
        assert (tmp_path / name / "thumbs").is_dir()


# --- what the migrations make of rows ------------------------------------------------------------

INTERVAL = {"value": 1.2, "low": 1.0, "high": 1.5, "n": 30}
MEASURED = {
    "n": 30, "groups": 20, "threshold": 0.5, "mae": 1.2, "mae_low": 1.0, "mae_high": 1.5,
    "mae_n": 30, "fp_rate": None, "fp_rate_low": None, "fp_rate_high": None, "fp_rate_n": 0,
    "brackets": [{"from": 0.0, "to": 0.1, "mae": INTERVAL, "bias": None}],
    "coverage": {"50": 0.5, "80": 0.8, "95": None},
}  # fmt: skip
FLAT = {
    "images": 120, "kind": "blend", "noise": 0.13, "holdout": MEASURED, "out_of_fold": MEASURED,
    "baseline_mae": 2.5,
    "versus_baseline": {"verdict": "better", "difference": -1.3, "low": -1.6, "high": -1.0,
                        "n": 30, "on": "holdout"},
    "out_of_fold_baseline": {"mae": 2.4, "verdict": "better", "difference": -1.1, "low": -1.2,
                             "high": -1.0, "n": 120},
    "calibration": {"kept": False, "why": "no", "mae": INTERVAL | {"verdict": "better"}},
    "noise_floor": {"sigma": 1.1, "sigma_low": 0.8, "sigma_high": 1.7, "mae": 0.9,
                    "mae_low": 0.6, "mae_high": 1.4, "n": 12},
    "learning_curve": {
        "labels": [10, 120], "mae": [2.0, 1.2], "mae_low": [1.6, None], "mae_high": [2.4, None],
        "noise_floor": 0.9,
        "labels_saved": {"value": None, "low": None, "high": None, "why": "too few"},
    },
    "label_histogram": [1] * 11, "percentiles": {"50": 0.4}, "predicted": 400,
    "versus_parent": {"version": "v1.0", "verdict": "no difference shown", "difference": 0.0,
                      "low": -0.1, "high": 0.1, "n": 30},
    "slices": [{"id": 1, "name": "photo", "kind": "tag", "images": 9, "library_share": 0.1,
                "training": 3, "training_share": 0.2, "mean": 0.5, "pass_rate": 0.4, "labelled": 5,
                "mae": 1.0, "mae_low": None, "mae_high": None, "fp_rate": None, "fp_n": 0,
                "fn_rate": 0.5, "fn_n": 2, "under_represented": False, "what": "tagged “photo”"}],
    "expectations": [{"id": 1, "slice_id": 1, "slice": "photo", "measure": "mean",
                      "bound": "at most", "limit": 0.1, "blocks": True, "value": 0.5, "images": 9,
                      "met": False}],
}  # fmt: skip
IMPORTED = {
    "images": 0, "kind": "score", "noise": 0.15, "holdout": MEASURED, "out_of_fold": {},
    "all_labels": MEASURED, "versus_parent": None,
}  # fmt: skip
OLD = {"images": 3, "holdout": {"n": 9, "mae": 1.5}}  # of an earlier release


def test_the_metrics_of_a_version_are_the_same_after_they_were_nested(settings: Settings) -> None:
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0002")
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        run(
            "INSERT INTO project (id, name, kind, encoder, threshold, brackets, recipe, "
            "holdout_share, seed, show_prediction_first, created_at) "
            "VALUES (1, 'P', 'score', 'e', 0.5, '[]', 'auto', 0.1, 0, 0, '2026-01-01')"
        )
        run(
            "INSERT INTO encoder (id, fingerprint, name, dim, declared, details) "
            "VALUES (1, 'f', 'e', 8, 0, '{}')"
        )
        for minor, metrics in enumerate((FLAT, IMPORTED, OLD, {})):
            run(
                "INSERT INTO version (project_id, major, minor, state, active, note, made_by, "
                "encoder_id, file, sha256, bytes, event_high, seed, recipe, metrics, curve, "
                "activation, created_at) VALUES (1, 1, ?, 'ready', 0, '', ?, 1, '', '', 0, 0, 0, "
                "'{}', ?, '{}', '', '2026-01-01')",
                (minor, f"job {minor}", json.dumps(metrics)),
            )
    engine.dispose()
    engine = migration.migrate(settings)
    assert len(list(settings.backups.iterdir())) == 1
    with sessions.reading(engine) as session:
        ready = versions.list_ready(session, projects.get(session, 1))
    engine.dispose()
    whole, imported, old, empty = (version.metrics for version in reversed(ready))
    assert whole.as_json() == FLAT and imported.as_json() == IMPORTED and empty.as_json() == {}
    assert {"n": 9, "mae": 1.5, "mae_n": 9}.items() <= old.as_json()["holdout"].items()
    assert whole.holdout.mae.model_dump() == INTERVAL
    assert (whole.holdout.fp_rate.value, whole.holdout.fp_rate.n) == (None, 0)
    assert whole.versus_parent is not None and whole.versus_parent.difference.high == 0.1
    assert whole.noise_floor is not None and whole.noise_floor.mae.n == 12
    assert whole.learning_curve is not None
    assert [point.mae.n for point in whole.learning_curve.points] == [30, 30]
    assert (whole.slices[0].mae.n, whole.slices[0].fn_rate.n) == (5, 2)
    assert imported.measured_on == "all_labels", "it saw none of them"
    assert old.measured_on == "holdout" and empty.measured_on is None


def test_metrics_come_back_from_the_database_as_they_went_in(engine: Engine) -> None:
    metrics = from_flat(FLAT)
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        encoder = EncoderRow(fingerprint="f", name="e", dim=8)
        session.add(encoder)
        session.flush()
        for minor, value in enumerate((metrics, VersionMetrics())):
            session.add(
                Version(
                    project_id=project.id, minor=minor, state="ready", made_by=f"test {minor}",
                    encoder_id=encoder.id, event_high=0, metrics=value,
                )
            )  # fmt: skip
    with sessions.reading(engine) as session:
        empty, full = versions.list_ready(session, project)
    assert full.metrics == metrics and full.metrics.as_json() == FLAT
    assert empty.metrics == VersionMetrics() and empty.metrics.as_json() == {}


def test_a_copy_that_could_not_be_finished_stands_under_no_name(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    target = tmp_path / "backups" / "before.db"
    with pytest.raises(sessions.sqlite.DatabaseError):
        migration.back_up_database(tmp_path / "damaged.db", target)
    assert list(target.parent.iterdir()) == []


def test_in_a_home_that_others_may_enter_they_read_neither_database_nor_backups(
    settings: Settings,
) -> None:
    settings.root.mkdir(mode=0o755)
    settings.backups.mkdir(mode=0o755)
    migration.migrate(settings).dispose()
    database = settings.root / "tastemaker.db"
    copy = settings.backups / "copy.db"
    migration.back_up_database(database, copy)
    for path in (database, settings.backups, copy):
        assert path.stat().st_mode & 0o077 == 0, path


def test_sessions_that_do_not_say_whose_they_are_end_with_the_upgrade(settings: Settings) -> None:
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0004")
    with sessions.writing(engine) as session:
        session.connection().exec_driver_sql(
            "INSERT INTO login_session (token_sha256, created_at, expires_at)"
            " VALUES ('ab', '2026-01-01', '2099-01-01')"
        )
        session.connection().exec_driver_sql(
            "INSERT INTO annotator (name, stand_in, role, password_hash, disabled, keys)"
            " VALUES ('me', 0, 'annotator', '', 0, '{}')"
        )
    migration.upgrade(engine, "head")
    with sessions.reading(engine) as session:
        assert session.exec(select(LoginSession)).all() == []
        assert projects.annotator(session, "me").id == 1
    engine.dispose()


def test_tags_and_names_are_found_whatever_a_mac_wrote(settings: Settings) -> None:
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0004")
    apart, whole = "Cafe\u0301", "Caf\u00e9"
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        for number, tags in enumerate(((apart,), (apart, whole), (whole, "plain")), 1):
            run(
                "INSERT INTO image (id, sha256, kind, name, format, width, height, bytes, "
                "source_group, added_at) VALUES (?, ?, 'file', ?, '', 1, 1, 1, '', '2026-01-01')",
                (number, str(number) * 64, f"{apart} {number}.png"),
            )
            for tag in tags:
                run("INSERT INTO image_tag (image_id, tag) VALUES (?, ?)", (number, tag))
    engine.dispose()
    engine = migration.migrate(settings)
    with sessions.reading(engine) as session:
        names = session.exec(select(Image.name).order_by(Image.name)).all()
        tags = session.exec(select(Tag.image_id, Tag.tag).order_by(Tag.image_id, Tag.tag)).all()
    engine.dispose()
    assert names == [f"{whole} {number}.png" for number in (1, 2, 3)]
    assert tags == [(1, whole), (2, whole), (3, whole), (3, "plain")]


def test_sweeps_are_events_once_the_table_is_rebuilt_and_every_score_is_kept(
    settings: Settings,
) -> None:
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0002")
    with engine.begin() as connection:
        for statement in FORMER.format(sha256="a" * 64).split(";\n")[:-1]:
            connection.exec_driver_sql(statement)
    migration.upgrade(engine, "0007")
    sweep = (
        "INSERT INTO score_event (project_id, image_id, annotator_id, kind, value, origin, reason,"
        " note, at) VALUES (1, 1, 1, '{}', {}, 'queue', '', '', '2026-01-01')"
    )
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        for kind, value in (("set", 4), ("skip", "NULL"), ("flag", "NULL")):
            run(sweep.format(kind, value))
        run(
            "INSERT INTO score_event (project_id, image_id, annotator_id, kind, undoes, origin,"
            " reason, note, at) VALUES (1, 1, 1, 'undo', 3, 'queue', '', '', '2026-01-01')"
        )
        kept = run("SELECT * FROM score_event ORDER BY id").all()
        labels = run("SELECT * FROM label ORDER BY image_id").all()
        with pytest.raises(IntegrityError), session.begin_nested():
            run(sweep.format("at_least", 5))
    migration.upgrade(engine, "head")
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        assert run("SELECT * FROM score_event ORDER BY id").all() == kept
        assert run("SELECT * FROM label ORDER BY image_id").all() == labels
        assert run("SELECT DISTINCT labelling FROM project").all() == [("scores",)]
        assert run("SELECT count(*) FROM version WHERE classes <> '{}'").scalar() == 0
        run(sweep.format("set", 2**49))  # the project says what it means: a class, or tags
        run(sweep.format("at_least", 5))
        run(sweep.format("below", 5))
        (aside,) = run("SELECT sql FROM sqlite_master WHERE name = 'ix_score_event_aside'").one()
        assert "WHERE" in aside, "the index stays a partial one"
        for kind, value in (("at_least", "NULL"), ("skip", 3), ("below", 11), ("liked", 3)):
            with pytest.raises(IntegrityError), session.begin_nested():
                run(sweep.format(kind, value))
    engine.dispose()


def test_jobs_and_images_of_before_go_on_under_the_new_columns(settings: Settings) -> None:
    settings.make_folders()
    engine = sessions.make_engine(settings)
    migration.upgrade(engine, "0008")
    with sessions.writing(engine) as session:
        run = session.connection().exec_driver_sql
        run(
            "INSERT INTO job (id, kind, title, payload, state, fence, attempts, heartbeat, "
            "cancel_requested, done, total, rate, message, curve, result, error, created_at) "
            "VALUES (1, 'embed', 'Embed', '{}', 'failed', 3, 3, 9, 0, 1, 2, 0, '', '{}', '{}', "
            "'Its process was ended.', '2026-01-01'), "
            "(2, 'import', 'Import', '{}', 'queued', 0, 0, 0, 0, 0, 0, 0, '', '{}', '{}', '', "
            "'2026-01-01')"
        )
        run("INSERT INTO job_log (job_id, at, line) VALUES (1, '2026-01-01', 'it began')")
    engine.dispose()
    engine = migration.migrate(settings)
    with sessions.writing(engine) as session:
        assert [entry.line for entry in jobs.log_of(session, 1)] == ["it began"]
        assert failures.cause_of(jobs.get(session, 1)).title == "Its process was ended."
        assert [(place.job_id, place.asked_by) for place in lanes.waiting(session)] == [(2, 0)]
        assert jobs.claim_next(session) is not None
    engine.dispose()


def test_what_was_expected_of_classes_beside_a_slice_stands_in_its_own_table(
    settings: Settings,
) -> None:
    settings.make_folders()
    former = sessions.make_engine(settings)
    migration.upgrade(former, former_expectations.FORMER)
    former_expectations.fill(former)
    former.dispose()
    engine = migration.migrate(settings)
    (backup,) = settings.backups.iterdir()
    with sessions.sqlite.connect(backup) as old:
        ((definition,),) = old.execute("SELECT definition FROM slice WHERE id = 1").fetchall()
        assert json.loads(definition) == former_expectations.DEFINITIONS[1]
    former_expectations.check(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    engine.dispose()


def test_of_images_that_are_there_nobody_has_asked_yet_when_they_were_taken(
    settings: Settings,
) -> None:
    settings.make_folders()
    former = sessions.make_engine(settings)
    migration.upgrade(former, former_images.FORMER)
    former_images.fill(former)
    former.dispose()
    engine = migration.migrate(settings)
    former_images.check(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert {f"ix_image_phash{i}" for i in range(4)} <= {name for (name,) in rows}
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    engine.dispose()
