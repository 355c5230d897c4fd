"""Makers of odd, bad and hostile picture files, shared by the tests.

Each returns the bytes of a file. `scene` is asymmetric in every direction and has all colours, so
that a wrong turn, a swapped channel or a wrong scale cannot go unnoticed.
"""

import io
import os
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tastemaker.encoding.preprocessing import read_fitted

EXIF_ORIENTATION = 0x0112


def scene(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Red grows to the right, green downwards; a blue block marks the upper left corner. Another
    `seed` shifts the colours, so that every seed gives another picture."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    pixels = np.stack([x, y, np.full_like(x, (37 * seed) % 200)], axis=-1)
    pixels[: height // 3, : width // 4] = (20, 40, 250)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---- odd, but pictures


def turned(orientation: int, format: str = "JPEG") -> bytes:
    """`scene` stored so that EXIF `orientation` (1–8) sets it upright again."""
    stored_as = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    picture = scene() if stored_as is None else scene().transpose(stored_as)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    return encoded(picture, format, exif=exif, **options)


def taken(at: str, subseconds: str = "", offset: str = "") -> Image.Exif:
    """Exif as a camera writes it, of when a picture was taken."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    inside = exif.get_ifd(0x8769)
    inside[0x9003] = at
    if subseconds:
        inside[0x9291] = subseconds
    if offset:
        inside[0x9011] = offset
    inside[0x927C] = bytes(range(256)) * 8  # what only its maker can read
    return exif


def with_gps() -> bytes:
    """A JPEG whose EXIF tells where it was taken, and by whom."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCameraMaker"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return encoded(scene(), "JPEG", exif=exif)


def sixteen_bit_grey() -> bytes:
    """A horizontal ramp over the whole 16-bit range."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    return encoded(Image.fromarray(np.tile(ramp, (8, 1))))


def half_transparent() -> bytes:
    """Left half opaque red; right half transparent over hidden black."""
    picture = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 20, 20))
    return encoded(picture)


def transparent_palette() -> bytes:
    """The same with a palette, as GIFs and old PNGs have it."""
    picture = Image.new("P", (40, 20), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 20, 20))
    return encoded(picture, transparency=0)


def cmyk() -> bytes:
    """Pure cyan ink as a print shop's JPEG."""
    return encoded(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG", quality=95)


def animated(format: str = "GIF") -> bytes:
    """Red first, then blue."""
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)


def phone_jpeg() -> bytes:
    """One JPEG file that holds two pictures (Pillow calls it MPO), as many phones write it."""
    return encoded(scene(), "MPO", save_all=True, append_images=[scene(48, 32)])


def swapped_profile() -> bytes:
    """A profile from another colour space: its numbers are not sRGB's."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return encoded(scene(), icc_profile=lab)


def broken_profile() -> bytes:
    return encoded(scene(), icc_profile=b"this is no colour profile" * 8)


def with_large_text(where: str, packed: bool, characters: int = 20_000_000) -> bytes:
    """A PNG with megabytes of text or profile in it, before or after its pixels."""
    text = b"word " * (characters // 5)
    body = {
        "tEXt": b"workflow\0" + text,
        "zTXt": b"workflow\0\0" + zlib.compress(text),
        "iTXt": b"xXx\0\1\0hx\0hx\0" + zlib.compress(text),
        "iCCP": b"huge\0\0" + zlib.compress(text),
    }[where]
    plain = encoded(scene())
    at = plain.index(b"IDAT" if packed else b"IEND") - 4
    return plain[:at] + png_chunk(where.encode(), body) + plain[at:]


# ---- bad


def truncated(format: str = "JPEG") -> bytes:
    whole = encoded(scene(400, 300), format)
    return whole[: len(whole) // 2]


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def png_bomb(width: int = 20_000, height: int = 10_000) -> bytes:
    """A small, valid PNG of 200 million grey pixels, all black."""
    row = b"\0" * (1 + width // 8)
    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", body)
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


NOT_PICTURES = {
    "empty.png": lambda: b"",
    "text.png": lambda: b"I am only a text.\n" * 100,
    "svg.png": svg,
    "cut.jpg": truncated,
    "cut.png": lambda: truncated("PNG"),
    "cut.webp": lambda: truncated("WEBP"),
    "cut.gif": lambda: truncated("GIF"),
    "bomb.png": png_bomb,
}


def deadly(item: tuple[int, Any], views: Any, limits: Any, frames: Any) -> Any:
    """Stands in for `read_fitted` with a picture, the third, at which the system ends the process
    that decodes it."""
    if item[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_fitted(item, views, limits, frames)
