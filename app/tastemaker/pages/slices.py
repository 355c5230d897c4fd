"""Slices and expectations: what a version makes of parts of the library, and what it must."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project
from tastemaker.encoding.encoder_specs import reads_text
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.evaluation import expectations, slices
from tastemaker.learning.version_metrics import SliceMetrics, SliceSize
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession
from tastemaker.pages.formats import share
from tastemaker.pages.render import render, see_other, shell
from tastemaker.scores import classes

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")


# --- the page ------------------------------------------------------------------------------------


@router.get("/projects/{project_id}/slices")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    version: str = "",
) -> Response:
    return render(request, "slices.html", None, context(session, project, version))


def context(
    session: Session,
    project: Project,
    number: str = "",
    typed: Mapping[str, Any] | None = None,
    error: TastemakerError | None = None,
) -> dict[str, Any]:
    """With an `error`, the form it came from is shown as it was filled in (`typed`)."""
    ready = versions.list_ready(session, project)
    chosen = versions.chosen(session, project, number)
    rows = slices.listing(session, project)
    report = expectations.check(session, chosen) if chosen else expectations.Report()
    return shell(session, project, "versions") | {
        "versions": ready,
        "chosen": chosen,
        "rows": [(row, slices.in_words(session, row)) for row in rows],
        "report": report,
        "stated": len(expectations.listing(session, project)),
        "lacking": [(r.name, lacking(r)) for r in slices.unmeasured(session, project, chosen)]
        if chosen
        else [],
        "history": expectations.history(ready),
        "wanted": expectations.wanted,
        "tags": slices.tags(session, project),
        "reads_text": reads_text(project.encoder),
        "measures": expectations.measures(project),
        "kinds": classes.of_project(session, project),
        "bounds": expectations.BOUNDS,
        "as_typed": expectations.typed,
        "typed": {"form": "", **(typed or {})},
        "error": error,
    }


def lacking(row: SliceSize) -> str:
    """What a sentence says of an under-represented slice behind its name."""
    rate = row.pass_rate if isinstance(row, SliceMetrics) else None
    passes = "" if rate is None else f", pass rate {share(rate)}"
    return (
        f"{share(row.training_share)} of the training labels, "
        f"{share(row.library_share)} of the library{passes}."
    )


# --- changing them -------------------------------------------------------------------------------


@router.post("/projects/{project_id}/slices")
def add(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    project_id: Id,
    kind: Annotated[str, Form()] = "tag",
    name: Annotated[str, Form()] = "",
    tag: Annotated[str, Form()] = "",
    prompt: Annotated[str, Form()] = "",
    share: Annotated[str, Form()] = "5",
) -> Response:
    typed = {"form": kind, "name": name, "tag": tag, "prompt": prompt, "share": share}
    try:
        if kind == "tag":
            definition: Mapping[str, Any] = {"tag": tag}
        else:
            definition = slices.by_text(engine, project_id, prompt, as_share(share))
        with writing(engine) as session:
            project = projects.get(session, project_id)
            slices.add(session, project, kind, definition, name)
    except TastemakerError as error:
        return again(request, engine, project_id, typed, error)
    return see_other(f"/projects/{project_id}/slices")


@router.post("/projects/{project_id}/slices/{slice_id}/remove")
def remove(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    with writing(engine) as session:
        slices.remove(session, slices.get(session, projects.get(session, project_id), slice_id))
    return see_other(f"/projects/{project_id}/slices")


@router.post("/projects/{project_id}/slices/{slice_id}/search")
def search_again(_: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> Response:
    """Look for the images nearest to a slice's text anew: some may have come since."""
    slices.search_again(engine, project_id, slice_id)
    return see_other(f"/projects/{project_id}/slices")


@router.post("/projects/{project_id}/expectations")
def expect(
    _: AdminUser,
    request: Request,
    engine: EngineDep,
    project_id: Id,
    slice_id: Annotated[int, Form()] = 0,
    measure: Annotated[str, Form()] = "mean",
    of: Annotated[str, Form(max_length=20)] = "",
    bound: Annotated[str, Form()] = "at most",
    value: Annotated[str, Form()] = "",
    blocks: Annotated[bool, Form()] = False,
    expectation_id: Annotated[int, Form()] = 0,
) -> Response:
    """State what a slice must score, or change that (`expectation_id`). `of` is the number of the
    class that a measure is of."""
    typed = {
        "form": f"expectation-{expectation_id}", "slice_id": slice_id, "measure": measure, "of": of,
        "bound": bound, "value": value, "blocks": blocks,
    }  # fmt: skip
    try:
        with writing(engine) as session:
            project = projects.get(session, project_id)
            expectations.expect(
                session, project, slice_id, f"{measure}:{of}" if of else measure, bound,
                expectations.parse_limit(measure, value), blocks,
                expectation_id or None,
            )  # fmt: skip
    except TastemakerError as error:
        return again(request, engine, project_id, typed, error)
    return see_other(f"/projects/{project_id}/slices#expectations")


@router.post("/projects/{project_id}/expectations/{expectation_id}/remove")
def remove_expectation(
    _: AdminUser, engine: EngineDep, project_id: Id, expectation_id: Id
) -> Response:
    with writing(engine) as session:
        project = projects.get(session, project_id)
        expectations.remove(session, expectations.get(session, project, expectation_id))
    return see_other(f"/projects/{project_id}/slices#expectations")


def again(
    request: Request, engine: Engine, project_id: int, typed: Mapping[str, Any],
    error: TastemakerError,
) -> Response:  # fmt: skip
    """The page as it was, with what was typed and why it was refused beside it."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        page = context(session, project, typed=typed, error=error)
        return render(request, "slices.html", None, page, status=error.status)


def as_share(text: str) -> float:
    """“10”, “10 %” or “2,5” → 0.1, 0.1, 0.025."""
    try:
        value = float(text.replace("%", "").replace(",", ".").strip()) / 100
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Invalid(f"“{text[:20]}” is not a share.", "Give a number from 0 to 100, in per cent.")
    return value


# --- for programs --------------------------------------------------------------------------------


class NewSlice(Body):
    """`tag`, or `filter` (as the library takes it), or `prompt` with its `share` (0–0.5)."""

    kind: Literal["tag", "filter", "prompt"] = "tag"
    name: str = Field(default="", max_length=120)
    tag: str = ""
    filter: dict[str, Any] = Field(default_factory=dict)
    prompt: str = Field(default="", max_length=200)
    share: float = 0.05


class NewExpectation(Body):
    """`value` is a share: 0.1 means 10 %. With `blocks`, a version that misses it is published
    but not activated. `measure` is mean or pass_rate; in a project with classes accuracy, or
    recall, precision, f1 or share (of the images) with a class by its name or number:
    “recall:photo”."""

    slice_id: int = Field(ge=1, lt=2**63)
    measure: str = Field(default="mean", max_length=100)
    bound: Literal["at most", "at least"] = "at most"
    value: float
    blocks: bool = False


@api.get("/projects/{project_id}/slices")
def list_slices(
    _: ViewerUser, session: ReadSession, project: CurrentProject, version: str = ""
) -> dict[str, Any]:
    """Every slice with its numbers under a version (the active one), and every expectation with
    whether that version meets it; `under_represented` are those, and the largest tags besides, with
    less than half of their share of the labels. Before a version, `slices` hold names only."""
    return expectations.overview(session, project, version)


@api.post("/projects/{project_id}/slices", status_code=201)
def add_slice(_: AdminUser, engine: EngineDep, project_id: Id, body: NewSlice) -> dict[str, Any]:
    """A new slice: images with a tag, of a filter, or near a text."""
    definition: Mapping[str, Any] = {"tag": body.tag}
    if body.kind == "filter":
        definition = {"filter": body.filter}
    elif body.kind == "prompt":
        definition = slices.by_text(engine, project_id, body.prompt, body.share)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        row = slices.add(session, project, body.kind, definition, body.name)
        return slices.as_json(session, row)


@api.delete("/projects/{project_id}/slices/{slice_id}", status_code=204)
def remove_slice(user: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id) -> None:
    """Drop a slice and its expectations; no image is touched."""
    remove(user, engine, project_id, slice_id)


@api.post("/projects/{project_id}/slices/{slice_id}/search")
def search_slice_again(
    _: AdminUser, engine: EngineDep, project_id: Id, slice_id: Id
) -> dict[str, Any]:
    """Look for the images of a slice by text anew."""
    row = slices.search_again(engine, project_id, slice_id)
    with reading(engine) as session:
        return slices.as_json(session, row)


@api.post("/projects/{project_id}/expectations", status_code=201)
def add_expectation(
    _: AdminUser, engine: EngineDep, project_id: Id, body: NewExpectation
) -> dict[str, Any]:
    """What a slice must score: its mean or pass rate, or of classes its accuracy or the rate of
    one, at most, or at least, a value."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        stated = expectations.expect(session, project, **body.model_dump())
        return expectations.as_json(stated)


@api.put("/projects/{project_id}/expectations/{expectation_id}")
def change_expectation(
    _: AdminUser, engine: EngineDep, project_id: Id, expectation_id: Id, body: NewExpectation
) -> dict[str, Any]:
    """Change an expectation in place."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        stated = expectations.expect(
            session, project, **body.model_dump(), expectation_id=expectation_id
        )
        return expectations.as_json(stated)


@api.delete("/projects/{project_id}/expectations/{expectation_id}", status_code=204)
def drop_expectation(
    user: AdminUser, engine: EngineDep, project_id: Id, expectation_id: Id
) -> None:
    """Drop an expectation."""
    remove_expectation(user, engine, project_id, expectation_id)
