"""What is done in the library: to the images selected, or to all that a filter means.

Whoever may score may score here, in their own name. Tags, collections and what is taken out belong
to everybody, so only the admin changes those.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fastapi import APIRouter, Form, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects, scores
from tastemaker.auth.identity import Identity
from tastemaker.auth.origins import by_htmx, safe_redirect_path
from tastemaker.auth.permissions import AnnotatorUser, GuardedRoute, require_admin
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project
from tastemaker.errors import Invalid, NotFound
from tastemaker.library import bulk, filters, scopes, tags, tiles
from tastemaker.library.filters import LibraryFilter
from tastemaker.pages.deps import EngineDep, Id, SettingsDep
from tastemaker.pages.library_view import PER_PAGE, View, predictor, view_of
from tastemaker.pages.render import render, see_other

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

DONE = {
    "score": "Scored", "tag": "Tagged", "untag": "Took a tag from", "put": "Added to a collection:",
    "move": "Moved to another collection:", "remove": "Taken out of the project:",
    "restore": "Brought back:",
}  # fmt: skip
Action = Literal["score", "tag", "untag", "put", "move", "remove", "restore"]


@dataclass(frozen=True)
class Change:
    """Something done to many images: to `images`, or to all that match `filter`."""

    action: str
    images: tuple[int, ...] = ()
    filter: LibraryFilter | None = None
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


def change(engine: Engine, user: Identity, project_id: int, wanted: Change) -> Changed:
    """Do it, in short transactions, so that other people's scores go in between. Raises
    `NotAllowed` for somebody who only scores and wants anything else."""
    if wanted.action not in DONE:
        raise Invalid(f"“{wanted.action[:20]}” is nothing one can do to images.")
    if wanted.action != "score":
        require_admin(user)
    with reading(engine) as session:
        project = projects.get(session, project_id)
        if wanted.filter is not None:
            most = bulk.MOST_SCORED if wanted.action == "score" else bulk.MOST
            ids = bulk.matching_images(session, project, wanted.filter, most)
        else:
            ids = bulk.selected_images(session, project, wanted.images)
        if wanted.action == "score" and len(ids) > bulk.MOST_SCORED:
            raise Invalid(
                f"At most {bulk.MOST_SCORED:,} images can be scored at once.", "Select fewer."
            )
    do = change_form(engine, project_id, user, wanted)
    changed = 0
    for part in bulk.parts(ids, 100 if wanted.action == "score" else bulk.AT_ONCE):
        with writing(engine) as session:
            changed += do(session, projects.get(session, project_id), part)
    event_id = 0
    if wanted.action == "score" and changed:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            event_id = tiles.newest_of(session, project, user.person(session))
    return Changed(ids, changed, event_id)


def change_form(
    engine: Engine, project_id: int, user: Identity, wanted: Change
) -> Callable[[Session, Project, list[int]], int]:
    """What is done to a part of the images. What cannot be done at all is refused here, before
    anything is."""
    if wanted.action == "score":
        if wanted.value is None:
            raise Invalid("No score was given.", "A score is a whole number from 0 to 10.")
        value, group = wanted.value, wanted.key or secrets.token_hex(16)
        return lambda s, p, ids: bulk.score(s, p, user.person(s), ids, value, group)
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
            if from_id is not None and from_id not in scopes.collections_of(session, project_id):
                raise NotFound("This collection is not part of the project.")
            to_id = bulk.collection_for(session, project, wanted.collection).id
        if wanted.action == "put":
            return lambda s, p, ids: bulk.put_in(s, to_id, ids)
        assert from_id is not None
        return lambda s, p, ids: bulk.move(s, from_id, to_id, ids)
    return bulk.remove if wanted.action == "remove" else bulk.restore


@router.post("/projects/{project_id}/library/changes")
def changes(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AnnotatorUser,
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
    result = change(engine, user, project_id, wanted)
    there = safe_redirect_path(back) if back else f"/projects/{project_id}/library?{view.query()}"
    if by_htmx(request) and not everything and len(result.chosen) <= PER_PAGE * 5 and not back:
        return changed_tiles(request, engine, settings, project_id, view, action, result)
    said = {"done": action, "n": str(result.changed if action == "score" else len(result.chosen))}
    if result.event_id:
        said["undo"] = str(result.event_id)
    there = with_done(there, said)
    return Response(headers={"HX-Redirect": there}) if by_htmx(request) else see_other(there)


def changed_tiles(
    request: Request, engine: Engine, settings: Settings, project_id: int, view: View,
    action: str, result: Changed,
) -> Response:  # fmt: skip
    """The tiles as they are now, each in its place, and a toast."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        found = scopes.resolve(session, project, view.filter, settings)
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
    user: AnnotatorUser,
    project_id: Id,
    event_id: Annotated[int, Form()],
    queue: Annotated[str, Form()] = "",
) -> Response:
    """Take back what was scored last, a selection as a whole. `queue` says where to go back to."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        scores.undo(session, project, user.person(session), event_id)
    there = with_done(safe_redirect_path(queue) if queue else f"/projects/{project_id}/library", {})
    there = with_done(there, {"done": "undone"})
    return Response(headers={"HX-Redirect": there}) if by_htmx(request) else see_other(there)


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


def with_done(address: str, said: Mapping[str, str]) -> str:
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


class NewChange(BaseModel):
    """Do something to `images`, or to all that match `filter` (as a saved filter keeps it). A score
    takes a `value`, a tag `tags`, a collection its name; `move` also the id it moves out of."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    images: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(default=[], max_length=bulk.MOST)
    filter: dict[str, Any] | None = None
    value: StrictInt | None = Field(default=None, ge=0, le=10)
    tags: list[str] = Field(default=[], max_length=50)
    collection: str = Field(default="", max_length=120)
    out_of: int | None = Field(default=None, ge=1, lt=2**63)
    key: str = Field(default="", max_length=80)


@api.post("/projects/{project_id}/library")
def change_images(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewChange
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
    result = change(engine, user, project_id, wanted)
    return {
        "chosen": len(result.chosen), "changed": result.changed,
        "event_id": result.event_id or None,
    }  # fmt: skip
