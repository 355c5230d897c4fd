"""What the folders below an imported one say of a file: tags, and in the original's layout its
score."""

import re
from pathlib import Path

from tastemaker import scores

SCORE_FOLDER = re.compile(r"^(\d{1,2})(?:[_\-. ].*)?$")


def folder_tags(name: str, *, scored: bool = False) -> list[str]:
    """The folders below the imported one that a file lies in; not those that give a score."""
    folders = Path(name).parts[:-1]
    return [part for part in folders if not (scored and SCORE_FOLDER.match(part))]


def score_of(name: str) -> int | None:
    """The score that the nearest folder `NN` or `NN_name` gives, as the original lays them out."""
    for part in reversed(Path(name).parts[:-1]):
        match = SCORE_FOLDER.match(part)
        if match:
            return scores.parse_score(int(match[1]))
    return None
