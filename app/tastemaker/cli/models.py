"""Which model a command means: a file, a version of a project, or a router."""

from pathlib import Path
from typing import Any

from tastemaker.cli.terminal import database
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.errors import NotFound
from tastemaker.files.addresses import local_path

ROUTER = "router:"


def model_path(settings: Settings, model: str) -> Path:
    """The file of `FILE.safetensors` or `PROJECT@VERSION`; the folder of a router."""
    if _lies_there(model):
        return local_path(model)
    if model.startswith(ROUTER):
        from tastemaker.publishing import routers

        return routers.find_folder(settings, model.removeprefix(ROUTER))
    if "@" not in model:
        raise NotFound(
            f"There is no file {model}.",
            "Name a .safetensors file, PROJECT@active, PROJECT@v1.0, or router:NAME.",
        )
    from tastemaker import versions

    with database() as (_, engine), sessions.reading(engine) as session:
        version = versions.named(session, model)
        return versions.verify(settings, version)


def _lies_there(model: str) -> bool:
    """Whether it is the path of a head, or of a router's folder."""
    from tastemaker.files import is_file
    from tastemaker.learning.router_files import is_router

    path = local_path(model)
    return is_file(path) or is_router(path)


def promises(model: str) -> list[dict[str, Any]]:
    """What audits of a version said, where it is named by its project."""
    if _lies_there(model) or model.startswith(ROUTER):
        return []
    from tastemaker import versions
    from tastemaker.evaluation import audit_reports

    with database() as (_, engine), sessions.reading(engine) as session:
        version = versions.named(session, model)
        return [
            audit_reports.promise_json(one) for one in audit_reports.of_version(session, version)
        ]
