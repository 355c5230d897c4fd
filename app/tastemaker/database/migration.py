"""Bring the database to the newest schema: back up, upgrade in one transaction, check.

Alembic's batch mode rebuilds a table by dropping the old one, and with foreign keys on that
cascade-deletes every row that refers to it: hand scores included. So keys are off while it runs,
and `foreign_key_check` must come back empty before anything is committed.
"""

import contextlib
import functools
import logging
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DatabaseError, OperationalError

from tastemaker.config import Settings, shipped
from tastemaker.database.sessions import is_locked, make_engine, sqlite
from tastemaker.database.tables import now
from tastemaker.errors import TastemakerError
from tastemaker.files import sync_folder

log = logging.getLogger(__name__)

PRIVATE = stat.S_IRUSR | stat.S_IWUSR


def migrate(settings: Settings) -> Engine:
    """Engine on a database of the newest schema, creating or upgrading it first. Safe to call from
    several processes at once. Raises `TastemakerError` when the database is newer than this
    program; it is left alone then."""
    try:
        settings.make_folders()
    except OSError as error:
        raise TastemakerError(
            f"The folder {settings.root} cannot be used: {error.strerror}.",
            "Point TASTEMAKER_HOME at a folder you may write to.",
        ) from error
    engine = make_engine(settings)
    try:
        _bring_to_newest(settings, engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _bring_to_newest(settings: Settings, engine: Engine) -> None:
    head = newest_revision()
    with FileLock(settings.root / "migrate.lock", timeout=120):
        current = current_revision(engine)
        if current == head:
            _keep_private(settings, engine)
            return
        if current is not None and current not in revisions():
            raise TastemakerError(
                f"The database is of a newer version of Tastemaker (schema {current}); "
                "nothing was changed.",
                "Start the newer program, or point TASTEMAKER_HOME at another folder.",
            )
        if current is None and inspect(engine).get_table_names():
            raise TastemakerError(
                "The database holds the tables of another program; it was left alone.",
                "Let TASTEMAKER_DATABASE_URL name an empty one.",
            )
        if current is not None and engine.dialect.name == "sqlite":
            backup = settings.backups / f"before-{head}-{now():%Y%m%d-%H%M%S}.db"
            back_up_database(Path(engine.url.database or ""), backup)
            log.info("backed up the database to %s before upgrading it", backup)
        upgrade(engine, "head")
        _keep_private(settings, engine)


def revisions() -> set[str]:
    """Every schema that this program knows: what the names of the migrations begin with."""
    return set(_revisions_in(shipped("migrations")))


def newest_revision() -> str:
    """The schema that this program works with."""
    return max(_revisions_in(shipped("migrations")))


@functools.cache  # the scripts stay what they are while the program runs
def _revisions_in(folder: Path) -> frozenset[str]:
    names = (folder / "versions").glob("[0-9]*_*.py")
    return frozenset(path.name.partition("_")[0] for path in names)


def upgrade(engine: Engine, revision: str) -> None:
    """Run the migrations up to `revision` in one transaction."""
    # Here: it loads for a third of a second, and most starts find the newest schema.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.connect().execution_options(begin="IMMEDIATE") as connection:
        plain: Any = connection.connection.dbapi_connection
        if is_sqlite:  # a no-op inside a transaction, so before it
            plain.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
                if is_sqlite:
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                    if broken:
                        raise TastemakerError(
                            f"The upgrade would have left {len(broken)} rows without their "
                            "parent; the database is unchanged.",
                            "Please report this together with the output of `tastemaker doctor`.",
                        )
        finally:
            if is_sqlite:
                plain.execute("PRAGMA foreign_keys=ON")


def current_revision(engine: Engine) -> str | None:
    """The schema's revision, None for an empty database. Raises `TastemakerError` for a file that
    is no database, and for a database that cannot be reached."""
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            kept = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
            return kept.scalar_one_or_none()
    except DatabaseError as error:
        if "not a database" not in str(error.orig) and "malformed" not in str(error.orig):
            if not isinstance(error, OperationalError) or is_locked(error):
                raise
            reason = str(error.orig).strip().splitlines()[0].rstrip(".")
            raise TastemakerError(
                f"The database cannot be opened: {reason}.",
                "See whether it runs, and whether TASTEMAKER_DATABASE_URL is right.",
            ) from error
        raise TastemakerError(
            f"{engine.url.database} is not a database, or is damaged; it was left alone.",
            "`tastemaker restore FILE` puts one of the folder `backups` beside it in its place.",
        ) from error


def back_up_database(source: Path, target: Path) -> None:
    """Consistent copy of a live SQLite database (SQLite's online backup API), for its owner alone.
    Under its name it is whole, or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")  # swept when a kill leaves it
    try:
        with (
            closing(sqlite.connect(source)) as original,
            closing(sqlite.connect(unfinished)) as copy,
        ):
            unfinished.chmod(PRIVATE)
            original.backup(copy)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(target.parent)


def _keep_private(settings: Settings, engine: Engine) -> None:
    """Password hashes are in the database and its copies: in a home that others may enter, they
    may read neither."""
    places = [(settings.backups, PRIVATE | stat.S_IXUSR)]
    if engine.dialect.name == "sqlite" and engine.url.database:
        places += [
            (path, PRIVATE)
            for path in Path(engine.url.database).parent.glob(Path(engine.url.database).name + "*")
        ]
    for path, mode in places:
        with contextlib.suppress(OSError):  # another's: they have decided
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(mode)
