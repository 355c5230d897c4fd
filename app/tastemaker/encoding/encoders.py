"""Frozen networks that turn a picture into a vector, behind one small interface.

    encoder = load(parse("efficientnet_lite0/bundled"))
    vectors = encoder.encode(np.stack([encoder.preprocess(picture), ...]))

`encoder_specs` says how encoders are named. Vectors are comparable only under one *fingerprint*:
architecture, weights, preprocessing, blocks, normalisation and number type, of each network where
there are several.

torch, open_clip and timm are imported where they are needed: the web process reads this module.
"""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.encoding import feature_blocks
from tastemaker.encoding.devices import usual_device
from tastemaker.encoding.encoder_specs import EncoderSpec, no_words
from tastemaker.encoding.networks import Loaded, load_network
from tastemaker.encoding.preprocessing import fitted_views
from tastemaker.errors import EncoderUnavailable, Invalid

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]


class Network:
    """One loaded network. Not to be changed after loading: the fingerprint speaks for all of it."""

    def __init__(self, spec: EncoderSpec, loaded: Loaded, dtype: Dtype, device: str) -> None:
        import torch

        self.spec, self.dtype, self.device, self.views = spec, dtype, device, loaded.views
        # Before the cast: the hash is of the weights as published.
        self._weights_sha256 = _hash_of_weights(loaded.tower)
        loaded.model.eval().requires_grad_(False)
        self._torch_dtype = getattr(torch, dtype)
        loaded.model.to(device, self._torch_dtype).to(memory_format=torch.channels_last)
        self._loaded = loaded
        size = self.views[0].size  # all of one size, mean and standard deviation
        self._shape = (size, size, 3)
        self.pixels = len(self.views) * size * size * 3
        self._mean = torch.tensor(self.views[0].mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(self.views[0].std, device=device).view(3, 1, 1) * 255
        self.dim = self.encode(np.zeros((1, self.pixels), np.uint8)).shape[1]

    @property
    def reads_text(self) -> bool:
        return self._loaded.read is not None

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
        if not self._loaded.recipe:
            return plain
        others = [asdict(view) for view in self.views[1:]]
        return plain | self._loaded.recipe | {"other_views": others}

    def encode(self, batch: NDArray[np.uint8]) -> "NDArray[np.float32]":
        """(n, pixels) uint8, the views of a picture behind one another → (n, dim) float32. The
        views of all pictures go through the network together."""
        import torch

        # The permuted view is already in channels-last order, which halves the time of the
        # convolutions on a CPU; the picture is normalised in float32 whatever the dtype.
        flat = np.ascontiguousarray(batch).reshape(-1, *self._shape)
        pixels = torch.from_numpy(flat).to(self.device).permute(0, 3, 1, 2)
        normal = ((pixels.float() - self._mean) / self._std).to(self._torch_dtype)
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self._loaded.forward(normal).float().cpu().numpy()
        return vectors

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """A text → (dim,) float32 that is near to the pictures it describes: it lies where the
        network's own features do, with zeros for the blocks beside them, and all of zeros where the
        network knows no words."""
        import torch

        vector = np.zeros(self.dim, np.float32)
        if self._loaded.read is not None:
            with torch.inference_mode():
                words = self._loaded.read(text, self.device)[0].float().cpu().numpy()
            vector[: len(words)] = words
        return vector


class Encoder:
    """One network, or several side by side: then each gives its part of the vector, scaled to
    length `feature_blocks.LENGTH`, so that none drowns the others."""

    def __init__(self, spec: EncoderSpec, networks: tuple[Network, ...]) -> None:
        self.spec, self.name, self.networks = spec, spec.name, networks
        self.dtype, self.device = networks[0].dtype, networks[0].device
        self.views = tuple(view for network in networks for view in network.views)
        self.frames = spec.frames  # what is seen of an animated file
        self.dim = sum(network.dim for network in networks)
        canonical = json.dumps(self.describe(), sort_keys=True)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def input_shape(self) -> tuple[int]:
        return (sum(network.pixels for network in self.networks),)

    def describe(self) -> dict[str, Any]:
        """All that decides the vectors."""
        if len(self.networks) == 1:
            return self.networks[0].describe()
        return {
            "side_by_side": [network.describe() for network in self.networks],
            "part_length": feature_blocks.LENGTH,
            "l2_normalised": False,
        }

    def preprocess(self, picture: Image.Image) -> NDArray[np.uint8]:
        """A picture → (pixels,) uint8, all its views behind one another. Raises `BadImage`."""
        return fitted_views(picture, self.views)

    def encode(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, pixels) uint8 from `preprocess` → (n, dim) float32, not L2-normalised. A number that
        is not finite in one part stays so, and its picture is set aside."""
        if len(self.networks) == 1:
            return self.networks[0].encode(batch)
        ends = np.cumsum([network.pixels for network in self.networks])[:-1]
        inputs = np.split(batch, ends, axis=1)
        parts = [n.encode(pixels) for n, pixels in zip(self.networks, inputs, strict=True)]
        return np.concatenate([_scaled(part) for part in parts], axis=1)

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """A text → (dim,) float32 in the space of the pictures; of several networks, those that
        know words find it, all alike. Raises `Invalid` for an encoder that knows no words,
        `EncoderUnavailable` without its tokenizer."""
        if not any(network.reads_text for network in self.networks):
            raise no_words(self.name)
        parts = [network.encode_text(text) for network in self.networks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([_scaled(part[None])[0] for part in parts])


def _scaled(part: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    rows: NDArray[np.float32] = feature_blocks.scaled(torch.from_numpy(part)).numpy()
    return rows


def load(spec: EncoderSpec, dtype: Dtype = "float32", device: str | None = None) -> Encoder:
    """Load the weights (seconds; the first time of published ones, a download).

    `device` None means a GPU if there is one. bfloat16 is faster where the processor has it, and
    gives other vectors (cosine down to 0.98), hence another fingerprint. Raises
    `EncoderUnavailable` if the weights cannot be had, `Invalid` if no such model exists; of several
    networks, it says which.
    """
    device = device or usual_device()
    networks = []
    for part in spec.networks:
        try:
            networks.append(_network(part, dtype, device))
        except (EncoderUnavailable, Invalid) as error:
            if not spec.parts:
                raise
            raise type(error)(f"{spec.name} lacks a part. {error.message}", error.hint) from error
    return Encoder(spec, tuple(networks))


def _network(spec: EncoderSpec, dtype: Dtype, device: str) -> Network:
    return Network(spec, load_network(spec), dtype, device)


def _hash_of_weights(tower: "torch.nn.Module") -> str:
    """SHA-256 over names, shapes and values of the image tower, independent of the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().reshape(-1).numpy())
    return digest.hexdigest()
