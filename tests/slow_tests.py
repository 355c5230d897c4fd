"""Which tests `make check` leaves to `make test`: those that took a third of a second or more, with
all their cases, when that was last measured (`make slow-tests`, which writes slow_tests.txt)."""

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

FILE = Path(__file__).with_suffix(".txt")
LONG = 0.3  # seconds

_took: Counter[str] = Counter()


def function_of(node_id: str) -> str:
    """A test without its cases: `tests/test_jobs.py::test_a_job_waits`."""
    return node_id.partition("[")[0]


@functools.cache
def known() -> dict[str, float]:
    """Seconds that each of them took, with all its cases."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {name: float(seconds) for seconds, name in (line.split() for line in lines)}


def seconds_of_each(items: Sequence[pytest.Item]) -> dict[str, float]:
    """About how long every test takes, by its name: its share of its function's time."""
    cases = Counter(function_of(item.nodeid) for item in items)
    return {
        item.nodeid: known().get(name := function_of(item.nodeid), 0.0) / cases[name]
        for item in items
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--note-slow", action="store_true",
        help="write down which tests take long, for `make check` to leave them out",
    )  # fmt: skip


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _took[function_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that failed or was broken off says nothing of the tests it did not come to."""
    asked = session.config.getoption("--note-slow") and not hasattr(session.config, "workerinput")
    if asked and exitstatus == pytest.ExitCode.OK:
        write(_took)


def write(took: Counter[str]) -> None:
    slow = sorted((name, seconds) for name, seconds in took.items() if seconds >= LONG)
    FILE.write_text("".join(f"{seconds:.1f} {name}\n" for name, seconds in slow))
