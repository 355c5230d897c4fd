"""What an endpoint asks for: settings, a snapshot to read from, the person, the project.

Reading goes through a dependency. Writing does not: an endpoint opens `writing(engine)` itself and
leaves the block before it answers, so a score is on disk before it looks saved. As a dependency,
the write lock would be taken in one thread of the pool and the endpoint would need a second one;
with as many waiting writers as the pool has threads, nobody could ever go on.
"""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine
from sqlmodel import Session

from tastemaker import projects
from tastemaker.auth.permissions import CurrentUser
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Annotator, Project

# SQLite's integers end at 2⁶³ − 1; a larger id is simply not there.
Id = Annotated[int, Path(ge=1, lt=2**63)]


# These two only look something up; as plain functions each would cost a trip to a thread.
async def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def read_session(request: Request) -> Iterator[Session]:
    with reading(request.app.state.engine) as session:
        yield session


SettingsDep = Annotated[Settings, Depends(settings_of)]
EngineDep = Annotated[Engine, Depends(engine_of)]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]


def current_annotator(session: ReadSession, user: CurrentUser) -> Annotator:
    """Whose scores a request shows. An endpoint that writes asks `user.person(session)` itself."""
    return user.person(session)


def current_project(project_id: Id, session: ReadSession) -> Project:
    return projects.get(session, project_id)


CurrentAnnotator = Annotated[Annotator, Depends(current_annotator)]
CurrentProject = Annotated[Project, Depends(current_project)]


class Body(BaseModel):
    """A JSON body: a field that is not known is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")
