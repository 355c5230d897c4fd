"""Whether a head made elsewhere can score a project's embeddings.

That cannot be seen from its numbers: CLIP at 224 and at 336 pixels both give 768, and a head fed
with the wrong one scores without a sign that anything is wrong. So the encoder is named by the
file, its sidecar or the person, and never guessed.
"""

from sqlmodel import Session, func, select

from tastemaker import embeddings
from tastemaker.database.tables import EncoderRow, Label, Project, Version
from tastemaker.encoding.encoder_names import ALIASES, canonical
from tastemaker.encoding.encoder_specs import KNOWN, parse
from tastemaker.errors import Conflict, Invalid
from tastemaker.files.texts import enumerated
from tastemaker.publishing.foreign_files import ForeignHead


def check_compatible(
    session: Session, project: Project, head: ForeignHead, encoder: str | None = None
) -> None:
    """Raise the reason why this head cannot score the project's embeddings. `encoder` is what the
    person named as what it was trained on."""
    _check_kind(session, project, head)
    _named(head, encoder)
    pinned = session.get(EncoderRow, project.encoder_id) if project.encoder_id else None
    dim = pinned.dim if pinned else parse(project.encoder).dim
    if dim is not None and dim != head.features:
        raise Conflict(
            f"{head.name} takes embeddings of {head.features} numbers, but the encoder of "
            f"“{project.name}” gives {dim}.",
            "Import it into a project with the encoder it was trained on.",
        )
    needed = encoder_of(project, head, encoder)
    same_weights = pinned is not None and head.fingerprint == pinned.fingerprint
    if needed != canonical(project.encoder) and not same_weights:
        raise Conflict(
            f"{head.name} needs the encoder {needed}; “{project.name}” works with "
            f"{canonical(project.encoder)}.",
            f"Make a project with the encoder {needed} and import it there.",
        )
    if pinned is not None:
        _check_fingerprint(session, project, head, pinned)


def encoder_of(project: Project, head: ForeignHead, encoder: str | None = None) -> str:
    """The encoder that a head was trained on, by its file or by the person, who named `encoder`.
    Raises `Conflict` where they contradict each other, `Invalid` where neither says."""
    needed = _named(head, encoder) or head.encoder
    if needed is None:
        raise Invalid(
            f"{head.name} does not say which encoder it was trained on, and {head.features} "
            f"numbers are what {_giving(head.features, project)}.",
            "Name the encoder (--encoder NAME, or the list on the page): with the wrong one every "
            "score would be wrong without a sign of it.",
        )
    return needed


def _named(head: ForeignHead, encoder: str | None) -> str | None:
    if not encoder:
        return None
    parse(ALIASES.get(encoder.strip(), encoder))  # refuses a misspelt name
    named = canonical(encoder)
    if head.encoder and named != head.encoder:
        raise Conflict(
            f"{head.name} says that it was trained on {head.encoder}, not on {named}.",
            "Leave the encoder out, or take the file that was trained on it.",
        )
    return named


def _check_kind(session: Session, project: Project, head: ForeignHead) -> None:
    if project.labelling != "scores":
        raise Conflict(
            f"“{project.name}” labels images by classes of its own; {head.name} would tell other "
            "things apart.",
            "Import it into a new project.",
        )
    if head.kind == project.kind:
        return
    if head.kind == "score":
        raise Conflict(
            f"“{project.name}” sorts into classes; {head.name} gives a score.",
            "Import it into another project.",
        )
    used = any(
        session.exec(select(func.count()).select_from(table).where(table.project_id == project.id))
        .one()
        for table in (Label, Version)
    )  # fmt: skip
    if used:
        raise Conflict(
            f"{head.name} tells {head.outputs} classes apart; “{project.name}” gives scores and is "
            "in use.",
            "Import it into a new project, which then becomes one for classes.",
        )


def _check_fingerprint(
    session: Session, project: Project, head: ForeignHead, pinned: EncoderRow
) -> None:
    if head.normalised != (normalised := embeddings.is_normalised(session, pinned)):
        wants, has = ("", "not ") if head.normalised else ("not ", "")
        raise Conflict(
            f"{head.name} was trained on embeddings that are {wants}L2-normalised; those of "
            f"“{project.name}” are {has}so{'' if normalised else ' but raw'}.",
            "Import it into a project whose embeddings are of that kind.",
        )
    if head.fingerprint and not pinned.declared and head.fingerprint != pinned.fingerprint:
        declared = head.fingerprint.startswith("declared:")
        if not declared:
            raise Conflict(
                f"{head.name} was trained on another fingerprint of {pinned.name} (other weights, "
                "preprocessing or number type).",
                "Vectors of different fingerprints never mix.",
            )


def _giving(features: int, project: Project) -> str:
    """“A and B both give”: the encoders of that width, those most likely first."""
    known = (parse(each.name) for each in KNOWN if each.dim == features)
    names = [spec.name for spec in known if spec.frames == "first"]
    if (own := canonical(project.encoder)) not in names and parse(project.encoder).dim is None:
        names.insert(0, own)
    if len(names) < 2:
        return f"{names[0]} gives, and others too" if names else "several encoders give"
    return f"{enumerated(names)} give alike"
