"""The names of encoders in files made elsewhere, as this program writes them."""

from tastemaker.encoding.encoders import check_architecture, parse
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
    """An encoder's name as this program writes it, without the place of local weights."""
    identity = name.strip().partition("@")[0] if name not in ALIASES else name
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
    """Whether two names cannot be of the same network: other architectures, or other weights where
    both name theirs."""
    models, tags = zip(*(canonical(name).partition("/")[::2] for name in (one, other)), strict=True)
    return bool(models[0] != models[1] or ("" not in tags and tags[0] != tags[1]))
