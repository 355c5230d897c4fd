"""What lies beside a picture: the `.txt` and `.json` files in which people keep its tags."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tastemaker.files import is_text

MOST_BYTES = 2**18

Beside = tuple[str, Path]  # a sidecar's name (an upload is stored under another one), its place


@dataclass(frozen=True)
class Sidecar:
    tags: tuple[str, ...] = ()
    source: str | None = None


def read_sidecars(files: Iterable[Beside]) -> Sidecar:
    """Tags from `.txt` (comma-separated, as kohya and the boorus write them) and from `.json`
    ({"tags": […] or "a b c", "source": "…"}). One that cannot be read is no reason to refuse the
    picture."""
    tags: list[str] = []
    source = None
    for name, path in files:
        text = _small_text(path)
        if not name.endswith(".json"):
            tags += [tag for tag in re.split(r"[,\n]", text) if tag.strip()]
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(data, dict):
            continue
        named = data.get("tags", data.get("tag_string", []))
        if isinstance(named, str):
            named = named.split("," if "," in named else None)
        if isinstance(named, dict):
            named = [tag for group in named.values() if isinstance(group, list) for tag in group]
        if isinstance(named, list):
            tags += [tag for tag in named if isinstance(tag, str) and is_text(tag)]
        said = data.get("source")
        if isinstance(said, str) and said.strip() and is_text(said):
            source = said.strip()
    return Sidecar(tuple(tags), source)


def _names(name: str) -> list[str]:
    """`a/b.png` may have `a/b.txt`, `a/b.png.txt` and the same with `.json` beside it."""
    bare = str(Path(name).with_suffix(""))
    return [bare + ".txt", name + ".txt", bare + ".json", name + ".json"]


def sidecars_among(name: str, siblings: dict[str, Path]) -> tuple[Beside, ...]:
    return tuple((n, siblings[n]) for n in _names(name) if n in siblings)


def sidecars_on_disk(path: Path) -> tuple[Beside, ...]:
    return tuple((n, Path(n)) for n in _names(str(path)) if Path(n).is_file())


def _small_text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return ""
