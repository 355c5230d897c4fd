"""What every queue looks at: who is to be offered images of which project."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from more_itertools import chunked
from sqlmodel import Session

from tastemaker.database.tables import Annotator, Project
from tastemaker.live.live_model import LiveModel, Pick, PickLists
from tastemaker.queues import reasons
from tastemaker.scores import classes

BATCH = 16  # ranked picks that are shuffled together


@dataclass(frozen=True)
class QueueRequest:
    """A person who wants images of a project, and the live model that ranked some for it.
    `pending` are on their way to the page already; `collection_id` is the collection to score, or
    the audit, if any. The random sample asks for images that were only swept as well (`swept_too`):
    whoever sweeps the easy ones away would else leave a sample of hard ones."""

    session: Session
    project: Project
    person: Annotator
    live: LiveModel | None
    pending: frozenset[int] = frozenset()
    collection_id: int | None = None
    swept_too: bool = True

    @property
    def lists(self) -> PickLists:
        """What the live model ranked; empty lists before there is one."""
        return self.live.lists if self.live else PickLists()

    def describe(self, pick: Pick) -> str:
        """Why a pick is shown, in words."""
        return reasons.describe(pick, classes.of_project(self.session, self.project))

    def draw(self, key: int | str) -> int:
        """A number from 0 to 2³² − 1 as good as drawn at random, always the same for a key."""
        digest = hashlib.blake2b(f"{self.project.seed}:{key}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big")

    def shuffled(self, picks: Iterable[Pick]) -> Iterator[Pick]:
        """Ranked picks, shuffled a batch at a time: never sorted by what a model predicts, because
        the image before colours the score of the next."""
        for batch in chunked(picks, BATCH):
            yield from sorted(batch, key=lambda pick: self.draw(pick.image_id))
