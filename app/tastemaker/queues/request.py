"""Who asks for images of which project: what every queue looks at."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sqlmodel import Session

from tastemaker.database.tables import Annotator, Project
from tastemaker.live import live_model

BATCH = 16  # ranked picks that are shuffled together

T = TypeVar("T")


@dataclass(frozen=True)
class QueueRequest:
    """A person who asks for images of a project, and what the live model has picked for it.
    `held` are on their way to the page already; `collection_id` is the one to score, if any."""

    session: Session
    project: Project
    person: Annotator
    live: live_model.LiveModel | None
    held: frozenset[int]
    collection_id: int | None = None

    def picks(self, name: str) -> list[dict[str, Any]]:
        """What the live model lists under a name, best first."""
        return self.live.facts.get(name, []) if self.live else []

    def draw(self, about: int | str) -> int:
        """A number from 0 to 2³² − 1 as good as drawn at random, always the same for `about`."""
        digest = hashlib.blake2b(f"{self.project.seed}:{about}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big")

    def shuffled(self, picks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Ranked picks, shuffled a batch at a time: never sorted by what a model thinks, because
        the image before colours the score of the next."""
        for batch in batches(picks, BATCH):
            yield from sorted(batch, key=lambda pick: self.draw(pick["image_id"]))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
