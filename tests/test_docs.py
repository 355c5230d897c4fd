"""The documentation says what the program does: settings, commands, options and files exist."""

import importlib
import json
import re
from pathlib import Path

import pytest
import typer.main

from bench.__main__ import WITH_OPTIONS
from docs import learning_curves, scale_model
from docs.reference import reference
from tastemaker.cli.commands import app
from tastemaker.config import Settings
from tastemaker.encoding.encoder_specs import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LEARNING = (ROOT / "docs" / "learning.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
COMMANDS = typer.main.get_command(app)


def test_every_setting_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"`TASTEMAKER_([A-Z_]+)`", README))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_documented_defaults_are_the_real_ones() -> None:
    for name, default in re.findall(r"\| `TASTEMAKER_([A-Z_]+)` \| `?([\w~/.]+)`? \|", README):
        real = Settings.model_fields[name.lower()].get_default(call_default_factory=True)
        real = str(real).replace(str(Path.home()), "~")
        assert real == default or float(real) == float(default), name


TYPED = [
    line
    for page in (README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
    for line in re.findall(r"(?m)^(?:[A-Z_]+=\S+ )?tastemaker (.+)$", page)
]


@pytest.mark.parametrize("line", TYPED)
def test_documented_commands_exist_with_their_options(line: str) -> None:
    words = line.split("#")[0].split()
    command = COMMANDS
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"{line}: there is no such command"
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w./-]+)\)", README))
def test_linked_files_exist(target: str) -> None:
    assert (ROOT / target).exists()


def test_documented_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_documented_encoders_are_well_formed() -> None:
    for name in re.findall(r"\| `([\w.-]+/[\w.-]+)` \| \d+ \|", README):
        assert parse(name).name == name


def test_documented_addresses_are_routes(settings: Settings) -> None:
    from tastemaker.pages.app import create_app

    paths = create_app(settings).openapi()["paths"]
    assert "/api/v1/openapi.json" in README
    assert any(path.startswith("/api/v1/") for path in paths)


ROWS = re.findall(r"(?m)^\| (?!-)(.+) \| `((?:test_|js/).+)` \|$", RELIABILITY)
ALL_ROWS = re.findall(r"(?m)^\|(?!---|.*\| test \|$)(.+)\|$", RELIABILITY)


def test_every_row_of_what_must_hold_names_tests_that_exist() -> None:
    assert len(ROWS) == len(ALL_ROWS), "a row without a test"
    assert {f"F{n}" for n in range(1, 18)} <= {row.split(" | ")[0] for row, _ in ROWS}
    for row, named in ROWS:
        for name in named.split("`, `"):
            file, _, test = name.partition("::")
            path = ROOT / "tests" / file
            begins = f'test("{test}"' if path.suffix == ".js" else f"def {test}("
            assert path.is_file() and begins in path.read_text(), f"{row}: {name}"


def test_the_reference_is_what_the_program_says() -> None:
    """Every command, option, setting, job kind and address, and none that does not exist."""
    written = (ROOT / "docs" / "reference.md").read_text()
    assert reference() == written, "run python -m docs.reference"


def test_every_command_option_job_and_address_of_the_api_is_explained() -> None:
    silent = [line for line in reference().splitlines() if re.search(r"(`: |\|  \|)$", line)]
    assert not [line for line in silent if "/api/" in line or not line.startswith("| `")], silent


def numbers_named() -> list[tuple[str, str]]:
    """Of the table in learning.md, the numbers and where the code has them."""
    rows = re.findall(r"(?m)^\| ([\d.]+) \| [^|]+ \| `([\w.]+)` \|$", LEARNING)
    assert len(rows) >= 12
    return rows


@pytest.mark.parametrize(("number", "place"), numbers_named())
def test_the_numbers_of_learning_are_those_of_the_code(number: str, place: str) -> None:
    module, name = place.rsplit(".", 1)
    assert getattr(importlib.import_module(f"tastemaker.{module}"), name) == float(number)


def test_learning_names_its_numbers_where_it_speaks_of_them_and_links_to_what_is_there() -> None:
    told = LEARNING.split("## The numbers")[0]
    for number, place in numbers_named():
        if place != "learning.forecast.MOST":
            percent = f"{100 * float(number):g} %" if "." in number else number
            words = {"20": "One image in twenty", "10": "ten images"}
            assert any(each in told for each in (number, percent, words.get(number, number))), place
    for target in re.findall(r"\]\(([\w./-]+)\)", LEARNING):
        assert (ROOT / "docs" / target).exists(), target
    assert "](docs/learning.md)" in README


def test_a_benchmark_that_has_options_is_given_them() -> None:
    own = {
        path.stem for path in (ROOT / "bench").glob("*.py") if "ArgumentParser" in path.read_text()
    }
    assert own == set(WITH_OPTIONS)


def test_a_decision_says_its_number() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert path.read_text().startswith(f"# {int(path.name[:4])}. "), path.name


def test_the_curves_of_real_people_are_drawn_from_the_figures_kept() -> None:
    figures = json.loads(learning_curves.FIGURES.read_text())
    for curve in figures["curves"]:
        for low, value, high in zip(curve["low"], curve["srocc"], curve["high"], strict=True):
            assert low <= value <= high
        assert len(curve["srocc"]) == len(figures["labels"])
    assert learning_curves.DRAWING.read_text() == learning_curves.drawn(figures)


def test_the_tables_of_what_many_images_cost_are_computed_and_add_up() -> None:
    page = scale_model.PAGE.read_text()
    again = scale_model.with_tables(page, scale_model.tables(scale_model.Prices()))
    assert again == page, "run python -m docs.scale_model"
    large = next(way for way in scale_model.WAYS if "ViT-L/14" in way.name)
    prices = scale_model.Prices(core=0.0, gpu=2.0, terabyte=10.0)
    laion = scale_model.Machine(cores=10**6, gpus=32, reads=10**6)
    cost = large.costs(5_850_000_000, prices, laion)
    assert cost.hours == pytest.approx(24 * 7, rel=0.05), "as long as LAION says it took"
    assert cost.dollars == pytest.approx(2 * cost.gpu_hours)
    assert cost.bytes_kept == pytest.approx(9e12, rel=0.01), "LAION's nine terabytes"
    assert cost.dollars_a_month == pytest.approx(90, rel=0.01)
    few_cores = large.costs(10**8, prices, scale_model.Machine(cores=8, gpus=8, reads=100))
    assert few_cores.hours == few_cores.core_hours / 8 > few_cores.gpu_hours / 8
    assert few_cores.dollars == 2 * 8 * few_cores.hours, "what waits is paid for"
    figures = (ROOT / "bench" / "RESULTS.md").read_text()
    for measured in ("87,533", "7,795", "6.5 + 48.6 ms", "60.7 ms"):
        assert measured in figures, "measured anew: the model rests on the figures of before"
