"""The nearest images as JSON: all, or those with a label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker.database.tables import Image, Label, Project
from tastemaker.encoding.similarity import highest

NEIGHBOURS = 6


def ranked_by_similarity(
    ids: NDArray[np.int64], closeness: NDArray[np.float32], limit: int
) -> dict[str, Any]:
    rows = [row for row in highest(closeness, max(0, limit)) if np.isfinite(closeness[row])]
    return {
        "images": [
            {"image_id": int(ids[row]), "similarity": round(float(closeness[row]), 4)}
            for row in rows
        ]
    }


def labelled_neighbours(
    session: Session, project: Project, ids: NDArray[np.int64], closeness: NDArray[np.float32]
) -> list[dict[str, Any]]:
    labels = dict(
        session.execute(
            select(Label.image_id, Label.value).where(Label.project_id == project.id)
        ).all()
    )
    labelled = np.flatnonzero(np.isin(ids, np.fromiter(labels, np.int64, len(labels))))
    best = labelled[highest(closeness[labelled], NEIGHBOURS)]
    near = ids[best].tolist()
    rows = {image.id: image for image in session.exec(select(Image).where(col(Image.id).in_(near)))}
    return [
        {
            "image_id": image_id, "name": rows[image_id].name, "label": labels[image_id],
            "has_pixels": rows[image_id].kind != "vector",
            "similarity": round(float(closeness[row]), 4),
        }
        for image_id, row in zip(near, best, strict=True)
    ]  # fmt: skip
