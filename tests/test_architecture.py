"""The map is true: the packages, their order and the walks of `docs/architecture.md`."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "app" / "tastemaker"
MAP = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = re.findall(r"(?m)^\| `(\w+)` \|", MAP.split("## Packages")[1].split("## Words")[0])
MOST_PACKAGES, MOST_LINES = 28, 450


def modules() -> dict[str, Path]:
    """Package or top-level module → its files."""
    return {
        name: sorted(HOUSE.glob(f"{name}.py")) or sorted((HOUSE / name).rglob("*.py"))
        for name in PACKAGES
    }  # type: ignore[misc]


def imported_by(path: Path) -> set[str]:
    """The packages of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tastemaker"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("tastemaker.")
            }
    return found & set(PACKAGES)


def test_the_list_of_packages_is_what_stands_there() -> None:
    there = {
        path.stem
        for path in HOUSE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(PACKAGES) == there - {"__init__", "__main__"}
    assert len(PACKAGES) == len(set(PACKAGES)) <= MOST_PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_those_above_it(package: str) -> None:
    above = set(PACKAGES[: PACKAGES.index(package) + 1])
    for path in modules()[package]:
        assert imported_by(path) <= above, path.relative_to(ROOT)


def test_no_module_is_longer_than_one_can_hold_in_mind() -> None:
    lines = {p.relative_to(HOUSE): len(p.read_text().splitlines()) for p in HOUSE.rglob("*.py")}
    assert not {path: n for path, n in lines.items() if n > MOST_LINES}


def test_one_contract_holds_the_siblings_and_one_each_what_may_not_be_known() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert sorted(contract["type"] for contract in contracts["contracts"]) == [
        "acyclic_siblings", "forbidden", "forbidden",
    ]  # fmt: skip


# --- the walks -----------------------------------------------------------------------------------

WALKS = {
    letter: re.findall(r"(?m)^\d+\. `([\w/.]+)`", text)
    for letter, text in re.findall(r"### \((\w)\)[^\n]*\n(.*?)(?=\n### |\Z)", MAP, re.DOTALL)
}
MOST_ROOMS = {"a": 7, "b": 7, "c": 12, "d": 8}


@pytest.mark.parametrize("letter", MOST_ROOMS)
def test_a_walk_is_short_and_goes_through_files_that_exist(letter: str) -> None:
    files = WALKS[letter]
    assert files and all((ROOT / file).is_file() for file in files)
    rooms = {file for file in files if file.startswith("app/")}
    assert len(rooms) <= MOST_ROOMS[letter], sorted(rooms)
    visits = [file for file, before in zip(files, [None, *files], strict=False) if file != before]
    assert max(visits.count(file) for file in files) <= 2, "each is visited once or twice"
