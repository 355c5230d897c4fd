"""What encoders are called, and which there are to choose from.

An encoder is named `MODEL/TAG`: an open_clip architecture and the tag of its published weights, a
timm one as `timm:MODEL/TAG`, or `efficientnet_lite0/bundled`, whose weights come with the
installation. `@FILE.safetensors` says that the weights lie in a local file:
`ViT-L-14-quickgelu/openai@/data/l14.safetensors` for published weights fetched by other means,
`ViT-L-14-quickgelu@/data/mine.safetensors` for one's own.

`MODEL+BLOCK/TAG` has blocks of features beside the network's own, such as
`efficientnet_lite0+stages+whole/bundled`; `MODEL+tiles/TAG` looks at five tiles of the picture at
full size (`tiling`), `MODEL+mean-frames/TAG` at several frames of an animated file
(`frame_rules`). `A+B`, two or more whole names, is several networks side
by side as one encoder: `efficientnet_lite0/bundled+ViT-B-32-quickgelu/openai`. A tag has no plus
and a file ends with `.safetensors`, so one plus can be told from the other.

The web process reads this module: torch, open_clip and timm are not imported.
"""

import difflib
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tastemaker.config import DEFAULT_ENCODER
from tastemaker.encoding import efficientnet, feature_blocks, frame_rules, tiling
from tastemaker.errors import EncoderUnavailable, Invalid
from tastemaker.files import is_file
from tastemaker.files.addresses import local_path
from tastemaker.pictures.frames import FrameRule

BUNDLED = efficientnet.name_of(())  # the plain one: least to compute, least to keep
CLIP_BASE = "ViT-B-32-quickgelu/openai"
TIMM = "timm:"

BLOCK_NAMES = {*efficientnet.BLOCKS, *feature_blocks.BLOCKS, *tiling.TILINGS, *frame_rules.RULES}


@dataclass(frozen=True)
class KnownEncoder:
    """A line of the selection list. `dim` is the length of its vectors."""

    name: str
    dim: int
    description: str


KNOWN = (
    KnownEncoder(
        DEFAULT_ENCODER, 4128, "sees most without a download: learns from the fewest scores"
    ),
    KnownEncoder(
        efficientnet.name_of(("stages",)), 2848, "sees less, embeds in less than half the time"
    ),
    KnownEncoder(BUNDLED, 1280, "the smallest and quickest: for libraries of a million"),
    KnownEncoder(
        efficientnet.name_of(("stages", "tiles")),
        2848,
        "looks at five tiles at full size: compression, noise, blur",
    ),
    KnownEncoder(
        efficientnet.name_of(("stages", "whole", "mean-frames")),
        4128,
        "the first one over eight frames of animated files, not their first frame alone",
    ),
    KnownEncoder(
        efficientnet.name_of(("stages", "whole", "middle-frame")),
        4128,
        "the first one on the middle frame of animated files",
    ),
    KnownEncoder(
        f"{DEFAULT_ENCODER}+{CLIP_BASE}",
        4640,
        "the first one and CLIP base side by side: words too",
    ),
    KnownEncoder(
        "ViT-L-14-quickgelu/openai", 768, "CLIP large: compatible with the city96 predictor"
    ),
    KnownEncoder("ViT-L-14-336-quickgelu/openai", 768, "CLIP large at 336 pixels: finer, slower"),
    KnownEncoder(CLIP_BASE, 512, "CLIP base: fits a machine without a GPU"),
    KnownEncoder("ViT-B-16-quickgelu/openai", 512, "CLIP base with finer patches"),
    KnownEncoder("ViT-B-16/datacomp_xl_s13b_b90k", 512, "DataComp base: stronger than OpenAI's"),
    KnownEncoder("ViT-L-14/datacomp_xl_s13b_b90k", 768, "DataComp large: stronger than OpenAI's"),
    KnownEncoder("ViT-H-14-quickgelu/dfn5b", 1024, "DFN huge: wants a GPU"),
    KnownEncoder("ViT-SO400M-14-SigLIP-384/webli", 1152, "SigLIP at 384 pixels: wants a GPU"),
    KnownEncoder("ViT-B-16-SigLIP2/webli", 768, "SigLIP 2 base: sees the whole picture"),
    KnownEncoder("ViT-SO400M-14-SigLIP2-378/webli", 1152, "SigLIP 2 at 378 pixels: wants a GPU"),
    KnownEncoder("timm:vit_small_patch16_dinov3/lvd1689m", 384, "DINOv3 small: form, no words"),
    KnownEncoder("timm:vit_base_patch16_dinov3/lvd1689m", 768, "DINOv3 base: form, no words"),
)


@dataclass(frozen=True)
class EncoderSpec:
    """A well-formed encoder name, taken apart. `tag` or `weights` is set, or both; `dim` is known
    for the bundled ones and those of the selection list, and None for others until they are loaded.
    `blocks` are what a composite one has beside the features of its network, `tiling` how its
    picture is cut, if it is, `frames` what it sees of an animated file. Of several networks side by
    side, `parts` are these in the order they are stored in, all with the same `frames`, and the
    rest is empty."""

    name: str
    model: str
    tag: str | None
    weights: Path | None
    dim: int | None
    blocks: tuple[str, ...] = ()
    parts: tuple["EncoderSpec", ...] = ()
    tiling: str | None = None
    frames: FrameRule = "first"

    @property
    def bundled(self) -> bool:
        return self.model == efficientnet.MODEL

    @property
    def timm(self) -> bool:
        return self.model.startswith(TIMM)

    @property
    def networks(self) -> tuple["EncoderSpec", ...]:
        """The encoder itself, or those it has side by side."""
        return self.parts or (self,)

    @property
    def identity(self) -> str:
        """Its name without the places of local weights."""
        return "+".join(part.name.partition("@")[0] for part in self.networks)

    @property
    def published(self) -> str:
        """The name of the network's published weights, whatever its blocks."""
        return f"{self.model}/{self.tag}"


def known_encoders() -> tuple[KnownEncoder, ...]:
    """The encoders to offer in a list, the default first."""
    return KNOWN


def parse(name: str) -> EncoderSpec:
    """Check the form of an encoder name, without loading anything.

    Whether open_clip has such a model and tag, and whether the file is there, shows in `load`.
    Raises `Invalid` with the nearest names there are.
    """
    names = split_parts(name)
    if len(names) > 1 and names[-1] in BLOCK_NAMES:
        raise Invalid(
            f"“{name}” has a block behind its tag.",
            f"Blocks come before it: MODEL+{names[-1]}/TAG.",
        )
    parts = sorted((_parse_one(part) for part in names), key=_order)
    if len(parts) == 1:
        return parts[0]
    if len({part.frames for part in parts}) > 1:
        raise Invalid(
            f"The encoders of “{name}” have different rules for animated files.",
            "Write the same in each name, or in none: +middle-frame or +mean-frames.",
        )
    seen = Counter((part.model, part.tag, part.weights, part.tiling) for part in parts)
    if twice := [p for p in parts if seen[p.model, p.tag, p.weights, p.tiling] > 1]:
        every = dict.fromkeys(block for part in twice for block in part.blocks)
        hint = _with_blocks(twice[0], tuple(every))
        raise Invalid(f"“{name}” names {twice[0].model} twice.", f"Name it once, as {hint}.")
    dims = [part.dim for part in parts]
    dim = sum(d for d in dims if d) if all(dims) else None
    return EncoderSpec(
        "+".join(p.name for p in parts), "", None, None, dim, (), tuple(parts),
        frames=parts[0].frames,
    )  # fmt: skip


def spec_of(name: str) -> EncoderSpec:
    """The encoder of that name; vectors from outside may be of one that nobody here can load."""
    try:
        return parse(name)
    except Invalid:
        return EncoderSpec(name, name, None, None, None)


def split_parts(name: str) -> list[str]:
    """The names of the encoders that a name has side by side; of any other, the name itself."""
    rest, parts = name.strip(), list[str]()
    while True:
        part = re.match(r"[^/@]*(/[\w.-]*)?(@.*?\.safetensors)?(?=\+)", rest, re.ASCII)
        if part is None or not (part[1] or part[2]):
            return [*parts, rest]
        parts.append(part[0])
        rest = rest[part.end() + 1 :]


def _order(spec: EncoderSpec) -> tuple[bool, str]:
    return not spec.bundled, spec.name


def _with_blocks(spec: EncoderSpec, blocks: tuple[str, ...]) -> str:
    ordered = tuple(block for block in _blocks_of(spec.model) if block in blocks)
    return "+".join((spec.model, *ordered)) + (f"/{spec.tag}" if spec.tag else "")


def _blocks_of(model: str) -> tuple[str, ...]:
    return tuple(efficientnet.BLOCKS) if model == efficientnet.MODEL else feature_blocks.BLOCKS


def _parse_one(name: str) -> EncoderSpec:
    identity, _, file = name.strip().partition("@")
    model, _, tag = identity.partition("/")
    if model.startswith(TIMM) and not tag and "." in model:  # as timm itself writes it
        model, _, tag = model.partition(".")
    whole = f"{model}/{tag}" if tag else identity
    if not re.fullmatch(r"(timm:)?[\w.+-]+(/[\w.-]+)?", whole, re.ASCII) or not (tag or file):
        raise Invalid(f"“{name}” is not the name of an encoder.", _nearest(name))
    network, *named = model.split("+")
    rule, named = frame_rules.taken_out(name, named)
    frames = frame_rules.RULES[rule] if rule else "first"
    cut, blocks = tiling.taken_out(name, named)
    beside = tuple(word for word in (cut, rule) if word)
    if network == efficientnet.MODEL:
        if (tag, file) != ("bundled", ""):
            raise Invalid(f"“{name}” is not an encoder.", f"The bundled one is called {BUNDLED}.")
        chosen = efficientnet.ordered(blocks)
        name = efficientnet.name_of((*chosen, *beside))
        width = efficientnet.width(chosen)
        return EncoderSpec(name, network, tag, None, width, chosen, (), cut, frames)
    chosen = feature_blocks.ordered(network, feature_blocks.BLOCKS, blocks, tag or "…")
    if tag == "openai" and not network.endswith("-quickgelu"):
        # open_clip only warns here, builds the other activation, and every feature is wrong.
        raise Invalid(
            f"OpenAI's weights need the quick-GELU variant of {network}.",
            f"Use {network}-quickgelu/openai.",
        )
    if file and not file.endswith(".safetensors"):
        raise Invalid(
            "A local weights file must be a .safetensors file; other formats can run code.",
            "Write it as MODEL@/path/to/weights.safetensors.",
        )
    weights = local_path(file).absolute() if file else None
    whole = "+".join((network, *chosen)) + (f"/{tag}" if tag else "")
    dim = next((known.dim for known in KNOWN if known.name == whole), None)
    canonical = "+".join((network, *chosen, *beside)) + (f"/{tag}" if tag else "")
    name = f"{canonical}@{weights}" if weights else canonical
    return EncoderSpec(name, network, tag or None, weights, dim, chosen, (), cut, frames)


def reads_text(name: str) -> bool:
    """Whether an encoder has a text tower, so that its images can be searched by words."""
    return any(not (part.bundled or part.timm) for part in parse(name).networks)


def no_words(name: str) -> Invalid:
    return Invalid(
        f"{name} knows no words, so its images cannot be searched by text.",
        "A project on a CLIP encoder can; here, search by a similar image or by tag.",
    )


# ---- whether there is such an encoder


def check_architecture(spec: EncoderSpec) -> None:
    """Raise `Invalid` for a model that open_clip or timm does not have, without importing them."""
    for part in spec.networks:
        models = () if part.bundled else _timm_models() if part.timm else _open_clip_models()
        if models and part.model not in models:
            raise no_such_model(part.model, list(models))


def check_weights(spec: EncoderSpec) -> None:
    """Raise `EncoderUnavailable` where a file is named and not there."""
    for part in spec.networks:
        if part.weights is not None and not is_file(part.weights):
            raise EncoderUnavailable(
                f"The weights file {part.weights} is not there.",
                "Put it back, or use another encoder.",
            )


@cache
def _open_clip_models() -> tuple[str, ...]:
    """They are the names of the files in its folder of configurations."""
    folder = _folder_of("open_clip")
    return tuple(path.stem for path in folder.glob("model_configs/*.json")) if folder else ()


@cache
def _timm_models() -> tuple[str, ...]:
    """They are the functions that its modules mark as models."""
    folder = _folder_of("timm")
    marked = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)
    files = folder.glob("models/*.py") if folder else ()
    return tuple(TIMM + name for file in files for name in marked.findall(file.read_text("utf-8")))


def _folder_of(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def no_such_model(model: str, models: list[str]) -> Invalid:
    near = difflib.get_close_matches(model, models, n=3, cutoff=0.4)
    hint = f"Near it: {', '.join(near)}." if near else f"The bundled one is called {BUNDLED}."
    library = "timm" if model.startswith(TIMM) else "open_clip"
    return Invalid(f"{library} has no model “{model}”.", hint)


def _nearest(name: str) -> str:
    names = [known.name for known in KNOWN]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.4) or [DEFAULT_ENCODER, BUNDLED]
    return f"Did you mean {' or '.join(near)}? The form is MODEL/TAG or MODEL@FILE.safetensors."
