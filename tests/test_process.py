"""Processes and packaging: the web process stays light, a wheel works away from its checkout."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from threadpoolctl import threadpool_info, threadpool_limits

from tastemaker.jobs import heartbeat
from tastemaker.processes import loading, one_thread_for_products
from tests.conftest import environment, migrated

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_web_process_never_imports_torch_nor_scipy(tmp_path: Path) -> None:
    program = """
import sys, json
from fastapi.testclient import TestClient
from tastemaker.config import Settings
from tastemaker.pages.app import create_app
client = TestClient(create_app(Settings()), base_url="http://localhost",
                    headers={"Origin": "http://localhost"})
made = client.post("/api/v1/projects", json={"name": "light"})
assert made.status_code == 201, made.text
for page in ("/", "/projects/1/score", "/projects/1/review/false-positives",
             "/projects/1/versions", "/projects/1/add", "/projects/1/settings", "/jobs"):
    assert client.get(page).status_code == 200, page
client.post("/demo")
client.post("/projects/1/train")
print(json.dumps([m for m in ("torch", "open_clip", "timm", "torchvision", "sklearn", "skimage",
                              "scipy")
                  if m in sys.modules]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path / "home"), cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []


@pytest.mark.slow
def test_what_waits_for_work_has_loaded_nothing_of_it(tmp_path: Path) -> None:
    """The worker all day, what jobs are copies of, and the model process until somebody tries a
    picture: torch takes two seconds of each start and 450 MB of memory, and has threads, as pyarrow
    has, that a copy would lack. Nor is loaded what brings an old schema up to date, where the
    schema is the newest."""
    (tmp_path / "home").mkdir()
    shutil.copy(migrated(), tmp_path / "home" / "tastemaker.db")
    program = """
import sys, json
from tastemaker import worker
from tastemaker.config import Settings
from tastemaker.database.migration import migrate
migrate(Settings()).dispose()
for module in worker.COMMON:
    __import__(module)
heavy = ("torch", "scipy", "pyarrow", "fastapi", "alembic")
worker_has = [m for m in heavy if m in sys.modules]
from tastemaker.live import model_process
print(json.dumps([worker_has, [m for m in ("torch", "fastapi") if m in sys.modules]]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path / "home"), cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [[], []]


@pytest.mark.slow
def test_a_wheel_serves_its_pages_outside_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("tastemaker-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "tastemaker" / "py.typed").is_file(), "its types are for programs, too"
    program = """
from pathlib import Path
import tastemaker
assert Path(tastemaker.__file__).is_relative_to(Path.cwd()), tastemaker.__file__
from fastapi.testclient import TestClient
from tastemaker.config import Settings
from tastemaker.pages.app import create_app
client = TestClient(create_app(Settings()), base_url="http://localhost")
assert client.get("/").status_code == 200
assert client.get("/static/app.css").status_code == 200
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path / "home", PYTHONPATH=str(site)) | {"PATH": os.environ["PATH"]},
        cwd=site, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    # As pipx and uvx run it: by the script that an installer makes of the wheel.
    tool = tmp_path / "tool"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", tool, wheel], check=True, timeout=60)
    ran = subprocess.run(
        [tool / "bin" / "tastemaker", "doctor", "--json"],
        env=environment(tmp_path / "home", PYTHONPATH=str(tool)) | {"PATH": os.environ["PATH"]},
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)


def test_the_images_of_docker_ask_whether_they_are_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker cannot run here. What can be held against the program is: files, commands, checks."""
    files = {name: (ROOT / name).read_text() for name in ("Dockerfile", "Dockerfile.cuda")}
    of_cpu, of_cuda = (
        re.sub(r"whl/\w+", "whl/", text[text.index("FROM") :]).splitlines()
        for text in files.values()
    )
    assert of_cpu == of_cuda, "they differ in their torch alone"
    for line in of_cpu:
        if line.startswith("COPY"):
            assert all((ROOT / word).exists() for word in line.split()[1:-1]), line
    (command,) = (line.removeprefix("CMD ") for line in of_cpu if line.startswith("CMD "))
    assert {"serve", "--no-worker"} <= set(json.loads(command))
    (check,) = (line.partition(" CMD ")[2] for line in of_cpu if line.startswith("HEALTHCHECK"))
    assert "/readyz" in json.loads(check)[-1]
    compile(json.loads(check)[-1], "the check", "exec")
    compose = {
        name: yaml.safe_load((ROOT / name).read_text())["services"]
        for name in ("docker-compose.yml", "docker-compose.gpu.yml")
    }
    gpu = compose["docker-compose.gpu.yml"]["worker"]
    assert (ROOT / gpu["build"]["dockerfile"]).is_file()
    beat = compose["docker-compose.yml"]["worker"]["healthcheck"]["test"][-1]
    assert heartbeat.FILE in beat
    seen = beat.replace("/data", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        exec(seen, {})
    (tmp_path / heartbeat.FILE).touch()
    exec(seen, {})
    os.utime(tmp_path / heartbeat.FILE, (1, 1))
    with pytest.raises(AssertionError):
        exec(seen, {})


def test_the_collector_does_not_look_through_what_is_loaded() -> None:
    try:
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 10 * len(gc.get_objects())
    finally:
        gc.unfreeze()


def test_a_server_multiplies_in_one_thread() -> None:
    with threadpool_limits(2):  # and whatever it was, afterwards
        one_thread_for_products()
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


# In a thread, as the lanes of an encoder are, blocks above what glibc ever holds back by itself.
FAULTS = """
import resource, sys, threading
from tastemaker.processes.systems import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
found = []
def work():
    for _ in range(2):  # the first time they are taken
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(20):
            bytearray(40_000_000)
    found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(found[0])
"""


def test_what_a_network_frees_is_there_for_its_next_batch() -> None:
    """Page faults of twenty tensors of 40 MB."""
    counts = {
        way: int(subprocess.run(
            [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, timeout=60,
            check=True,
        ).stdout)
        for way in ("keep", "leave")
    }  # fmt: skip
    assert counts["keep"] < 1000 < 50_000 < counts["leave"]
