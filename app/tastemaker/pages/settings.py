"""A project's settings, and the keys of whoever is at them."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import jobs, projects, scores, versions
from tastemaker.auth.identity import Identity
from tastemaker.auth.permissions import AdminUser, AnnotatorUser, GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Project
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.errors import Conflict, Invalid, TastemakerError
from tastemaker.learning import recipes
from tastemaker.library import duplication
from tastemaker.library.deletion import delete_project
from tastemaker.live import lineage
from tastemaker.pages import keymap, priors
from tastemaker.pages.deps import (
    Body,
    CurrentAnnotator,
    CurrentProject,
    EngineDep,
    Id,
    ReadSession,
    SettingsDep,
)
from tastemaker.pages.priors import StartForm
from tastemaker.pages.render import kinds_of, render, see_other, shell
from tastemaker.versions import predictions, starting_heads

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

FIELDS = ("name", "threshold", "recipe", "aggregate", "auto_train_every", "auto_train_drift")
SPARE_ROWS = 2  # empty brackets at the end of the form, to be filled in


@router.get("/projects/{project_id}/settings")
def page(
    _: ViewerUser,
    request: Request,
    session: ReadSession,
    project: CurrentProject,
    person: CurrentAnnotator,
    saved: bool = False,
) -> Response:
    return settings_page(request, session, project, person, as_typed(project), saved=saved)


async def form_fields(request: Request) -> dict[str, list[str]]:
    """A form as it was sent: unlike `Form()`, an emptied field is not one that was left out."""
    form = await request.form()
    return {name: [str(value) for value in form.getlist(name)] for name in form}


FormFields = Annotated[dict[str, list[str]], Depends(form_fields)]


@router.post("/projects/{project_id}/settings")
def change(
    request: Request, engine: EngineDep, user: AdminUser, project_id: Id, form: FormFields
) -> Response:
    """Save what the form holds; what it leaves out stays as it is. `suggest` only fills in brackets
    at the percentiles of the active version, to be looked at and saved."""
    fields: dict[str, Any] = {name: form[name][0] for name in FIELDS if name in form}
    fields["show_prediction_first"] = "show_prediction_first" in form
    if "bracket_from" in form:
        fields["brackets"] = list(
            zip(form["bracket_from"], form.get("bracket_name", []), strict=False)
        )
    try:
        if "suggest" in form:
            with reading(engine) as session:
                fields["brackets"] = suggested(session, projects.get(session, project_id))
                return page_again(request, session, user.person(session), project_id, fields)
        with writing(engine) as session:
            scores.change_project(session, projects.get(session, project_id), **parsed(fields))
    except TastemakerError as error:
        with reading(engine) as session:
            return page_again(request, session, user.person(session), project_id, fields, error)
    return see_other(f"/projects/{project_id}/settings?saved=1")


@router.post("/projects/{project_id}/priors")
def start_from(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AdminUser,
    project_id: Id,
    start: Annotated[str, Form()] = "",
    head: Annotated[str, Form()] = "",
    head_encoder: Annotated[str, Form()] = "",
) -> Response:
    """Start from one more head."""
    typed = StartForm(start, head, head_encoder)
    try:
        with reading(engine) as session:
            project = projects.get(session, project_id)
            heads = priors.heads_typed(session, settings, project, typed)
        with writing(engine) as session:
            for one in heads:
                starting_heads.add(session, projects.get(session, project_id), one)
    except TastemakerError as error:
        return refused(request, engine, user, project_id, typed_start=typed, start_error=error)
    return see_other(f"/projects/{project_id}/settings?saved=1#start")


@router.post("/projects/{project_id}/priors/{prior_id}/take-away")
def take_away(_: AdminUser, engine: EngineDep, project_id: Id, prior_id: Id) -> Response:
    """Start from this head no longer."""
    with writing(engine) as session:
        starting_heads.take_away(session, projects.get(session, project_id), prior_id)
    return see_other(f"/projects/{project_id}/settings?saved=1#start")


@router.post("/projects/{project_id}/keys")
def change_keys(
    request: Request, engine: EngineDep, user: AnnotatorUser, project_id: Id, form: FormFields
) -> Response:
    """Give actions keys of your own: an action and a key in turn."""
    chosen = dict(zip(form.get("action", []), form.get("key", []), strict=False))
    try:
        with writing(engine) as session:
            keymap.change(session, user.person(session), chosen)
    except TastemakerError as error:
        return refused(request, engine, user, project_id, typed_keys=chosen, keys_error=error)
    return see_other(f"/projects/{project_id}/settings?saved=1#keys")


@router.post("/projects/{project_id}/delete")
def delete(
    request: Request,
    engine: EngineDep,
    settings: SettingsDep,
    user: AdminUser,
    project_id: Id,
    name: Annotated[str, Form()] = "",
) -> Response:
    """Delete the project, once its name was typed. Its scores are kept as a file first."""
    try:
        delete_project(settings, engine, project_id, name)
    except TastemakerError as error:
        return refused(request, engine, user, project_id, delete_error=error)
    return see_other("/")


@router.post("/projects/{project_id}/duplicate")
def duplicate(
    request: Request,
    engine: EngineDep,
    user: AdminUser,
    project_id: Id,
    name: Annotated[str, Form()] = "",
    encoder: Annotated[str, Form()] = "",
) -> Response:
    """Make the project once more, with every score; without an encoder, on its own."""
    try:
        copy_id = duplicated(engine, project_id, name, encoder)["id"]
    except TastemakerError as error:
        return refused(
            request,
            engine,
            user,
            project_id,
            typed_copy={"name": name, "encoder": encoder},
            copy_error=error,
        )
    return see_other(f"/projects/{copy_id}/score")


def duplicated(engine: Engine, project_id: int, name: str, encoder: str | None) -> dict[str, Any]:
    """The new project in short, the ids of the jobs that make its vectors, and the names of the
    heads that it does not start from, because they read another encoder."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        copy = duplication.duplicate_project(session, project, name, encoder or None)
        waiting = jobs.unfinished(session, project_id=copy.id)
        return projects.summary(session, copy) | {
            "jobs": [job.id for job in waiting],
            "dropped_priors": duplication.dropped_priors(session, project, copy),
        }


# --- for programs --------------------------------------------------------------------------------


class Changes(Body):
    """What is named is changed, the rest stays. `threshold` and the lower ends of `brackets` are
    shares between 0 and 1."""

    name: str | None = None
    threshold: float | None = None
    recipe: str | None = None
    aggregate: str | None = None
    auto_train_every: int | None = None
    auto_train_drift: float | None = None
    show_prediction_first: bool | None = None
    brackets: list[tuple[float, str]] | None = None


class Keys(Body):
    """Action → key. An empty key goes back to the action's own."""

    keys: dict[str, str]


class Duplicate(Body):
    """What the new project is called, and its encoder where that is another one."""

    name: str
    encoder: str | None = None


class TypedName(Body):
    """The project's name, as a sign that this one is meant."""

    name: str


@api.post("/projects/{project_id}/settings")
def change_settings(
    _: AdminUser, engine: EngineDep, project_id: Id, body: Changes
) -> dict[str, Any]:
    """Change settings of a project, all or none."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        scores.change_project(session, project, **body.model_dump(exclude_none=True))
        return {field: getattr(project, field) for field in Changes.model_fields}


@api.get("/keys")
def show_keys(_: ViewerUser, person: CurrentAnnotator) -> dict[str, tuple[str, ...]]:
    """Which keys do what for you."""
    return keymap.of(person)


@api.post("/keys")
def choose_keys(engine: EngineDep, user: AnnotatorUser, body: Keys) -> dict[str, tuple[str, ...]]:
    """Give actions keys of your own; those that are not named keep theirs."""
    with writing(engine) as session:
        person = user.person(session)
        keymap.change(session, person, body.keys)
        return keymap.of(person)


@api.post("/projects/{project_id}/duplicate", status_code=201)
def duplicate_by_program(
    _: AdminUser, engine: EngineDep, project_id: Id, body: Duplicate
) -> dict[str, Any]:
    """Make a project once more: collections, scores with their origins, settings, slices, saved
    filters, and what it starts from. Where the encoder is another one, `jobs` are those that embed
    its images, and `dropped_priors` the heads that it cannot start from."""
    return duplicated(engine, project_id, body.name, body.encoder)


@api.post("/projects/{project_id}/delete")
def delete_by_program(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: TypedName
) -> dict[str, str]:
    """Delete a project; the answer names the file that its scores were kept in."""
    return {"scores": str(delete_project(settings, engine, project_id, body.name))}


# --- what the page shows -------------------------------------------------------------------------


def as_typed(project: Project) -> dict[str, Any]:
    """The settings as the fields of the form hold them."""
    return {
        "name": project.name, "threshold": f"{10 * project.threshold:g}",
        "recipe": project.recipe, "aggregate": project.aggregate,
        "auto_train_every": str(project.auto_train_every),
        "auto_train_drift": f"{project.auto_train_drift:g}",
        "show_prediction_first": project.show_prediction_first,
        "brackets": [(f"{100 * start:g}", name) for start, name in project.brackets],
    }  # fmt: skip


def parsed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, as the project takes it: points and percent become shares, empty brackets
    go."""
    values = dict(fields)
    if "threshold" in values:
        values["threshold"] = share(values["threshold"], 0.1, 9.9, "The threshold", "points", 10)
    if "auto_train_drift" in values:
        values["auto_train_drift"] = str(values["auto_train_drift"]).replace(",", ".")
    if "brackets" in values:
        values["brackets"] = [
            [share(start, 0, 99, "Where a bracket begins"), name]
            for start, name in values["brackets"]
            if start.strip() or name.strip()
        ]
    return values


def share(
    text: str, low: float, high: float, what: str, unit: str = "percent", whole: int = 100
) -> float:
    """A share as typed, in a unit of which so many are the whole."""
    try:
        typed = float(text.strip().rstrip("%").replace(",", "."))
    except ValueError:
        typed = math.nan
    if not low <= typed <= high:
        hint = f"Type a number such as {whole // 2}."
        raise Invalid(f"{what} lies between {low:g} and {high:g} {unit}.", hint)
    return typed / whole


def suggested(session: Session, project: Project) -> list[tuple[str, str]]:
    """Brackets as typed, at the percentiles of the active version's predictions."""
    version = versions.active(session, project)
    brackets = predictions.suggested_brackets(session, version) if version else []
    if not brackets:
        raise Conflict("There is no version yet whose predictions could be used.", "Train first.")
    return [(str(start), name) for start, name in brackets]


def page_again(
    request: Request, session: Session, person: Annotator, project_id: int,
    fields: Mapping[str, Any], error: TastemakerError | None = None,
) -> Response:  # fmt: skip
    """The page with what was typed, and why it was not saved."""
    project = projects.get(session, project_id)
    return settings_page(
        request, session, project, person, as_typed(project) | dict(fields), error=error
    )


def refused(
    request: Request, engine: Engine, user: Identity, project_id: int, **told: Any
) -> Response:  # fmt: skip
    """The page, with what was typed into another of its forms and why that was not done."""
    with reading(engine) as session:
        project = projects.get(session, project_id)
        person = user.person(session)
        return settings_page(request, session, project, person, as_typed(project), **told)


def settings_page(
    request: Request, session: Session, project: Project, person: Annotator,
    fields: Mapping[str, Any], *, saved: bool = False, error: TastemakerError | None = None,
    typed_keys: Mapping[str, str] | None = None, keys_error: TastemakerError | None = None,
    delete_error: TastemakerError | None = None, typed_copy: Mapping[str, str] | None = None,
    copy_error: TastemakerError | None = None, typed_start: StartForm | None = None,
    start_error: TastemakerError | None = None,
) -> Response:  # fmt: skip
    keys = keymap.of(person)
    key_fields = {action: person.keys.get(action, "") for action in keymap.DEFAULTS}
    context = {
        "recipes": recipes.IN_WORDS, "aggregates": scores.aggregates_of(project),
        "kinds": kinds_of(request, project),
        "fields": fields, "saved": saved, "error": error,
        "rows": [*fields["brackets"], *[("", "")] * SPARE_ROWS],
        "suggests": fields["brackets"] != as_typed(project)["brackets"] and error is None,
        "key_actions": keymap.DOES, "key_defaults": keymap.by_default(person), "keys": keys,
        "key_fields": key_fields | dict(typed_keys or {}), "keys_error": keys_error,
        "delete_error": delete_error, "copy_error": copy_error, "encoders": known_encoders(),
        "most_starts": starting_heads.MOST, "typed": typed_start or StartForm(),
        "start_error": start_error, "starts": [],
        "copy": {"name": f"{project.name} 2", "encoder": ""} | dict(typed_copy or {}),
    }  # fmt: skip
    if project.kind == "score" and request.state.user.is_admin:
        context |= priors.choices(session, project.encoder, project)
        context["starts"] = lineage.starts(session, request.app.state.settings, project)
    refusal = error or keys_error or delete_error or copy_error or start_error
    return render(
        request, "settings.html", None, shell(session, project, "settings") | context,
        status=refusal.status if refusal else 200,
    )  # fmt: skip
