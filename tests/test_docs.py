"""The documentation says what the program does: settings, commands, options and files exist."""

import re
from pathlib import Path

import pytest
import typer.main

from docs.reference import reference
from tastemaker.cli.commands import app
from tastemaker.config import Settings
from tastemaker.encoding.encoder_specs import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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


@pytest.mark.parametrize("line", re.findall(r"(?m)^tastemaker (.+)$", README))
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
