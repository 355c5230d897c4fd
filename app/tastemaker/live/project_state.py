"""What the model process remembers of a project, and when its live model is due again."""

import time
from dataclasses import dataclass

from sqlmodel import Session, col, func, select

from tastemaker import scores
from tastemaker.database.tables import (
    Embedding,
    Job,
    Project,
    ProjectClass,
    ProjectCollection,
    ProjectPrior,
    RemovedImage,
)
from tastemaker.learning.ridge import Ridge
from tastemaker.live.class_fit import ClassFit
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.live_model import PickLists
from tastemaker.scores import answers

REST_SECONDS = 1.0  # between two refits of a project: scoring goes on meanwhile
SEARCH_SECONDS = 10.0  # between two searches, which compare every image with every label
# While only embeddings arrive, refits may take this share of the time (1 ÷ 10); searches always.
PATIENCE = 10


@dataclass(frozen=True)
class Stamp:
    """All that the live model and its picks follow."""

    event: int  # the newest score event
    comparison: int  # the newest pair, or undo of one
    threshold: float
    encoder: int  # the one the project works with
    embedding: int  # the newest image that is embedded
    arrival: int  # the newest finished job: it may have brought images or vectors
    removed: int  # the ids of the images taken out of the project, added up
    pools: int  # collections that feed the queues
    priors: tuple[str, ...]  # the hashes of the heads that the project starts from
    # Of each class its number, what it has become, whether it is gone, how much its labels count.
    classes: tuple[tuple[int, int | None, bool, float], ...]

    @property
    def from_person(self) -> tuple[object, ...]:
        """What a person does and waits to see the effect of; the rest arrives by itself."""
        return self.event, self.comparison, self.threshold, self.encoder, self.priors, self.classes


@dataclass
class ProjectState:
    """The images and the fit of a project as of its last refit, None before the first, and how long
    that took; the fit is `ridge`, or `kinds` where labels are classes. `lists` are those of the
    last search; one is owed when scores came in since."""

    stamp: Stamp | None = None
    matrix: EmbeddingMatrix | None = None
    ridge: Ridge | None = None
    kinds: ClassFit | None = None
    lists: PickLists | None = None
    refitted_at: float = 0.0
    refit_seconds: float = 0.0
    searched_at: float = -SEARCH_SECONDS
    search_seconds: float = 0.0
    owes_search: bool = False

    def follows(self, project: Project) -> bool:
        """Whether the images in memory are of the encoder the project works with."""
        return self.matrix is not None and self.matrix.encoder_id == project.encoder_id

    def is_due(self, stamp: Stamp) -> bool:
        if stamp == self.stamp:
            return self.owes_search and self.may_search()
        answers_person = self.stamp is None or self.stamp.from_person != stamp.from_person
        rest = REST_SECONDS if answers_person else max(REST_SECONDS, PATIENCE * self.refit_seconds)
        return time.monotonic() - self.refitted_at >= rest

    def may_search(self) -> bool:
        rest = max(SEARCH_SECONDS, PATIENCE * self.search_seconds)
        return time.monotonic() - self.searched_at >= rest


def stamp_of(session: Session, project: Project) -> Stamp:
    """The state of the database that a refit of a project would follow now."""
    embedded = select(func.max(Embedding.image_id)).where(
        Embedding.encoder_id == project.encoder_id
    )
    finished = select(func.max(Job.id)).where(
        Job.state == "done", col(Job.kind).in_(("import", "embed", "vectors"))
    )
    removed = select(func.sum(RemovedImage.image_id)).where(RemovedImage.project_id == project.id)
    pools = select(func.count()).where(
        ProjectCollection.project_id == project.id, ProjectCollection.role == "pool"
    )
    started_from = (
        select(ProjectPrior.sha256)
        .where(ProjectPrior.project_id == project.id)
        .order_by(col(ProjectPrior.id))
    )
    kinds = (
        select(ProjectClass.number, ProjectClass.became, ProjectClass.gone, ProjectClass.weight)
        .where(ProjectClass.project_id == project.id)
        .order_by(col(ProjectClass.number))
    )
    return Stamp(
        event=scores.highest_event(session, project),
        comparison=answers.highest_comparison(session, project),
        threshold=project.threshold,
        encoder=project.encoder_id or 0,
        embedding=int(session.exec(embedded).one() or 0),
        arrival=int(session.exec(finished).one() or 0),
        removed=int(session.exec(removed).one() or 0),
        pools=int(session.exec(pools).one()),
        priors=tuple(session.exec(started_from)),
        classes=tuple(session.execute(kinds).tuples().all()),
    )
