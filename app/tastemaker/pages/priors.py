"""What a project starts from: the choices that a form offers, and the same for programs. The forms
themselves belong to the first page and to the settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects, versions
from tastemaker.auth.permissions import AdminUser, GuardedRoute, ViewerUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Project
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.errors import Invalid
from tastemaker.live.lineage import starts
from tastemaker.pages.deps import Body, CurrentProject, EngineDep, Id, ReadSession, SettingsDep
from tastemaker.publishing.start_from import heads_named
from tastemaker.versions import starting_heads
from tastemaker.versions.starting_heads import StartingHead

api = APIRouter(route_class=GuardedRoute, prefix="/api/v1")

NOTHING, FILE = "", "file"


@dataclass(frozen=True)
class Choice:
    """A version that can be started from: the value of its option, and what it is called."""

    value: str
    name: str


@dataclass(frozen=True)
class StartForm:
    """What was typed: a version by its id, `file`, or nothing; the path of the file, and what it
    was trained on where it does not say."""

    start: str = NOTHING
    head: str = ""
    head_encoder: str = ""


def choices(session: Session, encoder: str, project: Project | None = None) -> dict[str, Any]:
    """What a form for a project with this encoder offers."""
    return {
        "startable": [
            Choice(str(version.id), f"{name} {version.number}")
            for version, name in starting_heads.fitting(session, encoder, project)
        ],
        "other_encoders": starting_heads.other_encoders(session, encoder),
        "head_encoders": [encoder, *(e.name for e in known_encoders() if e.name != encoder)],
    }


def heads_typed(
    session: Session, settings: Settings, project: Project, typed: StartForm
) -> list[StartingHead]:
    """The head that a form names, or none."""
    if typed.start == NOTHING:
        return []
    if typed.start == FILE:
        path = typed.head.strip()
        if not path.lower().endswith(".safetensors"):
            raise Invalid(
                f"“{path[:300]}” is no .safetensors file." if path else "No file is named.",
                "Type the whole path of a head's .safetensors file on the machine that the program "
                "runs on.",
            )
        return heads_named(session, settings, project, [path], typed.head_encoder or None)
    number = int(typed.start) if typed.start.isdecimal() and len(typed.start) < 19 else 0
    return [starting_heads.head_of(session, settings, versions.get(session, number))]


# --- for programs --------------------------------------------------------------------------------


class StartFrom(Body):
    """`source`: PROJECT (its active version), PROJECT@VERSION, or the path of a .safetensors file
    on this machine; `encoder`: what that file was trained on, where it does not say."""

    source: str
    encoder: str | None = None


class Starts(Body):
    """All that a project is to start from; an empty list: nothing."""

    start_from: list[str]
    encoder: str | None = None


@api.get("/projects/{project_id}/priors")
def list_priors(
    _: ViewerUser, session: ReadSession, settings: SettingsDep, project: CurrentProject
) -> list[dict[str, Any]]:
    """The heads that a project starts from. `trust` is the probability that one is of use, going by
    the scores so far, and `slope` how much of its line is in the live model (below 0: turned
    round); `line_error` is what a network lost when a line followed it, in points of 0–10; `ready`
    is false while there are too few images to follow it on; `fits` is false, and it is left out,
    while the project works with another encoder."""
    return starts(session, settings, project)


@api.post("/projects/{project_id}/priors", status_code=201)
def add_prior(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: StartFrom
) -> list[dict[str, Any]]:
    """Start from one more head; the answer is all of them. A head of another encoder is refused,
    and one that knows this project's own scores."""
    heads = heads_read(engine, settings, project_id, [body.source], body.encoder)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        for head in heads:
            starting_heads.add(session, project, head)
        return starts(session, settings, project)


@api.put("/projects/{project_id}/priors")
def put_priors(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, body: Starts
) -> list[dict[str, Any]]:
    """Start from these heads and no others; the answer is all of them."""
    heads = heads_read(engine, settings, project_id, body.start_from, body.encoder)
    with writing(engine) as session:
        project = projects.get(session, project_id)
        starting_heads.start_from(session, project, heads)
        return starts(session, settings, project)


@api.delete("/projects/{project_id}/priors/{prior_id}")
def delete_prior(
    _: AdminUser, engine: EngineDep, settings: SettingsDep, project_id: Id, prior_id: Id
) -> list[dict[str, Any]]:
    """Start from this head no longer; the answer is those that are left."""
    with writing(engine) as session:
        project = projects.get(session, project_id)
        starting_heads.take_away(session, project, prior_id)
        return starts(session, settings, project)


def heads_read(
    engine: Engine, settings: Settings, project_id: int, named: Sequence[str], encoder: str | None
) -> list[StartingHead]:
    """The heads that a program names for a project."""
    with reading(engine) as session:
        return heads_named(session, settings, projects.get(session, project_id), named, encoder)
