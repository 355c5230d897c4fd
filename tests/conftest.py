"""Shared by all tests: a real database in a folder of its own, one finished sample project that
tests copy, real worker processes, and a real browser."""

import atexit
import functools
import gc
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from filelock import FileLock
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import URL, Engine
from sqlalchemy.util import LRUCache
from sqlmodel import Session

from bench.browser import installed
from tastemaker import images, jobs, projects
from tastemaker.auth import accounts
from tastemaker.config import Settings
from tastemaker.database import migration, sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import CollectionImage, Image, Project
from tastemaker.encoding import encoders
from tastemaker.encoding.encoder_specs import EncoderSpec
from tastemaker.jobs.context import JobContext
from tests import command_line, slow_tests
from tests import desk as desks

run, jobs_here = command_line.run, command_line.jobs_here  # fixtures
head, vectors = command_line.head, command_line.vectors
decoders, desk = desks.decoders, desks.desk
pytest_addoption = slow_tests.pytest_addoption  # hooks
pytest_runtest_logreport = slow_tests.pytest_runtest_logreport
pytest_sessionfinish = slow_tests.pytest_sessionfinish

# Continuous integration tries the same cases every time; at a desk, new ones. A machine with other
# things to do fails nothing.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("new", deadline=None)
hypothesis.settings.load_profile("steady" if os.environ.get("CI") else "new")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach out
for name in [name for name in os.environ if name.startswith("TASTEMAKER_")]:
    del os.environ[name]
# Begun in the background (`make test &`) a process ignores Ctrl-C, and so would what it begins.
signal.signal(signal.SIGINT, signal.default_int_handler)


UPGRADE = migration.upgrade
LOAD_NETWORK = encoders._network
LONG = 4  # seconds: such a test is one that another process should not wait for


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What needs the sample project, or the program as a process, or takes long, is not for `make
    check`. What the markers leave is dealt out: every process of the run begins with a part of the
    list, and each part with some of the longest tests, so that no process is left alone with one.
    The first makes the sample project, and the others begin with what needs none. Otherwise the
    tests of a module stay together: they share what they look at."""
    for item in items:
        if slow_tests.function_of(item.nodeid) in slow_tests.known():
            item.add_marker(pytest.mark.slow)
        if "chromium" in fixtures_of(item):
            item.add_marker(pytest.mark.browser)
        if needs_sample(item) or "tastemaker" in fixtures_of(item):
            item.add_marker(pytest.mark.slow)
    yield
    seconds = slow_tests.seconds_of_each(items)
    long = [item for item in items if seconds[item.nodeid] >= LONG]
    long.sort(key=lambda item: seconds[item.nodeid], reverse=True)
    others = [item for item in items if seconds[item.nodeid] < LONG]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ends = [n * len(items) // processes for n in range(processes + 1)]
    items.clear()
    for n in range(processes):
        first = n == 0
        items += sorted(long[n::processes], key=lambda item: first != needs_sample(item))
        rest = max(0, ends[n + 1] - len(items))
        items += others[:rest]
        del others[:rest]


def needs_sample(item: pytest.Item) -> bool:
    return "sample_home" in fixtures_of(item)


def fixtures_of(item: pytest.Item) -> set[str]:
    """The fixtures that a test asks for, and those that they ask for."""
    return set(getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """While the tests are imported nothing becomes garbage, and all of it stays: looking through it
    again and again takes a tenth of the time of the tests of the pages."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", min_free_gb=0, _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    settings.make_folders()
    shutil.copy(migrated(), settings.root / "tastemaker.db")
    engine = migrate(settings)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True, scope="session")
def quick_passwords() -> Iterator[None]:
    """Hashing a password takes a millisecond instead of a tenth of a second."""
    quick = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", lambda: quick)
        yield


@pytest.fixture(autouse=True, scope="session")
def statements_compiled_once() -> Iterator[None]:
    """Every test has a database of its own, and all of them ask the same: what one engine compiled
    serves the next. Compiling its statements takes most of the time of the first look at a page."""
    made, cache = sessions.create_engine, LRUCache[Any, Any](5000)
    first = made("sqlite://", module=sessions.sqlite)
    first.connect().close()  # which tells the dialect the version of the library

    def create_engine(url: URL, **options: Any) -> Engine:
        engine = made(url, **options)
        if engine.dialect.name == "sqlite":
            first.dialect._json_serializer = engine.dialect._json_serializer
            engine.dialect, engine._compiled_cache = first.dialect, cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "create_engine", create_engine)
        yield
    first.dispose()


@pytest.fixture(autouse=True, scope="session")
def schema_made_once() -> Iterator[None]:
    """An empty database gets a copy of one that the migrations made, as they would make it."""

    def copy(engine: Engine, revision: str) -> None:
        is_new = engine.dialect.name == "sqlite" and migration.current_revision(engine) is None
        if is_new and revision == "head":
            with closing(sessions.sqlite.connect(migrated())) as made, engine.connect() as empty:
                made.backup(empty.connection.dbapi_connection)
        else:
            UPGRADE(engine, revision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migration, "upgrade", copy)
        yield


@pytest.fixture(autouse=True, scope="session")
def bundled_networks_loaded_once() -> Iterator[None]:
    """Nothing changes a network once it is loaded, and most that embeds or scores loads the bundled
    one, a quarter of a second each time."""
    once = functools.cache(LOAD_NETWORK)

    def loaded(spec: EncoderSpec, dtype: Any, device: str) -> encoders.Network:
        return (once if spec.bundled else LOAD_NETWORK)(spec, dtype, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_network", loaded)
        yield


@functools.cache
def made_once(make: Callable[..., Any], *words: Any) -> Path:
    """A home folder that `make(home, *words)` filled, once in this process: to be copied."""
    home = Path(tempfile.mkdtemp(prefix="tastemaker-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    make(home, *words)
    return home


def migrated() -> Path:
    """A database of the newest schema with nothing in it: migrating takes longer than most
    tests."""
    return made_once(_migrate_in) / "tastemaker.db"


def _migrate_in(home: Path) -> None:
    here = f"sqlite:///{home / 'tastemaker.db'}"  # whatever database a test has named meanwhile
    engine = sessions.make_engine(Settings(home=home, database_url=here, _env_file=None))
    UPGRADE(engine, "head")
    engine.dispose()  # the last connection to close folds the log into the file


# --- a small library by hand ---------------------------------------------------------------------


def add_images(
    session: Session, count: int, collection: str = "Pictures", project: Project | None = None
) -> list[Image]:
    """So many images without pixels, each of a group of its own, in a collection (of a project)."""
    home = images.collection_named(session, collection)
    if project is not None:
        projects.add_collection(session, project, home)
    known = images.count(session)
    names = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(known, known + count)]
    made = [
        Image(sha256=name, kind="file", name=f"{name[:6]}.jpg", source_group=name[:16])
        for name in names
    ]
    session.add_all(made)
    session.flush()
    session.add_all(CollectionImage(collection_id=home.id, image_id=image.id) for image in made)
    session.flush()
    return made


def work_on(settings: Settings, engine: Engine, job_id: int) -> JobContext:
    """What the code of a queued job gets, as if a worker's child ran it."""
    with sessions.writing(engine) as session:
        taken = jobs.claim_next(session, [job_id])
        assert taken is not None, "the job is not queued"
    return JobContext(settings, engine, *taken, lambda kind, value: None)


def forward(tensors: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The head as its paper form says, in float64 and in nothing but numpy: (N, D) -> (N,)."""
    w = {name: np.float64(value) for name, value in tensors.items()}

    def linear(name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def leaky(rows: np.ndarray, slope: float) -> np.ndarray:
        return np.where(rows > 0, rows, slope * rows)

    up = linear("up.0", np.float64(x))
    inner = leaky(linear("up.1.long.0", up), 0.1)
    inner = leaky(linear("up.1.long.2", inner), 0.1)
    residual = np.maximum(linear("up.1.long.4", inner) + up, 0)
    neck = leaky(linear("down.1", linear("down.0", residual)), 0.01)
    return (np.tanh(linear("down.5", linear("down.4", neck))[:, 0]) + 1) / 2


@pytest.fixture(scope="module")
def pool() -> Iterator[list[Any]]:
    """The decoding child of Try it, started once for all tests of a module, by the first that needs
    it (`try_world.answering_side`)."""
    kept: list[Any] = []
    yield kept
    for one in kept:
        one.close()


# --- the program as people run it --------------------------------------------------------------


def environment(home: Path, **more: str) -> dict[str, str]:
    return os.environ | {"TASTEMAKER_HOME": str(home), "TASTEMAKER_MIN_FREE_GB": "0"} | more


@pytest.fixture
def tastemaker(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command line in the home folder of this test: tastemaker("project", "list")."""

    def run(*words: Any, home: Path = tmp_path / "home", **env: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "tastemaker.cli", *map(str, words)],
            env=environment(home, **env), cwd=Path(__file__).parent.parent,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Wait for something to become true, looking often; fails loudly."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain {what or condition}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(home: Path, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running command (`serve`, `worker`), ended with everything it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", *words],
        env=environment(home, **env), cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(home: Path, *words: str, **env: str) -> Iterator[str]:
    """`tastemaker serve` on a free port; gives the base URL once it answers."""
    port = free_port()
    with running(home, "serve", "--port", str(port), *words, **env) as process:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, "the server ended"
            try:
                return urllib.request.urlopen(f"{url}/healthz", timeout=1).status == 200
            except OSError:
                return False

        until(answers, 30, "for the server")
        yield url


# --- the sample project ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sample_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder after `tastemaker demo --no-serve`, made once for all processes. Read only:
    copy it with `sample` to change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    home = shared / "sample-home"
    with FileLock(shared / "sample.lock"):
        if not (home / "made").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run(
                [sys.executable, "-m", "tastemaker.cli", "demo", "--no-serve"],
                env=environment(home), cwd=Path(__file__).parent.parent, check=True, timeout=1500,
            )  # fmt: skip
            (home / "made").touch()
    return home


@pytest.fixture
def sample(sample_home: Path, tmp_path: Path) -> Path:
    """A copy of the sample project's home folder, for this test alone."""
    home = tmp_path / "home"
    shutil.copytree(sample_home, home)
    return home


# --- the browser -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """An installed Chromium if there is one, else Playwright's own."""
    if found := installed(quickest=True):
        browser_type_launch_args["executable_path"] = found
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    # Every page is of one site: a process of its own for each takes an eighth more.
    together = ["--renderer-process-limit=1", "--disable-site-isolation-trials"]
    return browser_type_launch_args | {
        "args": ["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet, *together]
    }


@pytest.fixture(scope="session")
def chromium(browser: Any) -> Any:
    """The one browser of the run: two drivers in one process do not get along."""
    return browser
