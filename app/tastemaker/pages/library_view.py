"""What an address of the library means: a filter, an order, a place; and the images found."""

import threading
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from cachetools import LRUCache
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker.database.tables import Project
from tastemaker.encoding.encoder_specs import reads_text
from tastemaker.errors import Invalid
from tastemaker.library import browsing, bulk, filters
from tastemaker.library.filters import LibraryFilter
from tastemaker.library.orders import Order, Page
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.live import model_requests
from tastemaker.pages.places import Place

PER_PAGE = 60
ALIKE = 1000  # images a search by likeness or by words brings
SEARCH_SECONDS = 10.0
ORDERS = {
    "newest": ("Newest first", Order("added", True)),
    "oldest": ("Oldest first", Order("added", False)),
    "predicted-high": ("Highest prediction", Order("predicted", True)),
    "predicted-low": ("Lowest prediction", Order("predicted", False)),
    "score-high": ("Highest score", Order("label", True)),
    "score-low": ("Lowest score", Order("label", False)),
    "disagreement": ("Largest disagreement", Order("disagreement", True)),
    "agreement": ("Smallest disagreement", Order("disagreement", False)),
    "name": ("File name, A to Z", Order("name", False)),
    "name-down": ("File name, Z to A", Order("name", True)),
}

# Of a project with classes: a prediction is how sure the version is, and there is no scale.
CLASS_ORDERS = {
    "newest": ORDERS["newest"], "oldest": ORDERS["oldest"],
    "predicted-low": ("Least certain", ORDERS["predicted-low"][1]),
    "predicted-high": ("Most certain", ORDERS["predicted-high"][1]),
    "name": ORDERS["name"], "name-down": ORDERS["name-down"],
}  # fmt: skip


def orders_of(project: Project) -> dict[str, tuple[str, Order]]:
    """The orders that a project offers, by their names in an address."""
    return ORDERS if project.labelling == "scores" else CLASS_ORDERS


DONE = {
    "score": "Scored", "tag": "Tagged", "untag": "Took a tag from", "put": "Added to a collection:",
    "move": "Moved to another collection:", "remove": "Taken out of the project:",
    "restore": "Brought back:",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """A filter, an order, a place in it. `like` is an image, `text` are words: either brings an
    order of its own, the nearest first."""

    filter: LibraryFilter
    order: Order
    after: str = ""
    apart: bool = False
    like: int | None = None
    text: str = ""

    @property
    def sort(self) -> str:
        return next(name for name, (_, order) in ORDERS.items() if order == self.order)

    @property
    def searches(self) -> bool:
        return self.like is not None or bool(self.text)

    def pairs(self, **but: str | None) -> list[tuple[str, str]]:
        """This view as an address has it; `but` replaces or (None) leaves out."""
        pairs = self.filter.as_pairs()
        if self.sort != "newest":
            pairs.append(("sort", self.sort))
        if self.apart:
            pairs.append(("apart", "yes"))
        if self.like is not None:
            pairs.append(("like", str(self.like)))
        if self.text:
            pairs.append(("text", self.text))
        kept = [(name, value) for name, value in pairs if name not in but]
        return kept + [(name, value) for name, value in but.items() if value is not None]

    def query(self, **but: str | None) -> str:
        return urlencode(self.pairs(**but))


# The parameters of an address that `view_of` reads.
PARAMETERS = (
    *("tag" if field.name == "tags" else field.name for field in fields(LibraryFilter)),
    "predicted_from", "predicted_to", "sort", "apart", "like", "text", "after",
)  # fmt: skip


def view_of(pairs: list[tuple[str, str]]) -> View:
    """Raises `Invalid` for what means nothing."""
    given = {name: value.strip() for name, value in pairs}
    sort = given.get("sort") or "newest"
    if sort not in ORDERS:
        raise Invalid(f"There is no order “{sort[:20]}”.", f"Use one of: {', '.join(ORDERS)}.")
    like = given.get("like", "")
    if like and not (like.isascii() and like.isdecimal() and len(like) < 19):
        raise Invalid("“like” is the number of an image.")
    return View(
        filter=filters.from_pairs(pairs),
        order=ORDERS[sort][1],
        after=given.get("after", "")[:300],
        apart=given.get("apart") == "yes",
        like=int(like) if like else None,
        text=" ".join(given.get("text", "").split())[:200],
    )


# --- finding -------------------------------------------------------------------------------------

_answers: LRUCache[tuple[str, int, str, str | int | None], list[int]] = LRUCache(20)
_lock = threading.Lock()


def nearest(engine: Engine, project: Project, view: View) -> list[int]:
    """Ids in the order of their likeness, as the resident process says. The answer is kept while
    a person pages through it. Raises what the asking raises."""
    kind = "text" if view.text else "similar"
    payload: dict[str, Any] = {"text": view.text} if view.text else {"image_id": view.like}
    key = (str(engine.url), project.id, kind, view.text or view.like)
    with _lock:
        known = _answers.get(key) if view.after else None
    if known is not None:
        return known
    answer = model_requests.call(
        engine, kind, payload | {"limit": ALIKE}, project_id=project.id, timeout=SEARCH_SECONDS
    )
    image_ids = [int(image["image_id"]) for image in answer["images"]]
    with _lock:
        _answers[key] = image_ids
    return image_ids


def find(
    session: Session, engine: Engine, project: Project, resolved: ResolvedFilter, view: View, n: int
) -> Page:
    """The images of a page. Raises `Invalid` for an order that the project does not offer."""
    if view.sort not in (offered := orders_of(project)):
        raise Invalid(
            f"“{view.sort}” is an order of scores, and “{project.name}” has classes.",
            f"Use one of: {', '.join(offered)}.",
        )
    if not view.searches:
        return browsing.find(session, resolved, view.order, view.after, n, together=not view.apart)
    if view.text and not reads_text(project.encoder):
        raise Invalid(
            f"The encoder {project.encoder} knows pictures only, so it cannot look for words.",
            "Search by file name, by tag, or by a similar image.",
        )
    if view.like is not None:
        bulk.require_images(session, project, view.like)
    return browsing.among(session, resolved, nearest(engine, project, view), view.after, n)


def predictor(resolved: ResolvedFilter) -> str:
    """Whose predictions are shown."""
    if resolved.filter.version == filters.LIVE:
        return "the live model"
    return resolved.version.number if resolved.version else ""


# --- what was done -------------------------------------------------------------------------------


def library_address(project_id: int, view: View) -> str:
    return f"/projects/{project_id}/library?{view.query()}"


def done_toast(
    project: Project, done: str, n: int, undo: int, place: Place
) -> dict[str, Any] | None:
    """The toast that tells what was done to `n` images; `undo` is the event that it can undo."""
    plain = {
        "undone": "Taken back.", "saved": "The filter is saved.",
        "forgotten": "The saved filter is gone; no image was touched.",
    }  # fmt: skip
    if done in plain:
        return {"text": plain[done]}
    if done not in DONE:
        return None
    if done == "score" and not n:
        return {"text": "Nothing changed: they had that score already."}
    toast: dict[str, Any] = {"text": f"{DONE[done]} {n:,} image{'s' * (n != 1)}."}
    if done == "remove":
        toast["hint"] = "No file was touched; “Taken out” shows them, to bring them back."
    if undo:
        toast |= {"undo": undo, "project_id": project.id, "place": place.text()}
    return toast


def copied_toast(n: int, there: int, gone: int) -> dict[str, Any]:
    """The toast that tells of files that were copied."""
    toast: dict[str, Any] = {"text": f"Copied {n:,} file{'s' * (n != 1)}."}
    hints = []
    if there:
        hints.append(f"{there:,} {'was' if there == 1 else 'were'} in the folder already.")
    if gone:
        hints.append(f"Of {gone:,} the file is gone, or there never was a picture.")
    return toast | {"hint": " ".join(hints)}
