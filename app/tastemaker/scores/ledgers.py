"""What an act looks up of the events on images, and writes to them: on one image by the statements
of a key press, on many by a few statements for all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from more_itertools import chunked
from sqlmodel import Session

from tastemaker.database.tables import TestRunScore
from tastemaker.projects import LabelRules
from tastemaker.scores import event_statements
from tastemaker.scores.event_statements import BLANK, About, Recorded, Scene, Whose
from tastemaker.scores.events import Event, standing, standing_on
from tastemaker.scores.labels import Derived, label_of, write_labels

AT_ONCE = 500  # images that are looked up in one statement


class Ledger(Protocol):
    """The events on images that are held (`labels.hold`), and the labels that follow."""

    def scene(
        self, project_id: int, image_id: int, annotator_id: int, otherwise: int | None,
        key: str | None,
    ) -> Scene | None:  # fmt: skip
        """None where the project, the image or the person is not there."""
        ...

    def standing(self, project_id: int, image_id: int) -> list[Event]:
        """The events on an image that are not undone (and are not undos), oldest first."""
        ...

    def event(self, event_id: int) -> Recorded | None:
        """One that was written before."""
        ...

    def append(self, *, proxy: bool, **columns: Any) -> Recorded: ...

    def note_test_run(self, test_run_id: int, event_id: int) -> None:
        """The event came out of that test run."""
        ...

    def label(
        self, terms: LabelRules, image_id: int, image: About, events: list[Event]
    ) -> None:  # fmt: skip
        """Make the label of an image agree with its standing events, oldest first."""
        ...


class OneByOne:
    """`Ledger` in which every step is a statement."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def scene(
        self, project_id: int, image_id: int, annotator_id: int, otherwise: int | None,
        key: str | None,
    ) -> Scene | None:  # fmt: skip
        return event_statements.scene_of(
            self._session, project_id, image_id, annotator_id, otherwise, key
        )

    def standing(self, project_id: int, image_id: int) -> list[Event]:
        return standing_on(self._session, project_id, image_id)

    def event(self, event_id: int) -> Recorded | None:
        return event_statements.again(self._session, event_id)

    def append(self, *, proxy: bool, **columns: Any) -> Recorded:
        return event_statements.append(self._session, **columns)

    def note_test_run(self, test_run_id: int, event_id: int) -> None:
        self._session.add(TestRunScore(test_run_id=test_run_id, event_id=event_id))
        self._session.flush()

    def label(
        self, terms: LabelRules, image_id: int, image: About, events: list[Event]
    ) -> None:  # fmt: skip
        derived = label_of(self._session, terms, image_id, image, events)
        write_labels(self._session, terms.id, {image_id: derived})


class AllAtOnce:
    """`Ledger` of some images of one project, read when it is opened and written when it closes
    (`all_at_once`); nobody else writes an event in the session meanwhile."""

    def __init__(
        self, session: Session, project_id: int, image_ids: list[int], keys: list[str], most: int
    ) -> None:
        self._session, self._project_id, self._most = session, project_id, most
        self._whose: dict[tuple[int, int | None], Whose | None] = {}
        self._images: dict[int, About] = {}
        self._keys: dict[str, int] = {}
        self._known: dict[int, Recorded] = {}
        self._events: dict[int, list[Event]] = {}
        self._ids: Iterator[int] | None = None
        self._new: list[Recorded] = []
        self._of_test_runs: list[TestRunScore] = []
        self._labels: dict[int, Derived] = {}
        session.flush()
        for ids in chunked(image_ids, AT_ONCE):
            self._images |= event_statements.about(session, project_id, ids)
            for event, proxy in event_statements.events_about(session, project_id, ids):
                self._add(event, proxy)
        for some in chunked(keys, AT_ONCE):
            self._keys |= event_statements.ids_of_keys(session, some)

    def _add(self, event: Recorded, proxy: bool) -> None:
        self._known[event.id] = event
        about, who = event.image_id, event.columns["annotator_id"]
        undoes, origin = event.columns["undoes"], event.columns["origin"]
        self._events.setdefault(about, []).append(
            Event(event.id, who, event.kind, event.value, undoes, origin, proxy)
        )

    def scene(
        self, project_id: int, image_id: int, annotator_id: int, otherwise: int | None,
        key: str | None,
    ) -> Scene | None:  # fmt: skip
        who = (annotator_id, otherwise)
        if who not in self._whose:
            self._whose[who] = event_statements.whose(self._session, project_id, *who)
        whose, image = self._whose[who], self._images.get(image_id)
        if whose is None or image is None:
            return None
        return Scene(whose, image, self._keys.get(key or ""), image_id in self._events)

    def standing(self, project_id: int, image_id: int) -> list[Event]:
        return standing(self._events.get(image_id, []))

    def event(self, event_id: int) -> Recorded | None:
        return self._known.get(event_id) or event_statements.again(self._session, event_id)

    def append(self, *, proxy: bool, **columns: Any) -> Recorded:
        if self._ids is None:
            self._ids = event_statements.next_ids(self._session, self._most)
        columns = BLANK | columns
        made = Recorded(next(self._ids), columns["image_id"], columns["value"], columns, fresh=True)
        self._new.append(made)
        self._add(made, proxy)
        if columns["key"] is not None:
            self._keys[columns["key"]] = made.id
        return made

    def note_test_run(self, test_run_id: int, event_id: int) -> None:
        self._of_test_runs.append(TestRunScore(test_run_id=test_run_id, event_id=event_id))

    def label(
        self, terms: LabelRules, image_id: int, image: About, events: list[Event]
    ) -> None:  # fmt: skip
        self._labels[image_id] = label_of(self._session, terms, image_id, image, events)

    def write(self) -> None:
        event_statements.append_all(self._session, self._new)
        self._session.add_all(self._of_test_runs)
        self._session.flush()
        write_labels(self._session, self._project_id, self._labels)


@contextmanager
def all_at_once(
    session: Session,
    project_id: int,
    image_ids: Iterable[int],
    keys: Iterable[str] = (),
    most: int | None = None,
) -> Iterator[Ledger]:
    """The ledger of some images of a project, which the caller holds; what was appended is written
    at the end, and nothing where that is not reached. At most so many events are appended as there
    are images, or `most`. `keys` are those that may come again."""
    ids = list(dict.fromkeys(image_ids))
    ledger = AllAtOnce(session, project_id, ids, list(keys), len(ids) if most is None else most)
    yield ledger
    ledger.write()
