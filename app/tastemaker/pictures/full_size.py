"""A picture at its full size, for looking at it pixel by pixel.

Thumbnails are made for every image when it comes in; this derivative only for those that somebody
zooms into, when they do. Like them it is re-encoded, upright and without metadata, and the file is
decoded in a child process, which a bad one may kill.
"""

import io
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tastemaker.config import Settings
from tastemaker.errors import BadImage, NotFound
from tastemaker.files import write_atomic
from tastemaker.pictures.colours import on_checkerboard
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import (
    KnownPicture,
    Limits,
    decode,
    own_faults,
    thumb_path,
)

LONG_SIDE = 8192  # pixels; WebP ends at 16,383
QUALITY = 90


@dataclass(frozen=True)
class _Order:
    source: Path
    sha256: str
    target: Path
    limits: Limits


class FullSize:
    """Makes full-size derivatives, one at a time. Its child process is started by the first."""

    def __init__(self, settings: Settings) -> None:
        self._thumbs, self._limits = settings.thumbs, Limits.of(settings)
        self._pool: DecodePool | None = None
        self._lock = threading.Lock()

    def made(self, sha256: str) -> bytes | None:
        """The derivative of an image, if it was made before."""
        try:
            return thumb_path(self._thumbs, sha256, LONG_SIDE).read_bytes()
        except FileNotFoundError:
            return None

    def make(self, source: Path, sha256: str) -> bytes:
        """The derivative of the file `source`, made unless it is there. Takes seconds. Raises
        `NotFound` where the file is no longer the picture that it was, or cannot be read."""
        target = thumb_path(self._thumbs, sha256, LONG_SIDE)
        with self._lock:
            if (there := self.made(sha256)) is not None:
                return there
            self._pool = self._pool or DecodePool(workers=1, limits=self._limits)
            order = _Order(source, sha256, target, self._limits)
            [(_, outcome)] = list(self._pool.map(_make, [order]))
        if isinstance(outcome, BadImage):
            raise NotFound(f"There is no larger picture to show: {outcome}")
        return target.read_bytes()


def _make(order: _Order) -> None:
    """Runs in the child."""
    if order.target.exists():
        return
    picture = decode(KnownPicture(order.source, order.sha256), order.limits, see_through=True)
    with own_faults("The picture cannot be made smaller"):
        picture.thumbnail((LONG_SIDE, LONG_SIDE))
        picture = on_checkerboard(picture)
    write_atomic(order.target, encoded(picture))


def encoded(picture: Image.Image) -> bytes:
    """The picture without metadata: as WebP, or as JPEG where it has more detail, or a longer side,
    than a WebP file can hold."""
    for format, more in (("WEBP", {"method": 1}), ("JPEG", {})):
        buffer = io.BytesIO()
        try:
            with own_faults("The picture cannot be shown larger"):
                picture.save(buffer, format, quality=QUALITY, exif=b"", icc_profile=b"", **more)
            return buffer.getvalue()
        except BadImage as error:
            reason = error
    raise reason


def media_type(content: bytes) -> str:
    """Of a derivative, told by its first bytes."""
    return "image/jpeg" if content.startswith(b"\xff\xd8") else "image/webp"
