"""The command line in the process of a test."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker import cli, jobs, worker
from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Job
from tastemaker.errors import TastemakerError
from tastemaker.jobs.children import HANDLERS
from tastemaker.jobs.context import JobContext
from tastemaker.jobs.failures import Failure
from tastemaker.learning.city96 import layout


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What it said on stderr, without its line breaks."""
        return " ".join(self.err.split())


Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in the home folder of this test."""
    monkeypatch.setenv("TASTEMAKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TASTEMAKER_MIN_FREE_GB", "0")
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Said:
        monkeypatch.setattr(sys, "argv", ["tastemaker", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def done_here(settings: Settings, engine: Engine, finished: Callable[[], bool]) -> None:
    """The jobs of a command, one after the other in this process."""
    while not finished():
        with writing(engine) as session:
            queued = session.exec(select(Job.id).where(Job.state == "queued")).all()
            taken = jobs.claim_next(session, list(queued))
        assert taken is not None, "a job is waited for that is not queued"
        job, claim = taken
        lines: list[str] = []
        context = JobContext(
            settings, engine, job, claim,
            lambda kind, value, lines=lines: lines.append(value) if kind == "log" else None,
        )  # fmt: skip
        module, function = HANDLERS[job.kind].split(":")
        try:
            result = getattr(importlib.import_module(module), function)(context)
        except TastemakerError as error:
            with writing(engine) as session:
                jobs.fail(session, claim, Failure.of(error))
            continue
        with writing(engine) as session:
            for line in lines:
                jobs.log(session, claim.job_id, line)
            jobs.finish(session, claim, json.loads(json.dumps(result)))


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command waits for is done in the process of the test: a child would import torch
    first, which takes longer than most jobs of the tests. `tests/test_cli.py` has the children."""
    monkeypatch.setattr(worker, "run_here", done_here)


def fails(said: Said, *sentences: str) -> None:
    """One sentence or two on stderr, exit code 1, and nothing on stdout."""
    assert (said.code, said.out) == (1, ""), said
    assert "Traceback" not in said.err
    for sentence in sentences:
        assert sentence in said.sentence


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with all its layers at work, of 24 features, as a stranger may have made it."""
    random = np.random.default_rng(3)
    tensors = {
        name: random.normal(0, 0.7 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for name, shape in layout(24).items()
    }
    path = tmp_path_factory.mktemp("head") / "strange.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.random.default_rng(4).normal(0, 3, (300, 24)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "x.npy"
    np.save(path, rows)
    return path
