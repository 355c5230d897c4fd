"""Hand scores: record and undo.

`score_event` is the truth and only ever grows; what an image's label is follows from it, and is
written in the same transaction (`labels`).

This is the way of every key press, so it goes by bare statements (`event_statements`).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from more_itertools import chunked
from sqlmodel import Session, col

from tastemaker.database.tables import Annotator, Project, ScoreEvent, TestRun, in_utc, now
from tastemaker.errors import Conflict, Forbidden, Invalid, NotFound, Stale
from tastemaker.projects import LabelRules
from tastemaker.scores import classes, offers
from tastemaker.scores.answers import RATED, SWEEPS
from tastemaker.scores.event_statements import Recorded, with_key
from tastemaker.scores.events import Event, newest_undoable, standing_events
from tastemaker.scores.labels import hold
from tastemaker.scores.ledgers import AT_ONCE, Ledger, OneByOne, all_at_once
from tastemaker.scores.origin import Origin

NO_UNDO = "no-undo"  # the code of an undo for which there is nothing to take back


def parse_score(value: Any) -> int:
    """A score as typed, posted or imported: a whole number from 0 to 10."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or "_" in text or not number.is_integer() or not 0 <= number <= 10:
        raise Invalid(f"“{text[:40]}” is not a score.", "A score is a whole number from 0 to 10.")
    return int(number)


def parse_value(
    session: Session, terms: LabelRules | Project, value: int | str, kind: str = "set"
) -> int:
    """What a person gave, as an event holds it: a score, or a class or tags (`classes`)."""
    if terms.labelling == "scores":
        score = parse_score(value)
        if kind in SWEEPS and score == 0:
            raise Invalid("Every score is at least 0, so this says nothing.", "Choose 1 to 10.")
        return score
    if kind in (RATED, *SWEEPS):
        raise Invalid("A class is no more or less than another.", "Give each image its class.")
    return classes.of(session, terms.id).parse(value)


def record(
    session: Session, project: Project, image_id: int, person: Annotator, kind: str,
    value: int | str | None = None, **more: Any,
) -> Recorded:  # fmt: skip
    """`record_for` with the rows of the project and the person at hand."""
    session.flush()  # what was changed in them decides the label
    return record_for(session, project.id, image_id, person.id, kind, value, **more)


def record_for(
    session: Session,
    project_id: int,
    image_id: int,
    annotator_id: int,
    kind: str,
    value: int | str | None = None,
    *,
    origin: Origin = Origin.QUEUE,
    reason: str = "",
    offer: str = "",
    note: str = "",
    key: str | None = None,
    group: str | None = None,
    expected: int | None = None,
    sha256: str | None = None,
    at: datetime | None = None,
    otherwise: int | None = None,
    unless_same: bool = False,
    ledger: Ledger | None = None,
) -> Recorded:
    """Append an event: `set` (with a value), `skip` or `flag`, or of a sweep `at_least` or `below`
    (with a value: the score is such, whatever it is); or `rated`, with the value that follows from
    another program's mark. `otherwise` is whose it is where that person
    is gone, shut out or a proxy.

    `offer` is what the person's page brought back of the card it showed; a valid one for this very
    image and person says where the score came from, and not `origin` and `reason`.

    `key` makes a repeated request harmless: the first answer is given again. `expected` is the id
    of the newest event of this person on this image that the page knew of (0: none); another one
    means that the score was changed elsewhere meanwhile, and `Conflict` names both values.
    `sha256`, where it is given, must be the image's: ids begin at one in every library. `at` is
    when it was given, where that was not now: scores brought in from a file keep their time. With
    `unless_same`, and always in the library, what is there already is not written again: in the
    library where it is the newest, from a file as `_said_before` tells. With a `ledger` the caller
    holds the image already (`hold`), and it is written when that closes.
    Raises `NotFound` for an image (project, person) that is not there, is not one of the project's
    or was taken out.
    """
    if kind not in ("set", "skip", "flag", RATED, *SWEEPS):
        raise Invalid(f"“{kind}” is not something one can say about an image.")
    if (kind in ("set", RATED, *SWEEPS)) != (value is not None):
        raise Invalid("A score needs a value from 0 to 10; a skip or a flag has none.")
    if ledger is None:
        hold(session, project_id, [image_id])
        ledger = OneByOne(session)
    scene = ledger.scene(project_id, image_id, annotator_id, otherwise, key)
    if scene is None:
        raise NotFound("This image is not in the library.", "It may have been removed; go on.")
    (terms, annotator_id, proxy), image = scene.whose, scene.image
    if sha256 not in (None, image.sha256):
        raise Conflict(
            "Here this is another picture than the one that was scored; nothing was saved.",
            "It belongs to another library, or to this one as it was before a backup came back.",
            code="another-image",
        )
    if scene.with_key is not None:
        before = ledger.event(scene.with_key)
        assert before is not None, "it was there a statement ago, in this transaction"
        of = (before.columns["project_id"], before.image_id, before.columns["annotator_id"])
        said = _is_said(session, terms, before.value, value, kind)
        if (*of, before.kind) != (project_id, image_id, annotator_id, kind) or not said:
            raise Conflict("This request key was used for another score.", "Reload the page.")
        return replace(before, fresh=False)
    if value is not None:
        value = parse_value(session, terms, value, kind)
    if not image.member:
        raise NotFound("This image is not in this project; nothing was saved.", "Add it first.")
    if image.removed and origin != Origin.IMPORT:
        raise NotFound(
            "This image was taken out of the project meanwhile; nothing was saved.",
            "Go on with the next one.",
        )
    standing = ledger.standing(project_id, image_id) if scene.spoken_of else []
    newest = next((e for e in reversed(standing) if e.annotator_id == annotator_id), None)
    if expected is not None and (newest.id if newest else 0) != expected:
        scored = newest is not None and newest.kind == "set"
        theirs = newest.value if newest is not None and scored else None
        there, here = (
            "nothing" if one is None else classes.in_words(session, terms, one)
            for one in (theirs, value)
        )
        raise Stale(
            f"This image was scored elsewhere meanwhile: {there} there, {here} here. The first was "
            "kept.",
            "Score it again if you want to replace it.",
            newest.id if newest else 0,
            image_id=image_id,
            key=key,
        )
    offered = offers.read(session, project_id, image_id, annotator_id, offer) if offer else None
    came = offered or offers.Offer(Origin(origin), reason)
    unless_same = unless_same or came.origin == Origin.LIBRARY
    if unless_same and newest is not None:
        mine = [event for event in standing if event.annotator_id == annotator_id]
        if came.origin == Origin.LIBRARY:
            known = newest if (newest.kind, newest.value) == (kind, value) else None
        else:
            known = _said_before(ledger, mine, kind, value, at)
        if known is not None:
            event = ledger.event(known.id)
            assert event is not None, "it was there a statement ago, in this transaction"
            return replace(event, fresh=False)
    written = ledger.append(
        proxy=proxy,
        project_id=project_id, image_id=image_id, annotator_id=annotator_id, kind=kind,
        value=value, origin=came.origin.value, reason=came.reason[:offers.MOST_REASON],
        note=note[:2000], key=key, event_group=group, at=at or now(),
    )  # fmt: skip
    if came.test_run is not None and session.get(TestRun, came.test_run) is not None:
        ledger.note_test_run(came.test_run, written.id)
    if kind == "set":
        standing.append(Event(written.id, annotator_id, kind, value, None, came.origin, proxy))
        ledger.label(terms, image_id, image, standing)
    return written


def _is_said(
    session: Session, terms: LabelRules, before: int | None, value: int | str | None, kind: str
) -> bool:
    """Whether a value as it is given is what an event holds, though its class may be gone since."""
    if before is None or value is None or str(before) == str(value):
        return before == value or str(before) == str(value)
    try:
        return parse_value(session, terms, value, kind) == before
    except Invalid:
        return False


def _said_before(
    ledger: Ledger, mine: list[Event], kind: str, value: int | None, at: datetime | None
) -> Event | None:
    """The event among a person's on an image that already says what a row of a file does. Of scores
    the newest counts, whatever sweeps came after it. One that says the same at the same time is the
    same, however much came after it; so is a sweep without a time."""
    of_kind = [event for event in mine if event.kind == kind]
    same = [event for event in of_kind if event.value == value]
    if same and (same[-1] is of_kind[-1] or (at is None and kind in SWEEPS)):
        return same[-1]
    for event in same:
        there = ledger.event(event.id)
        if there is not None and at is not None and in_utc(there.columns["at"]) == in_utc(at):
            return event
    return None


class Given(NamedTuple):
    """What a person gave an image, as an event holds it; `at` is when, where that was not now."""

    image_id: int
    annotator_id: int
    value: int
    kind: str = "set"
    at: datetime | None = None


def record_many(
    session: Session,
    project: Project,
    scores: Iterable[Given],
    *,
    origin: Origin,
    group: str | None = None,
) -> list[bool]:
    """Record scores in their order, leaving out those that already say the same. Of each, whether
    it was written."""
    scores = list(scores)
    hold(session, project.id, (given.image_id for given in scores))
    written: list[bool] = []
    for some in chunked(scores, AT_ONCE):
        with all_at_once(
            session, project.id, (given.image_id for given in some), most=len(some)
        ) as ledger:
            written += [
                record_for(
                    session, project.id, image_id, annotator_id, kind, value, origin=origin,
                    group=group, at=at, unless_same=True, ledger=ledger,
                ).fresh
                for image_id, annotator_id, value, kind, at in some
            ]  # fmt: skip
    return written


def undo(
    session: Session, project: Project, person: Annotator, event_id: int | None = None,
    key: str | None = None,
) -> Recorded:  # fmt: skip
    """Take back this person's newest event that still stands (a bulk action as a whole). With
    `event_id`, only if that one is the newest. Returns the inverse event.

    Raises `NotFound` with nothing to undo, `Forbidden` for another person's event, `Conflict` for
    an older one.
    """
    if key is not None:
        before = with_key(session, key)
        if before is not None:
            of = (before.columns["project_id"], before.columns["annotator_id"])
            if (*of, before.kind) != (project.id, person.id, "undo"):
                raise Conflict("This request key was used for another score.", "Reload the page.")
            return before
    if event_id is not None:
        event = session.get(ScoreEvent, event_id)
        if event is None or event.project_id != project.id:
            raise NotFound("There is no such score to undo.", code=NO_UNDO, key=key)
        if event.annotator_id != person.id:
            raise Forbidden("This score is somebody else's.", "Only they can take it back.")
    newest = newest_undoable(session, project, person)
    if newest is not None:
        hold(session, project.id, [event.image_id for event in _undone_with(session, newest)])
        newest = newest_undoable(session, project, person)  # nobody takes it back any more
    if newest is None:
        raise NotFound("Nothing more to take back.", code=NO_UNDO, key=key)
    if event_id is not None and newest.id < event_id:
        raise Conflict(
            "This score was taken back already.", "Nothing was changed.", code=NO_UNDO, key=key
        )
    if event_id is not None and newest.id != event_id:
        raise Conflict(
            "Something newer was scored since.", "Undo that first.", code=NO_UNDO, key=key
        )
    together = _undone_with(session, newest)
    return _take_back(session, project, together, {newest.id: key})[together.index(newest)]


def undo_group(session: Session, project: Project, person: Annotator, group: str) -> int:
    """Take back what of a bulk action of this person still stands, whatever came after it. Returns
    how many events that were."""
    together = _of_group(session, project.id, person.id, group)
    hold(session, project.id, [event.image_id for event in together])
    together = _of_group(session, project.id, person.id, group)  # nobody takes it back any more
    return len(_take_back(session, project, together, {}))


def undo_recorded(session: Session, project: Project, group: str, ids: range) -> int:
    """Take back what still stands of a group that was recorded for whoever it names, of the events
    with these ids. Returns how many that were."""
    of_these = standing_events().where(
        ScoreEvent.project_id == project.id,
        col(ScoreEvent.id).between(ids.start, ids.stop - 1),
        ScoreEvent.event_group == group,
    )
    together = list(session.exec(of_these))
    hold(session, project.id, [event.image_id for event in together])
    together = list(session.exec(of_these))  # nobody takes it back any more
    return len(_take_back(session, project, together, {}))


def _take_back(
    session: Session, project: Project, together: list[ScoreEvent], keys: dict[int, str | None]
) -> list[Recorded]:
    """The inverse of each, and the labels that follow."""
    ids = [event.image_id for event in together]
    ledger: Ledger
    if len(together) == 1:
        return [_inverse(OneByOne(session), project, together[0], keys)]
    with all_at_once(session, project.id, ids, most=len(together)) as ledger:
        return [_inverse(ledger, project, event, keys) for event in together]


def _inverse(
    ledger: Ledger, project: Project, event: ScoreEvent, keys: dict[int, str | None]
) -> Recorded:
    scene = ledger.scene(project.id, event.image_id, event.annotator_id, event.annotator_id, None)
    assert scene is not None, "an event is of an image and a person that are there"
    written = ledger.append(
        proxy=scene.whose.proxy,
        project_id=project.id, image_id=event.image_id, annotator_id=event.annotator_id,
        kind="undo", undoes=event.id, origin=event.origin, key=keys.get(event.id), at=now(),
    )  # fmt: skip
    standing = ledger.standing(project.id, event.image_id)
    ledger.label(scene.whose.terms, event.image_id, scene.image, standing)
    return written


def _undone_with(session: Session, newest: ScoreEvent) -> list[ScoreEvent]:
    """The standing events that an undo of `newest` takes back: all of a bulk action."""
    if newest.event_group is None:
        return [newest]
    return _of_group(session, newest.project_id, newest.annotator_id, newest.event_group)


def _of_group(session: Session, project_id: int, annotator_id: int, group: str) -> list[ScoreEvent]:
    events = standing_events().where(
        ScoreEvent.project_id == project_id,
        ScoreEvent.annotator_id == annotator_id,
        ScoreEvent.event_group == group,
    )
    return list(session.exec(events))
