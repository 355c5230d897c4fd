"""How steady people are: what a second look at the same image says about the first.

A blind re-ask shows an image again without its old score. The difference between the two answers
is the person's own noise, which no model can beat: the floor under every learning curve.
"""

import math
from itertools import pairwise

from sqlmodel import Session, col, select

from tastemaker import scores
from tastemaker.database.tables import Annotator, Project, ScoreEvent
from tastemaker.learning.version_metrics import Estimate, NoiseFloor
from tastemaker.scores.origin import Origin

Z95 = 1.959964
TO_MAE = math.sqrt(2 / math.pi)  # mean |error| of a normal error of standard deviation 1


def annotator_noise(
    session: Session, project: Project, person: Annotator | None = None
) -> NoiseFloor | None:
    """A person's noise in points of 0–10 (everybody's together without one): σ = RMS(y₁ − y₂)/√2
    over pairs of a re-ask and the blind score before it, with its 95 % interval; and σ√(2/π), the
    mean error that a perfect model would still show against such scores. None where nothing was
    asked again, and of classes, which are not points of a scale."""
    if project.labelling != "scores":
        return None
    differences = _differences(session, project, person)
    if not differences:
        return None
    n = len(differences)
    sigma = math.sqrt(sum(d * d for d in differences) / n / 2)
    low = sigma * math.sqrt(n / _chi_square(n, Z95))
    high = sigma * math.sqrt(n / _chi_square(n, -Z95))
    return NoiseFloor(
        sigma=Estimate(value=sigma, low=low, high=high, n=n),
        mae=Estimate(value=sigma * TO_MAE, low=low * TO_MAE, high=high * TO_MAE, n=n),
    )


def _differences(session: Session, project: Project, person: Annotator | None) -> list[int]:
    """y₂ − y₁ of every re-ask that follows a blind score of the same person directly."""
    asked_again = select(ScoreEvent.image_id).where(
        ScoreEvent.project_id == project.id,
        ScoreEvent.origin == Origin.RE_ASK,
        ScoreEvent.kind == "set",
    )
    query = scores.standing_events().where(
        ScoreEvent.project_id == project.id,
        ScoreEvent.kind == "set",
        col(ScoreEvent.image_id).in_(asked_again),
    )
    if person is not None:
        query = query.where(ScoreEvent.annotator_id == person.id)
    order = (col(ScoreEvent.annotator_id), col(ScoreEvent.image_id), col(ScoreEvent.id))
    return [
        (later.value or 0) - (earlier.value or 0)
        for earlier, later in pairwise(session.exec(query.order_by(*order)))
        if (earlier.annotator_id, earlier.image_id) == (later.annotator_id, later.image_id)
        and later.origin == Origin.RE_ASK
        and Origin(earlier.origin).blind
    ]


def _chi_square(degrees: int, z: float) -> float:
    """The value that χ² stays below as often as a normal variable stays below `z` (Wilson &
    Hilferty 1931); within 5 % from five degrees on, kept above 0 below that."""
    share = 2 / (9 * degrees)
    return float(degrees * max(1 - share + z * math.sqrt(share), 0.05) ** 3)
