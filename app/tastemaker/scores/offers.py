"""Offers: what the server showed to whom, and why, in words that only the server can write.

A card carries its offer, and the score that answers it brings it back. So where a score came from,
which decides whether it may judge a version, is never the client's to say; and the server need not
remember what it has shown, not over a restart, and not for a score that waits for days in a
browser that has no connection.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from itsdangerous import BadData, URLSafeSerializer
from sqlmodel import Session

from tastemaker.database import installation
from tastemaker.scores.origin import Origin

MOST_REASON = 300  # characters


@dataclass(frozen=True)
class Offer:
    """Where the score of an image will have come from, and why the image was shown; `test_run`
    is the run in which it was seen, if any."""

    origin: Origin
    reason: str = ""
    test_run: int | None = None


def sign(session: Session, project_id: int, image_id: int, annotator_id: int, offer: Offer) -> str:
    """The offer as a token, good for this person and image in this project alone."""
    return str(
        _serializer(session).dumps(
            [project_id, image_id, annotator_id, offer.origin.value, offer.reason[:MOST_REASON],
             offer.test_run]
        )
    )  # fmt: skip


def read(
    session: Session, project_id: int, image_id: int, annotator_id: int, token: str
) -> Offer | None:
    """What the token offers; None for one that is forged, or another image's or person's."""
    try:
        project, image, annotator, origin, reason, run = _serializer(session).loads(token)
    except (BadData, ValueError, TypeError):
        return None
    if (project, image, annotator) != (project_id, image_id, annotator_id):
        return None
    return Offer(Origin(origin), reason, run)


def _serializer(session: Session) -> URLSafeSerializer:
    return _keyed(installation.identity(session).secret)


@lru_cache(maxsize=8)
def _keyed(secret: str) -> URLSafeSerializer:
    how = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt="offer", signer_kwargs=how)
