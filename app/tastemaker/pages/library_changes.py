"""What is done in the library: to the images selected, or to all that a filter means.

Whoever may score may score here, in their own name. Tags, collections and what is taken out belong
to everybody, so only the admin changes those.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

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
from tastemaker.pages.library_view import (
    DONE,
    PER_PAGE,
    View,
    done_toast,
    library_address,
    predictor,
    view_of,
)
from tastemaker.pages.places import ImagePlace, LibraryPlace, with_done
from tastemaker.pages.render import redirect, render
from tastemaker.pages.scores import take_back

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

Action = Literal["score", "tag", "untag", "put", "move", "remove", "restore"]


@dataclass(frozen=True)
class Change:
    """Something done to many images: to `images`, or to all that match `filter`."""

    action: str
    images: tuple[int, ...] = ()
    filter: LibraryFilter | None = None
    value: int | str | None = None
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
        if wanted.action == "score" and wanted.value is not None:
            wanted = replace(wanted, value=scores.parse_value(session, project, wanted.value))
        if wanted.filter is not None:
            most = bulk.MOST_SCORED if wanted.action == "score" else bulk.MOST
            ids = bulk.matching_images(session, project, wanted.filter, most)
        else:
            ids = bulk.selected_images(session, project, wanted.images)
        if wanted.action == "score" and len(ids) > bulk.MOST_SCORED:
            raise Invalid(
                f"At most {bulk.MOST_SCORED:,} images can be scored at once.", "Select fewer."
            )
    do = action_of(engine, project_id, user, wanted)
    changed = 0
    for part in bulk.parts(ids, 100 if wanted.action == "score" else bulk.AT_ONCE):
        with writing(engine) as session:
            changed += do(session, projects.get(session, project_id), part)
    event_id = 0
    if wanted.action == "score" and changed:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            newest = scores.newest_undoable(session, project, user.person(session))
            event_id = newest.id if newest else 0
    return Changed(ids, changed, event_id)


def action_of(
    engine: Engine, project_id: int, user: Identity, wanted: Change
) -> Callable[[Session, Project, list[int]], int]:
    """What is done to a part of the images. What cannot be done at all is refused here, before
    anything is."""
    if wanted.action == "score":
        if wanted.value is None:
            raise Invalid("No score was given.", "A score is a whole number from 0 to 10.")
        value, group = int(wanted.value), wanted.key or secrets.token_hex(16)
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
            if from_id is not None and from_id not in scopes.collections_of(
                session, project_id, projects.ANY_ROLE
            ):
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
        value=value if action == "score" else None,
        tags=tuple(tags.parse(tag)) if action in ("tag", "untag") else (),
        collection=collection,
        out_of=view.filter.collection,
        key=key,
    )
    result = change(engine, user, project_id, wanted)
    there = urlsplit(safe_redirect_path(back) if back else library_address(project_id, view))
    if by_htmx(request) and not everything and len(result.chosen) <= PER_PAGE * 5 and not back:
        return changed_tiles(request, engine, settings, project_id, view, action, result)
    done = {"done": action, "n": str(result.changed if action == "score" else len(result.chosen))}
    if result.event_id:
        done["undo"] = str(result.event_id)
    return redirect(request, with_done(there.path, there.query, done))


def changed_tiles(
    request: Request, engine: Engine, settings: Settings, project_id: int, view: View,
    action: str, result: Changed,
) -> Response:  # fmt: skip
    """The tiles as they are now, each in its place, and a toast."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        resolved = scopes.resolve(session, project, view.filter, settings)
        place = LibraryPlace(query=view.query())
        n = result.changed if action == "score" else len(result.chosen)
        context = {
            "project": project, "view": view, "by": predictor(resolved),
            "tiles": tiles.tiles(session, project, resolved, result.chosen),
            "toast": done_toast(project, action, n, result.event_id, place),
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
    """An older address; `queue` is that of the page it was asked for on."""
    image = re.fullmatch(r"/projects/\d+/images/(\d{1,18})", urlsplit(queue).path)
    place = ImagePlace(image=int(image[1])) if image else LibraryPlace(query=urlsplit(queue).query)
    return take_back(request, engine, settings, user, project_id, event_id, place)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid("“image” is the number of one.")
    return int(text)


# --- for programs --------------------------------------------------------------------------------


class NewChange(BaseModel):
    """Do something to `images`, or to all that match `filter` (as a saved filter keeps it). A score
    takes a `value` (where labels are classes, the number of one), a tag `tags`, a collection its
    name; `move` also the id it moves out of."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    images: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(default=[], max_length=bulk.MOST)
    filter: dict[str, Any] | None = None
    value: StrictInt | None = None
    tags: list[str] = Field(default=[], max_length=50)
    collection: str = Field(default="", max_length=120)
    out_of: int | None = Field(default=None, ge=1, lt=2**63)
    key: str = Field(default="", max_length=80)


@api.post("/projects/{project_id}/library")
def change_images(
    engine: EngineDep, user: AnnotatorUser, project_id: Id, body: NewChange
) -> dict[str, Any]:
    """Score, tag, collect, take out or bring back many images. `event_id` is what an undo names."""
    fields = body.model_dump(exclude={"images", "filter", "tags"})
    named = tags.parse(",".join(body.tags)) if body.tags else []
    wanted = Change(
        images=tuple(body.images),
        filter=filters.from_dict(body.filter) if body.filter is not None else None,
        tags=tuple(named),
        **fields,
    )
    result = change(engine, user, project_id, wanted)
    return {
        "chosen": len(result.chosen), "changed": result.changed,
        "event_id": result.event_id or None,
    }  # fmt: skip
