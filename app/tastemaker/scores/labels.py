"""Labels: the current truth of each image, derived from its events.

For each person the newest event that stands counts, and where several people scored an image, the
project's `aggregate` of their scores is its label (proxies count only where no person spoke).
`rebuild_labels` derives all of them anew.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from more_itertools import chunked
from sqlalchemy.orm.util import identity_key
from sqlmodel import Session, col, delete, func, select

from tastemaker import projects
from tastemaker.database.statements import write_over
from tastemaker.database.tables import (
    Annotator,
    Image,
    Label,
    Project,
    ScoreEvent,
    SyntheticImage,
)
from tastemaker.errors import Invalid
from tastemaker.projects import LabelRules, on_holdout_side
from tastemaker.scores import classes
from tastemaker.scores.event_statements import About
from tastemaker.scores.events import Event, highest_event, standing
from tastemaker.scores.origin import Origin

HELD_AT_ONCE = 5_000


def hold(session: Session, project_id: int, image_ids: Iterable[int]) -> None:
    """Let nobody else give these images a score in any project until this transaction ends, nor
    change the rule of this one: a label is derived from all events there are, and two transactions
    that do not see each other's would each leave one out. To be called before they are read.
    SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "sqlite":
        return
    # In the order of their ids: two who hold several wait for each other, not in a ring.
    for some in chunked(sorted(set(image_ids)), HELD_AT_ONCE):
        images = select(Image.id).where(col(Image.id).in_(some)).order_by(col(Image.id))
        session.exec(images.with_for_update(key_share=True)).all()
    rule = select(Project.id).where(Project.id == project_id)
    session.exec(rule.with_for_update(read=True, key_share=True)).all()


Derived = Label | None


def label_of(
    session: Session, project: Project | LabelRules, image_id: int, image: About,
    events: list[Event],
) -> Derived:  # fmt: skip
    """The label that follows from the standing events of an image, oldest first; None when nobody's
    score stands. A synthetic one never measures."""
    combine = combiner(session, project)
    return _label_from(project, image_id, image.source_group, events, combine, image.synthetic)


def write_labels(session: Session, project_id: int, derived: Mapping[int, Derived]) -> None:
    """Make the labels of images, by their ids, what was derived for them."""
    rows = [label.model_dump() for label in derived.values() if label is not None]
    gone = [image_id for image_id, label in derived.items() if label is None]
    write_over(session, Label, rows, key=("project_id", "image_id"))
    for some in chunked(gone, HELD_AT_ONCE):
        of_these = col(Label.image_id).in_(some)
        session.execute(delete(Label).where(col(Label.project_id) == project_id, of_these))
    for image_id, label in derived.items():
        known = session.identity_map.get(identity_key(Label, (project_id, image_id)))
        if known is not None:
            session.expunge(known) if label is None else session.expire(known)


def labels_at(session: Session, project: Project, event_high: int) -> dict[int, Label]:
    """Every label as it stood right after the event `event_high`, by image id, derived from the
    events alone in one pass. The rows are not attached to the session."""
    events = session.exec(
        select(ScoreEvent)
        .where(ScoreEvent.project_id == project.id, col(ScoreEvent.id) <= event_high)
        .order_by(col(ScoreEvent.id))
    ).all()
    proxies = set(session.exec(select(Annotator.id).where(col(Annotator.proxy))))
    about: dict[int, list[Event]] = {}
    for e in events:
        event = Event(
            e.id, e.annotator_id, e.kind, e.value, e.undoes, e.origin, e.annotator_id in proxies
        )
        about.setdefault(e.image_id, []).append(event)
    groups = dict(
        session.execute(
            select(Image.id, Image.source_group).where(
                col(Image.id).in_(
                    select(ScoreEvent.image_id).where(ScoreEvent.project_id == project.id)
                )
            )
        ).all()
    )
    combine = combiner(session, project)
    made = set(session.exec(select(SyntheticImage.image_id)))
    derived = {
        image_id: _label_from(
            project, image_id, groups[image_id], standing(about_image), combine, image_id in made
        )
        for image_id, about_image in about.items()
    }
    return {image_id: label for image_id, label in derived.items() if label is not None}


def drawn_at_random(session: Session, project_id: int, event_high: int) -> set[int]:
    """The images whose score, as it stood right after the event `event_high`, may judge a version
    by where it came from (`Origin.measures`): the random sample, on both sides of the hold-out. No
    synthetic image is of it."""
    until = (ScoreEvent.project_id == project_id, col(ScoreEvent.id) <= event_high)
    undone = select(ScoreEvent.undoes).where(*until, ScoreEvent.kind == "undo")
    first = (
        select(func.min(ScoreEvent.id))
        .where(*until, ScoreEvent.kind == "set", col(ScoreEvent.id).not_in(undone))
        .group_by(col(ScoreEvent.image_id))
    )
    measuring = [origin for origin in Origin if origin.measures]
    return set(
        session.exec(
            select(ScoreEvent.image_id).where(
                col(ScoreEvent.id).in_(first),
                col(ScoreEvent.origin).in_(measuring),
                col(ScoreEvent.image_id).not_in(select(SyntheticImage.image_id)),
            )
        )
    )


def rebuild_labels(session: Session, project: Project) -> int:
    """Throw the project's labels away and derive them from the events. Returns how many there
    are. The result equals what incremental derivation left (a test holds this)."""
    session.execute(delete(Label).where(col(Label.project_id) == project.id))
    session.expire_all()
    classes.forget(session)
    labels = labels_at(session, project, highest_event(session, project))
    session.add_all(labels.values())
    session.flush()
    return len(labels)


def aggregates_of(project: Project) -> dict[str, str]:
    """The ways to make one label of several people's, in words."""
    return projects.AGGREGATES if project.labelling == "scores" else classes.AGGREGATES


def change_project(session: Session, project: Project, **changes: Any) -> Project:
    """Change a project's settings; another way to make one label of several people's scores
    rebuilds its labels."""
    if session.get_bind().dialect.name != "sqlite":  # nobody is amid a score (`hold`)
        session.exec(select(Project.id).where(Project.id == project.id).with_for_update()).all()
    rule = project.aggregate
    if (
        changes.get("aggregate", rule) not in aggregates_of(project)
        and project.labelling != "scores"
    ):
        raise Invalid(
            f"“{str(changes['aggregate'])[:20]}” is no way to make one class of several.",
            f"Use one of {', '.join(classes.AGGREGATES)}.",
        )
    projects.change(session, project, **changes)
    if project.aggregate != rule:
        session.flush()
        rebuild_labels(session, project)
    return project


Combine = Callable[[list[int]], float | None]  # several people's values, oldest first → a label


def combiner(session: Session, project: Project | LabelRules) -> Combine:
    """How several people's values make one label: here the labelling of a project decides."""
    if project.labelling == "scores":
        return functools.partial(aggregate, project.aggregate)
    return functools.partial(classes.of(session, project.id).combine, project.aggregate)


def _label_from(
    project: Project | LabelRules, image_id: int, source_group: str, events: list[Event],
    combine: Combine, synthetic: bool,
) -> Label | None:  # fmt: skip
    """The label that follows from the standing events of an image, oldest first, in no session;
    None without a score among them, or where its class is gone."""
    scored = [event for event in events if event.kind == "set"]
    if not scored:
        return None
    by_people = [event for event in scored if not event.proxy]
    per_person = {event.annotator_id: event for event in by_people or scored}
    by_age = sorted(per_person.values(), key=lambda event: event.id)
    value = combine([event.value or 0 for event in by_age])
    if value is None:
        return None
    holdout = on_holdout_side(project, source_group)
    return Label(
        project_id=project.id,
        image_id=image_id,
        value=value,
        annotators=len(per_person),
        event_id=by_age[-1].id,
        holdout=holdout,
        # How the image came to be scored at all decides; a later correction does not change that.
        measures=holdout and not synthetic and Origin(scored[0].origin).measures,
    )


def aggregate(how: str, values: list[int]) -> float:
    """One label from several people's scores, oldest first."""
    if how == "newest":
        return float(values[-1])
    if how in ("lowest", "highest"):
        return float(min(values) if how == "lowest" else max(values))
    return float(statistics.fmean(values) if how == "mean" else statistics.median(values))


def values_of(session: Session, project_id: int, image_ids: Sequence[int]) -> dict[int, float]:
    """Image id -> its label in 0–10, for those of the images that have one."""
    rows = session.execute(
        select(Label.image_id, Label.value).where(
            Label.project_id == project_id, col(Label.image_id).in_(image_ids)
        )
    )
    return dict(rows.tuples().all())


def count_labels(session: Session, project_id: int) -> int:
    """How many labels a project has; not those of images that were taken out of it."""
    return projects.count_labels(session, project_id)


# --- how many of each --------------------------------------------------------------------------


def histogram(session: Session, project: Project) -> list[int]:
    """Number of labels at each whole score 0–10 (a median of .5 counts for the even score); not
    those of images that were taken out of the project."""
    counts = [0] * 11
    of_value = select(Label.value, func.count()).group_by(col(Label.value))
    for value, count in session.exec(of_value.where(Label.project_id == project.id)):
        counts[round(value)] += count
    for value, count in session.exec(projects.of_removed_images(of_value, project.id)):
        counts[round(value)] -= count
    return counts


def histogram_text(counts: list[int], raw: int, images: int | None = None) -> str:
    """The histogram as the original's author prints it: one bar for every whole 1 % of all images.
    `raw` of the pool's `images` have no score; scored ones that are not of the pool, as those of
    test runs, are told apart. Without `images`, all are of the pool."""
    total = sum(counts) + raw
    images = total if images is None else images
    lines = [f"{images} images in dataset."]
    if total > images:
        lines[0] += f" {total - images} more, from outside the pool, are scored."
    for name, count in [*((f"{score:3d}", n) for score, n in enumerate(counts)), ("raw", raw)]:
        bars = "|" * (100 * count // total) if total else ""
        lines.append(f"{name} - {count:4d} {bars}".rstrip())
    return "\n".join(lines)
