"""What share of the images a score stands for.

Scores of different versions spread differently: 60 % may be the best tenth of one and the best
third of another. “The best tenth” means the same for all, so that is what a version carries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlmodel import Session, select

from tastemaker.database.tables import Prediction, Version

TOPS = (1, 2, 5, 10, 20, 25, 50)  # percent of the images that people ask for


@dataclass(frozen=True)
class Percentiles:
    """`scores[p]` (101 numbers, rising, in 0–1): so that p percent of the `images` score below."""

    images: int
    scores: tuple[float, ...]

    def top(self, percent: int) -> float:
        """The lowest score among the best `percent` percent."""
        return self.scores[100 - percent]

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.images, "scores": list(self.scores)}


def of_version(session: Session, version: Version) -> Percentiles | None:
    """Over every image that the version has predicted; None before the first."""
    query = select(Prediction.score).where(Prediction.version_id == version.id)
    said = np.fromiter(session.exec(query), np.float64)
    if not len(said):
        return None
    at = np.percentile(said, np.arange(101))
    return Percentiles(len(said), tuple(round(float(score), 6) for score in at))
