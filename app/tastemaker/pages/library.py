"""The library: everything in a project as a fast grid, and each image on a page of its own.

The address holds the filter, the order and the place in it, so a page can be bookmarked, saved as
a slice and opened without a script. The tiles lie in one form; what is done to those selected, or
to all that match, is in `library_changes`.
"""

import secrets
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict
from sqlmodel import Session

from tastemaker import projects, scores, versions
from tastemaker.auth.origins import by_htmx
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser, takes
from tastemaker.config import Settings
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Project, Slice
from tastemaker.encoding.encoder_specs import reads_text
from tastemaker.errors import TastemakerError
from tastemaker.library import (
    bulk,
    classifiers,
    counting,
    filters,
    saved_filters,
    scopes,
    tags,
    tiles,
)
from tastemaker.library.filters import LibraryFilter
from tastemaker.library.orders import Page
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.library.tiles import Tile
from tastemaker.pages import keymap
from tastemaker.pages.deps import (
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.library_view import (
    PARAMETERS,
    PER_PAGE,
    View,
    copied_toast,
    done_toast,
    find,
    orders_of,
    predictor,
    view_of,
)
from tastemaker.pages.places import ImagePlace, LibraryPlace, with_done
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.queues.cards import QueueItem, cards
from tastemaker.versions import class_rows

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


# --- pages ---------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/library")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    engine: EngineDep,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    done: str = "",
    n: Annotated[int, Query(ge=0, lt=10**9)] = 0,
    undo: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    there: Annotated[int, Query(ge=0, lt=10**9)] = 0,
    gone: Annotated[int, Query(ge=0, lt=10**9)] = 0,
) -> Response:
    """A page of the grid. htmx asks for the next tiles alone. `done`, `n`, `undo`, and of copies
    `there` and `gone`, tell what a form has just done."""
    view = view_of(list(request.query_params.multi_items()))
    resolved = scopes.resolve(session, project, view.filter, settings)
    trouble: TastemakerError | None = None
    try:
        listed = find(session, engine, project, resolved, view, PER_PAGE)
    except TastemakerError as error:
        if not view.searches:
            raise
        trouble, listed = error, Page([])
    shown = tiles.tiles(session, project, resolved, listed.ids)
    context: dict[str, Any] = {
        "view": view, "tiles": shown, "listed": listed, "project": project,
        "by": predictor(resolved), "trouble": trouble,
        "next": view.query(after=listed.after) if listed.after else "",
    }  # fmt: skip
    if by_htmx(request) and view.after:
        return render(request, "library.html", "more", context)
    context |= around(session, project, view, resolved, bool(shown))
    context |= {
        **keymap.context(person, kinds_of(request, project)),
        "key": secrets.token_hex(16),
        "toast": copied_toast(n, there, gone)
        if done == "copied"
        else done_toast(project, done, n, undo, LibraryPlace(query=view.query())),
    }
    status = trouble.status if trouble else 200
    shown_in = shell(session, project, "library") | context
    return render(request, "library.html", None, shown_in, status=status)


def around(
    session: Session, project: Project, view: View, resolved: ResolvedFilter, any_shown: bool
) -> dict[str, Any]:
    """What stands around the grid: the counts, and what one can filter by."""
    counted = None if view.searches else counting.count(session, project, resolved)
    if not any_shown and not view.after and not view.searches:
        counted = counting.Count(0)
    tried = scopes.collections_of(session, project.id, projects.TEST_RUN)
    role = projects.TEST_RUN if view.filter.collection in tried else view.filter.role
    return {
        "count": counted,
        "size": projects.size(session, project, role),
        "collections": scopes.collections_of(session, project.id),
        "tried": tried,
        "versions": [version.number for version in versions.list_ready(session, project)],
        "active": versions.active(session, project),
        "classifiers": classifiers.choices(session, project),
        "common": tags.most_common(session, project),
        "saved": saved_filters.list_saved(session, project),
        "orders": orders_of(project),
        "reads_text": reads_text(project.encoder),
    }


@router.get("/projects/{project_id}/library/tags")
def known_tags(
    _: ViewerUser, request: Request, session: ReadSession, project: CurrentProject, tag: str = ""
) -> Response:
    """Tags to choose from while one is typed."""
    listed = [tags.TagCount(name, 0) for name in tags.starting_with(session, tag[:100])]
    context = {"common": listed or tags.most_common(session, project), "project": project}
    return render(request, "library.html", "known_tags", context)


@router.get("/projects/{project_id}/images/{image_id}")
def one(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    person: CurrentAnnotator,
    image_id: Id,
    done: str = "",
    n: Annotated[int, Query(ge=0, lt=10**9)] = 0,
    undo: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    facts = facts_of(session, settings, project, image_id)
    newest = scores.newest_undoable(session, project, person)
    mine = newest is not None and newest.image_id == image_id
    item = QueueItem(image_id, scores.Origin.LIBRARY, "")
    place = ImagePlace(image=image_id)
    context = {
        "facts": facts,
        "told": told_by_version(session, project, image_id),
        "image": facts.image,
        "tile": facts.tile,
        "card": cards(session, settings, project, person, "one", [item])[0],
        "place": place,
        "by": predictor(scopes.resolve(session, project, LibraryFilter())),
        "common": tags.most_common(session, project),
        "undo": newest.id if newest is not None and mine else 0,
        **keymap.context(person, kinds_of(request, project)),
        "key": secrets.token_hex(16),
        "here_at": f"/projects/{project.id}/images/{image_id}",
        "toast": done_toast(project, done, n, undo, place),
    }
    return render(request, "image.html", None, shell(session, project, "library") | context)


def told_by_version(
    session: Session, project: Project, image_id: int
) -> dict[int, dict[int, float]]:
    """Version id → class number → its probability by a head that never saw the image."""
    if project.labelling == "scores":
        return {}
    ready = {version.id: version for version in versions.list_ready(session, project)}
    return {
        row.version_id: class_rows.shares(row, ready[row.version_id].classes)
        for row in class_rows.of_image(session, image_id)
        if row.version_id in ready
    }


def facts_of(
    session: Session, settings: Settings, project: Project, image_id: int
) -> tiles.ImageFacts:
    """Raises `NotFound` for an image that is not the project's."""
    resolved = scopes.resolve(session, project, LibraryFilter(), settings)
    bulk.require_images(session, project, image_id)
    return tiles.image_facts(session, settings, project, resolved, image_id)


# --- for programs --------------------------------------------------------------------------------


@api.get("/projects/{project_id}/library")
@takes(*PARAMETERS)
def list_images(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    engine: EngineDep,
    settings: SettingsDep,
    project: CurrentProject,
    n: Annotated[int, Query(ge=1, le=500)] = PER_PAGE,
) -> dict[str, Any]:
    """A stretch of the library. The parameters are those of the page's address: `collection`,
    `tag` (several), `scored`, `said`, `label_min`, `label_max`, `predicted_from`, `predicted_to`
    (0–10; `predicted_min` and `predicted_max` are the same in per cent), `labelled` and
    `predicted_as` (the number of a class, where labels are such), `classified` (`PROJECT:CLASS`,
    what the classifier of another project says), `version`, `name`, `relatives`,
    `removed`, `role` (`test-run` for images of test runs, which are left out otherwise), `sort`,
    `apart`, `like`, `text`. `after` is the `next` of the answer before."""
    view = view_of(list(request.query_params.multi_items()))
    resolved = scopes.resolve(session, project, view.filter, settings)
    listed = find(session, engine, project, resolved, view, n)
    counted = None if view.searches else counting.count(session, project, resolved)
    return {
        "images": [_tile_json(t) for t in tiles.tiles(session, project, resolved, listed.ids)],
        "next": listed.after or None,
        "predicted_by": predictor(resolved) or None,
        "count": asdict(counted) if counted else None,
    }


@api.get("/projects/{project_id}/library/{image_id}")
def show_facts(
    _: ViewerUser,
    session: ReadSession,
    settings: SettingsDep,
    project: CurrentProject,
    image_id: Id,
) -> dict[str, Any]:
    """Everything the project knows of one image, its whole history among it."""
    facts = facts_of(session, settings, project, image_id)
    return _tile_json(facts.tile) | {
        "sha256": facts.image.sha256,
        "width": facts.image.width,
        "height": facts.image.height,
        "taken_at": facts.image.taken_at or None,
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
                "version": version.number, "score": prediction.score,
                "out_of_fold": prediction.out_of_fold, "uncertainty": prediction.uncertainty,
            }
            for version, prediction in facts.predicted
        ],
        "near_duplicates": [tile.image_id for tile in facts.kin],
        "neighbours": [asdict(neighbour) for neighbour, _ in facts.neighbours],
        "paths": [asdict(place) for place in facts.places],
    }  # fmt: skip


@api.get("/projects/{project_id}/tags")
def list_tags(
    _: ViewerUser, session: ReadSession, project: CurrentProject, begin: str = ""
) -> list[dict[str, Any]]:
    """The project's most common tags; or, with `begin`, those of the library that begin so."""
    if begin.strip():
        return [{"tag": tag} for tag in tags.starting_with(session, begin[:100])]
    return [asdict(tag) for tag in tags.most_common(session, project)]


def _tile_json(tile: Tile) -> dict[str, Any]:
    pictures = {
        "view": f"/images/{tile.image_id}/view" if tile.has_pixels else None,
        "thumb": f"/images/{tile.image_id}/thumb" if tile.has_pixels else None,
    }
    return asdict(tile) | pictures


def _utc(at: datetime) -> str:
    return at.isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


# --- saved filters: what a person looks for often, by name -------------------------------------


class NewFilter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    filter: dict[str, Any]


@router.post("/projects/{project_id}/library/filters")
def save_filter(
    _: AdminUser,
    engine: EngineDep,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    query: Annotated[str, Form()] = "",
) -> Response:
    view = view_of(parse_qsl(query))
    with writing(engine) as session:
        saved_filters.save(session, projects.get(session, project_id), name, view.filter)
    there = with_done(f"/projects/{project_id}/library", view.query(), {"done": "saved"})
    return see_other(there)


@router.post("/projects/{project_id}/library/filters/{slice_id}/delete")
def forget_filter(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        saved_filters.delete(session, projects.get(session, project_id), slice_id)
    return see_other(f"/projects/{project_id}/library?done=forgotten")


@api.get("/projects/{project_id}/filters")
def list_filters(
    _: ViewerUser, session: ReadSession, project: CurrentProject
) -> list[dict[str, Any]]:
    """The saved filters, by name."""
    return [_filter_json(row) for row, _ in saved_filters.list_saved(session, project)]


@api.post("/projects/{project_id}/filters", status_code=201)
def create_filter(
    _: AdminUser, engine: EngineDep, project_id: Id, body: NewFilter
) -> dict[str, Any]:
    """Save a filter under a name; one of that name is replaced."""
    wanted = filters.from_dict(body.filter)
    with writing(engine) as session:
        return _filter_json(
            saved_filters.save(session, projects.get(session, project_id), body.name, wanted)
        )


@api.delete("/projects/{project_id}/filters/{slice_id}", status_code=204)
def delete_filter(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    """Drop a saved filter; no image is touched."""
    with writing(engine) as session:
        saved_filters.delete(session, projects.get(session, project_id), slice_id)
    return Response(status_code=204)


def _filter_json(row: Slice) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, **row.definition}
