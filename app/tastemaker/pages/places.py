"""Return places: where on which page a score was given, and where to go on from there.

Every form that scores carries its place as one field. With a script, a page of cards stays as it
is, and the place names what else on it a correction changes; without one, its address brings the
same place back.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlmodel import Session

from tastemaker import queues
from tastemaker.config import Settings
from tastemaker.database.tables import Annotator, Project
from tastemaker.errors import Invalid, NotFound
from tastemaker.evaluation import class_comparison, flips, test_run_cards
from tastemaker.queues import confusion, reviews
from tastemaker.scores import Recorded, class_changes, classes

Fragment = tuple[str, str, dict[str, Any]]  # template, block, and what it shows
Count = Annotated[int, Field(ge=0, lt=2**31)]
Id = Annotated[int, Field(ge=1, lt=2**63)]


def known_queue(queue: str) -> str:
    if queue not in queues.EVERY_QUEUE:
        known = " or ".join(queues.EVERY_QUEUE)
        raise Invalid(f"There is no queue “{queue[:40]}”.", f"Use {known}.")
    return queue


def known_part(part: str) -> str:
    """A part of a test run, if it can be one; else none, which is the first."""
    return part if re.fullmatch(r"[a-z]{1,12}(-[0-9]{1,6})?", part) else ""


class Place(BaseModel):
    """What every place can do; as it is, a page that shows no cards to correct."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def text(self) -> str:
        """The place as a form carries it."""
        return self.model_dump_json()

    def check(self, session: Session, project: Project) -> None:
        """Raises `NotFound` or `Invalid` for a place that there is not (any more)."""

    def counts(
        self, session: Session, settings: Settings, project: Project, person: Annotator
    ) -> Fragment | None:
        """What a correction changes on the page besides its card; None for a page without cards,
        which is loaded anew."""
        return None


class ScorePlace(Place):
    kind: Literal["score"] = "score"
    queue: Annotated[str, AfterValidator(known_queue)] = "mixed"
    collection: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def address(self, project_id: int, event: Recorded) -> str:
        """On to the next image; but one that was flagged, or taken back, stays."""
        kept = f"&collection={self.collection}" if self.queue in queues.OF_ONE else ""
        stays = f"&image={event.image_id}" if event.kind in ("flag", "undo") else ""
        done = "&flagged=1" if event.kind == "flag" else ""
        return f"/projects/{project_id}/score?queue={self.queue}{kept}{stays}{done}"


class GridPlace(Place):
    kind: Literal["grid"] = "grid"
    queue: Annotated[str, AfterValidator(known_queue)] = "mixed"

    def address(self, project_id: int, event: Recorded) -> str:
        done = "undone=1" if event.kind == "undo" else "saved=1"
        return f"/projects/{project_id}/score/grid?queue={self.queue}&{done}"


class ReviewPlace(Place):
    """`after` is where in the list the page began; `labelled` and `predicted` are a cell of the
    matrix of classes (−1: none)."""

    kind: Literal["review"] = "review"
    review: Annotated[str, AfterValidator(reviews.known_review)]
    after: str = Field(default="", max_length=80)
    order: Annotated[str, AfterValidator(reviews.known_order)] = "evidence"
    labelled: Annotated[int, Field(ge=-1, lt=2**31)] = -1
    predicted: Annotated[int, Field(ge=-1, lt=2**31)] = -1

    def check(self, session: Session, project: Project) -> None:
        reviews.place(self.after)
        reviews.known_review(self.review, reviews.reviews_of(project))

    @property
    def query(self) -> str:
        """What the addresses of the list's pages have besides their place."""
        order = f"&order={self.order}" if self.order != "evidence" else ""
        of = min(self.labelled, self.predicted) >= 0
        return order + (f"&labelled={self.labelled}&predicted={self.predicted}" if of else "")

    def address(self, project_id: int, event: Recorded) -> str:
        after = f"&after={reviews.place(self.after)}" if self.after else ""
        return f"/projects/{project_id}/review/{self.review}?{_done(event)}{after}{self.query}"

    def cell(self, session: Session, project: Project) -> confusion.Cell | None:
        """None as well where a class is gone: the page is then the whole list, and what is said on
        one that was open before is kept."""
        known = classes.of_project(session, project)
        try:
            return confusion.known_cell(known, self.labelled, self.predicted) if known else None
        except NotFound:
            return None

    def counts(
        self, session: Session, settings: Settings, project: Project, person: Annotator
    ) -> Fragment:
        review = reviews.review(
            session, settings, project, person, self.review, n=0, cell=self.cell(session, project)
        )
        return "review.html", "counts", {"kind": self.review, "review": review}


class ComparePlace(Place):
    """`a` and `b` are the versions' numbers."""

    kind: Literal["compare"] = "compare"
    a: str = ""
    b: str = ""
    view: Annotated[str, AfterValidator(flips.known_direction)] = "up"
    after: Count = 0

    def check(self, session: Session, project: Project) -> None:
        classes.check_scores(project)
        flips.pair(session, project, self.a, self.b)

    def address(self, project_id: int, event: Recorded) -> str:
        fields = {"a": self.a, "b": self.b, "view": self.view, "after": self.after}
        return f"/projects/{project_id}/compare?{urlencode(fields)}&{_done(event)}"

    def counts(
        self, session: Session, settings: Settings, project: Project, person: Annotator
    ) -> Fragment:
        both = flips.pair(session, project, self.a, self.b)
        context = {"view": self.view, "flips": flips.counts(session, both)}
        return "compare.html", "counts", context


class ChangePlace(Place):
    """Images that one version takes for `before` and the other for `after`."""

    kind: Literal["change"] = "change"
    a: str = ""
    b: str = ""
    before: Annotated[int, Field(ge=0, lt=2**53)]
    after: Annotated[int, Field(ge=0, lt=2**53)]
    skip: Count = 0

    def check(self, session: Session, project: Project) -> None:
        class_changes.check_classes(project)
        flips.pair(session, project, self.a, self.b)

    def query(self) -> str:
        fields = {"a": self.a, "b": self.b, "before": self.before, "after": self.after}
        return urlencode(fields | {"skip": self.skip})

    def address(self, project_id: int, event: Recorded) -> str:
        return f"/projects/{project_id}/compare?{self.query()}&{_done(event)}"

    def counts(
        self, session: Session, settings: Settings, project: Project, person: Annotator
    ) -> Fragment:
        both = flips.pair(session, project, self.a, self.b)
        _, changes = class_comparison.changes(session, both)
        moved = class_comparison.change(changes, self.before, self.after)
        return "class_compare.html", "counts", {"moved": moved}


class TestRunPlace(Place):
    kind: Literal["test-run"] = "test-run"
    run: Id
    part: Annotated[str, AfterValidator(known_part)] = ""
    after: Count = 0

    def check(self, session: Session, project: Project) -> None:
        test_run_cards.get(session, project, self.run, measured=False)

    def address(self, project_id: int, event: Recorded) -> str:
        at = f"/projects/{project_id}/test-runs/{self.run}?part={self.part}&after={self.after}"
        return f"{at}&{_done(event)}#card-{event.image_id}"

    def counts(
        self, session: Session, settings: Settings, project: Project, person: Annotator
    ) -> Fragment:
        report = test_run_cards.get(session, project, self.run, measured=False)
        return "test_run.html", "corrected", {"report": report}


class LibraryPlace(Place):
    """`query` is what stands behind the question mark of the page's address."""

    kind: Literal["library"] = "library"
    query: str = Field(default="", max_length=4000)

    def address(self, project_id: int, event: Recorded) -> str:
        return _library_address(f"/projects/{project_id}/library", self.query, event)


class ImagePlace(Place):
    kind: Literal["image"] = "image"
    image: Id

    def address(self, project_id: int, event: Recorded) -> str:
        return _library_address(f"/projects/{project_id}/images/{self.image}", "", event)


ReturnPlace = (
    ScorePlace
    | GridPlace
    | ReviewPlace
    | ComparePlace
    | ChangePlace
    | TestRunPlace
    | LibraryPlace
    | ImagePlace
)
_place: TypeAdapter[ReturnPlace] = TypeAdapter(Annotated[ReturnPlace, Field(discriminator="kind")])


def parse(text: str) -> ReturnPlace:
    """The place that a form carries. Raises `Invalid`."""
    try:
        return _place.validate_json(text)
    except ValidationError:
        raise Invalid("This form names no place to go back to.", "Reload the page.") from None


def _done(event: Recorded) -> str:
    return "undone=1" if event.kind == "undo" else f"saved={event.id}"


def _library_address(path: str, query: str, event: Recorded) -> str:
    if event.kind == "undo":
        return with_done(path, query, {"done": "undone"})
    done = {"done": "score", "n": str(int(event.fresh))}
    return with_done(path, query, done | ({"undo": str(event.id)} if event.fresh else {}))


DONE_PARAMETERS = ("done", "n", "undo", "there", "gone")


def with_done(path: str, query: str, done: dict[str, str]) -> str:
    """An address of the library that names what was done, instead of what was done before."""
    kept = [(name, value) for name, value in parse_qsl(query) if name not in DONE_PARAMETERS]
    pairs = [*kept, *done.items()]
    return f"{path}?{urlencode(pairs)}" if pairs else path
