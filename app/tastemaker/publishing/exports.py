"""What leaves the program: a version's files, alone or all in a zip, and the labels as folders.

    Name-v1.3/
        Name-v1.3.safetensors     the head, as it was published
        Name-v1.3.config.json     its sidecar, with all that is known about its scores
        README.md, top-100.png    the model card and the images it likes best
        labels.csv                the hand scores, one row per image and person
        training-set.csv          the labels exactly as this version saw them
        predictions.parquet       what it gives every image
        SHA256SUMS

Everything here can be brought back: the head by `versions import`, the labels by `scores import`,
the folders by `import --scores-from-folders`.
"""

import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from sqlmodel import Session, col, select

from tastemaker import embeddings, projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Image, Label, Project, Version
from tastemaker.errors import Conflict, Invalid, NotFound, StorageFull, TastemakerError
from tastemaker.evaluation import audit_reports
from tastemaker.files import is_file, sha256_of, write_atomic
from tastemaker.files.json_text import json_text
from tastemaker.learning import laion
from tastemaker.learning.checkpoints import checkpoint_bytes, load_checkpoint, sidecar
from tastemaker.publishing import card_blocks, model_card, sheets
from tastemaker.scores import classes, score_files
from tastemaker.versions import class_report, file_checks, predictions, training_set
from tastemaker.versions.prediction_files import prediction_bytes

PIECE = 2**20  # bytes of a file that are in memory at once


@dataclass(frozen=True)
class Part:
    """A file of an export: its name, and its bytes or where they lie."""

    name: str
    content: bytes | Path

    def pieces(self) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def write_to(self, file: BinaryIO) -> None:
        file.writelines(self.pieces())

    def sha256(self) -> str:
        if isinstance(self.content, Path):
            return sha256_of(self.content)
        return hashlib.sha256(self.content).hexdigest()


# --- a version ---------------------------------------------------------------------------------


def stem(version: Version) -> str:
    """“Name-v1.3”: what the names of a version's files begin with."""
    return PurePosixPath(version.file).name.removesuffix(".safetensors")


def checkpoint(settings: Settings, version: Version) -> Part:
    """The head. Raises `NotFound` or `Conflict` when it is not the file that was published."""
    return Part(f"{stem(version)}.safetensors", versions.verify(settings, version))


def config(session: Session, settings: Settings, version: Version) -> Part:
    """The sidecar as it was published, and what is known besides. A loader of the original reads
    the five keys it knows and passes over the others."""
    way_out = "Restore it from a backup; the head itself and the scores are safe."
    path = versions.config_path(settings, version)
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"The sidecar of {version.number} is missing from the checkpoints folder.",
            way_out,
        ) from None
    except ValueError:
        raise Conflict(
            f"The sidecar of {version.number} was damaged after publishing.",
            way_out,
        ) from None
    if not file_checks.describes(session, version, written):
        raise Conflict(
            f"The sidecar of {version.number} was altered after publishing.",
            way_out,
        )
    known = written | _known_besides(session, version)
    return Part(f"{stem(version)}.config.json", json_text(known, indent=2).encode())


def _known_besides(session: Session, version: Version) -> dict[str, Any]:
    parent = session.get(Version, version.parent_id) if version.parent_id else None
    lineage = {"rev": parent.number, "sha256": parent.sha256} if parent else None
    if version.classes.numbers:
        return {
            "parent": lineage,
            "classes": class_report.as_json(version),
            "published_at": version.created_at.isoformat(),
        }
    spread = predictions.percentiles(session, version)
    return {
        "score_range": [0, 10],
        "parent": lineage,
        "calibration": version.metrics.calibration,
        "percentiles": spread.as_dict() if spread else None,
        "holdout": version.metrics.holdout.as_json() or None,
        "published_at": version.created_at.isoformat(),
        "promises": [
            audit_reports.promise_json(one) for one in audit_reports.of_version(session, version)
        ],
    }


def laion_file(session: Session, settings: Settings, version: Version) -> Part:
    """The head in the LAION layout. `Conflict` says why it cannot be written so. One that came in
    that layout leaves as it came, to the byte."""
    source = versions.original_path(settings, version)
    name = f"{stem(version)}.laion.safetensors"
    if source.is_file() and sha256_of(source) == version.recipe.get("source_sha256"):
        return Part(name, source)
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    cannot = f"{version.number} cannot be written in the LAION layout."
    if encoder.name.partition("@")[0] != laion.ENCODER:
        raise Conflict(
            cannot, f"The LAION layout is for {laion.ENCODER}; this version reads {encoder.name}."
        )
    if not embeddings.is_normalised(session, encoder):
        raise Conflict(cannot, "The LAION layout is for L2-normalised embeddings; these are not.")
    try:
        line = laion.line_of(load_checkpoint(versions.verify(settings, version)).tensors)
    except Conflict as error:
        raise Conflict(cannot, error.message) from None
    about = {"version": version.number, "source_sha256": version.sha256, "encoder": laion.ENCODER}
    return Part(name, laion.laion_bytes(line, about))


def why_no_laion(session: Session, settings: Settings, version: Version) -> str:
    """Why the version cannot be written in the LAION layout; empty where it can."""
    try:
        laion_file(session, settings, version)
    except TastemakerError as error:
        return error.hint or error.message
    return ""


def tag_files(session: Session, settings: Settings, version: Version) -> list[Part]:
    """Of a version with tags, a file for each: one output, which the original's loader reads as a
    score of that tag, with a sidecar of its own. None of any other version: a file of classes that
    exclude each other is read as it is."""
    record = version.classes
    if record.labelling != "tags":
        return []
    read = load_checkpoint(versions.verify(settings, version))
    encoder = session.get_one(EncoderRow, version.encoder_id)
    parts = []
    for place, (number, name) in enumerate(zip(record.numbers, record.names, strict=True)):
        last = {
            part: read.tensors[f"down.5.{part}"][place : place + 1] for part in ("weight", "bias")
        }
        tensors = read.tensors | {f"down.5.{part}": value for part, value in last.items()}
        plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("_")
        called = f"{stem(version)}.tag-{number:02d}{f'-{plain}' if plain else ''}"
        content = checkpoint_bytes(
            tensors, {"format": "city96", "tag": name, "source_sha256": version.sha256}
        )
        about = sidecar(
            name, version.number, features=read.features, tag=name,
            sha256=hashlib.sha256(content).hexdigest(),
            encoder={"name": encoder.name, "fingerprint": encoder.fingerprint},
        )  # fmt: skip
        parts += [
            Part(f"{called}.safetensors", content),
            Part(f"{called}.config.json", json_text(about, indent=2).encode()),
        ]
    return parts


def card(session: Session, settings: Settings, version: Version) -> Part:
    text = card_blocks.markdown(model_card.card_of(session, settings, version))
    return Part("README.md", text.encode())


def export_all(session: Session, settings: Settings, version: Version) -> list[Part]:
    """All files of a version, checked, with their hashes as the last."""
    project = projects.get(session, version.project_id)
    labels = score_files.labels_of(session, project)
    parts = [
        checkpoint(settings, version),
        config(session, settings, version),
        card(session, settings, version),
        Part(
            "labels.csv", score_files.score_bytes(labels, ".csv", score_files.columns_of(project))
        ),
        Part("training-set.csv", training_set.as_csv(session, version).encode()),
        Part("predictions.parquet", prediction_bytes(session, version, ".parquet")),
    ]
    best = []
    if version.classes.numbers:
        parts += tag_files(session, settings, version)
    else:
        tiles = sheets.sheet_tiles(session, project, version, "top", 100)
        best = [tile for tile in tiles if tile.has_pixels]
    if best:
        title = f"{project.name} {version.number}: the {len(best)} it likes best"
        parts.append(Part(model_card.TOP_SHEET, sheets.draw(settings, best, title)))
    sums = "".join(f"{part.sha256()}  {part.name}\n" for part in parts)
    return [*parts, Part("SHA256SUMS", sums.encode())]


def write(parts: list[Part], folder: Path) -> list[Path]:
    """Put an export's files into a folder, each whole or not at all; what is there unchanged is
    left. Raises `StorageFull` with how many were written."""
    paths = [folder / part.name for part in parts]
    for done, (part, path) in enumerate(zip(parts, paths, strict=True)):
        if is_file(path) and sha256_of(path) == part.sha256():
            continue
        try:
            write_atomic(path, part.write_to)
        except StorageFull as error:
            raise StorageFull(
                f"The disk is full: {done} of {len(parts)} files are in {folder}, each whole; "
                f"{part.name} is not.",
                "Free some space, then export again: what is there already stays.",
            ) from error
    return paths


# --- as a stream -------------------------------------------------------------------------------


class _Outbox:
    """Where a zip is written to, and taken from before it grows. It cannot be gone back in, so
    sizes follow the data, as the format allows."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken


def zipped(parts: list[Part], folder: str, at: datetime) -> Iterator[bytes]:
    """A zip of the parts, inside one folder, piece by piece: no more than a piece is in memory.
    `at` is the time the entries bear, so that the same version gives the same bytes."""
    outbox = _Outbox()
    stamp = (max(at.year, 1980), at.month, at.day, at.hour, at.minute, at.second)
    with zipfile.ZipFile(outbox, "w") as archive:  # type: ignore[call-overload]  # it only takes writes
        for part in parts:
            entry = zipfile.ZipInfo(f"{folder}/{part.name}", stamp)
            entry.external_attr = 0o644 << 16
            dense = part.name.endswith((".png", ".parquet", ".safetensors"))
            entry.compress_type = zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as out:
                for piece in part.pieces():
                    out.write(piece)
                    yield outbox.take()
    yield outbox.take()


# --- labels as folders -------------------------------------------------------------------------


def write_folders(session: Session, project: Project, folder: Path) -> dict[str, Any]:
    """The labels in the original's layout: `data/<encoder>/NN_name/*.npy`, NN the score (or the
    number of the class, with its name), each file
    one vector (1, D) in float32. A label between two scores (the mean of several people's) goes to
    the nearest; the answer counts them."""
    if project.encoder_id is None:
        raise Invalid("No image is embedded yet.", "Wait for the embedding job, then try again.")
    rows = session.exec(select(Label.image_id, Label.value).where(Label.project_id == project.id))
    labels = dict(rows.all())
    if not labels:
        raise Invalid("No image is scored yet, so there is nothing to write.", "Score some first.")
    encoder = session.get(EncoderRow, project.encoder_id)
    assert encoder is not None
    known = classes.of(session, project.id)
    if known.several:
        raise Conflict(
            "An image lies in one folder, and may have several tags.",
            "Export the labels as a table instead.",
        )
    ids, x = embeddings.matrix(session, project.encoder_id, labels)
    hashes = dict(
        session.exec(
            select(Image.id, Image.sha256)
            .join(Label, col(Label.image_id) == Image.id)
            .where(Label.project_id == project.id)
        ).all()
    )
    top = folder / "data" / re.sub(r"[^\w.-]+", "_", encoder.name, flags=re.ASCII)
    name = versions.base_name(project)
    between = 0
    for done, (image_id, vector) in enumerate(zip(ids.tolist(), x, strict=True)):
        value = labels[image_id]
        between += value != round(value)
        kind = known.by_number.get(int(value)) if project.labelling != "scores" else None
        called = classes.folder_name(kind.name) if kind else name
        path = top / f"{round(value):02d}_{called}" / f"{hashes[image_id][:32]}.npy"
        try:
            write_atomic(path, functools.partial(np.save, arr=vector.astype("<f4")[None]))
        except StorageFull as error:
            raise StorageFull(
                f"The disk is full: {done:,} of {len(ids):,} vectors were written to {folder}, "
                "each whole.",
                "Free some space, then write them to a new folder.",
            ) from error
    return {
        "folder": str(top), "written": len(ids), "between_scores": between,
        "without_embedding": len(labels) - len(ids),
    }  # fmt: skip
