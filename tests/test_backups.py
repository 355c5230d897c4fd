"""Everything comes back from a backup, or nothing is changed."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select
from web_world import World, add_job, client_of, events, full_world, make_world, settings_in

from tastemaker import files, scores
from tastemaker.auth import accounts
from tastemaker.config import Settings
from tastemaker.database import backups, sessions
from tastemaker.database.tables import Image, Job, LoginSession, now
from tastemaker.errors import Conflict, Invalid, NotFound, StorageFull
from tastemaker.pages.app import create_app
from tastemaker.worker import worker_lock
from tests.command_line import Run
from tests.conftest import environment, serving

ROOT = Path(__file__).parent.parent
UPLOAD = b"not decoded here"

pytestmark = pytest.mark.sqlite


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Scores, versions with their files, an upload, and one that a job still waits to import."""
    world = full_world(tmp_path / "home")
    settings = world.settings
    upload = Image(
        sha256=hashlib.sha256(UPLOAD).hexdigest(), kind="upload", name="mine.png",
        format="PNG", source_group="u",
    )  # fmt: skip
    stored = files.content_path(settings.images, upload.sha256, ".png")
    stored.parent.mkdir(parents=True)
    stored.write_bytes(UPLOAD)
    with sessions.writing(world.engine) as session:
        session.add(upload)
    add_job(world, "queued", kind="import", payload={"staging": "waiting"}, started_at=None)
    run = {"import": {"staging": "to-try"}, "run": 1}
    add_job(world, "queued", kind="test-run", payload=run, started_at=None)
    for folder in ("waiting", "to-try", "abandoned"):
        (settings.incoming / folder).mkdir()
        (settings.incoming / folder / "1.png").write_bytes(UPLOAD)
    (settings.thumbs / "half.part").write_bytes(b"half")
    (settings.live / "1.npy").write_bytes(b"made again by the worker")
    return world


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "elsewhere")


def closed(world: World) -> World:
    """The world after its program was stopped."""
    world.engine.dispose()
    return world


def rows(settings: Settings) -> dict[str, list[Any]]:
    """Every row of the database, by table; and that it is sound."""
    with closing(sessions.sqlite.connect(settings.root / "tastemaker.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: connection.execute(f'SELECT * FROM "{name}"').fetchall()
            for (name,) in tables.fetchall()
        }


def contents(settings: Settings, *folders: str) -> dict[str, bytes]:
    """Every file below these folders of the home folder."""
    found = [path for name in folders for path in (settings.root / name).rglob("*")]
    return {
        path.relative_to(settings.root).as_posix(): path.read_bytes()
        for path in found if path.is_file()
    }  # fmt: skip


def everything(settings: Settings) -> tuple[Any, Any]:
    return rows(settings), contents(settings, "images", "thumbs", "checkpoints", "incoming")


def test_everything_comes_back_in_an_empty_home(
    world: World, elsewhere: Settings, tmp_path: Path
) -> None:
    made = backups.back_up(world.settings, tmp_path / "all.zip")  # while it is open
    assert (made.scores, made.damaged) == (len(events(world)), [])
    done = backups.restore(elsewhere, made.path)
    assert (done.scores, done.files, done.replaced) == (made.scores, made.files, None)
    was, is_ = everything(closed(world).settings), everything(elsewhere)
    assert is_[0] == was[0]
    left = {"incoming/abandoned/1.png", "thumbs/half.part"}
    assert is_[1] == {name: data for name, data in was[1].items() if name not in left}
    assert left < was[1].keys()
    app = create_app(elsewhere)
    for page in ("score", "library", "versions", "review/false-positives"):
        assert client_of(app).get(f"/projects/1/{page}").status_code == 200
    app.state.engine.dispose()
    assert not list(elsewhere.root.glob("*.part"))


def test_what_was_there_is_kept_and_can_come_back(world: World, tmp_path: Path) -> None:
    settings = world.settings
    backup = backups.back_up(settings, tmp_path / "all.zip").path
    before = len(events(world))
    with sessions.writing(world.engine) as session:
        scores.record(session, world.project(session), 9, accounts_person(session), "set", 1)
    checkpoint = next(settings.checkpoints.glob("*v1.1.safetensors"))
    published = checkpoint.read_bytes()
    checkpoint.write_bytes(b"another head of that name")
    closed(world)
    done = backups.restore(settings, backup)
    assert len(rows(settings)["score_event"]) == before
    assert checkpoint.read_bytes() == published
    assert not (settings.live / "1.npy").exists()
    assert done.replaced is not None
    assert (
        done.replaced / "checkpoints" / checkpoint.name
    ).read_bytes() == b"another head of that name"
    backups.restore(settings, done.replaced / "tastemaker.db")
    assert len(rows(settings)["score_event"]) == before + 1


def accounts_person(session: Any) -> Any:
    return accounts.list_all(session)[0]


def test_what_is_scored_meanwhile_neither_fails_nor_harms_the_copy(
    world: World, elsewhere: Settings, tmp_path: Path
) -> None:
    stop, said = threading.Event(), []

    def score() -> None:
        while not stop.is_set():
            with sessions.writing(world.engine) as session:
                person = accounts_person(session)
                scores.record(session, world.project(session), 30, person, "set", len(said) % 11)
            said.append(1)

    scoring = threading.Thread(target=score)
    scoring.start()
    try:
        for number in range(5):
            least = len(events(world))
            made = backups.back_up(world.settings, tmp_path / f"{number}.zip")
            assert least <= made.scores <= len(events(world))
            backups.restore(elsewhere, made.path)
            assert len(rows(elsewhere)["score_event"]) == made.scores
    finally:
        stop.set()
        scoring.join()
    assert said


def test_nobody_stays_signed_in(world: World, elsewhere: Settings, tmp_path: Path) -> None:
    with sessions.writing(world.engine) as session:
        session.add(
            LoginSession(token_sha256="a" * 64, who="owner", credential="b", expires_at=now())
        )
    backups.restore(elsewhere, backups.back_up(world.settings, tmp_path / "all.zip").path)
    assert rows(elsewhere)["login_session"] == []
    assert len(rows(closed(world).settings)["login_session"]) == 1


def test_an_upload_that_was_damaged_before_is_named(world: World, tmp_path: Path) -> None:
    stored = next(world.settings.images.rglob("*.png"))
    stored.write_bytes(b"the disk forgot")
    stored.with_name(f"{stored.name}.xmp").write_bytes(b"what another program noted of it")
    made = backups.back_up(world.settings, tmp_path / "all.zip")
    assert made.damaged == [stored.relative_to(world.settings.root).as_posix()]


# --- refused -------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change a byte of the first file in it."""
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


def patch(path: Path, at: int, value: bytes) -> None:
    """Write into each entry's two headers, `at` bytes after where their flags stand."""
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(header)
        while place >= 0:
            data[place + flags + at : place + flags + at + 2] = value
            place = data.find(header, place + 4)
    path.write_bytes(data)


def encrypt(path: Path) -> None:
    patch(path, 0, b"\1\0")


def repack(path: Path, method: int) -> None:
    patch(path, 2, method.to_bytes(2, "little"))


def rename_inside(path: Path) -> None:
    """A file that would land outside the home folder."""
    rewrite(path, lambda about: about | {"sha256": about["sha256"] | {"images/../../x": "0"}})


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["manifest.json"] = json.dumps(change(json.loads(parts["manifest.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def newer_schema(path: Path) -> None:
    database = path.with_suffix(".db")
    with zipfile.ZipFile(path) as archive:
        database.write_bytes(archive.read("tastemaker.db"))
    with closing(sessions.sqlite.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    database.replace(path)


def add(path: Path, name: str, data: bytes = b"x", link: bool = False) -> None:
    """A file that the backup's own list does not name."""
    member = zipfile.ZipInfo(name)
    if link:
        member.external_attr = 0o120777 << 16
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # two of one name
        archive.writestr(member, data)


def replace(path: Path, name: str, data: bytes | None, link: bool = False) -> None:
    """Other bytes under this name, or none at all; its hash in the list as it is."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, old in parts.items():
            if entry != name:
                archive.writestr(entry, old)
            elif data is not None:
                member = zipfile.ZipInfo(entry)
                member.external_attr = (0o120777 if link else 0o100600) << 16
                archive.writestr(member, data, zipfile.ZIP_DEFLATED)


def bomb(path: Path) -> None:
    """Every hash is right, and it would unpack to far more than it is."""
    zeros = bytes(2**26)
    add(path, "images/00/zeros", zeros)
    named = {"images/00/zeros": hashlib.sha256(zeros).hexdigest()}
    rewrite(path, lambda about: about | {"sha256": about["sha256"] | named})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (flip, "damaged"),
    "cut off": (lambda path: os.truncate(path, path.stat().st_size // 2), "not a backup"),
    "empty": (lambda path: path.write_bytes(b""), "not a backup"),
    "text": (lambda path: path.write_text("my backup"), "not a backup"),
    "another zip": (lambda path: zipfile.ZipFile(path, "w").close(), "not a backup"),
    "a list for a manifest": (lambda path: rewrite(path, lambda _: []), "not a backup"),
    "no time": (lambda path: rewrite(path, lambda a: {"sha256": a["sha256"]}), "not a backup"),
    "encrypted": (encrypt, "cannot be unpacked"),
    "packed in an unknown way": (lambda path: repack(path, 99), "cannot be unpacked"),
    "no database": (lambda path: rewrite(path, lambda a: a | {"sha256": {}}), "not a backup"),
    "a path that leads out": (rename_inside, "not a backup"),
    "a file more": (lambda path: add(path, "images/00/more"), "does not name"),
    "a file more, outside": (lambda path: add(path, "../../outside"), "does not name"),
    "a link more": (lambda path: add(path, "images/00/l", b"/etc", link=True), "does not name"),
    "a name twice": (lambda path: add(path, "tastemaker.db"), "damaged"),
    "a bomb": (bomb, "far more than a backup"),
    "a list that is a bomb": (
        lambda path: rewrite(path, lambda about: about | {"x": "0" * 10**7}), "far more",
    ),
    "a newer schema": (newer_schema, "newer version of Tastemaker (schema 9999)"),
    "another database": (
        lambda path: (path.unlink(), sessions.sqlite.connect(path).execute("CREATE TABLE a (b)")),
        "not one of Tastemaker",
    ),
    "a broken database": (
        lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000), "is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_backup_is_refused_and_nothing_changed(
    world: World, tmp_path: Path, what: str
) -> None:
    path = backups.back_up(world.settings, tmp_path / "all.zip").path
    was = everything(closed(world).settings)
    spoil, told = BAD[what]
    spoil(path)
    with pytest.raises(Invalid, match="nothing was changed") as refused:
        backups.restore(world.settings, path)
    assert told in str(refused.value)
    assert everything(world.settings) == was
    assert not list(world.settings.root.glob("*.part"))


def test_no_member_of_a_backup_can_be_changed_taken_out_or_made_a_link(
    world: World, tmp_path: Path
) -> None:
    made = backups.back_up(world.settings, tmp_path / "all.zip").path
    was = everything(closed(world).settings)
    with zipfile.ZipFile(made) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    kinds = {Path(name).parts[0]: name for name in parts}  # one of each folder
    assert {"tastemaker.db", "manifest.json", "images", "thumbs"} <= kinds.keys()
    for name in kinds.values():
        changed = bytes([parts[name][0] ^ 1]) + parts[name][1:]
        for data, link in ((changed, False), (None, False), (parts[name], True), (b"", False)):
            spoilt = tmp_path / "spoilt.zip"
            shutil.copy(made, spoilt)
            replace(spoilt, name, data, link)
            if (name, link) == ("manifest.json", True):
                continue  # what says that it is a link is nothing that is read of a list
            with pytest.raises(Invalid, match="nothing was changed"):
                backups.restore(world.settings, spoilt)
    assert everything(world.settings) == was
    assert not list(world.settings.root.glob("*.part"))


def test_a_byte_changed_anywhere_is_found_or_changes_nothing(world: World, tmp_path: Path) -> None:
    made = backups.back_up(world.settings, tmp_path / "all.zip").path
    data, was = made.read_bytes(), everything(closed(world).settings)
    spoilt = tmp_path / "spoilt.zip"
    chosen = random.Random(0)
    for _ in range(40):
        place = chosen.randrange(len(data))
        spoilt.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(Invalid):
            backups.restore(world.settings, spoilt)
        assert everything(world.settings) == was, f"byte {place}"


def test_a_file_that_is_there_is_not_overwritten(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_text("mine")
    with pytest.raises(Conflict, match="exists already"):
        backups.back_up(world.settings, tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_text() == "mine"
    with pytest.raises(NotFound, match="no folder"):
        backups.back_up(world.settings, tmp_path / "nowhere" / "mine.zip")
    with pytest.raises(NotFound, match="no file"):
        backups.restore(world.settings, tmp_path / "nowhere.zip")


def test_without_space_nothing_is_written(world: World, tmp_path: Path) -> None:
    path = backups.back_up(world.settings, tmp_path / "all.zip").path
    was = everything(closed(world).settings)
    short = settings_in(world.settings.home).model_copy(update={"min_free_gb": 1e6})
    with pytest.raises(StorageFull, match="kept free"):
        backups.back_up(short, tmp_path / "other.zip")
    with pytest.raises(StorageFull, match="kept free"):
        backups.restore(short, path)
    assert backups.nightly_backup(short) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.zip", "home"]
    assert everything(world.settings) == was


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left_on_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full takes no byte; a rename onto it would be refused as well."""
    monkeypatch.setattr(backups, "_write", lambda target, *_: Path("/dev/full").write_bytes(b"x"))
    with pytest.raises(StorageFull, match="no space left on device"):
        backups.back_up(world.settings, tmp_path / "all.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_upload_that_is_imported_meanwhile_is_left_out(
    world: World, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backups._files

    def and_import(settings: Settings, staged: set[str]) -> Any:
        yield from found(settings, staged)
        shutil.rmtree(settings.incoming / "waiting")

    monkeypatch.setattr(backups, "_files", and_import)
    done = backups.restore(elsewhere, backups.back_up(world.settings, tmp_path / "a.zip").path)
    assert done.files and [path.name for path in elsewhere.incoming.iterdir()] == ["to-try"]


def test_postgresql_is_sent_to_its_own_programs(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "home", database_url="postgresql://nobody@nowhere/x")
    with pytest.raises(Invalid, match="pg_dump"):
        backups.back_up(settings)
    with pytest.raises(Invalid, match="pg_restore"):
        backups.restore(settings, tmp_path / "all.zip")
    assert backups.nightly_backup(settings) is None


def test_a_database_elsewhere_is_not_mistaken_for_the_one_in_the_home_folder(
    world: World, tmp_path: Path
) -> None:
    path = backups.back_up(world.settings, tmp_path / "all.zip").path
    elsewhere = world.settings.model_copy(
        update={"database_url": f"sqlite:///{tmp_path / 'real.db'}"}
    )
    before = sorted(world.settings.root.rglob("*"))
    with pytest.raises(Invalid, match="not the one in the home folder"):
        backups.back_up(elsewhere, tmp_path / "other.zip")
    with pytest.raises(Invalid, match="not the one in the home folder"):
        backups.restore(elsewhere, path)
    assert backups.nightly_backup(elsewhere) is None
    assert not (tmp_path / "other.zip").exists()
    assert sorted(world.settings.root.rglob("*")) == before
    named = world.settings.model_copy(
        update={"database_url": f"sqlite:///{world.settings.root / 'tastemaker.db'}"}
    )
    assert backups.back_up(named, tmp_path / "named.zip").files >= 1


def test_while_the_program_runs_nothing_is_restored(world: World, tmp_path: Path) -> None:
    path = backups.back_up(world.settings, tmp_path / "all.zip").path
    with sessions.reading(world.engine) as session:
        assert session.exec(select(Job)).all()
    with pytest.raises(Conflict, match="The program is running"):
        backups.restore(world.settings, path)
    assert len(events(world)) == len(rows(world.settings)["score_event"])


def test_a_damaged_database_is_replaced_and_kept(world: World, tmp_path: Path) -> None:
    settings = world.settings
    path = backups.back_up(settings, tmp_path / "all.zip").path
    was = rows(closed(world).settings)
    (settings.root / "tastemaker.db").write_bytes(b"\xff" * 9000)
    (settings.root / "tastemaker.db-wal").write_bytes(b"what was not folded in yet")
    done = backups.restore(settings, path)
    assert rows(settings) == was
    assert done.replaced is not None
    assert (done.replaced / "tastemaker.db").read_bytes() == b"\xff" * 9000
    assert (done.replaced / "tastemaker.db-wal").read_bytes() == b"what was not folded in yet"


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("point", ["files", "swapped"])
def test_killed_while_restoring_the_old_or_the_new_is_there(
    world: World, tmp_path: Path, point: str
) -> None:
    settings = world.settings
    path = backups.back_up(settings, tmp_path / "all.zip").path
    new = rows(settings)
    with sessions.writing(world.engine) as session:
        scores.record(session, world.project(session), 9, accounts_person(session), "set", 1)
    old = rows(closed(world).settings)
    ran = subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", "restore", path],
        env=environment(settings.home, TASTEMAKER_FAULT=f"restore.{point}"), cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL
    assert rows(settings) == (old if point == "files" else new)
    left = list(settings.root.glob("restoring-*.part"))
    assert len(left) == (point == "files")
    for folder in left:
        os.utime(folder, (0, 0))
        assert files.sweep_unfinished(settings.root) == 1
        assert not folder.exists()
    backups.restore(settings, path)
    assert rows(settings) == new


# --- every night ---------------------------------------------------------------------------------


def test_the_database_is_copied_every_night_and_three_copies_are_kept(world: World) -> None:
    settings = world.settings
    made = backups.nightly_backup(settings)
    assert made is not None
    assert backups.nightly_backup(settings) is None, "it is not a day old"
    for day in range(1, 5):
        older = made.with_name(f"nightly-2020010{day}-000000.db")
        shutil.copy(made, older)
        os.utime(older, (day * 86_400, day * 86_400))
    made.unlink()
    again = backups.nightly_backup(settings)
    assert again is not None
    kept = sorted(path.name for path in settings.backups.iterdir())
    assert kept == ["nightly-20200103-000000.db", "nightly-20200104-000000.db", again.name]
    in_an_hour = again.stat().st_mtime + 3600
    os.utime(again, (in_an_hour, in_an_hour))
    assert backups.nightly_backup(settings, hours=-2) is None, "nothing was written since"
    old = rows(closed(world).settings)
    backups.restore(settings, again)
    assert rows(settings) == old


def test_without_scores_or_with_damage_there_is_no_copy(world: World, tmp_path: Path) -> None:
    assert backups.nightly_backup(make_world(tmp_path / "bare").settings) is None
    settings = world.settings
    assert not list(settings.backups.iterdir())
    made = backups.nightly_backup(settings)
    assert made is not None
    os.utime(made, (0, 0))
    closed(world)
    database = settings.root / "tastemaker.db"
    data = bytearray(database.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    database.write_bytes(data)
    with pytest.raises(Invalid, match="damaged"):
        backups.nightly_backup(settings)
    assert [path.name for path in settings.backups.iterdir()] == [made.name]


@pytest.mark.parametrize("nightly", [False, True], ids=["a backup", "a nightly copy"])
def test_whatever_byte_of_a_copy_is_wrong_it_is_sound_or_said_to_be_damaged(
    world: World, tmp_path: Path, nightly: bool
) -> None:
    """Without a byte that ends in another error, of the many that can be wrong."""
    made = backups.nightly_backup(world.settings) if nightly else None
    if not nightly:
        made = backups.back_up(world.settings, tmp_path / "all.zip").path
    assert made is not None
    backups.verify(made)
    content, broken, damaged = made.read_bytes(), tmp_path / f"broken{made.suffix}", 0
    places = random.Random(0).sample(range(len(content)), 60)
    for at in [*range(0, 40, 2), *places]:
        broken.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            backups.verify(broken)
        except Invalid:
            damaged += 1
    assert damaged > 10  # of an SQLite file much is free
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(Invalid):
        backups.verify(broken)


# --- as a command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_by_command_beside_the_running_program(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = closed(world).settings.home
    assert home == tmp_path / "home", "where `run` works"
    assert "There is no backup." in run("doctor").out
    path = tmp_path / "all [1].zip"
    with serving(home):
        made = run("backup", path, "--json")
        assert made.code == 0, made.err
        assert made.json["scores"] == 21
        refused = run("restore", path)
        assert refused.code == 1
        assert refused.err.startswith("The program is running")
    assert run("backup", path).code == 1
    done = run("backup")
    assert done.code == 0 and "21 scores" in done.out
    assert "The newest backup is of" in run("doctor").out
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("TASTEMAKER_HOME", str(elsewhere))
    done = run("restore", path)
    assert done.code == 0, done.err
    assert "is in place: 21 scores" in done.out and "before" not in done.out
    assert Path(run("restore", path, "--json").json["kept"]).is_dir()
    bad = run("restore", ROOT / "README.md")
    assert bad.code == 1 and "is not a backup" in bad.err
    with worker_lock(settings_in(elsewhere)).acquire(timeout=0):
        assert "is running" in run("restore", path).err
