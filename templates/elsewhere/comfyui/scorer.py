"""Pictures to scores, in torch, Pillow and safetensors alone where the encoder came along.

Made by Tastemaker, and the same sums as `tastemaker score` does.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

AT_ONCE = 16  # pictures that go through the network together


def about_of(folder):
    return json.loads((folder / "model.json").read_text("utf-8"))


class Scorer:
    """`folder` holds model.json, the head, and what model.json says of the encoder."""

    def __init__(self, folder):
        self.about = about_of(folder)
        self.path = folder / f"{self.about['stem']}.safetensors"
        self.head = {name: value.float() for name, value in load_file(self.path).items()}
        self.encoder = ENCODERS[self.about["encoder_by"]](folder, self.about, self.path)

    @torch.inference_mode()
    def score(self, pictures):
        """PIL images → scores in 0-1."""
        scores = []
        for start in range(0, len(pictures), AT_ONCE):
            some = [one.convert("RGB") for one in pictures[start : start + AT_ONCE]]
            found = self.encoder.score(some)
            if found is None:
                found = self._judged(self.encoder.encode(some).float().cpu()).tolist()
            scores += found
        return scores

    def _judged(self, x):
        """Embeddings (n, d) → scores (n,)."""
        if self.about["normalised"]:
            x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
        u = self._layer("up.0", x)
        h = F.leaky_relu(self._layer("up.1.long.0", u), 0.1)
        h = F.leaky_relu(self._layer("up.1.long.2", h), 0.1)
        r = F.relu(self._layer("up.1.long.4", h) + u)
        neck = F.leaky_relu(self._layer("down.1", self._layer("down.0", r)), 0.01)
        z = self._layer("down.5", self._layer("down.4", neck))
        return torch.sigmoid(2 * z[:, 0])

    def _layer(self, name, x):
        return F.linear(x, self.head[f"{name}.weight"], self.head[f"{name}.bias"])


# --- the encoder that came along ----------------------------------------------------------------


class Bundled:
    """EfficientNet-Lite0 as convolutions with a bias; model.json says how they hang together."""

    def __init__(self, folder, about, _):
        self.how = about["network"]
        self.weights = load_file(folder / "encoder.safetensors")
        self.mean = torch.tensor(self.how["mean"]).view(3, 1, 1)
        self.std = torch.tensor(self.how["std"]).view(3, 1, 1)

    def score(self, pictures):
        return None  # it only encodes

    def encode(self, pictures):
        blocks, parts, stages = self.how["blocks"], [], []
        for view in self.how["views"]:
            pixels = np.stack([np.array(fitted(one, view)) for one in pictures])
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
            first = not parts
            parts.append(self._looked((x - self.mean) / self.std, stages if first else []))
            if first and "stages" in blocks:
                parts.append(torch.cat(stages, 1))
        if not blocks:
            return parts[0]
        long = self.how["block_length"]
        return torch.cat(
            [p * (long / p.norm(dim=1, keepdim=True).clamp(min=1e-6)) for p in parts], 1
        )

    def _looked(self, x, stages):
        """Pixels → the features at the end; what the stages answered goes to `stages`."""
        for i, layer in enumerate(self.how["layers"]):
            if layer["opens"]:
                block = x
            before, after = layer["padding"]
            groups = x.shape[1] if layer["depthwise"] else 1
            x = F.pad(x, (before, after, before, after))
            weight, bias = self.weights[f"{i}.weight"], self.weights[f"{i}.bias"]
            x = F.conv2d(x, weight, bias, layer["stride"], groups=groups)
            if layer["relu6"]:
                x = x.clamp(0, 6)
            if layer["adds"]:
                x = x + block
            if layer["ends"]:
                flat = x.flatten(2)
                stages += [flat.mean(2), flat.var(2, unbiased=False).sqrt()]
        return x.mean((2, 3))


def fitted(picture, view):
    """A PIL image → one of `size` × `size`: squeezed to it, or its central square."""
    size = view["size"]
    if view["resize_mode"] == "squash":
        return picture.resize((size, size), Image.Resampling.BICUBIC)
    short = min(picture.size)
    width, height = (int(view["resize_to"] * side / short) for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


# --- others -------------------------------------------------------------------------------------


class OpenClip:
    """A network of open_clip. Its weights are fetched once, or are read from a file here."""

    def __init__(self, folder, about, _):
        try:
            import open_clip
        except ImportError:
            raise ImportError(
                f"This model looks at pictures through {about['encoder']}. Install its library "
                "into ComfyUI's Python: python -m pip install open_clip_torch"
            ) from None
        model, tag = about["open_clip"]
        beside = folder / "encoder_weights.safetensors"
        how = {}
        if beside.exists():  # the file does not say how it wants its pictures; the tag does
            known = open_clip.get_pretrained_cfg(model, tag)
            names = ("mean", "std", "interpolation", "resize_mode")
            how = {f"image_{name}": known[name] for name in names if name in known}
        self.model, _, self.prepare = open_clip.create_model_and_transforms(
            model, pretrained=str(beside) if beside.exists() else tag, **how
        )
        apple = "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = "cuda" if torch.cuda.is_available() else apple
        self.model.eval().to(self.device)

    def score(self, pictures):
        return None  # it only encodes

    def encode(self, pictures):
        pixels = torch.stack([self.prepare(one) for one in pictures]).to(self.device)
        return self.model.encode_image(pixels)


class Tastemaker:
    """Everything else is Tastemaker's own to load."""

    def __init__(self, _, about, path):
        try:
            import tastemaker
        except ImportError:
            raise ImportError(
                f"This model looks at pictures through {about['encoder']}, which only Tastemaker "
                "itself puts together. Install it into ComfyUI's Python: "
                "python -m pip install FOLDER-OF-TASTEMAKER"
            ) from None
        self.scorer = tastemaker.load(path)

    def score(self, pictures):
        return [float(score) for score in self.scorer.score(pictures)]


ENCODERS = {"bundled": Bundled, "open_clip": OpenClip, "tastemaker": Tastemaker}
