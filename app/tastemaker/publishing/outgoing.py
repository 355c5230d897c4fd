"""What leaves for other programs: the score of every image of a project, whose it is, and where the
file lies that a person knows it by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from more_itertools import chunked
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database.tables import Image, ImagePath, Project, Version
from tastemaker.errors import Invalid
from tastemaker.files import row_tables
from tastemaker.versions import predictions

Which = Literal["both", "scores", "predictions"]
AT_ONCE = 500
SCORED = "scored"  # `by` of what people scored
COLUMNS = {
    "sha256": "string", "path": "string", "score": "float64", "stars": "int8", "by": "string",
}  # fmt: skip
STARS_FROM = (3.0, 5.0, 7.0, 9.0)  # scores from which 2, 3, 4 and 5 stars are given


@dataclass(frozen=True)
class Outgoing:
    """An image and its score in points of 0–10, by people (`SCORED`) or by a version. `paths` are
    the files on this machine that still are this image; `why` says why there is none."""

    image_id: int
    sha256: str
    shown: str
    score: float
    by: str
    paths: tuple[Path, ...]
    why: str = ""


def outgoing(
    session: Session,
    project: Project,
    version: Version | None,
    which: Which = "both",
    low: float = 0.0,
    high: float = 10.0,
) -> Iterator[Outgoing]:
    """Every image of the pool with a score between `low` and `high`, in the order of their ids:
    people's where there is one, else the version's; or one of the two alone. Raises `Invalid` for a
    project without scores."""
    if project.kind != "score":
        raise Invalid(
            f"“{project.name}” sorts into classes, so there are no scores to write.",
            "`tastemaker score` tells the classes of a folder.",
        )
    ids = session.exec(
        select(Image.id)
        .where(projects.is_member(project.id, Image.id), Image.kind != "vector")
        .order_by(col(Image.id))
    ).all()
    for some in chunked(ids, AT_ONCE):
        known: dict[int, tuple[float, str]] = {}
        if version is not None and which != "scores":
            told = predictions.of_images(session, version.id, some)
            known = {i: (10 * score, version.number) for i, (score, _) in told.items()}
        if which != "predictions":
            labels = scores.values_of(session, project.id, some)
            known |= {i: (value, SCORED) for i, value in labels.items()}
        due = [i for i, (score, _) in known.items() if low <= score <= high]
        places = images.places_of(session, due)
        for image in session.exec(
            select(Image).where(col(Image.id).in_(due)).order_by(col(Image.id))
        ):
            there = places.get(image.id, [])
            shown = there[0].path if there else image.name
            yield Outgoing(image.id, image.sha256, shown, *known[image.id], *_files(there))


def _files(places: Sequence[ImagePath]) -> tuple[tuple[Path, ...], str]:
    there = [
        Path(place.path) for place in places
        if place.state == "present" and images.is_untouched(place)
    ]  # fmt: skip
    if there:
        return tuple(there), ""
    if not places:
        return (), "It was uploaded, so there is no file of yours on this machine."
    return (), "Its file is gone, or was changed since it was scored. Import its folder again."


def stars_of(score: float, borders: tuple[float, ...] = STARS_FROM) -> int:
    """1 to 5 stars of a score in points. By the usual borders, a score that came from stars gives
    the same stars."""
    return 1 + sum(score >= border for border in borders)


def parse_borders(typed: str) -> tuple[float, ...]:
    """“3,5,7,9”: from which scores 2, 3, 4 and 5 stars are given. Raises `Invalid`."""
    try:
        borders = tuple(float(part) for part in typed.split(","))
    except ValueError:
        borders = ()
    if (
        len(borders) != 4
        or list(borders) != sorted(borders)
        or not 0 <= borders[0] <= borders[-1] <= 10
    ):
        raise Invalid(
            f"“{typed[:60]}” are no borders of stars.",
            "Write the scores of 0–10 from which 2, 3, 4 and 5 stars are given, as 3,5,7,9.",
        )
    return borders


def table_bytes(
    rows: list[Outgoing], ending: str, borders: tuple[float, ...] = STARS_FROM
) -> bytes:
    """The rows as `.csv`, `.jsonl` or `.parquet`, with the columns `COLUMNS`."""
    facts: list[dict[str, Any]] = [
        {
            "sha256": row.sha256, "path": row.shown, "score": round(row.score, 3),
            "stars": stars_of(row.score, borders), "by": row.by,
        }
        for row in rows
    ]  # fmt: skip
    return row_tables.table_bytes(facts, COLUMNS, ending)
