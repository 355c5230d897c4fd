"""A version as a folder of ComfyUI nodes, which run without this program.

The code in the folder is the same for every version; `model.json` says what differs. The bundled
encoder comes along. A plain one of open_clip is loaded by that library, which ComfyUI's Python
needs then; anything else by `tastemaker` itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from tastemaker.config import shipped
from tastemaker.encoding import bundled_layers, efficientnet
from tastemaker.errors import Conflict
from tastemaker.files.json_text import json_text
from tastemaker.publishing.exports import Part
from tastemaker.publishing.portable import Portable

CODE = ("__init__.py", "scorer.py")
NEEDS = {"bundled": "", "open_clip": "open_clip_torch>=2.24\n", "tastemaker": ""}


def comfyui_folder(version: Portable, files: list[Part]) -> list[Part]:
    """The folder: its code, what the code reads, and `files`, the head and its sidecar. Raises
    `Conflict` for an encoder that nothing could load there."""
    by = encoder_by(version)
    about = version.about() | {"stem": version.stem, "encoder_by": by}
    parts = [Part(name, _source(name).read_bytes()) for name in CODE]
    if by == "bundled":
        about["network"], weights = _network(version)
        parts.append(Part("encoder.safetensors", weights))
    elif by == "open_clip":
        about["open_clip"] = [version.spec.model, version.spec.tag]
    return [
        *parts,
        *files,
        Part("model.json", json_text(about, indent=1).encode()),
        Part("requirements.txt", NEEDS[by].encode()),
        Part("README.md", _readme(version, by).encode()),
    ]  # fmt: skip


def _source(name: str) -> Path:
    return shipped("templates") / "elsewhere" / "comfyui" / name


def encoder_by(version: Portable) -> str:
    """What loads the encoder there. Raises `Conflict` where nothing could."""
    if version.brings_encoder:
        return "bundled"
    spec = version.spec
    known_make = spec.tiling is None and spec.frames == "first"
    if spec.bundled and known_make:
        raise Conflict(
            f"{version.name} reads vectors of another make of {version.encoder} than the one that "
            "comes with Tastemaker; pictures cannot be scored with it.",
            "Score embeddings of that make with `tastemaker score FILE.parquet`.",
        )
    if any(not (part.tag or part.weights or part.bundled) for part in spec.networks):
        raise Conflict(
            f"{version.name} reads vectors that came from outside, of an encoder called "
            f"“{version.encoder}” that Tastemaker cannot load; pictures cannot be scored with it.",
            "Score vectors of that encoder with `tastemaker score FILE.parquet`.",
        )
    if untagged := [part for part in spec.networks if part.tag is None and not part.bundled]:
        raise Conflict(
            f"{version.name} looks at pictures through {untagged[0].model} with weights that only "
            "this machine has; a node could not get them.",
            "Publish it for a model hub, or train on published weights.",
        )
    plain = known_make and not (spec.parts or spec.blocks or spec.timm)
    return "open_clip" if plain else "tastemaker"


def _network(version: Portable) -> tuple[dict[str, Any], bytes]:
    layers = bundled_layers.layers()
    side, told = efficientnet.CROP.size, []
    for layer in layers:
        padding = bundled_layers.same_padding(side, layer.kernel, layer.stride)
        told.append({
            "stride": layer.stride, "depthwise": layer.depthwise, "padding": padding,
            "relu6": layer.relu6, "opens": layer.opens, "adds": layer.adds, "ends": layer.ends,
        })  # fmt: skip
        side = -(-side // layer.stride)
    how = version.looks() | {"layers": told}
    named = {
        f"{i}.{name}": np.ascontiguousarray(value)
        for i, layer in enumerate(layers)
        for name, value in (("weight", layer.weight), ("bias", layer.bias))
    }
    return how, safetensors_bytes(named)


ENCODER_IN_WORDS = {
    "bundled": "The encoder, EfficientNet-Lite0 (Google, Apache License 2.0), is in the folder: "
    "nothing is fetched and nothing has to be installed.",
    "open_clip": "The encoder is {encoder}, of the library open_clip: install it into ComfyUI's "
    "Python with `python -m pip install -r requirements.txt`. Its weights are fetched from the "
    "Hugging Face hub at the first picture, or read from a file `encoder_weights.safetensors` in "
    "this folder, if there is one.",
    "tastemaker": "The encoder, {encoder}, is put together by Tastemaker: install it into "
    "ComfyUI's Python from its own folder, with `python -m pip install FOLDER-OF-TASTEMAKER`.",
}


def _readme(version: Portable, by: str) -> str:
    return f"""# {version.name} for ComfyUI

Put this folder into `ComfyUI/custom_nodes` and start ComfyUI again. Under *Tastemaker* there are
three nodes:

- **Score ({version.name})**: each image of a batch gets a score from 0 to 1.
- **Filter by score ({version.name})**: parts a batch at a threshold, {version.threshold:g} unless
  changed. A side that no image is on is not run.
- **Keep the best ({version.name})**: the highest few of a batch, the best one first.

{ENCODER_IN_WORDS[by].format(encoder=version.encoder)}

The scores are those of `tastemaker score` with `{version.stem}.safetensors`
(SHA-256 {version.sha256}).
"""
