"""Which pages serve which kinds of project. Most serve all; those that rest on a scale or a
threshold are of projects that score, and say so to one with classes; three are of projects with
classes alone."""

from fastapi import Request

from tastemaker.auth.identity import is_id
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Project
from tastemaker.scores import class_changes, classes

# Modules of pages, by their names, all of whose routes are of one kind.
SCORES_ONLY = (
    "audits", "pairs", "priors", "results", "series", "stars", "write_back",
)  # fmt: skip
CLASSES_ONLY = ("classes", "confusion", "routers")
# Older addresses of a correction, below it: of images that passed and fail now, or the other way.
FLIPS = "/projects/{project_id}/compare/"

IN_WORDS = {"scores": "scores", "classes": "classes", "both": "scores, classes", "": ""}


def served_by(module: str, address: str) -> str:
    """Which kinds of project an address of a module of pages serves: `scores`, `classes` or `both`;
    empty where it is about no project."""
    if module in SCORES_ONLY or address.startswith(FLIPS):
        return "scores"
    if module in CLASSES_ONLY:
        return "classes"
    return "both" if "{project_id}" in address or "{version_id}" in address else ""


def only_scores(request: Request) -> None:
    """A dependency of routes for projects that score. Raises `Conflict` for one with classes."""
    if (project := _project_of(request)) is not None:
        classes.check_scores(project)


def only_classes(request: Request) -> None:
    """A dependency of routes for projects with classes. Raises `Conflict` for one that scores."""
    if (project := _project_of(request)) is not None:
        class_changes.check_classes(project)


def _project_of(request: Request) -> Project | None:
    text = str(request.path_params.get("project_id", ""))
    if not is_id(text):
        return None
    with reading(request.app.state.engine) as session:
        return session.get(Project, int(text))
