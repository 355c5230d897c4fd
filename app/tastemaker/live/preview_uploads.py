"""A picture that somebody tries on the model: kept for an hour beside its answer, then removed.

It never enters the library by itself. Its folder holds the file as it came, a derivative to show
(re-encoded, without any metadata), and the answer.
"""

import hashlib
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.config import Settings
from tastemaker.encoding.preprocessing import Preprocessing, fitted_views
from tastemaker.errors import Invalid, NotFound
from tastemaker.files import write_atomic
from tastemaker.files.json_text import json_text
from tastemaker.pictures.colours import on_checkerboard, on_white
from tastemaker.pictures.frames import FrameRule
from tastemaker.pictures.pictures import (
    VIEW,
    Limits,
    frames_with_facts,
    own_faults,
    shrunk,
)

KEPT_SECONDS = 3600.0
MOST_BYTES = 50 * 2**20
PREFIX = "try-"


@dataclass(frozen=True)
class PreviewUpload:
    """A decoded picture: the encoder's input (frames, pixels) uint8, and facts about the file."""

    pixels: NDArray[np.uint8]
    sha256: str
    format: str
    width: int
    height: int


def inspect_upload(
    source: Path | bytes,
    views: tuple[Preprocessing, ...],
    frames: FrameRule,
    limits: Limits,
    view: Path | None,
) -> PreviewUpload:
    """Decode a picture for an encoder, and write its derivative to `view`: of an animation the
    first frame that the encoder sees. Runs in a child that a bad file may kill. Raises
    `BadImage`."""
    content = source if isinstance(source, bytes) else source.read_bytes()

    def use(picture: Image.Image) -> tuple[Image.Image | None, NDArray[np.uint8]]:
        with own_faults("The picture cannot be made smaller"):
            small = on_checkerboard(shrunk(picture, VIEW)) if view is not None else None
        return small, fitted_views(on_white(picture), views)

    seen, format, (width, height) = frames_with_facts(content, limits, frames, use)
    if view is not None and (small := seen[0][0]) is not None:
        with own_faults("The picture cannot be made smaller"):
            small.save(view, "WEBP", quality=88, method=1, exif=b"", icc_profile=b"")
    pixels = np.stack([fitted for _, fitted in seen])
    return PreviewUpload(pixels, hashlib.sha256(content).hexdigest(), format, width, height)


# --- what is kept ------------------------------------------------------------------------------


def new_token() -> str:
    return secrets.token_hex(16)


def folder(settings: Settings, token: str) -> Path:
    """The folder of a tried picture. Raises `Invalid` for anything that is not a token of ours."""
    if not re.fullmatch(r"[0-9a-f]{32}", token):
        raise Invalid("This is not a picture that was tried here.", "Try a picture first.")
    return settings.incoming / f"{PREFIX}{token}"


def file_path(settings: Settings, token: str) -> Path:
    """The file as it came; an upload numbers what it stores from 0 on."""
    return folder(settings, token) / "000000"


def view_path(settings: Settings, token: str) -> Path:
    return folder(settings, token) / "view.webp"


def store_answer(settings: Settings, token: str, answer: dict[str, Any]) -> None:
    """Put the answer beside the picture, so that its page can be loaded again."""
    write_atomic(_answer_path(settings, token), json_text(answer, ascii_only=True).encode())


def find_answer(settings: Settings, token: str) -> dict[str, Any]:
    """The answer about a tried picture. Raises `NotFound` once it is removed."""
    try:
        answer: dict[str, Any] = json.loads(_answer_path(settings, token).read_bytes())
    except FileNotFoundError:
        raise NotFound(
            "This picture is no longer kept: a tried picture is forgotten after an hour.",
            "Drop it again.",
        ) from None
    return answer


def _answer_path(settings: Settings, token: str) -> Path:
    return folder(settings, token) / "told.json"


def sweep(settings: Settings) -> None:
    """Remove the pictures that were tried more than an hour ago."""
    for path in settings.incoming.glob(f"{PREFIX}*"):
        try:
            old = time.time() - path.stat().st_mtime > KEPT_SECONDS
        except FileNotFoundError:
            continue
        if old:
            shutil.rmtree(path, ignore_errors=True)
