"""Write what a release is made of: `python -m docs.bill_of_materials OUT.cdx.json`.

CycloneDX 1.6 JSON: every package that installing the program brings (what the tests and the
benchmarks need is not in it), in the versions of this environment, and the vendored scripts.
"""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tastemaker.config import shipped

PROGRAM = "tastemaker"


def installed_with(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """The distribution `name`, then all that it requires, each once."""
    seen: set[tuple[str, frozenset[str]]] = set()
    told: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # a marker of another platform kept it out
            continue
        if canonicalize_name(name) not in told:
            told.add(canonicalize_name(name))
            yield found
        for line in found.requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in ("", *extras)):
                waiting.append((needed.name, frozenset(needed.extras)))


def bill() -> str:
    """The bill of materials, as JSON."""
    program, *parts = installed_with(PROGRAM)
    bom = Bom(components=[*map(_package, parts), *_vendored()])
    bom.metadata.component = _package(program)
    bom.register_dependency(bom.metadata.component, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _package(found: Distribution) -> Component:
    name = canonicalize_name(found.metadata["Name"])
    said = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    short = said.strip().splitlines()[0][:80] if said.strip() else ""
    return Component(
        name=name, version=found.version, type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", name=name, version=found.version),
        licenses=[DisjunctiveLicense(name=short)] if short else (),
    )  # fmt: skip


def _vendored() -> Iterator[Component]:
    for one in json.loads((shipped("static") / "vendored.json").read_text()):
        yield Component(
            name=one["name"], version=one["version"], type=ComponentType.LIBRARY,
            purl=PackageURL("npm", name=one["name"], version=one["version"]),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one["sha256"])],
            licenses=[DisjunctiveLicense(id=one["license"])],
        )  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(bill())
