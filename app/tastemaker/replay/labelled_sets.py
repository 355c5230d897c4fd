"""Labelled sets to replay: embeddings with scores, from a file or from a collection.

A file is an `.npz` with the arrays `embeddings` (N, D), `scores` (N,) in points of 0–10 with −1
for an image without a label, and optionally `groups` (N,), equal for images of one source. Only
the headers are read until shapes and sizes are known to be sane; pickled objects are refused.
"""

import math
import zipfile
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker import embeddings, images, projects
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Image,
    Label,
    Project,
    ProjectCollection,
)
from tastemaker.encoding.embedding_files import DAMAGED, NOT_NPZ
from tastemaker.errors import Invalid
from tastemaker.files import is_file
from tastemaker.files.damage import NPZ, unreadable
from tastemaker.replay.people import People
from tastemaker.replay.runs import LabelledSet
from tastemaker.scores import classes

LARGEST = 8 * 2**30  # bytes of float32 embeddings held in memory: 1.6 million images of 1,280
UNLABELLED = -1.0


def read_file(path: Path) -> LabelledSet:
    """The set in an `.npz`. Raises `Invalid` with what is wrong with it."""
    arrays = _read_arrays(path, ("embeddings", "scores", "groups"), people=False)
    x = arrays["embeddings"]
    return LabelledSet(x, _in_shares(arrays["scores"], path.name), _groups(arrays, len(x)))


def read_people(path: Path) -> People:
    """Several people's scores of the same images: `embeddings` (N, D), `scores` (P, N), and if
    there are any `test_scores` (P, N) to judge against, `group` (P,) of the people, and `groups`
    (N,) of the images. Raises `Invalid` with what is wrong with it."""
    arrays = _read_arrays(
        path, ("embeddings", "scores", "test_scores", "group", "groups"), people=True
    )
    x, points = arrays["embeddings"], np.atleast_2d(arrays["scores"])
    judged = np.atleast_2d(arrays.get("test_scores", points))
    return People(
        x, _in_shares(points, path.name), _in_shares(judged, path.name),
        arrays.get("group", np.zeros(len(points), np.intp)), _groups(arrays, len(x)),
    )  # fmt: skip


def _read_arrays(path: Path, names: tuple[str, ...], *, people: bool) -> dict[str, Any]:
    """Those arrays of an `.npz` that it holds, the embeddings as finite float32."""
    if not is_file(path):
        raise Invalid(f"There is no file {path}.", "Name an .npz, or a collection.")
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {
                name.removesuffix(".npy"): _header(archive, name)
                for name in archive.namelist()
                if name.removesuffix(".npy") in names and name.endswith(".npy")
            }
        _check_headers(path.name, headers, people)
        with np.load(path, allow_pickle=False) as file, np.errstate(over="ignore"):
            arrays = {name: file[name] for name in headers}
            arrays["embeddings"] = x = np.asarray(arrays["embeddings"], np.float32)
    except DAMAGED as error:
        raise unreadable(path, NPZ) from error
    except NOT_NPZ as error:
        raise Invalid(
            f"{path.name} is not a readable .npz.",
            "numpy.savez(FILE, embeddings=…, scores=…) writes one.",
        ) from error
    broken = np.flatnonzero(~np.isfinite(x).all(1))
    if len(broken):
        raise Invalid(
            f"Row {broken[0]} of embeddings in {path.name} is not all numbers."
            if len(broken) == 1
            else f"{len(broken)} rows of embeddings in {path.name} are not numbers; "
            f"the first is row {broken[0]}.",
            "Embed those images again, or leave them out.",
        )
    return arrays


def _in_shares(given: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Points of 0–10 as scores in 0–1, NaN for those without a label."""
    points = np.asarray(given, np.float64)
    labelled = points != UNLABELLED
    wrong = np.argwhere(~((points >= 0) & (points <= 10)) & labelled)
    if len(wrong):
        first = tuple(wrong[0])
        raise Invalid(
            f"The score {points[first]:g} in row {first[-1]} of {name} is not in 0–10.",
            "−1 stands for an image without a score.",
        )
    return np.where(labelled, points / 10, np.nan)


def _groups(arrays: dict[str, Any], n: int) -> NDArray[np.intp]:
    given = arrays.get("groups", np.arange(n))
    return np.unique(given, return_inverse=True)[1].ravel().astype(np.intp)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in the archive, from its first bytes."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, kind = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, kind = np.lib.format.read_array_header_2_0(member)
    return shape, kind


def _check_headers(
    name: str, headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], people: bool
) -> None:
    for wanted in ("embeddings", "scores"):
        if wanted not in headers:
            raise Invalid(
                f"{name} holds no array “{wanted}”.",
                "It needs embeddings (N, D) and scores (N,).",
            )
    for array, (_, kind) in headers.items():
        if kind.hasobject:
            raise Invalid(
                f"“{array}” in {name} holds pickled objects, which could run any program.",
                "Save it as plain numbers.",
            )
        names = array in ("group", "groups")
        if kind.kind not in ("iuUS" if names else "fiu"):
            needed = "Whole numbers or names are" if names else "Plain numbers are"
            raise Invalid(f"“{array}” in {name} is of type {kind}.", f"{needed} needed.")
    shape = headers["embeddings"][0]
    if len(shape) != 2 or 0 in shape:
        raise Invalid(f"“embeddings” in {name} has the shape {shape}; (N, D) is needed.")
    for array, what in _expected(headers, shape[0], people).items():
        if array in headers and headers[array][0] not in what:
            raise Invalid(
                f"“{array}” in {name} has the shape {headers[array][0]}; {what[0]} is needed"
                + (", one for each row of embeddings." if what[0] == shape[:1] else ".")
            )
    if 4 * math.prod(shape) > LARGEST:
        raise Invalid(
            f"The embeddings in {name} would take {4 * math.prod(shape) / 2**30:,.0f} GB of "
            f"memory; {LARGEST / 2**30:.0f} GB is the most.",
            "Replay a random part of the images.",
        )


def _expected(
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], n: int, people: bool
) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each array may have beside n embeddings; one person's scores may be flat."""
    if not people:
        return {"scores": [(n,)], "groups": [(n,)]}
    scores = headers["scores"][0]
    persons = scores[0] if len(scores) == 2 else 1
    flat = [(n,)] if persons == 1 else []
    each = [(persons, n), *flat]
    return {"scores": each, "test_scores": each, "group": [(persons,)], "groups": [(n,)]}


# --- a collection ------------------------------------------------------------------------------


def read_collection(
    session: Session, name: str, project: Project | None = None
) -> tuple[LabelledSet, list[int], Project]:
    """The embedded images of a collection with a project's labels and vectors: the set, the image
    id of each row, and the project. Without one, the only project that uses the collection.
    Raises `NotFound` or `Invalid`."""
    collection = images.find_collection(session, name)
    project = project or _only_user(session, collection)
    classes.check_scores(project)
    if project.encoder_id is None:
        raise Invalid(
            f"No image of “{project.name}” is embedded yet.",
            f"Do that first: tastemaker embed --collection {quote(name)}",
        )
    rows = session.execute(
        select(Image.id, Image.source_group)
        .join(CollectionImage, col(CollectionImage.image_id) == Image.id)
        .where(CollectionImage.collection_id == collection.id)
        .order_by(col(Image.id))
    ).all()
    groups = dict(rows)
    ids, x = embeddings.matrix(session, project.encoder_id, list(groups))
    if not len(ids):
        raise Invalid(
            f"No image of “{name}” is embedded with the encoder of “{project.name}”.",
            f"Do that first: tastemaker embed --collection {quote(name)}",
        )
    labels = dict(
        session.execute(
            select(Label.image_id, Label.value).where(Label.project_id == project.id)
        ).all()
    )
    image_ids = [int(image_id) for image_id in ids]
    scores = np.array([labels.get(image_id, np.nan) for image_id in image_ids]) / 10
    names = np.unique([groups[image_id] for image_id in image_ids], return_inverse=True)[1]
    data = LabelledSet(np.asarray(x, np.float32), scores, names.astype(np.intp))
    return data, image_ids, project


def _only_user(session: Session, collection: Collection) -> Project:
    using = session.exec(
        select(Project)
        .join(ProjectCollection, col(ProjectCollection.project_id) == Project.id)
        .where(ProjectCollection.collection_id == collection.id)
        .order_by(col(Project.id))
    ).all()
    if len(using) == 1:
        return projects.get(session, using[0].id)
    if not using:
        raise Invalid(
            f"No project uses the collection “{collection.name}”, so it has no scores.",
            "Say whose: --project NAME",
        )
    names = ", ".join(f"“{project.name}”" for project in using)
    raise Invalid(
        f"Several projects use the collection “{collection.name}”: {names}.",
        "Say whose scores: --project NAME",
    )
