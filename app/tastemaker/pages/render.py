"""One way to render: `render(request, page, block, context)`.

A page is a template; its blocks are its fragments. The view picks the block, never the client.
Errors go through here as well: the same sentence as a page, as a toast or as JSON. How numbers and
times are written is in `formats`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2_fragments import render_block
from markupsafe import Markup
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import object_session
from sqlmodel import Session, col, func, select

from tastemaker import embeddings, projects
from tastemaker.auth import accounts
from tastemaker.auth.identity import is_id
from tastemaker.auth.origins import by_htmx, for_program, referring_path
from tastemaker.auth.sub_path import under
from tastemaker.config import shipped
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Job, Label, Project
from tastemaker.errors import Stale, TastemakerError
from tastemaker.files.json_text import json_text
from tastemaker.jobs import lanes, seconds_left
from tastemaker.jobs.progress import IN_MB
from tastemaker.live import live_model
from tastemaker.pages import charts, formats, keymap, plots
from tastemaker.pages.json_response import ValidJSON
from tastemaker.pages.project_jobs import importing, newest_job
from tastemaker.pictures.formats import IMAGE_SUFFIXES
from tastemaker.queues import reviews
from tastemaker.queues.cards import picture_address
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList
from tastemaker.training.trainable import ENOUGH_TO_TRAIN


def render(
    request: Request,
    page: str,
    block: str | tuple[str, ...] | None,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A whole page (`block=None`) or some of its blocks, one after the other."""
    if block is not None:
        blocks = (block,) if isinstance(block, str) else block
        fragments = [(page, name) for name in blocks]
        return render_blocks(request, fragments, context, status=status, headers=headers)
    values = {"request": request, "fragment": False, **context}
    return _response(request, environment().get_template(page).render(values), status, headers)


def render_blocks(
    request: Request,
    blocks: Sequence[tuple[str, str]],
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Blocks of several pages, each as (page, block), one after the other."""
    values = {"request": request, "fragment": True, **context}
    body = "\n".join(render_block(environment(), page, name, values) for page, name in blocks)
    return _response(request, body, status, headers)


def _response(
    request: Request, body: str, status: int, headers: Mapping[str, str] | None
) -> HTMLResponse:
    """Half a pair of UTF-16, which a JSON column can hold and no page can, shows as “?”: one bad
    letter in somebody's text breaks no page."""
    body = under(request.app.state.settings.root_path, body)
    return HTMLResponse(body.encode("utf-8", "replace"), status, dict(headers or {}))


def shell(session: Session, project: Project | None = None, here: str = "") -> dict[str, Any]:
    """What the frame around every page shows: the projects, where we are, how much is running, and
    whether the project's images could not be embedded."""
    names = session.exec(select(Project.id, Project.name).order_by(col(Project.id))).all()
    under_way = select(func.count()).where(col(Job.state).in_(("queued", "running")))
    return {
        "projects": names,
        "project": project,
        "here": here,
        "jobs_under_way": int(session.exec(under_way).one()),
        "embedding": failed_embedding(session, project) if project else None,
    }


def failed_embedding(session: Session, project: Project) -> Job | None:
    """The project's newest embedding, if it failed and left images without a vector: they can be
    neither predicted nor learned from."""
    newest = newest_job(session, project, "embed")
    if newest is None or newest.state != "failed":
        return None
    role = projects.ANY_ROLE
    embedded = embeddings.count(session, project.encoder_id, project.id, role)
    return newest if embedded < projects.size(session, project, role) else None


def held_up_by(job: Job) -> int | None:
    """The job that a queued one waits for, told by the session that the job was read in."""
    session = object_session(job)
    return None if session is None else lanes.held_up_by(cast(Session, session), job)


def next_step(request: Request, project: Project) -> str:
    """What a page with nothing to show should send a person to: “add” images, “wait” for those that
    come in, “score” some, or “train”. Asked by the templates, and only where a page is empty."""
    with reading(request.app.state.engine) as session:
        if projects.pool_size(session, project) == 0:
            return "wait" if importing(session, project) else "add"
        some = select(Label.image_id).where(Label.project_id == project.id).limit(ENOUGH_TO_TRAIN)
        scored = session.exec(select(func.count()).select_from(some.subquery())).one()
        return "train" if scored >= ENOUGH_TO_TRAIN else "score"


def label_errors(request: Request, project: Project) -> int:
    """The number beside Review: possible label errors to look at."""
    state = request.app.state
    if live_model.read_live(state.settings, project.id) is None:
        return 0
    with reading(state.engine) as session:
        return reviews.label_errors(session, state.settings, project)


@dataclass(frozen=True)
class Scorer:
    """Who scores on a page, and whether there are `several` who could."""

    id: int
    name: str
    several: bool


def scorer(request: Request) -> Scorer:
    """Who scores on this page, looked up once a request."""
    known: Scorer | None = getattr(request.state, "scorer", None)
    if known is None:
        with reading(request.app.state.engine) as session:
            person = request.state.user.person(session)
            several = sum(not one.disabled for one in accounts.list_all(session)) > 1
            known = request.state.scorer = Scorer(person.id, person.name, several)
    return known


def kinds_of(request: Request, project: Project) -> ClassList | None:
    """The classes of the project of a page, looked up once a request; None where it scores."""
    if project.labelling == "scores":
        return None
    known: dict[int, ClassList] = getattr(request.state, "kinds", {})
    if project.id not in known:
        with reading(request.app.state.engine) as session:
            known = request.state.kinds = known | {project.id: classes.of(session, project.id)}
    return known[project.id]


def class_json(kinds: ClassList) -> str:
    """What the scripts of a page know of its classes: number → name and colour."""
    told = {row.number: {"name": row.name, "colour": row.colour} for row in kinds.all}
    return json_text(told, ascii_only=True)


def page_user_field(request: Request) -> Markup:
    """The hidden fields of every form that scores: whoever sends it later, it is this person's
    page, and of this library."""
    field = (
        '<input type="hidden" name="opened_for" value="{}">'
        '<input type="hidden" name="opened_in" value="{}">'
    )
    return Markup(field).format(scorer(request).id, request.app.state.library)


def see_other(path: str) -> RedirectResponse:
    """After a POST: look at that page now."""
    return RedirectResponse(path, status_code=303)


def load_anew() -> Response:
    """The answer to a block that asks how far something is, once that has ended: htmx loads the
    whole page again."""
    return Response(headers={"HX-Refresh": "true"})


def lead_to(path: str) -> Response:
    """The same, where its end is looked at on another page."""
    return Response(headers={"HX-Redirect": path})


def redirect(request: Request, path: str) -> Response:
    """Leave for another page, by htmx or without it."""
    return Response(headers={"HX-Redirect": path}) if by_htmx(request) else see_other(path)


def error_response(request: Request, error: TastemakerError) -> Response:
    """An error as the sender can read it: JSON under /api, a toast for htmx, else a page."""
    headers = {"Retry-After": "2"} if error.status == 503 else {}
    request.state.refusal = error.code or type(error).__name__
    if for_program(request):
        body: dict[str, Any] = {"error": error.message, "hint": error.hint} | error.about
        if error.code:
            body["code"] = error.code
        return ValidJSON(body, error.status, headers)
    reference = getattr(request.state, "request_id", "")
    if by_htmx(request):
        headers["HX-Reswap"] = "none"  # the page keeps what was typed; only the toast is swapped
        hint = f"{error.hint} Reference {reference}" if error.status == 500 else error.hint
        toast = {"text": error.message, "hint": hint, "wrong": True}
        context: dict[str, Any] = {"toast": toast}
        if isinstance(error, Stale) and "image_id" in request.path_params:
            context["renewed"] = {
                "image_id": request.path_params["image_id"], "event_id": error.newest,
            }  # fmt: skip
        return render(
            request, "_partials/toast.html", "toast", context, status=error.status, headers=headers
        )
    page = {
        "error": error, "reference": reference, "back": referring_path(request),
        "project": None, "here": "",
    }  # fmt: skip
    # Only a request that was let in has been routed: strangers see no project's name.
    text = request.path_params.get("project_id", "")
    project_id = int(text) if is_id(text) else 0
    # The database may be what this is about.
    with suppress(DBAPIError), reading(request.app.state.engine) as session:
        if project_id and (project := session.get(Project, project_id)):
            page |= shell(session, project)
    return render(request, "error.html", None, page, status=error.status, headers=headers)


@lru_cache(maxsize=32)
def asset(name: str) -> str:
    """Address of a static file, with a hash of its content so that it may be cached for good."""
    content = (shipped("static") / name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(shipped("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= formats.FILTERS | {"key": keymap.drawn}
    templates.globals |= {
        "asset": asset, "charts": charts, "plots": plots, "seconds_left": seconds_left,
        "held_up_by": held_up_by,
        "in_mb": IN_MB,
        "next_step": next_step, "label_errors": label_errors, "scorer": scorer,
        "opened_for": page_user_field,
        "kinds_of": kinds_of, "class_json": class_json,
        "enough_to_train": ENOUGH_TO_TRAIN, "picture": picture_address,
        "picture_files": ",".join(sorted(IMAGE_SUFFIXES)),
    }  # fmt: skip
    # As globals, macros are at hand in a page and in a block rendered alone.
    templates.globals["parts"] = templates.get_template("_partials/parts.html").module
    templates.globals["cards_of"] = templates.get_template("_partials/cards.html").module
    icons: Any = templates.get_template("_partials/icons.html").module
    templates.globals["icon"] = icons.icon
    return templates
