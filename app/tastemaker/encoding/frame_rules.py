"""What an encoder sees of an animated file, as its name says it.

`MODEL/TAG` sees the first frame. `MODEL+middle-frame/TAG` sees the middle one; the vector of
`MODEL+mean-frames/TAG` is the mean of the vectors of up to eight frames, evenly spaced
(`pictures.frames`). Of a still picture all three see the same, at the same cost
(`docs/decisions/0052`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import Invalid
from tastemaker.pictures import frames
from tastemaker.pictures.frames import FrameRule

RULES: dict[str, FrameRule] = {"middle-frame": "middle", "mean-frames": "mean"}
IN_WORDS = {
    "middle": "of an animated file it sees the middle frame",
    "mean": "of an animated file its numbers are the means over up to "
    f"{frames.MEAN_OF} evenly spaced frames",
}


def taken_out(name: str, named: Sequence[str]) -> tuple[str | None, list[str]]:
    """The rule among the blocks that a name has, as it is written there, and the others. Raises
    `Invalid` for two."""
    found = [word for word in named if word in RULES]
    if len(found) > 1:
        raise Invalid(f"“{name}” names two rules for animated files.", f"Keep +{found[0]}.")
    return (found[0] if found else None), [word for word in named if word not in RULES]


def recipe(rule: FrameRule) -> dict[str, object]:
    """What the fingerprint covers of it: nothing for the first frame."""
    if rule == "first":
        return {}
    covered: dict[str, object] = {
        "frames": rule, "most_frames": frames.MOST_FRAMES, "most_pixels": frames.MOST_PIXELS,
    }  # fmt: skip
    return covered | ({"mean_of": frames.MEAN_OF} if rule == "mean" else {})


def put_together(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors of the frames of one picture (frames, dim) → its vector (dim,). That of a single
    frame stays as it is, to the bit."""
    mean: NDArray[np.float32] = vectors.mean(axis=0, dtype=np.float32)
    return mean
