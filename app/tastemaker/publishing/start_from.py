"""What a person names to start from: `PROJECT`, `PROJECT@VERSION` or `FILE.safetensors`."""

from collections.abc import Sequence

from sqlmodel import Session

from tastemaker import versions
from tastemaker.config import Settings
from tastemaker.database.tables import Project
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files import is_file
from tastemaker.files.addresses import local_path
from tastemaker.files.roots import outside, within
from tastemaker.learning.checkpoints import sidecar_path
from tastemaker.publishing.compatibility import encoder_of
from tastemaker.publishing.foreign_files import read_foreign_head
from tastemaker.versions import starting_heads
from tastemaker.versions.starting_heads import StartingHead

ENDING = ".safetensors"


def heads_named(
    session: Session,
    settings: Settings,
    project: Project,
    named: Sequence[str],
    encoder: str | None = None,
    *,
    anywhere: bool = False,
) -> list[StartingHead]:
    """The heads that were named for a project; the active version where none is. `encoder` is what
    the person says that the files were trained on. From pages and programs, files lie where images
    may be imported from; `anywhere` is for whoever is at the machine. Reading them
    takes a while: not to be done in a session that writes. Raises what is wrong."""
    return [
        _file(settings, project, text, encoder, anywhere)
        if text.strip().lower().endswith(ENDING)
        else _version(session, settings, text)
        for text in named
        if text.strip()
    ]


def _version(session: Session, settings: Settings, text: str) -> StartingHead:
    source, number = versions.project_and_number(session, text)
    version = versions.chosen(session, source, number)
    if version is None:
        raise Conflict(
            f"“{source.name}” has no version yet to start from.",
            "Train it first, or start from another project or a file.",
        )
    return starting_heads.head_of(session, settings, version)


def _file(
    settings: Settings, project: Project, text: str, encoder: str | None, anywhere: bool
) -> StartingHead:
    path = local_path(text.strip())
    if not anywhere and settings.roots and not within(path.resolve(), settings.roots):
        raise outside(path.name, settings.roots)
    if not is_file(path):
        raise NotFound(
            f"There is no file {path} on the machine that the program runs on.",
            "Type the whole path of a .safetensors file.",
        )
    beside = sidecar_path(path)
    head = read_foreign_head(path, config=beside if is_file(beside) else None)
    if head.kind != "score":
        raise Invalid(
            f"{head.name} tells {head.outputs} classes apart; only a head that gives scores can be "
            "started from.",
            "Choose another file.",
        )
    return starting_heads.starting_head(
        head.name[: -len(ENDING)], head.sha256, head.tensors(), encoder_of(project, head, encoder),
        head.fingerprint or "", head.normalised,
    )  # fmt: skip
