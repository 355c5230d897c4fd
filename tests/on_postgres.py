"""The tests of this process on PostgreSQL: `pytest -p tests.on_postgres`.

Where a home folder has its database in a file, it gets one of a PostgreSQL server instead, which
begins as a copy: of the newest schema, or, where a test copied a home that has one, of that one.
Left out is what a process of its own does that is started by a command, which would not know of it,
what says by its marker `sqlite` that it asks about the file, and what has a server of its own.
"""

import functools
import itertools
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from tastemaker.config import Settings
from tastemaker.database import migration, sessions
from tests.postgres_server import postgres

NAME = "database-of-this-home"  # a file in it, which is copied along
ELSEWHERE = {
    "tastemaker", "sample", "sample_home", "chromium", "page", "bench", "empty_bench",
    "address",  # of tests/test_postgres.py: a server of its own
}  # fmt: skip
# Modules that open a database, or make one.
WORLDS = (
    "tastemaker.database.", "web_world.", "trained_world.", "class_world.", "router_world.",
    "tests.desk.", "tests.command_line.",
)  # fmt: skip

_held = ExitStack()
_numbers = itertools.count()
_homes: dict[Path, str] = {}  # of those made so far, the names of the databases


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def is_meant(item: pytest.Item) -> bool:
        apart = {"sqlite", "slow", "browser"} & {marker.name for marker in item.iter_markers()}
        fixtures = set(getattr(item, "fixturenames", ()))
        return not apart and not ELSEWHERE & fixtures and _asks_a_database(item)

    config.hook.pytest_deselected(items=[item for item in items if not is_meant(item)])
    items[:] = [item for item in items if is_meant(item)]


def _asks_a_database(item: pytest.Item) -> bool:
    """Whether the module of a test knows the database, or a world or a desk that has one."""
    known = vars(getattr(item, "module", object)).values()
    homes = {getattr(one, "__module__", "") for one in known if not isinstance(one, ModuleType)}
    homes |= {one.__name__ for one in known if isinstance(one, ModuleType)}
    return any(f"{home}.".startswith(WORLDS) for home in homes if isinstance(home, str))


def pytest_unconfigure() -> None:
    _held.close()


@functools.cache
def _server() -> Engine:
    address = _held.enter_context(postgres())
    engine = create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    _held.callback(engine.dispose)
    return engine


def _make(name: str, template: str | None) -> str:
    """A new database. Of a template nobody may be at work in it."""
    with _server().connect() as connection:
        # Files are copied twice as fast as they are written to the log; before 15 nothing else was.
        by_files = " STRATEGY file_copy" if connection.dialect.server_version_info >= (15,) else ""
        of = f" TEMPLATE {template}{by_files}" if template else ""
        connection.execute(text(f"CREATE DATABASE {name}{of}"))
    return name


@functools.cache
def _newest() -> str:
    name = _make("newest", None)
    engine = create_engine(_address(name), poolclass=NullPool)
    migration.upgrade(engine, "head")
    engine.dispose()
    return name


def _address(name: str) -> str:
    return _server().url.set(database=name).render_as_string(hide_password=False)


def _database_of(home: Path) -> str:
    """The address of the database of a home, which is made when it is first asked for."""
    record = home / NAME
    whose, _, name = record.read_text().partition("\n") if record.exists() else ("", "", "")
    if whose != str(home):
        name = _make(f"home_{next(_numbers)}_{uuid.uuid4().hex[:8]}", name or _newest())
        home.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{home}\n{name}")
        _homes[home] = name
    return _address(name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """What lies in a test's own folder ends with the test: a database takes 8 MB, and a run would
    fill the memory with them."""
    own = item.funcargs.get("tmp_path") if isinstance(item, pytest.Function) else None
    yield
    if own is None:
        return
    for home in [home for home in _homes if home.is_relative_to(own)]:
        with _server().connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {_homes.pop(home)} WITH (FORCE)"))


@pytest.fixture(autouse=True, scope="session")
def on_postgres(statements_compiled_once: None, schema_made_once: None) -> Iterator[None]:
    made = sessions.create_engine

    def create(url: Any, **options: Any) -> Engine:
        if make_url(url).get_backend_name() == "postgresql":
            options.pop("pool_pre_ping", None)
            options["poolclass"] = NullPool  # hundreds of engines are not disposed of
        return made(url, **options)

    def database(settings: Settings) -> str:
        return settings.database_url or _database_of(settings.root)

    def sent(settings: Settings) -> Any:
        """As a child gets them, in which nothing is patched: with the address of the database."""
        state = BaseModel.__getstate__(settings)
        return state | {"__dict__": state["__dict__"] | {"database_url": settings.database}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "create_engine", create)
        patch.setattr(Settings, "database", property(database))
        patch.setattr(Settings, "__getstate__", sent)
        yield
