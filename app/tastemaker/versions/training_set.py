"""The labels a version saw, frozen when its training began: those that trained it, those that
measured it (`holdout`), and those that did neither (`aside`)."""

import csv
import hashlib
import io
from collections.abc import Iterator
from typing import Any

from sqlmodel import Session, col, func, select

from tastemaker.database.tables import Image, ImagePath, Version, VersionLabel
from tastemaker.files import escape_formula
from tastemaker.files.json_text import json_text
from tastemaker.versions.publication import Side

COLUMNS = ("sha256", "path", "score", "side", "fold")


def values(session: Session, version: Version, side: Side | None = None) -> dict[int, float]:
    """Image id → label (0–10): of all, or of one side."""
    query = select(VersionLabel.image_id, VersionLabel.value).where(
        VersionLabel.version_id == version.id
    )
    if side is not None:
        query = query.where(VersionLabel.side == side)
    return dict(session.exec(query).all())


def count_sides(session: Session, version: Version) -> dict[str, int]:
    """How many labels trained, measured (`holdout`), and did neither (`aside`)."""
    counts = session.exec(
        select(VersionLabel.side, func.count())
        .where(VersionLabel.version_id == version.id)
        .group_by(col(VersionLabel.side))
    )
    return {"train": 0, "holdout": 0, "aside": 0} | dict(counts.all())


def rows(session: Session, version: Version) -> Iterator[dict[str, Any]]:
    """The labels by image id: `sha256`, `path`
    (absolute for scanned files, the name for uploads), `score` 0–10, `side`, `fold`."""
    present = (
        select(ImagePath.image_id, func.min(ImagePath.path).label("path"))
        .where(ImagePath.state == "present")
        .group_by(col(ImagePath.image_id))
        .subquery()
    )
    columns: tuple[Any, ...] = (
        Image.sha256, func.coalesce(present.c.path, Image.name), VersionLabel.value,
        VersionLabel.side, VersionLabel.fold,
    )  # fmt: skip
    labels = session.execute(
        select(*columns)
        .join(Image, col(Image.id) == VersionLabel.image_id)
        .outerjoin(present, present.c.image_id == VersionLabel.image_id)
        .where(VersionLabel.version_id == version.id)
        .order_by(col(VersionLabel.image_id))
    )
    for row in labels:
        yield dict(zip(COLUMNS, row, strict=True))


def sha256(session: Session, version: Version) -> str:
    """SHA-256 over the lines `sha256,score` of all labels the version saw, sorted: equal for equal
    sets, and anyone who has the training set can compute it again."""
    lines = sorted(f"{row['sha256']},{_exact(row['score'])}\n" for row in rows(session, version))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _exact(value: float) -> str:
    """A score, or the number of a class or a set of tags, with all its digits."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def as_csv(session: Session, version: Version) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in rows(session, version):
        writer.writerow(row | {"path": escape_formula(row["path"]), "score": _exact(row["score"])})
    return text.getvalue()


def as_jsonl(session: Session, version: Version) -> str:
    return "".join(json_text(row) + "\n" for row in rows(session, version))
