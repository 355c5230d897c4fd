"""A version as one HTML file that scores pictures in a browser, with no network and no server.

The file holds the bundled encoder and the head as numbers, the loops over them as WebAssembly, and
the page. Everything is inside, and its Content-Security-Policy forbids it to ask anybody anything:
pictures stay on the machine of whoever opens it.

The numbers are one row of float32, compressed and in base64; `model` says where each layer's lie.
A weight (out, in) lies as (out ÷ 8, in, 8), as `kernels.c` reads it.
"""

import base64
import html
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from tastemaker import __version__
from tastemaker.config import shipped
from tastemaker.encoding import bundled_layers, efficientnet
from tastemaker.encoding.bundled_layers import Layer
from tastemaker.files.json_text import json_text
from tastemaker.learning.city96 import NECK_SLOPE, TRUNK_SLOPE
from tastemaker.learning.plain_head import Dense
from tastemaker.publishing.exports import Part
from tastemaker.publishing.portable import Portable

# Since 13, Pillow makes a picture lower before it makes it narrower where that is less work.
DOWN_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
EIGHT = 8  # channels that are computed together
WHAT = "an HTML page"


def html_page(version: Portable) -> Part:
    """The page. Raises `Conflict` where the encoder cannot travel along."""
    version.require_bundled_encoder(WHAT)
    numbers = Numbers()
    model = model_of(version, numbers)
    model["weights"] = len(numbers)
    data = {
        "title": html.escape(version.name).encode(),
        "model": json_text(model).replace("<", "\\u003c").encode(),
        "weights": base64.b64encode(numbers.compressed()),
        "kernels": base64.b64encode(_source("kernels.wasm").read_bytes()),
        "style": _tokens_and_elements() + _source("page.css").read_bytes(),
        "worker": _source("scoring.js").read_bytes(),
        "script": _source("page.js").read_bytes(),
    }
    first, *others = _source("page.html").read_bytes().split(b"{{")
    pieces = [first]
    for other in others:
        name, _, rest = other.partition(b"}}")
        pieces += [data[name.decode().strip()], rest]
    return Part(f"{version.stem}.html", b"".join(pieces))


def _source(name: str) -> Path:
    return shipped("templates") / "elsewhere" / name


def _tokens_and_elements() -> bytes:
    """The colours, the type and the buttons of the program's own pages."""
    style = (shipped("static") / "app.css").read_bytes()
    return style.partition(b"/* --- the frame")[0]


class Numbers:
    """Rows of float32 behind one another."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float32]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, values: NDArray[Any]) -> int:
        """Where they begin; the next ones begin at a multiple of four."""
        at, row = self._count, np.asarray(values, np.float32).reshape(-1)
        row = np.pad(row, (0, -len(row) % 4))
        self._rows.append(row)
        self._count += len(row)
        return at

    def compressed(self) -> bytes:
        """All of them as gzip. Trained numbers hardly give way, so the quickest level will do."""
        press = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        return b"".join([*(press.compress(row.data) for row in self._rows), press.flush()])


def model_of(version: Portable, numbers: Numbers) -> dict[str, Any]:
    """What `scoring.js` needs to know beside the numbers, which it adds."""
    return (
        version.about()
        | version.looks()
        | {
            "features": version.features,
            "down_first": DOWN_FIRST,
            "network": _network(bundled_layers.layers(), efficientnet.CROP.size, numbers),
            "head": _head(version, numbers),
            "program": f"tastemaker {__version__}",
        }
    )


def _network(layers: tuple[Layer, ...], side: int, numbers: Numbers) -> list[dict[str, int | bool]]:
    told = []
    for layer in layers:
        before, _ = bundled_layers.same_padding(side, layer.kernel, layer.stride)
        after = -(-side // layer.stride)
        out, inner = layer.weight.shape[:2]
        rows = layer.weight.transpose(0, 2, 3, 1).reshape(out, -1)  # as `unfold` lays them out
        weight = rows.T if layer.depthwise else _in_eights(rows)
        told.append({
            "depthwise": layer.depthwise, "kernel": layer.kernel, "stride": layer.stride,
            "in": out if layer.depthwise else inner, "out": out, "side": side, "after": after,
            "before": before, "relu6": layer.relu6, "opens": layer.opens, "adds": layer.adds,
            "ends": layer.ends, "weight": numbers.add(weight), "bias": numbers.add(layer.bias),
        })  # fmt: skip
        side = after
    return told


def _head(version: Portable, numbers: Numbers) -> dict[str, Any]:
    plain = version.plain
    layers, width = [], version.features
    for dense in (plain.up, *plain.long, plain.narrow, plain.last):
        dense = _widened(dense, width)
        width = len(dense.bias)
        layers.append({
            "in": dense.weight.shape[1], "out": width,
            "weight": numbers.add(_in_eights(dense.weight)), "bias": numbers.add(dense.bias),
        })  # fmt: skip
    return {
        "normalised": version.normalised, "trunk": bool(plain.long), "trunk_slope": TRUNK_SLOPE,
        "neck_slope": NECK_SLOPE, "layers": layers,
    }  # fmt: skip


def _widened(dense: Dense, width: int) -> Dense:
    """With zeros for inputs up to `width`, and for outputs up to a multiple of eight."""
    out, inner = dense.weight.shape
    more = -out % EIGHT
    weight = np.pad(dense.weight, ((0, more), (0, width - inner)))
    return Dense(weight, np.pad(dense.bias, (0, more)))


def _in_eights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, in) → (out ÷ 8, in, 8)."""
    out, inner = weight.shape
    return weight.reshape(out // EIGHT, EIGHT, inner).transpose(0, 2, 1)
