"""The names of encoders in files made elsewhere, as this program writes them."""

from tastemaker.encoding.efficientnet import MODEL
from tastemaker.encoding.encoder_specs import check_architecture, parse, split_parts
from tastemaker.errors import Conflict, Invalid

# The same networks under the names other programs give them.
ALIASES = {
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu/openai",
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
    "ViT-L/14": "ViT-L-14-quickgelu/openai",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu/openai",
    "ViT-B/32": "ViT-B-32-quickgelu/openai",
    "ViT-B/16": "ViT-B-16-quickgelu/openai",
    "ViT-L-14/openai": "ViT-L-14-quickgelu/openai",
    "ViT-L-14-336/openai": "ViT-L-14-336-quickgelu/openai",
    "ViT-B-32/openai": "ViT-B-32-quickgelu/openai",
    "ViT-B-16/openai": "ViT-B-16-quickgelu/openai",
}


def canonical(name: str) -> str:
    """An encoder's name as this program writes it, without the places of local weights; given
    again, it stays as it is. A name that this program does not write is no error: it is that of
    another encoder."""
    parts = [_identity(part) for part in split_parts(name)]
    return "+".join(sorted(parts, key=lambda part: (not part.startswith(MODEL), part)))


def _identity(part: str) -> str:
    """Of one network. It is parsed with its file, which may be all that names its weights."""
    identity, at, file = part.strip().partition("@")
    if part.strip() in ALIASES:  # some of them hold an @
        identity, at, file = part.strip(), "", ""
    identity = ALIASES.get(identity, identity)
    try:
        return parse(identity + at + file).identity
    except Invalid:
        return identity


def given(name: str, own: str | None, file: str) -> str:
    """The encoder that a caller names for a `file`, which must be one that there is, and not
    another than `own`, which the file names itself. Raises `Invalid` or `Conflict`."""
    spec = parse(ALIASES.get(name.strip(), name))
    check_architecture(spec)
    if own and contradict(spec.name, own):
        raise Conflict(
            f"{file} says that it was trained on {own}, not on {name}.",
            "Leave the encoder out, or take the file that was trained on it.",
        )
    return spec.name


def contradict(one: str, other: str) -> bool:
    """Whether two names cannot be of the same networks: other architectures, or other weights where
    both name theirs."""
    ours, theirs = (
        [canonical(part).partition("/")[::2] for part in split_parts(name)] for name in (one, other)
    )
    if len(ours) != len(theirs):
        return True
    return any(
        models[0] != models[1] or ("" not in tags and tags[0] != tags[1])
        for models, tags in (zip(*pair, strict=True) for pair in zip(ours, theirs, strict=True))
    )


Known = tuple[str | None, str | None]  # the name and the fingerprint of an encoder, where told


def differ(one: Known, other: Known) -> bool:
    """Whether two cannot be the same encoder, as far as their names and fingerprints are told."""
    (ours, our_print), (theirs, their_print) = one, other
    if our_print and their_print and our_print != their_print:
        return True
    return bool(ours and theirs and contradict(ours, theirs))
