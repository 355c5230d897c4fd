"""The manifest of a folder of scores: which run it holds, and which of its parts are done."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tastemaker.encoding import embedding_folders
from tastemaker.errors import Conflict
from tastemaker.files import is_file, write_atomic
from tastemaker.files.json_text import json_text

MANIFEST = "manifest.json"
FORM = 1


@dataclass(frozen=True)
class Done:
    """A part that is written: rows in its file, how many were scored for it, and whether all of it
    could be read."""

    file: str
    key: str
    source: str
    rows: int
    scored: int
    whole: bool = True


def write_manifest(
    out: Path, run: Mapping[str, Any], about: Mapping[str, str], done: list[Done], complete: bool
) -> None:
    """`run` is what another run must share to go on here, `about` what the heads say."""
    told = {**run, **about, "complete": complete, "parts": [asdict(part) for part in done]}
    write_atomic(out / MANIFEST, json_text(told, indent=1).encode())


def read_manifest(out: Path, run: Mapping[str, Any]) -> dict[str, Done]:
    """The parts that a run before has written, by their files. Raises `Conflict` where the folder
    holds something else."""
    if not is_file(out / MANIFEST):
        if out.is_dir() and any(path.suffix != ".part" for path in out.iterdir()):
            raise Conflict(
                f"{out} is not empty, and no scores were written there before.",
                "Name an empty folder, or one that is not there.",
            )
        return {}
    if embedding_folders.is_one(out):
        raise Conflict(f"{out} holds embeddings, not scores.", "Name another folder.")
    try:
        told = json.loads((out / MANIFEST).read_bytes())
        parts = {part["file"]: Done(**part) for part in told["parts"]}
        if not all(type(n) is int for part in parts.values() for n in (part.rows, part.scored)):
            raise TypeError
        if not all(type(part.whole) is bool for part in parts.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise Conflict(
            f"{out / MANIFEST} is damaged.", "Name another folder; the parts there stay."
        ) from error
    differing = [name for name, value in run.items() if told.get(name) != value]
    differing += [
        name for name in ("heads", "columns", "classes") if name in told and name not in run
    ]
    if differing:
        raise Conflict(
            f"{out} holds scores of another run: {', '.join(differing)} differs.",
            "Name another folder, or give the same head and limits.",
        )
    return parts
