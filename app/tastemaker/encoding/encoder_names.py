"""The names of encoders in files made elsewhere, as this program writes them."""

from tastemaker.encoding.encoder_specs import check_architecture, parse, split_parts
from tastemaker.errors import Conflict

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
    """An encoder's name as this program writes it, without the places of local weights."""
    parts = [_alias(part).partition("@")[0] for part in split_parts(name)]
    return parse("+".join(parts)).identity if len(parts) > 1 else _alias(parts[0])


def _alias(part: str) -> str:
    identity = part.strip().partition("@")[0] if part not in ALIASES else part
    return ALIASES.get(identity, identity)


def given(name: str, own: str | None, file: str) -> str:
    """The encoder that a caller names for a `file`, which must be one that there is, and not
    another than `own`, which the file names itself. Raises `Invalid` or `Conflict`."""
    spec = parse(ALIASES.get(name.strip(), name))
    check_architecture(spec)
    if own and _contradict(spec.name, own):
        raise Conflict(
            f"{file} says that it was trained on {own}, not on {name}.",
            "Leave the encoder out, or take the file that was trained on it.",
        )
    return spec.name


def _contradict(one: str, other: str) -> bool:
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
