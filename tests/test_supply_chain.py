"""What the program brings along that others made: listed, unchanged, and bounded."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from docs import bill_of_materials

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "static"
VENDORED = json.loads((STATIC / "vendored.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_vendored_file_is_what_the_list_says_and_has_its_license() -> None:
    for one in VENDORED:
        content = (STATIC / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"], one["file"]
        assert one["version"] in one["file"] and one["version"] in one["source"]
        assert (STATIC / one["license_file"]).stat().st_size > 100


def test_no_file_of_others_is_missing_from_the_list() -> None:
    """What is minified, carries a version in its name, or is neither text of ours nor the icon."""
    listed = {one["file"] for one in VENDORED} | {one["license_file"] for one in VENDORED}
    ours = {path.name for path in STATIC.iterdir() if path.is_file()} - listed
    for name in sorted(ours):
        if re.fullmatch(r"icon-\d+\.png", name):
            continue  # drawn from icon.svg
        assert re.fullmatch(r"[a-z-]+\.(js|css|svg|json)", name), f"{name} is not in vendored.json"
        longest = max(len(line) for line in (STATIC / name).read_text().splitlines())
        assert longest < 2000, f"{name} looks minified"


def test_what_breaks_by_minor_versions_is_bounded() -> None:
    for line in PROJECT["dependencies"]:
        needed = Requirement(line)
        lowest = next(s.version for s in needed.specifier if s.operator == ">=")
        if lowest.startswith("0."):
            assert any(s.operator == "<" for s in needed.specifier), f"{needed.name}: no bound"


def test_the_bill_of_materials_lists_what_is_installed_and_nothing_for_the_tests() -> None:
    bill = json.loads(bill_of_materials.bill())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "tastemaker"
    parts = {part["name"]: part for part in bill["components"]}
    wanted = {Requirement(line).name.lower().replace("_", "-") for line in PROJECT["dependencies"]}
    assert wanted - {"pysqlite3", "uvloop"} <= set(parts), "and what these need in turn:"
    assert {"sqlalchemy", "starlette", "htmx.org"} <= set(parts)
    assert not {"pytest", "ruff", "mypy", "playwright"} & set(parts)
    assert parts["htmx.org"]["hashes"][0]["content"] == VENDORED[0]["sha256"]
