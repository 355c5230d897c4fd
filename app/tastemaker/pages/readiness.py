"""`GET /healthz`: the process answers. `GET /readyz`: it can do its work. Both without a login, so
they tell the names of what failed and nothing else."""

import logging
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from tastemaker import __version__, files
from tastemaker.auth.permissions import AnyVisitor, GuardedRoute
from tastemaker.config import Settings
from tastemaker.database.migration import current_revision, newest_revision
from tastemaker.errors import TastemakerError
from tastemaker.jobs import heartbeat
from tastemaker.pages.json_response import ValidJSON
from tastemaker.processes import logs

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)
log = logging.getLogger(__name__)

Check = Callable[[Settings, Engine], bool]


@router.get("/healthz")
def healthz(_: AnyVisitor) -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@router.get("/readyz")
def readyz(_: AnyVisitor, request: Request) -> Response:
    """200 where requests can be served, else 503; a worker that is not seen only degrades it."""
    settings, engine = request.app.state.settings, request.app.state.engine
    failed = [name for name, check in CHECKS.items() if not _passes(check, settings, engine)]
    if failed:
        logs.write(log, logging.WARNING, "not ready", failed=",".join(failed))
    degraded = [] if heartbeat.is_beating(settings) else ["worker"]
    status = "not ready" if failed else "ready"
    answer = {"status": status, "failed": failed, "degraded": degraded}
    return ValidJSON(answer, 503 if failed else 200)


def _passes(check: Check, settings: Settings, engine: Engine) -> bool:
    try:
        return check(settings, engine)
    except (OSError, SQLAlchemyError, TastemakerError):
        return False


def _database(_: Settings, engine: Engine) -> bool:
    current_revision(engine)
    return True


def _schema(_: Settings, engine: Engine) -> bool:
    return current_revision(engine) == newest_revision()


def _home(settings: Settings, _: Engine) -> bool:
    files.try_writing(settings.root)
    return True


def _disk(settings: Settings, _: Engine) -> bool:
    return files.free_space(settings.root) >= settings.min_free_gb * 2**30


CHECKS: dict[str, Check] = {
    "database": _database, "schema": _schema, "home": _home, "disk": _disk,
}  # fmt: skip
