"""Whether the weights of an encoder can be had, told before anybody has scored for it.

Nothing is loaded and nothing is fetched: the cache of the Hugging Face hub is looked at, and
whether the hub answers. The web process reads this module, so it knows without open_clip where the
encoders of the selection list lie (a test compares the two).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cachetools import TTLCache, cached

from tastemaker.encoding.encoder_specs import BUNDLED, EncoderSpec, parse
from tastemaker.encoding.hub import is_reachable
from tastemaker.encoding.networks import OPEN_CLIP_FILES, TIMM_FILE
from tastemaker.files import is_file

State = Literal["here", "to fetch", "missing", "unknown"]

# Encoder -> (repository of the hub, size of the weights in GB).
PUBLISHED = {
    "ViT-L-14-quickgelu/openai": ("timm/vit_large_patch14_clip_224.openai", 1.7),
    "ViT-L-14-336-quickgelu/openai": ("timm/vit_large_patch14_clip_336.openai", 1.7),
    "ViT-B-32-quickgelu/openai": ("timm/vit_base_patch32_clip_224.openai", 0.6),
    "ViT-B-16-quickgelu/openai": ("timm/vit_base_patch16_clip_224.openai", 0.6),
    "ViT-B-16/datacomp_xl_s13b_b90k": ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", 0.6),
    "ViT-L-14/datacomp_xl_s13b_b90k": ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", 1.7),
    "ViT-H-14-quickgelu/dfn5b": ("apple/DFN5B-CLIP-ViT-H-14", 3.9),
    "ViT-SO400M-14-SigLIP-384/webli": ("timm/ViT-SO400M-14-SigLIP-384", 3.5),
    "ViT-B-16-SigLIP2/webli": ("timm/ViT-B-16-SigLIP2", 1.5),
    "ViT-SO400M-14-SigLIP2-378/webli": ("timm/ViT-SO400M-14-SigLIP2-378", 4.5),
    "timm:vit_small_patch16_dinov3/lvd1689m": ("timm/vit_small_patch16_dinov3.lvd1689m", 0.1),
    "timm:vit_base_patch16_dinov3/lvd1689m": ("timm/vit_base_patch16_dinov3.lvd1689m", 0.3),
}
FILES = (*OPEN_CLIP_FILES, TIMM_FILE)
WORST_FIRST: tuple[State, ...] = ("missing", "unknown", "to fetch", "here")
ON_THIS_MACHINE = "Its weights are on this machine."
WAYS_OUT = (
    f"Choose a weights file of this machine, or begin with {BUNDLED}: the project can move to "
    "another encoder later."
)


@dataclass(frozen=True)
class Weights:
    """What there is to tell of an encoder's weights; `remedy` is empty unless they are missing."""

    state: State
    sentence: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def weights_of(name: str) -> Weights:
    """Whether an encoder's weights are on this machine, or can be fetched. Takes up to two seconds
    where the hub does not answer; of several networks, the one that is hardest to have, or all that
    have to be fetched. Raises `Invalid` for what is no encoder's name."""
    networks = parse(name).networks
    told = [_weights_of(part) for part in networks]
    worst = min(told, key=lambda weights: WORST_FIRST.index(weights.state))
    if len(told) == 1:
        return worst
    if worst.state == "to fetch":
        afar = [part for part, its in zip(networks, told, strict=True) if its.state == "to fetch"]
        return _to_fetch(sum(PUBLISHED[part.published][1] for part in afar))
    if worst.state == "here" and not all(part.bundled for part in networks):
        return Weights("here", ON_THIS_MACHINE)
    return worst


def are_here(name: str) -> bool:
    """Whether an encoder's weights are on this machine. Asks nobody."""
    return all(_is_here(part) for part in parse(name).networks)


def _is_here(spec: EncoderSpec) -> bool:
    if spec.bundled or spec.weights is not None:
        return spec.weights is None or is_file(spec.weights)
    return spec.published in PUBLISHED and _is_cached(PUBLISHED[spec.published][0])


def _weights_of(spec: EncoderSpec) -> Weights:
    if spec.bundled:
        return Weights("here", "Its weights come with this program.")
    if spec.weights is not None:
        if is_file(spec.weights):
            return Weights("here", f"Its weights are read from {spec.weights}.")
        return Weights("missing", f"The weights file {spec.weights} is not there.", WAYS_OUT)
    if spec.published not in PUBLISHED:
        return Weights(
            "unknown", "Whether its weights can be had shows when the first images are embedded."
        )
    repository, size = PUBLISHED[spec.published]
    if _is_cached(repository):
        return Weights("here", ON_THIS_MACHINE)
    if why := _why_not_fetched():
        return Weights(
            "missing", f"The weights of {spec.name} are not on this machine, and {why}.", WAYS_OUT
        )
    return _to_fetch(size)


def _to_fetch(gigabytes: float) -> Weights:
    return Weights(
        "to fetch",
        f"Its weights, about {gigabytes:.1f} GB, are fetched once, with the first images.",
    )


def _is_cached(repository: str) -> bool:
    """Whether a weights file is there whole: one that is half fetched has no name yet."""
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in FILES)
    return any(isinstance(path, str) for path in found)


def _why_not_fetched() -> str:
    """Empty where the hub answers."""
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to fetch them"
    answers = _answers(huggingface_hub.constants.ENDPOINT)
    return "" if answers else "the Hugging Face hub does not answer"


@cached(TTLCache(4, ttl=60))
def _answers(url: str) -> bool:
    return is_reachable(url, seconds=2)
