"""The folder of a router: `router.json` and, for each member, its file and its sidecar. Read and
checked without what scoring needs."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tastemaker.errors import CheckpointError, Invalid, NotFound
from tastemaker.files import is_bare_name, is_file, is_folder, sha256_of
from tastemaker.files.texts import read_text
from tastemaker.learning.checkpoints import sidecar_path

MANIFEST = "router.json"
MOST_BYTES = 2**20
Mode = Literal["hard", "soft"]
Scale = Literal["percentile", "score"]


class MemberFile(BaseModel):
    """A member's file in the folder and the hashes of it and of its sidecar."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    config_sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Route(BaseModel):
    """What becomes of images of one class: the scorer, or None for those that never pass."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str
    scorer: MemberFile | None = None


class RouterFile(BaseModel):
    """What `router.json` says. `hard` takes the scorer of the likeliest class; `soft` weighs all of
    them by the probabilities. An image whose likeliest class is less likely than `abstain` (0–1)
    gets no score."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    format: Literal["tastemaker-router-1"] = "tastemaker-router-1"
    name: str = Field(min_length=1, max_length=120)
    mode: Mode = "hard"
    scale: Scale = "percentile"
    abstain: float = Field(default=0.0, ge=0, le=1)
    classifier: MemberFile
    classes: tuple[Route, ...] = Field(min_length=2, max_length=200)

    @property
    def members(self) -> list[MemberFile]:
        """Every file once, the classifier first."""
        scorers = [route.scorer for route in self.classes if route.scorer is not None]
        return list(dict.fromkeys([self.classifier, *scorers]))


def is_router(path: Path) -> bool:
    return is_folder(path) and is_file(path / MANIFEST)


def read_manifest(folder: Path) -> RouterFile:
    """Raises `NotFound` or `Invalid` where there is none, or one that cannot be used."""
    path = folder / MANIFEST
    if not is_file(path):
        raise NotFound(
            f"There is no router in {folder}: it has no {MANIFEST}.",
            "Name the folder that a router was exported to, or a .safetensors file.",
        )
    try:
        return RouterFile.model_validate(json.loads(read_text(path, MOST_BYTES)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg'].lower()}" if where else "it is no JSON object"
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    except OSError as error:
        reason = error.strerror or "it cannot be read"
    raise Invalid(f"{path.name} cannot be used: {reason}.", "Export the router again.")


def member_path(folder: Path, member: MemberFile) -> Path:
    """Where a member lies. Raises `CheckpointError` where it is gone, cannot be read, or is not the
    one that the router was made with."""
    if not is_bare_name(member.file) or member.file.startswith("."):
        raise Invalid(f"“{member.file[:80]}” is no file of this folder.", "Export it again.")
    path = folder / member.file
    for each, wanted in ((path, member.sha256), (sidecar_path(path), member.config_sha256)):
        if not is_file(each):
            raise CheckpointError(
                f"The router lacks a member: {each.name} is not in {folder.name}.",
                "Put it back, or export the router again.",
            )
        try:
            found = sha256_of(each)
        except OSError as error:
            raise CheckpointError(
                f"{each.name} cannot be read: {error.strerror or error}.",
                "Look at the file and its disk, or export the router again.",
            ) from error
        if found != wanted:
            raise CheckpointError(
                f"{each.name} is not the file that the router was made with.",
                "Put the right one back, or export the router again.",
            )
    return path
