"""Frozen networks that turn a picture into a vector, behind one small interface.

    encoder = load(parse("efficientnet_lite0/bundled"))
    vectors = encoder.encode(np.stack([encoder.preprocess(picture), ...]))

An encoder is named `MODEL/TAG`: an open_clip architecture and the tag of its published weights,
or `efficientnet_lite0/bundled`, whose weights come with the installation, alone or with blocks of
features beside its own (`efficientnet_lite0+stages+whole/bundled`). `@FILE.safetensors` says that
the weights lie in a local file: `ViT-L-14-quickgelu/openai@/data/l14.safetensors` for published
weights fetched by other means, `ViT-L-14-quickgelu@/data/mine.safetensors` for one's own. Vectors
are comparable only under one *fingerprint*: architecture, weights, preprocessing, blocks,
normalisation and number type.

torch, open_clip and timm are imported where they are needed: the web process reads this module.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import re
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.encoding import downloads, efficientnet
from tastemaker.encoding.preprocessing import Preprocessing, fitted_views
from tastemaker.errors import EncoderUnavailable, Invalid
from tastemaker.files import is_file, typed_path

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]

BUNDLED = efficientnet.name_of(())


@dataclass(frozen=True)
class KnownEncoder:
    """A line of the selection list. `dim` is the length of its vectors."""

    name: str
    dim: int
    description: str


KNOWN = (
    KnownEncoder(BUNDLED, 1280, "small, quick, no download"),
    KnownEncoder(
        efficientnet.name_of(("stages",)), 2848, "sees more: better from few scores, as quick"
    ),
    KnownEncoder(
        efficientnet.name_of(("stages", "whole")),
        4128,
        "sees most: better still, embeds in 2–3 times the time",
    ),
    KnownEncoder(
        "ViT-L-14-quickgelu/openai", 768, "CLIP large: compatible with the city96 predictor"
    ),
    KnownEncoder("ViT-L-14-336-quickgelu/openai", 768, "CLIP large at 336 pixels: finer, slower"),
    KnownEncoder("ViT-B-32-quickgelu/openai", 512, "CLIP base: fits a machine without a GPU"),
    KnownEncoder("ViT-B-16-quickgelu/openai", 512, "CLIP base with finer patches"),
    KnownEncoder("ViT-B-16/datacomp_xl_s13b_b90k", 512, "DataComp base: stronger than OpenAI's"),
    KnownEncoder("ViT-L-14/datacomp_xl_s13b_b90k", 768, "DataComp large: stronger than OpenAI's"),
    KnownEncoder("ViT-H-14-quickgelu/dfn5b", 1024, "DFN huge: wants a GPU"),
    KnownEncoder("ViT-SO400M-14-SigLIP-384/webli", 1152, "SigLIP at 384 pixels: wants a GPU"),
)


@dataclass(frozen=True)
class EncoderSpec:
    """A well-formed encoder name, taken apart. `tag` or `weights` is set, or both; `dim` is known
    for the bundled ones and those of the selection list, and None for others until they are loaded.
    `blocks` are what a composite one has beside the features of its network."""

    name: str
    model: str
    tag: str | None
    weights: Path | None
    dim: int | None
    blocks: tuple[str, ...] = ()

    @property
    def bundled(self) -> bool:
        return self.model == efficientnet.MODEL


def known_encoders() -> tuple[KnownEncoder, ...]:
    """The encoders to offer in a list, the one that needs no download first."""
    return KNOWN


def parse(name: str) -> EncoderSpec:
    """Check the form of an encoder name, without loading anything.

    Whether open_clip has such a model and tag, and whether the file is there, shows in `load`.
    Raises `Invalid` with the nearest names there are.
    """
    identity, _, file = name.strip().partition("@")
    model, _, tag = identity.partition("/")
    if not re.fullmatch(r"[\w.+-]+(/[\w.-]+)?", identity, re.ASCII) or not (tag or file):
        raise Invalid(f"“{name}” is not the name of an encoder.", _nearest(name))
    network, *blocks = model.split("+")
    if network == efficientnet.MODEL:
        if (tag, file) != ("bundled", ""):
            raise Invalid(f"“{name}” is not an encoder.", f"The bundled one is called {BUNDLED}.")
        chosen = efficientnet.ordered(blocks)
        return EncoderSpec(
            efficientnet.name_of(chosen), network, tag, None, efficientnet.width(chosen), chosen
        )
    if blocks:
        raise Invalid(
            f"Only the bundled network takes blocks beside its features, not {network}.",
            f"Use {network} alone, or {efficientnet.name_of(tuple(efficientnet.BLOCKS))}.",
        )
    if tag == "openai" and not model.endswith("-quickgelu"):
        # open_clip only warns here, builds the other activation, and every feature is wrong.
        raise Invalid(
            f"OpenAI's weights need the quick-GELU variant of {model}.",
            f"Use {model}-quickgelu/openai.",
        )
    if file and not file.endswith(".safetensors"):
        raise Invalid(
            "A local weights file must be a .safetensors file; other formats can run code.",
            "Write it as MODEL@/path/to/weights.safetensors.",
        )
    weights = typed_path(file).absolute() if file else None
    canonical = f"{identity}@{weights}" if weights else identity
    dim = next((known.dim for known in KNOWN if known.name == identity), None)
    return EncoderSpec(canonical, model, tag or None, weights, dim)


def check_architecture(spec: EncoderSpec) -> None:
    """Raise `Invalid` for a model that open_clip does not have, without importing it: its models
    are the names of the files in its folder of configurations."""
    found = importlib.util.find_spec("open_clip")
    if spec.bundled or found is None or found.origin is None:
        return
    models = [path.stem for path in Path(found.origin).parent.glob("model_configs/*.json")]
    if models and spec.model not in models:
        raise _no_such_model(spec.model, models)


def check_weights(spec: EncoderSpec) -> None:
    """Raise `EncoderUnavailable` where a file is named and not there."""
    if spec.weights is not None and not is_file(spec.weights):
        raise EncoderUnavailable(
            f"The weights file {spec.weights} is not there.", "Put it back, or use another encoder."
        )


def _no_such_model(model: str, models: list[str]) -> Invalid:
    near = difflib.get_close_matches(model, models, n=3, cutoff=0.4)
    hint = f"Near it: {', '.join(near)}." if near else f"The bundled one is called {BUNDLED}."
    return Invalid(f"open_clip has no model “{model}”.", hint)


def _nearest(name: str) -> str:
    names = [known.name for known in KNOWN]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.4) or names[:2]
    return f"Did you mean {' or '.join(near)}? The form is MODEL/TAG or MODEL@FILE.safetensors."


# ---- the encoder


class Encoder:
    """A loaded network. Not to be changed after loading: the fingerprint speaks for all of it."""

    def __init__(
        self,
        spec: EncoderSpec,
        forward: "Callable[[torch.Tensor], torch.Tensor]",
        views: tuple[Preprocessing, ...],
        weights_sha256: str,
        dtype: Dtype,
        device: str,
        read: "Callable[[str], torch.Tensor] | None" = None,
    ) -> None:
        import torch

        self.spec, self.name, self.dtype, self.device = spec, spec.name, dtype, device
        self.views = views  # all of one size, mean and standard deviation
        self._forward, self._read = forward, read
        self._weights_sha256 = weights_sha256
        self._torch_dtype = getattr(torch, dtype)
        self._mean = torch.tensor(views[0].mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(views[0].std, device=device).view(3, 1, 1) * 255
        self.dim = self.encode(np.zeros((1, *self.input_shape), np.uint8)).shape[1]
        canonical = json.dumps(self.describe(), sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return len(self.views), self.views[0].size, self.views[0].size, 3

    def describe(self) -> dict[str, Any]:
        """All that decides the vectors. The place the weights came from does not: the same
        weights from the hub and from a local file give the same fingerprint."""
        plain = {
            "architecture": self.spec.model,
            "weights_sha256": self._weights_sha256,
            "preprocessing": asdict(self.views[0]),
            "l2_normalised": False,
            "dtype": self.dtype,
        }
        if not self.spec.blocks:
            return plain
        others = [asdict(view) for view in self.views[1:]]
        return plain | efficientnet.recipe(self.spec.blocks) | {"other_views": others}

    def preprocess(self, picture: Image.Image) -> NDArray[np.uint8]:
        """A picture → (views, size, size, 3) uint8. Raises `BadImage`."""
        return fitted_views(picture, self.views)

    def encode(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, views, size, size, 3) uint8 from `preprocess` → (n, dim) float32, not L2-normalised.
        The views of all pictures go through the network together."""
        import torch

        with torch.inference_mode():
            # The permuted view is already in channels-last order, which halves the time of the
            # convolutions on a CPU; the picture is normalised in float32 whatever the dtype.
            flat = batch.reshape(-1, *self.input_shape[1:])
            pixels = torch.from_numpy(flat).to(self.device).permute(0, 3, 1, 2)
            normal = ((pixels.float() - self._mean) / self._std).to(self._torch_dtype)
            vectors: NDArray[np.float32] = self._forward(normal).float().cpu().numpy()
            return vectors

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """A text → (dim,) float32 in the space of the pictures. Raises `Invalid` for an encoder
        that knows no words, `EncoderUnavailable` without its tokenizer."""
        import torch

        if self._read is None:
            raise no_words(self.name)
        with torch.inference_mode():
            vector: NDArray[np.float32] = self._read(text)[0].float().cpu().numpy()
            return vector


def reads_text(name: str) -> bool:
    """Whether an encoder has a text tower, so that its images can be searched by words."""
    return not parse(name).bundled


def no_words(name: str) -> Invalid:
    return Invalid(
        f"{name} knows no words, so its images cannot be searched by text.",
        "A project on a CLIP encoder can; here, search by a similar image or by tag.",
    )


def load(spec: EncoderSpec, dtype: Dtype = "float32", device: str | None = None) -> Encoder:
    """Load the weights (seconds; the first time of an open_clip tag, a download).

    `device` None means a GPU if there is one. bfloat16 is faster where the processor has it, and
    gives other vectors (cosine down to 0.98), hence another fingerprint. Raises
    `EncoderUnavailable` if the weights cannot be had, `Invalid` if no such model exists.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network, tower, forward, views = (
        _from_installation(spec) if spec.bundled else _from_open_clip(spec)
    )
    sha256 = _hash_of_weights(tower)  # before the cast: the hash is of the weights as published
    network.eval().requires_grad_(False)
    network.to(device, getattr(torch, dtype)).to(memory_format=torch.channels_last)
    read = None if spec.bundled else _reader(spec, network, device)
    return Encoder(spec, forward, views, sha256, dtype, device, read)


def _reader(spec: EncoderSpec, model: Any, device: str) -> "Callable[[str], torch.Tensor] | None":
    """The text tower of an open_clip model, with its tokenizer fetched at the first use."""
    import open_clip

    tokenizers: list[Any] = []

    def read(text: str) -> "torch.Tensor":
        if not tokenizers:
            try:
                tokenizers.append(open_clip.get_tokenizer(spec.model))
            except Exception as error:  # some come from the hub, and fail as its downloads do
                raise _unavailable(spec, f"its tokenizer is missing: {error}"[:200]) from error
        vectors: torch.Tensor = model.encode_text(tokenizers[0]([text]).to(device))
        return vectors

    return read if hasattr(model, "encode_text") else None


Forward = Callable[["torch.Tensor"], "torch.Tensor"]
# Model, its image tower, what computes the vectors, the views it wants of a picture.
Loaded = tuple["torch.nn.Module", "torch.nn.Module", Forward, tuple[Preprocessing, ...]]


def _from_installation(spec: EncoderSpec) -> Loaded:
    network = efficientnet.load_network()
    forward = efficientnet.reader(network, spec.blocks)
    return network, network, forward, efficientnet.views(spec.blocks)


def _from_open_clip(spec: EncoderSpec) -> Loaded:
    import open_clip

    if open_clip.get_model_config(spec.model) is None:
        raise _no_such_model(spec.model, open_clip.list_models())
    published = _published(spec)
    check_weights(spec)
    weights = spec.weights or _from_hub(spec, published)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(spec.model, pretrained=str(weights))
    except Exception as error:  # safetensors, torch and open_clip each raise their own kinds
        raise EncoderUnavailable(
            f"{weights.name} does not hold the weights of {spec.model}.",
            f"Give the file of that architecture. ({str(error).splitlines()[0][:200]})",
        ) from error
    shape = model.visual.image_size
    size = shape if isinstance(shape, int) else shape[0]
    how = {**model.visual.preprocess_cfg, **published}
    if how["resize_mode"] not in ("shortest", "squash") or shape not in (size, (size, size)):
        raise Invalid(f"{spec.name} wants a way of resizing that is not supported.")
    preprocessing = Preprocessing(
        size, size, how["resize_mode"], how["interpolation"], tuple(how["mean"]), tuple(how["std"])
    )
    return model, model.visual, model.encode_image, (preprocessing,)


def _published(spec: EncoderSpec) -> dict[str, Any]:
    """What open_clip knows of the weights of this name: preprocessing and where they lie.

    A local file without a tag is preprocessed as all the tags of its architecture are. Where they
    differ, only the tag can tell, and guessing would score silently wrong.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.tag is None:
        ways = [_appearance(open_clip.get_pretrained_cfg(spec.model, tag)) for tag in tags]
        if any(way != ways[0] for way in ways):
            raise Invalid(
                f"The published weights of {spec.model} want different preprocessing, so the file "
                "alone does not tell how to feed it.",
                f"Name the weights it came from: {spec.model}/TAG@FILE with TAG one of "
                f"{', '.join(tags)}.",
            )
        return ways[0] if ways else {}
    published: dict[str, Any] = open_clip.get_pretrained_cfg(spec.model, spec.tag)
    if not published:
        raise Invalid(
            f"open_clip has no weights “{spec.tag}” for {spec.model}.",
            f"It has: {', '.join(tags) or 'none'}.",
        )
    trained_quick = bool(published.get("quick_gelu"))
    if trained_quick != bool(open_clip.get_model_config(spec.model).get("quick_gelu")):
        plain = spec.model.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if trained_quick else plain
        raise Invalid(
            f"The weights “{spec.tag}” were trained with another activation than {spec.model} has.",
            f"Use {right}/{spec.tag}.",
        )
    return published


def _appearance(published: dict[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {key: published[key] for key in keys if key in published}


def _from_hub(spec: EncoderSpec, published: dict[str, Any]) -> Path:
    """The weights file of a tag: from the Hugging Face cache as it is, else downloaded into it.

    huggingface_hub retries a dead network for most of a minute, so a machine that plainly has
    none is refused at once.
    """
    import huggingface_hub.constants
    import open_clip

    repository, file = os.path.split(published.get("hf_hub", ""))
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if file:
        names = [str(Path(file).with_suffix(".safetensors")), file]
    for name in names if repository else ():
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(spec, "HF_HUB_OFFLINE is set")
    if not is_reachable(huggingface_hub.constants.ENDPOINT):
        raise _unavailable(spec, "the Hugging Face hub does not answer")
    try:
        if repository:
            return downloads.fetch(repository, names)
        return Path(open_clip.download_pretrained(published))
    except Exception as error:  # HTTP, file system and hub errors alike mean: no weights
        raise _unavailable(spec, str(error).splitlines()[0][:200]) from error


def is_reachable(url: str, seconds: float = 5) -> bool:
    """Whether somebody answers at that address, within so long."""
    if urllib.request.getproxies():
        return True  # the way out is the proxy's business
    address = urllib.parse.urlsplit(url)
    port = address.port or (80 if address.scheme == "http" else 443)
    with contextlib.suppress(OSError), socket.create_connection((address.hostname, port), seconds):
        return True
    return False


def _unavailable(spec: EncoderSpec, reason: str) -> EncoderUnavailable:
    return EncoderUnavailable(
        f"The weights of {spec.name} are not on this machine and could not be downloaded: "
        f"{reason}.",
        f"Three ways out: use another encoder, such as {BUNDLED}; give a local file as "
        f"{spec.name}@/path/to/weights.safetensors; or fill the Hugging Face cache (HF_HOME) on a "
        "machine with a network and copy it here.",
    )


def _hash_of_weights(tower: "torch.nn.Module") -> str:
    """SHA-256 over names, shapes and values of the image tower, independent of the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().reshape(-1).numpy())
    return digest.hexdigest()
