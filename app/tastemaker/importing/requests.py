"""Asking for an import: what can be seen at once not to work is refused at once, the rest is the
job's to find out (`imports`)."""

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel
from sqlmodel import Session

from tastemaker import images, jobs, projects
from tastemaker.config import Settings
from tastemaker.database.tables import Job, Project
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import require_free_space
from tastemaker.files.addresses import local_path
from tastemaker.files.folders import FolderWalk
from tastemaker.files.roots import outside, within
from tastemaker.pictures import damage, formats
from tastemaker.pictures.formats import IMAGE_SUFFIXES
from tastemaker.scores import classes


class SyntheticPairs(BaseModel, frozen=True):
    """How an import makes pairs: the kinds of damage, what clean pictures and their twins are
    labelled as (as events hold it), and the seed that draws the damage."""

    kinds: tuple[str, ...]
    clean: int
    damaged: int
    seed: int


class NoPicture(Invalid):
    """A folder that could be gone through, and has not one picture in it."""


class ImportRequest(BaseModel, frozen=True):
    """The payload of an import job: `paths` on this machine, or uploads that lie in the folder
    `staging` below `incoming` as `files` (stored name, original name)."""

    collection: str
    role: str = "pool"
    paths: tuple[str, ...] = ()
    staging: str = ""
    files: tuple[tuple[str, str], ...] = ()
    scores_from_folders: bool = False
    synthetic: SyntheticPairs | None = None


def enqueue_import(
    session: Session,
    settings: Settings,
    resolved: list[Path],
    *,
    project: Project | None = None,
    collection: str | None = None,
    role: str = "pool",
    scores_from_folders: bool = False,
    synthetic: SyntheticPairs | None = None,
    asked_by: int = 0,
) -> Job:
    """Queue the import of files and folders that `validate_paths` has seen: going through a folder
    takes up to seconds, in which nothing else could be written. `synthetic` asks for damaged twins
    of what comes in."""
    projects.check_role(role)
    require_free_space(settings.root, settings.min_free_gb)
    name = images.validate_collection_name(collection or free_name(resolved[0])[:120])
    request = ImportRequest(
        collection=name, role=role, paths=tuple(map(str, resolved)),
        scores_from_folders=scores_from_folders, synthetic=synthetic,
    )  # fmt: skip
    return _enqueue(session, f"Import “{name}”", request, project, asked_by)


def request_upload_import(
    session: Session,
    settings: Settings,
    staging: Path,
    files: list[tuple[str, str]],
    *,
    project: Project | None = None,
    collection: str = "Uploads",
    synthetic: SyntheticPairs | None = None,
    asked_by: int = 0,
) -> Job:
    """Queue the import of uploads that lie in `staging` (a folder inside `settings.incoming`) as
    (stored file name, original name)."""
    require_free_space(settings.root, settings.min_free_gb)
    if not files:
        raise Invalid("No file was sent.", "Choose pictures or a zip of pictures.")
    collection = images.validate_collection_name(collection)
    title = f"Add {len(files)} uploaded file{'s' * (len(files) != 1)}"
    request = ImportRequest(
        collection=collection, role="pool", staging=staging.name, files=tuple(files),
        scores_from_folders=False, synthetic=synthetic,
    )  # fmt: skip
    return _enqueue(session, title, request, project, asked_by)


def pairs_for(
    session: Session, project: Project | None, kinds: Iterable[str], clean: str, damaged: str,
    role: str = projects.POOL,
) -> SyntheticPairs:  # fmt: skip
    """What somebody asked for, checked against the classes of the project. Raises `Invalid`."""
    chosen = damage.validate_kinds(kinds)
    if project is None or project.labelling == "scores":
        raise Invalid(
            "Damaged twins are for a project with classes: they are labelled as one of them. "
            "Nothing was imported.",
            "Make one: tastemaker project create NAME --kind class --classes clean,damaged.",
        )
    if role != projects.POOL:
        raise Invalid("Damaged twins train, so they cannot be a test run.", "Use the role pool.")
    known = classes.of(session, project.id)
    labels = known.parse(clean or classes.NO_TAG), known.parse(damaged)
    if labels[0] == labels[1]:
        raise Invalid(
            f"Clean pictures and their twins would both be “{known.words(labels[0])}”.",
            "Name two different classes.",
        )
    return SyntheticPairs(kinds=chosen, clean=labels[0], damaged=labels[1], seed=project.seed)


def _enqueue(
    session: Session, title: str, request: ImportRequest, project: Project | None, asked_by: int
) -> Job:
    """The job; one that waits with the same request, as after a second click, is not doubled."""
    payload = request.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    project_id = project.id if project else None
    return jobs.enqueue(session, "import", title, payload, project_id, once=True, asked_by=asked_by)


def validate_paths(
    settings: Settings, paths: Iterable[str | Path], *, with_vectors: bool = False,
    may_be_empty: bool = False,
) -> list[Path]:  # fmt: skip
    """Files and folders to import, resolved. Raises `NotFound` or `Invalid` for what can be seen
    at once not to work; `NoPicture` for a folder without one."""
    resolved = []
    for place in paths:
        path = local_path(place)
        if "\0" not in str(place) and not within(path.resolve(), settings.roots):
            raise outside(str(place), settings.roots)
        why = "Check its permissions."
        try:
            there = "\0" not in str(place) and path.exists()
            wanted = os.R_OK | (os.X_OK if there and path.is_dir() else 0)
            readable = there and os.access(path, wanted, effective_ids=True)
        except PermissionError:  # a folder on the way there
            there, readable = True, False
        except OSError as error:
            there, readable = error.errno != errno.ENAMETOOLONG, False
            why = f"{error.strerror}: is its disk or share connected?"
        if not there:
            raise NotFound(f"There is no file or folder “{str(place)[:300]}”.", "Check the path.")
        if not readable:
            raise Invalid(f"“{place}” cannot be read.", why)
        path = path.resolve()
        if settings.is_own(path):
            raise Invalid(
                f"“{place}” lies in Tastemaker's own folder.", "Import the original files."
            )
        suffixes = IMAGE_SUFFIXES | {".npy"} if with_vectors else IMAGE_SUFFIXES
        if path.is_dir() and not may_be_empty:
            _require_any(path, str(place), suffixes | {".zip"})
        if path.is_file() and path.suffix.lower() not in suffixes | {".zip"}:
            raise Invalid(f"“{path.name}” is not a picture.", way_in(path))
        resolved.append(path)
    if not resolved:
        raise Invalid("Nothing to import was named.", "Name a folder or files.")
    return resolved


def way_in(path: Path) -> str:
    """What to do with a file that is not for `import`."""
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".pth", ".pt", ".ckpt"):
        return f"A model comes in by “tastemaker versions import PROJECT {path.name}”."
    if suffix in (".npy", ".parquet"):
        return (
            f"Embeddings come in by “tastemaker import-embeddings PROJECT {path.name}”, and are "
            f"scored by “tastemaker score {path.name} --model …”."
        )
    if suffix in (".csv", ".tsv", ".jsonl"):
        return f"Scores come in by “tastemaker scores import PROJECT {path.name}”."
    if suffix in formats.RAW_SUFFIXES:
        return formats.RAW_REMEDY
    return f"{formats.NAMES} come in, or a zip of them."


def _require_any(folder: Path, typed: str, suffixes: frozenset[str], seconds: float = 2.0) -> None:
    """Raise `NoPicture` if no file below has one of the suffixes; it says what was found instead.
    If that takes long to rule out, it is left to the job."""
    end = time.monotonic() + seconds
    walk = FolderWalk(folder, lambda suffix: suffix in suffixes or time.monotonic() > end)
    if next(walk.files(), None) is not None:
        return
    told = [f"{formats.NAMES} files are looked for, in all its folders."]
    if any(folder.glob("img_emb*")):
        told = ["clip-retrieval made it: “tastemaker import-embeddings” takes its embeddings."]
    told += [formats.left_out_of(walk.left_out)] if walk.left_out else []
    told += [f"{path} cannot be entered: {reason}." for path, reason in walk.unreadable.items()][:3]
    raise NoPicture(f"There is no picture in “{typed}”.", " ".join(told))


def free_name(path: Path) -> str:
    """What a collection made from this path is called."""
    return path.name if path.is_dir() else path.parent.name or "Images"
