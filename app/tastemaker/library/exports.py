"""What a filter shows, taken out of the program: as a list, or as copies of the files.

Images of test runs come along where the filter asks for them. Nothing is overwritten, and no
original is touched.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import images
from tastemaker.config import Settings
from tastemaker.database.tables import Image, Project
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import (
    escape_formula,
    require_free_space,
    require_writable_folder,
)
from tastemaker.files.addresses import local_path
from tastemaker.files.placing import copy_pictures, plan_files
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.library.tiles import tiles

COLUMNS = ("sha256", "path", "score", "predicted", "predicted_by")
MOST_COPIED = 5_000
AT_ONCE = 500


def listed(
    session: Session, project: Project, resolved: ResolvedFilter, ids: Sequence[int]
) -> Iterator[bytes]:
    """The images as CSV, in the order of `ids`: hash, path, score (0–10) and prediction (0–10) of
    the filter's version. Cells that a spreadsheet would run are made inert."""
    by = resolved.version.number if resolved.version else ""
    yield (",".join(COLUMNS) + "\r\n").encode()
    for some in chunked(ids, AT_ONCE):
        rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(some)))}
        paths = images.shown_paths(session, rows.values())
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        for tile in tiles(session, project, resolved, some):
            image = rows[tile.image_id]
            predicted = "" if tile.prediction is None else f"{10 * tile.prediction:.2f}"
            label = "" if tile.label is None else f"{tile.label:g}"
            path = escape_formula(paths[image.id])
            writer.writerow((image.sha256, path, label, predicted, by if predicted else ""))
        yield text.getvalue().encode()


@dataclass(frozen=True)
class Copies:
    """How many files were `copied`, lay `there` already, and are `gone` (or are vectors only)."""

    copied: int = 0
    there: int = 0
    gone: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def copy_into(session: Session, settings: Settings, ids: Sequence[int], folder: str) -> Copies:
    """Copy the files of images into a folder of this machine, which is made if it is not there. A
    name that is taken gets a number; where the same file lies there already it is left as it is.
    Raises what is wrong with the folder before anything is copied."""
    if not folder.strip():
        raise Invalid("No folder was named.", "Type its path, such as /home/me/Best.")
    into = local_path(folder.strip())
    if not into.is_absolute() or "\0" in folder:
        raise Invalid(f"“{folder[:200]}” is not a full path.", "Begin with / or ~.")
    root = into.resolve()
    if settings.is_own(root):
        raise Invalid(f"“{folder[:200]}” lies in Tastemaker's own folder.", "Choose another one.")
    if len(ids) > MOST_COPIED:
        raise Invalid(
            f"{len(ids):,} images are shown; at most {MOST_COPIED:,} are copied at once.",
            "Narrow the filter, or download the list and copy with a program of yours.",
        )
    require_writable_folder(into)
    require_free_space(into, settings.min_free_gb)
    found, gone = [], 0
    for image_id in ids:
        image = images.get(session, image_id)
        try:
            origin = images.source_path(session, settings, image)
        except NotFound:
            gone += 1
            continue
        name = Path(image.name).name or f"{image.sha256[:16]}{origin.suffix}"
        found.append((str(origin), origin, name))
    plan = plan_files(found, into)
    copied, there = copy_pictures(plan), sum(item.there for item in plan)
    return Copies(copied, there, gone + len(plan) - copied - there)
