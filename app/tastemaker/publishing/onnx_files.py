"""A version as ONNX: the head alone, and with the bundled encoder in front of it.

Anime-v1.3.head.onnx      embedding (N, D) float32 → score (N,) in 0–1
Anime-v1.3.onnx           crop (N, 224, 224, 3) uint8, and for some encoders whole, → score (N,)
"""

import numpy as np

from tastemaker import __version__
from tastemaker.encoding import bundled_layers, efficientnet, feature_blocks
from tastemaker.encoding.bundled_layers import Layer
from tastemaker.learning.city96 import NECK_SLOPE, TRUNK_SLOPE
from tastemaker.learning.plain_head import Dense
from tastemaker.publishing.exports import Part
from tastemaker.publishing.onnx_graph import FLOAT, UINT8, Graph
from tastemaker.publishing.portable import Portable

PROGRAM = f"tastemaker {__version__}"


def onnx_folder(version: Portable, config: Part) -> list[Part]:
    """The head, the whole of it where the encoder comes along, the sidecar, how to feed them."""
    known = {name: str(value) for name, value in version.about().items()}
    head = Graph(f"head of {version.name}")
    features = version.features
    _judged(head, version, head.input("embedding", FLOAT, ("N", features)))
    parts = [Part(f"{version.stem}.head.onnx", head.file(PROGRAM, known))]
    if version.brings_encoder:
        whole = Graph(version.name)
        _judged(whole, version, _encoded(whole, version))
        parts.append(Part(f"{version.stem}.onnx", whole.file(PROGRAM, known)))
    return [*parts, config, Part("README.md", _readme(version).encode())]


# --- the head ----------------------------------------------------------------------------------


def _judged(graph: Graph, version: Portable, x: str) -> None:
    """From the embeddings `x` to the output `score`."""
    plain = version.plain
    if version.normalised:
        x = graph.add("Div", x, _length(graph, x, 1e-12))
    u = _dense(graph, "up", plain.up, x)
    if plain.long:
        first, second, third = plain.long
        h = graph.add("LeakyRelu", _dense(graph, "long 1", first, u), alpha=TRUNK_SLOPE)
        h = graph.add("LeakyRelu", _dense(graph, "long 2", second, h), alpha=TRUNK_SLOPE)
        u = graph.add("Add", _dense(graph, "long 3", third, h), u)
    neck = _dense(graph, "narrow", plain.narrow, graph.add("Relu", u))
    z = _dense(graph, "last", plain.last, graph.add("LeakyRelu", neck, alpha=NECK_SLOPE))
    doubled = graph.add("Mul", z, graph.number(2))
    axis = graph.constant("axis", np.array([1], np.int64))
    graph.add("Squeeze", graph.add("Sigmoid", doubled), axis, name="score")
    graph.output("score", ("N",))


def _dense(graph: Graph, name: str, layer: Dense, x: str) -> str:
    weight = graph.constant(f"{name}.weight", layer.weight)
    return graph.add("Gemm", x, weight, graph.constant(f"{name}.bias", layer.bias), transB=1)


def _length(graph: Graph, x: str, least: float) -> str:
    norm = graph.add("ReduceL2", x, axes=[1], keepdims=1)
    return graph.add("Max", norm, graph.number(least))


# --- the encoder -------------------------------------------------------------------------------


def _encoded(graph: Graph, version: Portable) -> str:
    """From the pixels of each view to the embeddings."""
    blocks, layers = version.spec.blocks, bundled_layers.layers()
    stages: list[str] = []
    parts = [_looked(graph, layers, _pixels(graph, "crop"), stages)]
    if "stages" in blocks:
        parts.append(graph.add("Concat", *stages, axis=1))
    if "whole" in blocks:
        parts.append(_looked(graph, layers, _pixels(graph, "whole"), []))
    if not blocks:
        return parts[0]
    return graph.add("Concat", *(_scaled(graph, part) for part in parts), axis=1)


def _pixels(graph: Graph, view: str) -> str:
    how = efficientnet.CROP
    mean, std = (255 * np.array(values, np.float32) for values in (how.mean, how.std))
    pixels = graph.add("Cast", graph.input(view, UINT8, ("N", how.size, how.size, 3)), to=FLOAT)
    centred = graph.add("Sub", pixels, graph.constant("mean", mean))
    normal = graph.add("Div", centred, graph.constant("std", std))
    return graph.add("Transpose", normal, perm=[0, 3, 1, 2])


def _looked(graph: Graph, layers: tuple[Layer, ...], x: str, stages: list[str]) -> str:
    """The features at the end; the moments of each stage go to `stages`."""
    side, block = efficientnet.CROP.size, x
    for i, layer in enumerate(layers):
        block = x if layer.opens else block
        before, after = bundled_layers.same_padding(side, layer.kernel, layer.stride)
        x = graph.add(
            "Conv", x, graph.constant(f"{i}.weight", layer.weight),
            graph.constant(f"{i}.bias", layer.bias), pads=[before, before, after, after],
            strides=[layer.stride] * 2, group=len(layer.bias) if layer.depthwise else 1,
        )  # fmt: skip
        if layer.relu6:
            x = graph.add("Clip", x, graph.number(0), graph.number(6))
        if layer.adds:
            x = graph.add("Add", x, block)
        if layer.ends:
            stages += _moments(graph, x)
        side = -(-side // layer.stride)
    return graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)


def _moments(graph: Graph, x: str) -> list[str]:
    """Mean and standard deviation of every channel over the positions."""
    mean = graph.add("ReduceMean", x, axes=[2, 3], keepdims=1)
    apart = graph.add("Sub", x, mean)
    variance = graph.add("ReduceMean", graph.add("Mul", apart, apart), axes=[2, 3], keepdims=0)
    return [graph.add("Flatten", mean, axis=1), graph.add("Sqrt", variance)]


def _scaled(graph: Graph, part: str) -> str:
    factor = graph.add("Div", graph.number(feature_blocks.LENGTH), _length(graph, part, 1e-6))
    return graph.add("Mul", part, factor)


# --- how to feed them --------------------------------------------------------------------------


def _readme(version: Portable) -> str:
    threshold = f"A picture passes from {version.threshold:g}."
    head = f"""# {version.name} as ONNX

`{version.stem}.head.onnx` takes embeddings, `embedding` (N, {version.features}) float32 of
{version.encoder}{", as they are" if not version.normalised else ""}, and gives `score` (N,) in 0–1.
{threshold}

```python
import onnxruntime

head = onnxruntime.InferenceSession("{version.stem}.head.onnx")
(scores,) = head.run(None, {{"embedding": embeddings}})
```
"""
    if not version.brings_encoder:
        return head
    whole = "whole" in version.spec.blocks
    feed = '"crop": crop[None]' + (', "whole": whole[None]' if whole else "")
    squeezed = (
        "\nwhole = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC))"
        if whole
        else ""
    )
    return f"""{head}
`{version.stem}.onnx` has the encoder in front, EfficientNet-Lite0 (Google, Apache License 2.0), and
takes pixels:

```python
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
width, height = (int(256 * side / min(picture.size)) for side in picture.size)
left, top = round((width - 224) / 2), round((height - 224) / 2)
square = picture.resize((width, height), Image.Resampling.BICUBIC)
crop = np.asarray(square.crop((left, top, left + 224, top + 224))){squeezed}

model = onnxruntime.InferenceSession("{version.stem}.onnx")
(scores,) = model.run(None, {{{feed}}})
```
"""
