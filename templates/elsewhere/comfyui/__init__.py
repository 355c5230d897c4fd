"""A person's taste as nodes of ComfyUI: score a batch, keep what passes, keep the best.

Made by Tastemaker; put this folder into ComfyUI/custom_nodes and start ComfyUI again. Nothing is
asked of a network, unless the encoder's weights have to be fetched (README.md says so).
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .scorer import Scorer, about_of

try:
    from comfy_execution.graph_utils import ExecutionBlocker
except ImportError:  # a ComfyUI of before August 2024
    ExecutionBlocker = None

FOLDER = Path(__file__).parent
ABOUT = about_of(FOLDER)
NAME = f"{ABOUT['name']} {ABOUT['version']}"


@cache
def scorer():
    """Loaded at the first picture."""
    return Scorer(FOLDER)


def scores_of(images):
    """A batch (n, height, width, 3) in 0-1 → n scores in 0-1."""
    pixels = (images.float().cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
    return scorer().score([Image.fromarray(one[..., :3]) for one in pixels])


def chosen(images, indices):
    """These images of a batch. Where there is none, what hangs on them is not run: a batch of no
    images is an error in most nodes."""
    if indices:
        return images[indices]
    if ExecutionBlocker is None:
        raise ValueError(f"No image of this batch is left after {NAME}.")
    return ExecutionBlocker(None)


class Score:
    """What the model makes of each image, in 0-1."""

    CATEGORY = "Tastemaker"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("images", "scores", "text")
    OUTPUT_IS_LIST = (False, True, False)
    DESCRIPTION = f"Scores a batch with {NAME}, 0 to 1."

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images):
        scores = scores_of(images)
        return images, scores, "\n".join(map(percent, scores))


def percent(score):
    """Only what is all or none is told as 100 or 0 %."""
    text = f"{100 * score:.1f}"
    if score < 1 and text == "100.0":
        return "> 99.9 %"
    return "< 0.1 %" if score > 0 and text == "0.0" else f"{text} %"


class Filter:
    """Parts a batch at a threshold; the order stays."""

    CATEGORY = "Tastemaker"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "IMAGE", "INT")
    RETURN_NAMES = ("passing", "failing", "how_many_pass")
    DESCRIPTION = f"Keeps the images that {NAME} scores at or above the threshold."

    @classmethod
    def INPUT_TYPES(cls):
        limits = {"default": ABOUT["threshold"], "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"images": ("IMAGE",), "threshold": ("FLOAT", limits)}}

    def run(self, images, threshold):
        scores = scores_of(images)
        passing = [i for i, score in enumerate(scores) if score >= threshold]
        failing = [i for i, score in enumerate(scores) if score < threshold]
        return chosen(images, passing), chosen(images, failing), len(passing)


class Best:
    """The highest of a batch, the best one first."""

    CATEGORY = "Tastemaker"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("images", "scores")
    OUTPUT_IS_LIST = (False, True)
    DESCRIPTION = f"Keeps the images that {NAME} likes best."

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "how_many": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    def run(self, images, how_many):
        scores = scores_of(images)
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[:how_many]
        return images[best], [scores[i] for i in best]


# The number is part of a node's name: a workflow keeps meaning the version it was made with, and
# several versions stand side by side.
NODES = {"Score": Score, "Filter": Filter, "Best": Best}
TITLES = {"Score": "Score", "Filter": "Filter by score", "Best": "Keep the best"}
NODE_CLASS_MAPPINGS = {f"Tastemaker{name}:{ABOUT['stem']}": node for name, node in NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {
    f"Tastemaker{name}:{ABOUT['stem']}": f"{title} ({NAME})" for name, title in TITLES.items()
}
