"""The command line in the process of a test."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tastemaker import cli


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


def fails(said: Said, *sentences: str) -> None:
    """One sentence or two on stderr, exit code 1, and nothing on stdout."""
    assert (said.code, said.out) == (1, ""), said
    assert "Traceback" not in said.err
    for sentence in sentences:
        assert sentence in said.sentence
