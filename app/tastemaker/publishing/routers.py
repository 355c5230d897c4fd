"""Routers of this home: made of versions, kept as the folder that leaves, brought back from one.

A router lies in `routers/NAME/` as `learning.router_files` reads it: `router.json`, the files and
sidecars of its members as they were exported, and a card. It is made once and not changed; what
becomes of the versions later does not touch it.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlmodel import Session

from tastemaker import projects
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Project, Version
from tastemaker.errors import Conflict, Invalid, NotFound, StorageFull, TastemakerError
from tastemaker.files import is_bare_name, is_file, is_folder
from tastemaker.files.json_text import json_text
from tastemaker.files.texts import read_text
from tastemaker.importing import archives
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.learning.router_files import (
    MANIFEST,
    MOST_BYTES,
    MemberFile,
    Mode,
    Route,
    RouterFile,
    Scale,
    member_path,
    read_manifest,
)
from tastemaker.publishing import exports
from tastemaker.publishing.exports import Part
from tastemaker.versions import predictions

CARD = "README.md"
MOST_FILES, MOST_UNPACKED = 1000, 2**32  # of a zip that is brought in
LONGEST_NAME = 255  # bytes
LONGEST_FOLDER = 240  # bytes, and its zip has an ending; a letter has up to four
UNFINISHED = ".part"  # how the name of a folder ends that is not whole yet
LEFT_SECONDS = 24 * 3600.0  # after which an unfinished folder is nobody's


@dataclass(frozen=True)
class Kept:
    """A router of this home: its folder and what it says; or what is wrong with it."""

    folder: Path
    says: RouterFile | None
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.says.name if self.says else self.folder.name

    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "folder": self.folder.name, "trouble": self.trouble}
        return told | (self.says.model_dump(mode="json", exclude={"name"}) if self.says else {})


# --- making one --------------------------------------------------------------------------------


def make(
    session: Session,
    settings: Settings,
    name: str,
    classifier: Version,
    scorers: Mapping[str, Version | None],
    *,
    mode: Mode = "hard",
    scale: Scale = "percentile",
    abstain: float = 0.0,
) -> Kept:
    """Publish a router. `scorers` names for each class of the classifier the version that scores
    its images, None for a class that never passes; `abstain` is in 0–1. Raises `Invalid` for
    classes or members that do not fit, `Conflict` for other encoders or a name that is taken."""
    folder = _free_folder(settings, name)
    _check(session, classifier, scorers, scale)
    if not 0 <= abstain < 1:
        raise Invalid("The least probability is from 0 to below 100 %.", "60 % is usual.")
    if mode not in ("hard", "soft") or scale not in ("percentile", "score"):
        raise Invalid("A router is hard or soft, by percentile or by score.")
    members = [classifier, *(version for version in scorers.values() if version is not None)]
    parts: dict[int, tuple[Part, Part]] = {}
    for version in members:
        if version.id not in parts:
            parts[version.id] = _parts_of(session, settings, version)
    files = {key: _member(*both) for key, both in parts.items()}
    says = RouterFile(
        name=" ".join(name.split()), mode=mode, scale=scale, abstain=abstain,
        classifier=files[classifier.id],
        classes=tuple(
            Route(name=kind, scorer=None if version is None else files[version.id])
            for kind, version in ((known, scorers[known]) for known in classifier.classes.names)
        ),
    )  # fmt: skip
    titles = {files[v.id].file: f"{_project(session, v).name} {v.number}" for v in members}
    encoder = session.get_one(EncoderRow, classifier.encoder_id).name.partition("@")[0]
    _keep(
        folder,
        [
            *(part for both in parts.values() for part in both),
            Part(CARD, _card(says, titles, encoder).encode()),
            Part(MANIFEST, json_text(says.model_dump(), indent=2).encode()),
        ],
    )
    return Kept(folder, says)


def _check(
    session: Session, classifier: Version, scorers: Mapping[str, Version | None], scale: Scale
) -> None:
    record, title = classifier.classes, f"{_project(session, classifier).name} {classifier.number}"
    if record.labelling != "classes":
        raise Invalid(
            f"{title} does not sort images into classes, and a router needs one for each image.",
            "Choose a version of a project with classes.",
        )
    missing = [name for name in record.names if name not in scorers]
    strange = [name for name in scorers if name not in record.names]
    if missing or strange:
        raise Invalid(
            f"“{(strange or missing)[0]}” {'is no class of' if strange else 'of'} {title}"
            f"{'.' if strange else ' goes nowhere.'}",
            f"Give each of {', '.join(record.names)} a version, or reject it.",
        )
    chosen = [version for version in scorers.values() if version is not None]
    if not chosen:
        raise Invalid(
            "Every class is rejected, so nothing would get a score.",
            "Give at least one class a version.",
        )
    for version in chosen:
        name = f"{_project(session, version).name} {version.number}"
        if _project(session, version).labelling != "scores":
            raise Invalid(f"{name} gives no score.", "Choose a version of a project that scores.")
        if version.encoder_id != classifier.encoder_id:
            theirs, ours = (
                session.get_one(EncoderRow, one.encoder_id).name for one in (version, classifier)
            )
            raise Conflict(
                f"{name} reads vectors of {theirs}, and {title} those of {ours}: a router encodes "
                "each picture once.",
                "Choose versions of one encoder, or move a project to the other's.",
            )
        if scale == "percentile" and predictions.percentiles(session, version) is None:
            raise Invalid(
                f"{name} has predicted no image of its project yet, so its scores cannot be "
                "compared with another's.",
                "Wait for the job that predicts, or use the scale score.",
            )
    thresholds = {_project(session, version).threshold for version in chosen}
    if scale == "score" and len(thresholds) > 1:
        told = " and ".join(f"{100 * value:g} %" for value in sorted(thresholds))
        raise Invalid(
            f"The scorers let pass from {told} on, so their scores mean different things.",
            "Use the scale percentile, where 50 % is the threshold of each.",
        )


def _parts_of(session: Session, settings: Settings, version: Version) -> tuple[Part, Part]:
    """The file and the sidecar, named by the project, the version and its row: two projects may
    write their names alike."""
    head, config = exports.checkpoint(settings, version), exports.config(session, settings, version)
    stem = f"{version.id}-{exports.stem(version)}"
    return Part(f"{stem}.safetensors", head.content), Part(f"{stem}.config.json", config.content)


def _member(head: Part, config: Part) -> MemberFile:
    return MemberFile(file=head.name, sha256=head.sha256(), config_sha256=config.sha256())


def _project(session: Session, version: Version) -> Project:
    return projects.get(session, version.project_id)


def _card(says: RouterFile, titles: Mapping[str, str], encoder: str) -> str:
    """What it is, in words, for whoever is given the folder."""
    routes = "\n".join(
        f"| {route.name} | {titles[route.scorer.file] if route.scorer else 'never passes'} |"
        for route in says.classes
    )
    how = (
        "Each image is scored by the version of its likeliest class."
        if says.mode == "hard"
        else "The scores of all classes are weighed by how likely each class is."
    )
    scale = (
        "Scores are comparable: 50 % is the threshold of each version, and above it a score says "
        "how much of what passes in its own project lies below."
        if says.scale == "percentile"
        else "Scores are those of the versions as they are."
    )
    abstains = (
        f" Where the likeliest class is less likely than {100 * says.abstain:g} %, an image gets "
        "no score and is named."
        if says.abstain
        else ""
    )
    return f"""# {says.name}

A router of Tastemaker: {titles[says.classifier.file]} says what an image is, and another version
scores it.

| class | scored by |
|---|---|
{routes}

{how}{abstains} {scale}

All of them read {encoder}, so a picture is encoded once.

    tastemaker score PICTURES --model THIS_FOLDER
    tastemaker.load("THIS_FOLDER").score(["a.jpg"])

`{MANIFEST}` holds the SHA-256 of every file. A folder that lacks one, or in which one was
changed, is refused.
"""


# --- those that are kept -------------------------------------------------------------------------


def folder_name(name: str) -> str:
    """A router's name as its folder has it. Raises `Invalid` for a name that cannot be used."""
    tidy = " ".join(name.split())
    folder = re.sub(r"[^\w.-]+", "_", tidy).strip("_.")
    if not 1 <= len(tidy) <= 120 or not tidy.isprintable() or not folder:
        raise Invalid("A router needs a name of 1 to 120 characters.", "Choose another name.")
    return folder.encode()[:LONGEST_FOLDER].decode(errors="ignore").rstrip("_.")


def _free_folder(settings: Settings, name: str) -> Path:
    folder = settings.routers / folder_name(name)
    there = [path.name for path in settings.routers.glob("*")] if settings.routers.exists() else []
    if folder.name.casefold() in {one.casefold() for one in there}:
        raise _taken(name)
    return folder


def _keep(folder: Path, parts: list[Part]) -> None:
    """All the files or none: they are written beside it and take its name in one step."""
    with _aside(folder.parent) as unfinished:
        exports.write(parts, unfinished)
        try:
            unfinished.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            raise _taken(folder.name) from error


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is a router “{name}” already, and one is never changed; nothing was made.",
        "Delete that one first, or choose another name.",
    )


@contextlib.contextmanager
def _aside(routers: Path) -> Iterator[Path]:
    """A folder of one's own among the routers, which nobody lists and which is gone afterwards;
    those that a killed process left go as well."""
    routers.mkdir(parents=True, exist_ok=True)
    for left in routers.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(left)
    own = routers / f".{secrets.token_hex(8)}{UNFINISHED}"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def kept(settings: Settings) -> list[Kept]:
    """The routers of this home, by name, each looked at: a member that is gone or was altered is
    the trouble with it."""
    return sorted(map(_looked_at, _folders(settings)), key=lambda one: one.name.casefold())


def _folders(settings: Settings) -> list[Path]:
    """Where they lie; without those that are not whole yet."""
    return list(settings.routers.glob("[!.]*"))  # of a folder that is not there, none


def reading(settings: Settings, fingerprint: str) -> list[Kept]:
    """The routers of this home, by name, that read the vectors of an encoder, as the sidecar of
    each one's classifier says. Their members are not looked at: whoever asks one finds that out."""
    found = []
    for folder in _folders(settings):
        try:
            says = read_manifest(folder)
            beside = sidecar_path(folder / Path(says.classifier.file).name)
            named = json.loads(read_text(beside, MOST_BYTES))["encoder"]
            same = named["fingerprint"] == fingerprint
        except (TastemakerError, OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            found.append(Kept(folder, says))
    return sorted(found, key=lambda one: one.name.casefold())


def _looked_at(folder: Path) -> Kept:
    """With every member looked at, which reads all of its bytes."""
    one = _named(folder)
    try:
        for member in one.says.members if one.says else ():
            member_path(folder, member)
    except TastemakerError as error:
        return Kept(folder, one.says, str(error))
    return one


def _named(folder: Path) -> Kept:
    try:
        return Kept(folder, read_manifest(folder))
    except TastemakerError as error:
        return Kept(folder, None, str(error))


def find(settings: Settings, name: str) -> Kept:
    """The router of that name, or whose folder is called so, with its members looked at. Raises
    `NotFound`."""
    return _looked_at(find_folder(settings, name))


def find_folder(settings: Settings, name: str) -> Path:
    """Where the router of that name lies, whatever is in it: no member is read. Raises
    `NotFound`."""
    known = list(map(_named, _folders(settings)))
    for one in known:
        if name.casefold() in (one.name.casefold(), one.folder.name.casefold()):
            return one.folder
    names = ", ".join(sorted(f"“{one.name}”" for one in known))
    raise NotFound(
        f"There is no router “{name[:60]}”.", f"There are: {names}." if names else "Make one first."
    )


def delete(settings: Settings, name: str) -> Kept:
    """The versions it was made of stay."""
    one = _named(find_folder(settings, name))
    with _aside(settings.routers) as gone:
        try:
            one.folder.rename(gone / "gone")
        except FileNotFoundError:
            raise NotFound(
                f"The router “{one.name}” is deleted already.", "Somebody else was faster."
            ) from None
    return one


def parts_of(one: Kept) -> list[Part]:
    """Its files, to be written elsewhere. Raises `Conflict` where one is gone or was altered."""
    if one.says is None or one.trouble:
        raise Conflict(one.trouble, "Bring it in again from where it came, or make it anew.")
    names = [MANIFEST, CARD]
    for member in one.says.members:
        names += [member.file, sidecar_path(Path(member.file)).name]
    return [Part(name, one.folder / name) for name in names if is_file(one.folder / name)]


def made_at(one: Kept) -> datetime:
    """When its folder got its manifest, in UTC."""
    return datetime.fromtimestamp((one.folder / MANIFEST).stat().st_mtime, UTC)


def bring_in(settings: Settings, source: Path) -> Kept:
    """Keep a router that was exported, from its folder or its zip: the same files to the byte.
    Raises `Invalid`, `CheckpointError` or `NotFound` for what is none, `Conflict` for a name that
    is taken."""
    if is_folder(source):
        return _bring_in_folder(settings, source)
    if not is_file(source):
        raise Invalid(f"{source.name} is no router.", "Name the folder or the zip of one.")
    with _aside(settings.routers) as unpacked:
        _unpack(source, unpacked)
        if not is_file(unpacked / MANIFEST):
            raise Invalid(f"{source.name} is no router: it holds no {MANIFEST}.")
        return _bring_in_folder(settings, unpacked)


def _unpack(source: Path, to: Path) -> None:
    """The files of a zip, whatever folder they lie in, each under its bare name. Raises `Invalid`
    for what is no zip, is cut short or holds more than a router does, and `StorageFull`."""
    try:
        with archives.open_zip(source, archives.ArchiveLimits(), ()) as archive:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            if len(entries) > MOST_FILES or sum(e.file_size for e in entries) > MOST_UNPACKED:
                raise Invalid(f"{source.name} holds more than a router does.")
            for entry in entries:
                name = PurePosixPath(archives.clean_name(entry.filename)).name
                if not is_bare_name(name) or len(os.fsencode(name)) > LONGEST_NAME:
                    raise Invalid(f"{source.name} holds a file that no router has.")
                with archive.open(entry) as content, (to / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
    except TastemakerError:
        raise
    except Exception as error:  # hostile bytes make zipfile raise nearly anything
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"The disk is full: {source.name} was not unpacked.") from error
        raise Invalid(f"{source.name} cannot be unpacked.", "Export the router again.") from error


def _bring_in_folder(settings: Settings, source: Path) -> Kept:
    found = _looked_at(source)
    if found.says is None or found.trouble:
        raise Invalid(found.trouble, "Nothing was kept.")
    folder = _free_folder(settings, found.name)
    _keep(folder, parts_of(found))
    return Kept(folder, found.says)
