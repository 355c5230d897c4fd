"""A frozen network as it comes out of one of the libraries: bundled, open_clip's or timm's.

torch, open_clip and timm are imported where they are needed.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.encoding import efficientnet, feature_blocks, frame_rules, hub, tiling
from tastemaker.encoding.encoder_specs import TIMM, EncoderSpec, check_weights, no_such_model
from tastemaker.encoding.preprocessing import Preprocessing
from tastemaker.errors import Invalid

if TYPE_CHECKING:
    import torch

OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_FILE = "model.safetensors"


@dataclass(frozen=True)
class Loaded:
    """`model` is what computes, `tower` the part that sees pictures with its weights as they were
    published, which the fingerprint covers. `forward` computes the vectors of normalised pixels,
    the `views` of a picture behind one another; `read` those of a text, where the network knows
    words. `recipe` is what the fingerprint covers of its blocks, its tiles and its rule for
    animated files."""

    model: "torch.nn.Module"
    tower: "torch.nn.Module"
    forward: "Callable[[torch.Tensor], torch.Tensor]"
    views: tuple[Preprocessing, ...]
    read: "Callable[[str, str], torch.Tensor] | None" = None
    recipe: dict[str, Any] = field(default_factory=dict)


def load_network(spec: EncoderSpec) -> Loaded:
    """The network of a spec without parts. Raises `EncoderUnavailable`, or `Invalid`."""
    how = _bundled if spec.bundled else _from_timm if spec.timm else _from_open_clip
    loaded = how(spec)
    loaded = replace(loaded, recipe=loaded.recipe | frame_rules.recipe(spec.frames))
    if spec.tiling is None:
        return loaded
    return replace(
        loaded,
        forward=tiling.reader(loaded.forward, spec.tiling),
        views=tiling.views_of(loaded.views[0], spec.tiling),
        recipe=loaded.recipe | tiling.recipe(spec.tiling),
    )


def _bundled(spec: EncoderSpec) -> Loaded:
    from tastemaker.encoding.lite_network import folded

    published = efficientnet.load_network()
    network = folded(published)
    recipe = feature_blocks.recipe(spec.blocks) if spec.blocks else {}
    views = feature_blocks.views_of(spec.name, spec.blocks, efficientnet.CROP)
    forward = efficientnet.reader(network, spec.blocks)
    return Loaded(network, published, forward, views, recipe=recipe)


def _with_blocks(
    spec: EncoderSpec,
    model: "torch.nn.Module",
    tower: "torch.nn.Module",
    plain: "Callable[[torch.Tensor], torch.Tensor]",
    answers: feature_blocks.Answers,
    crop: Preprocessing,
    read: "Callable[[str, str], torch.Tensor] | None" = None,
) -> Loaded:
    """A network with the blocks that its name asks for; without any, its features as they are."""
    if not spec.blocks:
        return Loaded(model, tower, plain, (crop,), read)
    views = feature_blocks.views_of(spec.name, spec.blocks, crop)
    layers: tuple[int, ...] = ()
    if "layers" in spec.blocks:
        if not hasattr(getattr(tower, "trunk", tower), "forward_intermediates"):
            raise Invalid(
                f"The network {spec.model} does not show its layers.", "Leave out the block layers."
            )
        layers = feature_blocks.spaced(_count_layers(model, answers, crop.size))
    recipe = feature_blocks.recipe(spec.blocks, layers)
    forward = feature_blocks.reader(answers, spec.blocks, layers)
    return Loaded(model, tower, forward, views, read, recipe)


def _count_layers(model: "torch.nn.Module", answers: feature_blocks.Answers, size: int) -> int:
    import torch

    with torch.inference_mode():
        model.eval()
        return len(answers(torch.zeros(1, 3, size, size), None)[1])


# ---- open_clip


def _safe_first(name: str) -> tuple[str, ...]:
    """The same weights as safetensors, where a repository has them, before a file that can run
    code."""
    return str(Path(name).with_suffix(".safetensors")), name


def _from_open_clip(spec: EncoderSpec) -> Loaded:
    import open_clip

    if open_clip.get_model_config(spec.model) is None:
        raise no_such_model(spec.model, open_clip.list_models())
    published = _published(spec)
    check_weights(spec)
    repository, name = os.path.split(published.get("hf_hub", ""))
    weights = spec.weights or hub.weights_file(
        spec, repository, _safe_first(name) if name else OPEN_CLIP_FILES,
        lambda: open_clip.download_pretrained(published),
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(spec.model, pretrained=str(weights))
    except Exception as error:  # safetensors, torch and open_clip each raise their own kinds
        raise hub.not_these_weights(spec, weights, error) from error
    how = {**model.visual.preprocess_cfg, **published}
    crop = _preprocessing(spec, model.visual.image_size, how)

    def answers(
        pixels: "torch.Tensor", layers: Sequence[int] | None
    ) -> "tuple[torch.Tensor, list[torch.Tensor]]":
        if layers == ():
            return model.encode_image(pixels), []
        indices = None if layers is None else list(layers)
        found = model.visual.forward_intermediates(pixels, indices=indices)
        return found["image_features"], found["image_intermediates"]

    read = _reader(spec, model) if hasattr(model, "encode_text") else None
    return _with_blocks(spec, model, model.visual, model.encode_image, answers, crop, read)


def _preprocessing(spec: EncoderSpec, shape: int | Sequence[int], how: Any) -> Preprocessing:
    size = shape if isinstance(shape, int) else shape[0]
    square = isinstance(shape, int) or tuple(shape) == (size, size)
    if how["resize_mode"] not in ("shortest", "squash") or not square:
        raise Invalid(f"{spec.name} wants a way of resizing that is not supported.")
    return Preprocessing(
        size, how.get("resize_to", size), how["resize_mode"], how["interpolation"],
        tuple(how["mean"]), tuple(how["std"]),
    )  # fmt: skip


def _reader(spec: EncoderSpec, model: Any) -> "Callable[[str, str], torch.Tensor]":
    """The text tower of an open_clip model, with its tokenizer fetched at the first use."""
    import open_clip

    tokenizers: list[Any] = []

    def read(text: str, device: str) -> "torch.Tensor":
        if not tokenizers:
            try:
                tokenizers.append(open_clip.get_tokenizer(spec.model))
            except Exception as error:  # some come from the hub, and fail as its downloads do
                reason = f"its tokenizer is missing: {error}"[:200]
                raise hub.unavailable(spec, reason) from error
        vectors: torch.Tensor = model.encode_text(tokenizers[0]([text]).to(device))
        return vectors

    return read


def _published(spec: EncoderSpec) -> dict[str, Any]:
    """What open_clip knows of the weights of this name: preprocessing and where they lie.

    A local file without a tag is preprocessed as all the tags of its architecture are. Where they
    differ, only the tag can tell, and guessing would score silently wrong.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if spec.tag is None:
        return _alike(spec, tags, lambda tag: open_clip.get_pretrained_cfg(spec.model, tag))
    published: dict[str, Any] = open_clip.get_pretrained_cfg(spec.model, spec.tag)
    if not published:
        raise _no_such_tag("open_clip", spec, tags)
    trained_quick = bool(published.get("quick_gelu"))
    if trained_quick != bool(open_clip.get_model_config(spec.model).get("quick_gelu")):
        plain = spec.model.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if trained_quick else plain
        raise Invalid(
            f"The weights “{spec.tag}” were trained with another activation than {spec.model} has.",
            f"Use {right}/{spec.tag}.",
        )
    return published


def _alike(
    spec: EncoderSpec, tags: Sequence[str], config: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """How all published weights of an architecture want their pictures. Raises `Invalid` where
    they differ."""
    keys = ("mean", "std", "interpolation", "resize_mode", "resize_to", "size")
    found = ((tag, config(tag)) for tag in tags)
    ways = [{key: known[key] for key in keys if key in known} for _, known in found]
    if any(way != ways[0] for way in ways):
        raise Invalid(
            f"The published weights of {spec.model} want different preprocessing, so the file "
            "alone does not tell how to feed it.",
            f"Name the weights it came from: {spec.model}/TAG@FILE with TAG one of "
            f"{', '.join(tags)}.",
        )
    return ways[0] if ways else {}


def _no_such_tag(library: str, spec: EncoderSpec, tags: Sequence[str]) -> Invalid:
    return Invalid(
        f"{library} has no weights “{spec.tag}” for {spec.model}.",
        f"It has: {', '.join(tags) or 'none'}.",
    )


# ---- timm


def _from_timm(spec: EncoderSpec) -> Loaded:
    import timm

    name = spec.model.removeprefix(TIMM)
    if not timm.is_model(name):
        raise no_such_model(spec.model, [TIMM + model for model in timm.list_models()])
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if spec.tag is not None and spec.tag not in tags:
        raise _no_such_tag("timm", spec, tags)
    how = _wanted(name, spec.tag) if spec.tag else _alike(spec, tags, lambda t: _wanted(name, t))
    how = how or _wanted(name, None)
    check_weights(spec)
    weights = spec.weights or _fetched(spec, name)
    try:
        model: Any = timm.create_model(
            f"{name}.{spec.tag}" if spec.tag else name, pretrained=True, num_classes=0,
            pretrained_cfg_overlay={"file": str(weights), "custom_load": False},
        )  # fmt: skip
    except Exception as error:  # safetensors, torch and timm each raise their own kinds
        raise hub.not_these_weights(spec, weights, error) from error
    crop = _preprocessing(spec, how["size"], how)

    def answers(
        pixels: "torch.Tensor", layers: Sequence[int] | None
    ) -> "tuple[torch.Tensor, list[torch.Tensor]]":
        if layers == ():
            return model(pixels), []
        indices = None if layers is None else list(layers)
        last, maps = model.forward_intermediates(pixels, indices=indices)
        return model.forward_head(last, pre_logits=True), maps

    return _with_blocks(spec, model, model, model, answers, crop)


def _wanted(name: str, tag: str | None) -> dict[str, Any]:
    """How a timm network wants its pictures, and where its published weights lie."""
    import timm
    from timm.data import resolve_data_config

    known = timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name, allow_unregistered=True)
    config = known.to_dict() if known is not None else {}
    how = resolve_data_config({}, pretrained_cfg=config or {"input_size": (3, 224, 224)})
    size = tuple(how["input_size"][1:])
    modes = {"center": "shortest", "squash": "squash"}
    return {
        "size": size, "resize_to": int(size[0] / how["crop_pct"]),
        "resize_mode": modes.get(how["crop_mode"], how["crop_mode"]),
        "interpolation": how["interpolation"], "mean": how["mean"], "std": how["std"],
        "hf_hub": config.get("hf_hub_id") or "",
    }  # fmt: skip


def _fetched(spec: EncoderSpec, name: str) -> Path:
    return hub.weights_file(spec, _wanted(name, spec.tag)["hf_hub"], (TIMM_FILE,))
