"""The library: everything in a project as a fast grid, and each image on a page of its own.

The address holds the filter, the order and the place in it, so a page can be bookmarked, saved as
a slice and opened without a script. The tiles lie in one form; what is done to those selected, or
to all that match, is `changes`.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import Engine
from sqlmodel import Session

from app import keymap, projects
from app.config import Settings
from app.db import reading, writing
from app.encoding.encoders import reads_text
from app.errors import Invalid, NotFound, TastemakerError
from app.library import browsing, bulk, filters, tags, tiles
from app.library.browsing import Order, Stretch
from app.library.filters import Filter, Scope
from app.library.tiles import Tile
from app.resident import questions
from app.scoring import scores
from app.tables import Project, Slice
from app.versioning import versions
from app.web.deps import EngineDep, Id, Reader, SettingsDep, ThePerson, TheProject, WhoDep
from app.web.render import by_htmx, render, see_other, shell
from app.web.who import Who, local_path

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api/v1")

PER_PAGE = 60
ALIKE = 1000  # images a search by likeness or by words brings
SEARCH_SECONDS = 10.0
DONE = {
    "score": "Scored", "tag": "Tagged", "untag": "Took a tag from", "put": "Added to a collection:",
    "move": "Moved to another collection:", "remove": "Taken out of the project:",
    "restore": "Brought back:",
}  # fmt: skip
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
Action = Literal["score", "tag", "untag", "put", "move", "remove", "restore"]


# --- what the address says -----------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A filter, an order, a place in it. `like` is an image, `text` are words: either brings an
    order of its own, the nearest first."""

    filter: Filter
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
        said = self.filter.as_pairs()
        if self.sort != "newest":
            said.append(("sort", self.sort))
        if self.apart:
            said.append(("apart", "yes"))
        if self.like is not None:
            said.append(("like", str(self.like)))
        if self.text:
            said.append(("text", self.text))
        kept = [(name, value) for name, value in said if name not in but]
        return kept + [(name, value) for name, value in but.items() if value is not None]

    def query(self, **but: str | None) -> str:
        return urlencode(self.pairs(**but))


def view_of(pairs: list[tuple[str, str]]) -> View:
    """Raises `Invalid` for what means nothing."""
    said = {name: value.strip() for name, value in pairs}
    sort = said.get("sort") or "newest"
    if sort not in ORDERS:
        raise Invalid(f"There is no order “{sort[:20]}”.", f"Use one of: {', '.join(ORDERS)}.")
    like = said.get("like", "")
    if like and not (like.isascii() and like.isdecimal() and len(like) < 19):
        raise Invalid("“like” is the number of an image.")
    return View(
        filter=filters.from_pairs(pairs),
        order=ORDERS[sort][1],
        after=said.get("after", "")[:300],
        apart=said.get("apart") == "yes",
        like=int(like) if like else None,
        text=" ".join(said.get("text", "").split())[:200],
    )


# --- finding -------------------------------------------------------------------------------------

_answers: OrderedDict[tuple[Any, ...], list[int]] = OrderedDict()


def nearest(engine: Engine, project: Project, view: View) -> list[int]:
    """Ids in the order of their likeness, as the resident process says. The answer is kept while
    a person pages through it. Raises what the asking raises."""
    kind = "text" if view.text else "similar"
    payload: dict[str, Any] = {"text": view.text} if view.text else {"image_id": view.like}
    key = (str(engine.url), project.id, kind, view.text or view.like)
    known = _answers.get(key) if view.after else None
    if known is not None:
        return known
    answer = questions.ask(
        engine, kind, payload | {"limit": ALIKE}, project_id=project.id, timeout=SEARCH_SECONDS
    )
    found = [int(one["image_id"]) for one in answer["images"]]
    _answers[key] = found
    while len(_answers) > 20:
        _answers.popitem(last=False)
    return found


def find(
    session: Session, engine: Engine, project: Project, found: Scope, view: View, n: int
) -> Stretch:
    if not view.searches:
        return browsing.find(session, found, view.order, view.after, n, together=not view.apart)
    if view.text and not reads_text(project.encoder):
        raise Invalid(
            f"The encoder {project.encoder} knows pictures only, so it cannot look for words.",
            "Search by file name, by tag, or by a similar image.",
        )
    return browsing.among(session, found, nearest(engine, project, view), view.after, n)


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/library")
def page(
    request: Request,
    session: Reader,
    engine: EngineDep,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    done: str = "",
    n: Annotated[int, Query(ge=0, lt=10**9)] = 0,
    undo: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    """A page of the grid. htmx asks for the next tiles alone. `done`, `n` and `undo` tell what a
    form without a script has just done."""
    view = view_of(list(request.query_params.multi_items()))
    found = filters.scope(session, project, view.filter, settings)
    trouble: TastemakerError | None = None
    try:
        stretch = find(session, engine, project, found, view, PER_PAGE)
    except TastemakerError as error:
        if not view.searches:
            raise
        trouble, stretch = error, Stretch([])
    shown = tiles.tiles(session, project, found, stretch.ids)
    context: dict[str, Any] = {
        "view": view, "tiles": shown, "stretch": stretch, "project": project,
        "by": predictor(found), "trouble": trouble,
        "next": view.query(after=stretch.after) if stretch.after else "",
    }  # fmt: skip
    if by_htmx(request) and view.after:
        return render(request, "library.html", "more", context)
    context |= around(session, project, view, found, bool(shown))
    context |= {
        "keys": keymap.of(person),
        "key": secrets.token_hex(16),
        "toast": told(project, done, n, undo, f"/projects/{project.id}/library?{view.query()}"),
    }
    status = trouble.status if trouble else 200
    shown_in = shell(session, project, "library") | context
    return render(request, "library.html", None, shown_in, status=status)


def around(
    session: Session, project: Project, view: View, found: Scope, any_shown: bool
) -> dict[str, Any]:
    """What stands around the grid: the counts, and what one can filter by."""
    counted = None if view.searches else browsing.count(session, project, found)
    if not any_shown and not view.after and not view.searches:
        counted = browsing.Count(0)
    return {
        "count": counted,
        "size": projects.size(session, project),
        "collections": filters.collections_of(session, project.id),
        "versions": [version.number for version in versions.listing(session, project)],
        "active": versions.active(session, project),
        "common": tags.common(session, project),
        "saved": filters.saved(session, project),
        "orders": ORDERS,
        "reads_text": reads_text(project.encoder),
    }


def predictor(found: Scope) -> str:
    """Whose predictions are shown."""
    if found.filter.version == filters.LIVE:
        return "the live model"
    return found.version.number if found.version else ""


@router.get("/projects/{project_id}/library/tags")
def known_tags(request: Request, session: Reader, project: TheProject, tag: str = "") -> Response:
    """Tags to choose from while one is typed."""
    listed = [tags.Counted(name, 0) for name in tags.beginning(session, tag[:100])]
    context = {"common": listed or tags.common(session, project), "project": project}
    return render(request, "library.html", "known_tags", context)


@router.get("/projects/{project_id}/images/{image_id}")
def one(
    request: Request,
    session: Reader,
    settings: SettingsDep,
    project: TheProject,
    person: ThePerson,
    image_id: Id,
    done: str = "",
    n: Annotated[int, Query(ge=0, lt=10**9)] = 0,
    undo: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    facts = facts_of(session, settings, project, image_id)
    here = f"/projects/{project.id}/images/{image_id}"
    newest = tiles.newest_of(session, project, person)
    mine = any(heard.event.id == newest for heard in facts.history)
    context = {
        "facts": facts,
        "image": facts.image,
        "tile": facts.tile,
        "by": predictor(filters.scope(session, project, Filter())),
        "common": tags.common(session, project),
        "undo": newest if mine else 0,
        "keys": keymap.of(person),
        "key": secrets.token_hex(16),
        "here_at": here,
        "toast": told(project, done, n, undo, here),
    }
    return render(request, "image.html", None, shell(session, project, "library") | context)


def facts_of(session: Session, settings: Settings, project: Project, image_id: int) -> tiles.Facts:
    """Raises `NotFound` for an image that is not the project's."""
    found = filters.scope(session, project, Filter(), settings)
    if not bulk.chosen(session, project, [image_id]):
        raise NotFound("This image is not in this project.", "Look for it in the library.")
    return tiles.facts(session, settings, project, found, image_id)


# --- what people do ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Something done to many images: to `images`, or to all that match `filter`."""

    action: str
    images: tuple[int, ...] = ()
    filter: Filter | None = None
    value: int | None = None
    tags: tuple[str, ...] = ()
    collection: str = ""
    out_of: int | None = None
    key: str = ""


@dataclass(frozen=True)
class Changed:
    """How many images were chosen, how many of them were changed; `event_id` is what an undo of
    scores names."""

    chosen: list[int]
    changed: int
    event_id: int = 0


def change(engine: Engine, who: Who, project_id: int, wanted: Change) -> Changed:
    """Do it, in short transactions, so that other people's scores go in between."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        if wanted.filter is not None:
            most = bulk.MOST_SCORED if wanted.action == "score" else bulk.MOST
            ids = bulk.matching(session, project, wanted.filter, most)
        else:
            ids = bulk.chosen(session, project, wanted.images)
        if wanted.action == "score" and len(ids) > bulk.MOST_SCORED:
            raise Invalid(
                f"At most {bulk.MOST_SCORED:,} images can be scored at once.", "Select fewer."
            )
    do = the_change(engine, project_id, who, wanted)
    changed = 0
    for part in bulk.parts(ids, 100 if wanted.action == "score" else bulk.AT_ONCE):
        with writing(engine) as session:
            changed += do(session, projects.get(session, project_id), part)
    event_id = 0
    if wanted.action == "score" and changed:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            event_id = tiles.newest_of(session, project, who.person(session))
    return Changed(ids, changed, event_id)


def the_change(
    engine: Engine, project_id: int, who: Who, wanted: Change
) -> Callable[[Session, Project, list[int]], int]:
    """What is done to a part of the images. What cannot be done at all is refused here, before
    anything is."""
    if wanted.action == "score":
        if wanted.value is None:
            raise Invalid("No score was given.", "A score is a whole number from 0 to 10.")
        value, group = wanted.value, wanted.key or secrets.token_hex(16)
        return lambda s, p, ids: bulk.score(s, p, who.person(s), ids, value, group)
    if wanted.action in ("tag", "untag"):
        if not wanted.tags:
            raise Invalid("No tag was typed.", "Type one, or several with commas between them.")
        act = tags.add if wanted.action == "tag" else tags.remove
        return lambda s, p, ids: act(s, ids, wanted.tags)
    if wanted.action in ("put", "move"):
        if not wanted.collection.strip():
            raise Invalid("No collection was named.", "Choose one, or type a new name.")
        from_id = wanted.out_of
        if wanted.action == "move" and from_id is None:
            raise Invalid(
                "It is not said out of which collection to move.",
                "Show one collection first, or add the images instead.",
            )
        with writing(engine) as session:
            project = projects.get(session, project_id)
            if from_id is not None and from_id not in filters.collections_of(session, project_id):
                raise NotFound("This collection is not part of the project.")
            to_id = bulk.collection_for(session, project, wanted.collection).id
        if wanted.action == "put":
            return lambda s, p, ids: bulk.put_in(s, to_id, ids)
        assert from_id is not None
        return lambda s, p, ids: bulk.move(s, from_id, to_id, ids)
    if wanted.action in ("remove", "restore"):
        return bulk.remove if wanted.action == "remove" else bulk.restore
    raise Invalid(f"“{wanted.action[:20]}” is nothing one can do to images.")


@router.post("/projects/{project_id}/library/changes")
def changes(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    who: WhoDep,
    project_id: Id,
    action: Annotated[str, Form()] = "",
    image: Annotated[list[str] | None, Form()] = None,
    everything: Annotated[str, Form()] = "",
    value: Annotated[str, Form()] = "",
    tag: Annotated[str, Form()] = "",
    collection: Annotated[str, Form()] = "",
    query: Annotated[str, Form()] = "",
    back: Annotated[str, Form()] = "",
    key: Annotated[str, Form(max_length=80)] = "",
) -> Response:
    """What a button below the grid, or on an image's page, does. `query` is the address that the
    images were chosen from; `everything` means all that it shows, on whatever page."""
    view = view_of(parse_qsl(query))
    if value and not action:
        action = "score"
    if everything and view.searches:
        raise Invalid("A search has no end.", "Select the images that you mean.")
    wanted = Change(
        action=action,
        images=tuple(_number(one) for one in image or ()),
        filter=view.filter if everything else None,
        value=scores.parse_score(value) if action == "score" else None,
        tags=tuple(tags.parse(tag)) if action in ("tag", "untag") else (),
        collection=collection,
        out_of=view.filter.collection,
        key=key,
    )
    result = change(engine, who, project_id, wanted)
    there = local_path(back) if back else f"/projects/{project_id}/library?{view.query()}"
    if by_htmx(request) and not everything and len(result.chosen) <= PER_PAGE * 5 and not back:
        return changed_tiles(request, engine, settings, project_id, view, action, result)
    said = {"done": action, "n": str(result.changed if action == "score" else len(result.chosen))}
    if result.event_id:
        said["undo"] = str(result.event_id)
    there = _with(there, said)
    return Response(headers={"HX-Redirect": there}) if by_htmx(request) else see_other(there)


def changed_tiles(
    request: Request, engine: Engine, settings: Settings, project_id: int, view: View,
    action: str, result: Changed,
) -> Response:  # fmt: skip
    """The tiles as they are now, each in its place, and a toast."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        found = filters.scope(session, project, view.filter, settings)
        here = f"/projects/{project_id}/library?{view.query()}"
        n = result.changed if action == "score" else len(result.chosen)
        context = {
            "project": project, "view": view, "by": predictor(found),
            "tiles": tiles.tiles(session, project, found, result.chosen),
            "toast": told(project, action, n, result.event_id, here),
        }  # fmt: skip
        return render(request, "library.html", ("changed", "toast"), context)


@router.post("/projects/{project_id}/library/undo")
def undo(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    who: WhoDep,
    project_id: Id,
    event_id: Annotated[int, Form()],
    queue: Annotated[str, Form()] = "",
) -> Response:
    """Take back what was scored last, a selection as a whole. `queue` says where to go back to."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        scores.undo(session, project, who.person(session), event_id)
    there = _with(local_path(queue) if queue else f"/projects/{project_id}/library", {})
    there = _with(there, {"done": "undone"})
    return Response(headers={"HX-Redirect": there}) if by_htmx(request) else see_other(there)


@router.post("/projects/{project_id}/library/filters")
def save_filter(
    engine: EngineDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    query: Annotated[str, Form()] = "",
) -> Response:
    view = view_of(parse_qsl(query))
    with writing(engine) as session:
        filters.save(session, projects.get(session, project_id), name, view.filter)
    return see_other(_with(f"/projects/{project_id}/library?{view.query()}", {"done": "saved"}))


@router.post("/projects/{project_id}/library/filters/{slice_id}/delete")
def forget_filter(engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        filters.forget(session, projects.get(session, project_id), slice_id)
    return see_other(f"/projects/{project_id}/library?done=forgotten")


def told(project: Project, done: str, n: int, undo: int, here: str) -> dict[str, Any] | None:
    """The toast that says what was done."""
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
        toast |= {
            "undo": undo, "project_id": project.id, "queue": here,
            "undo_at": f"/projects/{project.id}/library/undo",
        }  # fmt: skip
    return toast


def _with(address: str, said: Mapping[str, str]) -> str:
    """An address of ours with what was done, instead of what was done before."""
    parts = urlsplit(address)
    kept = [
        (name, value) for name, value in parse_qsl(parts.query) if name not in ("done", "n", "undo")
    ]
    return urlunsplit(("", "", parts.path, urlencode([*kept, *said.items()]), ""))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid("“image” is the number of one.")
    return int(text)


# --- for programs --------------------------------------------------------------------------------


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewChange(Body):
    """Do something to `images`, or to all that match `filter` (as a saved filter keeps it). A score
    takes a `value`, a tag `tags`, a collection its name; `move` also the id it moves out of."""

    action: Action
    images: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(default=[], max_length=bulk.MOST)
    filter: dict[str, Any] | None = None
    value: StrictInt | None = Field(default=None, ge=0, le=10)
    tags: list[str] = Field(default=[], max_length=50)
    collection: str = Field(default="", max_length=120)
    out_of: int | None = Field(default=None, ge=1, lt=2**63)
    key: str = Field(default="", max_length=80)


class NewFilter(Body):
    name: str
    filter: dict[str, Any]


@api.get("/projects/{project_id}/library")
def list_images(
    request: Request,
    session: Reader,
    engine: EngineDep,
    settings: SettingsDep,
    project: TheProject,
    n: Annotated[int, Query(ge=1, le=500)] = PER_PAGE,
) -> dict[str, Any]:
    """A stretch of the library. The parameters are those of the page's address: `collection`,
    `tag` (several), `scored`, `said`, `label_min`, `label_max`, `predicted_min`, `predicted_max`
    (per cent), `version`, `name`, `relatives`, `removed`, `sort`, `apart`, `like`,
    `text`. `after` is the `next` of the answer before."""
    view = view_of(list(request.query_params.multi_items()))
    found = filters.scope(session, project, view.filter, settings)
    stretch = find(session, engine, project, found, view, n)
    counted = None if view.searches else browsing.count(session, project, found)
    return {
        "images": [_tile_json(t) for t in tiles.tiles(session, project, found, stretch.ids)],
        "next": stretch.after or None,
        "predicted_by": predictor(found) or None,
        "count": asdict(counted) if counted else None,
    }


@api.post("/projects/{project_id}/library")
def change_images(
    engine: EngineDep, who: WhoDep, project_id: Id, body: NewChange
) -> dict[str, Any]:
    """Score, tag, collect, take out or bring back many images. `event_id` is what an undo names."""
    asked = body.model_dump(exclude={"images", "filter", "tags"})
    named = tags.parse(",".join(body.tags)) if body.tags else []
    wanted = Change(
        images=tuple(body.images),
        filter=filters.from_dict(body.filter) if body.filter is not None else None,
        tags=tuple(named),
        **asked,
    )
    result = change(engine, who, project_id, wanted)
    return {
        "chosen": len(result.chosen), "changed": result.changed,
        "event_id": result.event_id or None,
    }  # fmt: skip


@api.get("/projects/{project_id}/library/{image_id}")
def show_facts(
    session: Reader, settings: SettingsDep, project: TheProject, image_id: Id
) -> dict[str, Any]:
    """Everything the project knows of one image, its whole history among it."""
    facts = facts_of(session, settings, project, image_id)
    return _tile_json(facts.tile) | {
        "sha256": facts.image.sha256,
        "width": facts.image.width,
        "height": facts.image.height,
        "added_at": _utc(facts.image.added_at),
        "tags": facts.tags,
        "collections": [{"id": c.id, "name": c.name} for c in facts.collections],
        "history": [
            {
                "event_id": h.event.id, "who": h.who, "kind": h.event.kind,
                "value": h.event.value, "undoes": h.event.undoes, "stands": h.stands,
                "origin": h.event.origin, "reason": h.event.reason, "note": h.event.note,
                "at": _utc(h.event.at),
            }
            for h in facts.history
        ],
        "predictions": [
            {
                "version": version.number, "score": said.score, "out_of_fold": said.out_of_fold,
                "uncertainty": said.uncertainty,
            }
            for version, said in facts.said
        ],
        "near_duplicates": [tile.image_id for tile in facts.kin],
        "neighbours": [asdict(neighbour) for neighbour, _ in facts.neighbours],
        "paths": [asdict(place) for place in facts.places],
    }  # fmt: skip


@api.get("/projects/{project_id}/tags")
def list_tags(session: Reader, project: TheProject, begin: str = "") -> list[dict[str, Any]]:
    """The project's most common tags; or, with `begin`, those of the library that begin so."""
    if begin.strip():
        return [{"tag": tag} for tag in tags.beginning(session, begin[:100])]
    return [asdict(tag) for tag in tags.common(session, project)]


@api.get("/projects/{project_id}/filters")
def list_filters(session: Reader, project: TheProject) -> list[dict[str, Any]]:
    return [_filter_json(row) for row, _ in filters.saved(session, project)]


@api.post("/projects/{project_id}/filters", status_code=201)
def create_filter(engine: EngineDep, project_id: Id, body: NewFilter) -> dict[str, Any]:
    """Save a filter under a name; one of that name is replaced."""
    asked = filters.from_dict(body.filter)
    with writing(engine) as session:
        return _filter_json(
            filters.save(session, projects.get(session, project_id), body.name, asked)
        )


@api.delete("/projects/{project_id}/filters/{slice_id}", status_code=204)
def delete_filter(engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        filters.forget(session, projects.get(session, project_id), slice_id)
    return Response(status_code=204)


def _tile_json(tile: Tile) -> dict[str, Any]:
    pictures = {
        "view": f"/images/{tile.image_id}/view" if tile.has_pixels else None,
        "thumb": f"/images/{tile.image_id}/thumb" if tile.has_pixels else None,
    }
    return asdict(tile) | pictures


def _filter_json(row: Slice) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, **row.definition}


def _utc(at: datetime) -> str:
    return at.isoformat(timespec="seconds").removesuffix("+00:00") + "Z"
