"""What to show next, and why.

Where the live model is, the resident process has already decided (`selection.mixed`): its picks
lie in the live file, and this module only leaves out what was said since. Before there is a model,
images come in the order of their content hash from a fixed point on, which is a random order that
costs nothing, on any number of images.

Images on the hold-out side are shown only as random control: a model never picks them.
"""

from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, and_, case, col, func, select

from app import embeddings, images, predictions, projects, scores, versions
from app.config import Settings
from app.errors import NotFound
from app.tables import (
    Annotator,
    CollectionImage,
    EncoderRow,
    Image,
    Label,
    Prediction,
    Project,
    ProjectCollection,
    ScoreEvent,
    SetAside,
    Version,
)

QUEUES = {"mixed": "Mixed", "random": "Random"}
REVIEWS = {"false-positives": "False positives", "false-negatives": "False negatives"}


@dataclass(frozen=True)
class Card:
    """One image as a page shows it. Scores of a model are in [0, 1], labels in 0–10."""

    image_id: int
    sha256: str
    name: str
    width: int
    height: int
    queue: str
    origin: str
    reason: str
    prediction: float | None
    uncertainty: float | None
    predicted_by: str
    label: float | None
    event_id: int
    has_pixels: bool


@dataclass(frozen=True)
class Review:
    """A page of a review queue. `labelled` and `suspected` count the whole queue."""

    cards: list[Card]
    labelled: int
    suspected: int
    version: str
    reviewed: int


# --- scoring -----------------------------------------------------------------------------------


def next_cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str = "mixed",
    n: int = 5,
    exclude: Ids[int] = (),
) -> list[Card]:
    """The next `n` images to score, leaving out those in `exclude` (on their way already) and
    everything that has a label here or that this person has said something about."""
    if queue not in QUEUES:
        raise NotFound(f"There is no queue “{queue}”.", f"There are: {', '.join(QUEUES)}.")
    live = predictions.read_live(settings, project.id)
    taken = set(exclude)
    picked: list[tuple[int, str, str]] = []
    if queue == "mixed" and live is not None:
        wanted = (pick for pick in live.queue if pick["image_id"] not in taken)
        for batch in _batches(wanted, 32):
            open_ids = _unseen(session, project, person, [pick["image_id"] for pick in batch])
            for pick in batch:
                if pick["image_id"] in open_ids and len(picked) < n:
                    origin = "control" if pick["why"] == "control" else "queue"
                    picked.append((pick["image_id"], origin, describe(pick)))
            if len(picked) >= n:
                break
    taken |= {image_id for image_id, _, _ in picked}
    if len(picked) < n:
        rest = _at_random(session, project, person, n - len(picked), taken)
        picked += [(image_id, "control", "random control") for image_id in rest]
    return _cards(session, settings, project, person, queue, picked)


def card_for(
    session: Session, settings: Settings, project: Project, person: Annotator, image_id: int
) -> Card:
    """The card of one image, as after a score or for a correction."""
    images.get(session, image_id)
    picked = [(image_id, "review", "")]
    return _cards(session, settings, project, person, "one", picked)[0]


def describe(pick: dict[str, Any]) -> str:
    """A pick's reason in words. `pick` holds `why`, and for some reasons the prediction, its
    uncertainty, and the nearest labelled neighbour with its score."""
    why, percent = pick["why"], round(100 * pick.get("score", 0.0))
    if why == "control":
        return "random control"
    if why == "threshold":
        return f"close to your threshold: {percent} % ± {round(100 * pick['uncertainty'])}"
    if why == "diverse":
        return "unlike what you have scored so far"
    if why == "cold_start":
        return "typical of a part of your images"
    if why in ("suspected_fp", "suspected_fn"):
        if pick.get("neighbour_label") is not None:
            return f"you scored a near-twin {pick['neighbour_label']:g}"
        return f"may well {'fail' if why == 'suspected_fp' else 'pass'}, going by what you scored"
    return why


def _at_random(
    session: Session, project: Project, person: Annotator, n: int, taken: set[int]
) -> list[int]:
    """Unscored pool images in the order of their hash, which is a random one: beginning at a
    point that depends on the project, and going round."""
    start = f"{project.seed * 2654435761 % 2**32:08x}"
    found: list[int] = []
    for from_start in (True, False):
        cursor = start if from_start else ""
        while len(found) < n:
            batch = session.execute(
                select(Image.id, Image.sha256)
                .where(Image.sha256 > cursor, Image.kind != "vector")
                .where(True if from_start else Image.sha256 < start)
                .where(_in_pool(project), ~_said_something(project, person), ~_has_label(project))
                .order_by(col(Image.sha256))
                .limit(n + len(taken))
            ).all()
            if not batch:
                break
            cursor = batch[-1][1]
            found += [image_id for image_id, _ in batch if image_id not in taken]
    return found[:n]


def _unseen(session: Session, project: Project, person: Annotator, ids: list[int]) -> set[int]:
    """Those of the images that are in the pool still, without a label or a word of this person."""
    query = select(Image.id).where(
        col(Image.id).in_(ids),
        _in_pool(project),
        ~_said_something(project, person),
        ~_has_label(project),
    )
    return set(session.exec(query).all())


def _in_pool(project: Project) -> Any:
    return (
        select(CollectionImage.image_id)
        .join(
            ProjectCollection,
            and_(
                col(ProjectCollection.collection_id) == CollectionImage.collection_id,
                col(ProjectCollection.project_id) == project.id,
                col(ProjectCollection.role) == "pool",
            ),
        )
        .where(CollectionImage.image_id == Image.id)
        .exists()
    )


def _has_label(project: Project) -> Any:
    return (
        select(Label.image_id)
        .where(Label.project_id == project.id, Label.image_id == Image.id)
        .exists()
    )


def _said_something(project: Project, person: Annotator) -> Any:
    """Skipped or flagged, and not taken back."""
    standing = scores.standing_events().subquery()
    return (
        select(standing.c.id)
        .where(
            standing.c.project_id == project.id,
            standing.c.image_id == Image.id,
            standing.c.annotator_id == person.id,
        )
        .exists()
    )


# --- review ------------------------------------------------------------------------------------


def review(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    kind: str,
    *,
    after: int = 0,
    n: int = 48,
) -> Review:
    """A page of the false positives or negatives: first the mistakes among the labels, by
    out-of-fold predictions of the active version, ranked by error ÷ uncertainty; then unlabelled
    images that the live model's evidence makes suspects. What was looked at in review since the
    version was trained is done. Hold-out images are never in it."""
    if kind not in REVIEWS:
        raise NotFound(f"There is no review “{kind}”.", f"There are: {', '.join(REVIEWS)}.")
    version = versions.active(session, project)
    mistakes: list[tuple[int, str, str]] = []
    labelled = reviewed = 0
    if version is not None:
        wrong = _mistakes(project, version, kind)
        done = _reviewed_since(project, version)
        labelled = _count(session, wrong.where(~done))
        reviewed = _count(session, wrong.where(done))
        page = session.execute(wrong.where(~done).offset(after).limit(n)).all()
        mistakes = [
            (image_id, "review", f"predicted {round(100 * said)} %, you said {value:g}")
            for image_id, said, value, _ in page
        ]
    suspects = _suspects(session, settings, project, person, kind)
    skip = max(0, after - labelled)
    mistakes += suspects[skip : skip + n - len(mistakes)]
    return Review(
        cards=_cards(session, settings, project, person, kind, mistakes, version=version),
        labelled=labelled,
        suspected=len(suspects),
        version=version.number if version else "",
        reviewed=reviewed,
    )


def _mistakes(project: Project, version: Version, kind: str) -> Any:
    """Select of (image id, honest prediction, label, rank) of labelled images on the wrong side
    of the threshold: FP = y < t ≤ f, FN = f < t ≤ y; rank = |f − y| / uncertainty."""
    said = func.coalesce(Prediction.out_of_fold, Prediction.score)
    cut = project.threshold
    if kind == "false-positives":
        wrong = and_(said >= cut, col(Label.value) < 10 * cut)
    else:
        wrong = and_(said < cut, col(Label.value) >= 10 * cut)
    gap = said - Label.value / 10.0
    rank = case((gap < 0, -gap), else_=gap) / Prediction.uncertainty
    return (
        select(Label.image_id, said, Label.value, rank)
        .join(Image, col(Image.id) == Label.image_id)
        .join(
            Prediction,
            and_(
                col(Prediction.version_id) == version.id,
                col(Prediction.image_id) == Label.image_id,
            ),
        )
        .where(Label.project_id == project.id, ~col(Label.holdout), wrong)
        .order_by(rank.desc(), col(Label.image_id))
    )


def _reviewed_since(project: Project, version: Version) -> Any:
    return (
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            ScoreEvent.image_id == Label.image_id,
            ScoreEvent.origin == "review",
            col(ScoreEvent.id) > version.event_high,
        )
        .exists()
    )


def _suspects(
    session: Session, settings: Settings, project: Project, person: Annotator, kind: str
) -> list[tuple[int, str, str]]:
    live = predictions.read_live(settings, project.id)
    if live is None:
        return []
    picks = live.suspected(kind)
    still_open = _unseen(session, project, person, [pick["image_id"] for pick in picks])
    return [
        (pick["image_id"], "review", describe(pick))
        for pick in picks
        if pick["image_id"] in still_open and _still_predicted(live, project, kind, pick)
    ]


def _still_predicted(
    live: predictions.Live, project: Project, kind: str, pick: dict[str, Any]
) -> bool:
    """The suspects are searched for less often than the model is refitted: whether this one is
    still predicted on the side that made it one."""
    said = live.of(pick["image_id"])
    passes = said is not None and said[0] >= project.threshold
    return passes == (kind == "false-positives")


def _count(session: Session, query: Any) -> int:
    return int(session.exec(select(func.count()).select_from(query.subquery())).one())


# --- cards -------------------------------------------------------------------------------------


def _cards(
    session: Session,
    settings: Settings,
    project: Project,
    person: Annotator,
    queue: str,
    picked: list[tuple[int, str, str]],
    version: Version | None = None,
) -> list[Card]:
    """Cards in the order of `picked` (image id, origin, reason). Labelled images are judged by
    the version where one is given; everything else by the live model."""
    ids = [image_id for image_id, _, _ in picked]
    rows = {i.id: i for i in session.exec(select(Image).where(col(Image.id).in_(ids)))}
    labels = dict(
        session.execute(
            select(Label.image_id, Label.value).where(
                Label.project_id == project.id, col(Label.image_id).in_(ids)
            )
        ).all()
    )
    version = version or versions.active(session, project)
    by_version = predictions.of_images(session, version.id, ids) if version else {}
    live = predictions.read_live(settings, project.id)
    cards = []
    for image_id, origin, reason in picked:
        image = rows[image_id]
        said = live.of(image_id) if live else None
        by = "live model" if said else ""
        if version is not None and ((queue in REVIEWS and image_id in labels) or said is None):
            said = by_version.get(image_id, said)
            by = version.number if image_id in by_version else by
        event = scores.newest_event(session, project, image_id, person)
        cards.append(
            Card(
                image_id=image_id, sha256=image.sha256, name=image.name, width=image.width,
                height=image.height, queue=queue, origin=origin, reason=reason,
                prediction=said[0] if said else None,
                uncertainty=said[1] if said else None, predicted_by=by,
                label=labels.get(image_id), event_id=(event.id) if event else 0,
                has_pixels=image.kind != "vector",
            )
        )  # fmt: skip
    return cards


def progress(session: Session, settings: Settings, project: Project) -> dict[str, Any]:
    """The counts that the pages keep in sight."""
    labels = session.execute(
        select(func.count(), func.coalesce(func.sum(case((col(Label.holdout), 1), else_=0)), 0))
        .where(Label.project_id == project.id)
    ).one()  # fmt: skip
    encoder = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    return {
        "images": projects.pool_size(session, project),
        "embedded": embeddings.count(session, encoder.id if encoder else None, project.id),
        "labelled": int(labels[0]),
        "holdout_labelled": int(labels[1]),
        "set_aside": int(session.exec(select(func.count()).select_from(SetAside)).one()),
    }


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
