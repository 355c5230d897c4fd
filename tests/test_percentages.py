"""A share is written in one way: nothing but all is 100 %, nothing but none is 0 %."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.files.percentages import percent, percent_in_three, percent_range, probability
from tastemaker.learning.version_metrics import Estimate
from tastemaker.pages import formats
from tastemaker.queues import reasons
from tastemaker.versions import class_report

APP = Path(__file__).parent.parent / "app" / "tastemaker"
TEMPLATES = Path(__file__).parent.parent / "templates"


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (None, "–"), (0.0, "0 %"), (1e-9, "< 1 %"), (0.0049, "< 1 %"), (0.006, "1 %"),
        (0.783, "78 %"), (0.994, "99 %"), (0.996, "> 99 %"), (1 - 1e-9, "> 99 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_all_and_none_are_told_of_nothing_else(share: float | None, told: str) -> None:
    assert percent(share) == told
    assert formats.percent(share) == told.replace(" ", "\u202f")
    sure = {"0 %": "< 1 %", "100 %": "> 99 %"}.get(told, told)
    assert probability(share) == sure, "a float may be 1 that is only near it"
    assert formats.probability(share) == sure.replace(" ", "\u202f")


def test_with_more_digits_the_ends_are_finer() -> None:
    assert [percent(x, 1) for x in (0.0004, 0.9996, 0.996)] == ["< 0.1 %", "> 99.9 %", "99.6 %"]
    assert [formats.share(x).replace("\u202f", " ") for x in (0.0, 0.0004, 0.004, 0.9996)] == [
        "0 %", "< 0.1 %", "0.4 %", "> 99 %",
    ]  # fmt: skip
    told = [percent_in_three(x) for x in (0.317, 0.9951, 0.99951, 1.0, 0.0)]
    assert told == ["31.7 %", "99.5 %", "> 99.9 %", "100 %", "0 %"]


@given(st.floats(0, 1), st.floats(0, 1))
def test_no_end_of_an_interval_is_rounded_inwards_to_all_or_none(one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, last = map(int, percent_range(low, high).removesuffix(" %").split("–"))
    assert (first < 100 or low == 1) and (last > 0 or high == 0)
    assert abs(first - 100 * low) <= 1 and abs(last - 100 * high) <= 1


def test_what_a_classifier_says_is_never_certain() -> None:
    assert reasons.undecided([("photo", 0.9999), ("logo", 0.0001)]).endswith(
        "photo > 99 %, logo < 1 %"
    )
    right = Estimate(value=0.998, low=0.96, high=0.9995, n=500)
    assert class_report.in_percent(right) == "> 99 % (96–100 %)"


def test_no_share_is_rounded_anywhere_else() -> None:
    """A format that rounds, and a percent sign behind it."""
    rounded = re.compile(r":\.\d%\}|:\.\df\}(?:\{SPACE\}| |\\u202f)?%")
    found = [
        f"{path.name}: {line.strip()}"
        for path in APP.rglob("*.py")
        if path.name != "percentages.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if rounded.search(line)
    ]
    found += [
        f"{path.name}: {line.strip()[:80]}"
        for path in TEMPLATES.rglob("*.html")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r'"%\.[0-3][fg]"\|format\(100 |\|round\|int }} ?%', line)
    ]
    assert not found, "a share is written by files/percentages.py"


SURE = re.compile(r"\{\{ [\w.\[\]]*(?:probability|was_sure|sure|trust|similarity)\|percent \}\}")


def test_how_sure_a_model_is_is_written_as_a_probability() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.rglob("*.html")}
    assert not [name for name, text in pages.items() if SURE.search(text)]
    scripts = (TEMPLATES.parent / "static").glob("*.js")
    by_hand = re.compile(r"\$\{Math\.round\(100 \*[^}]*\}(\\u202f)?% sure")
    assert not [one.name for one in scripts if by_hand.search(one.read_text(encoding="utf-8"))]
