"""Texts in PNG files: large ones and profiles, which say nothing about the picture, and Exif.

Programs that draw keep their workflow in it, editors the history of every change, printers a
profile of some megabytes. Pillow takes each for an attack and the picture for damaged.
"""

import contextlib
import zlib
from typing import BinaryIO

from PIL import PngImagePlugin

# Colour profiles of printers have megabytes; Pillow takes one million bytes unless told.
PngImagePlugin.MAX_TEXT_CHUNK = 8 * 2**20

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
MOST_EXIF = 2**20  # bytes
_KEPT_TEXT = 64 * 2**10  # bytes: what may say how the picture is turned is much shorter


def without_large_texts(content: bytes) -> bytes:
    """A PNG without the texts and profiles that Pillow would refuse. What they say is not asked."""
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at + 8 : at + 8 + length]
        if not (
            (kind in _TEXTS and (length > _KEPT_TEXT or _inflated(body) > _KEPT_TEXT))
            or (kind == b"iCCP" and _inflated(body) > PngImagePlugin.MAX_TEXT_CHUNK)
        ):
            kept.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _inflated(body: bytes) -> int:
    """How many bytes the packed end of a chunk unpacks to, 0 where nothing is packed; counting
    ends above what Pillow takes."""
    start = body.find(b"\0") + 1
    for at in range(start, min(start + 256, len(body))):
        if body[at] & 0x0F == 8:  # how packed data begins, with a sum over its first two bytes
            with contextlib.suppress(zlib.error):
                most = PngImagePlugin.MAX_TEXT_CHUNK + 1
                return len(zlib.decompressobj().decompress(body[at:], most))
    return 0


def exif_of_png(file: BinaryIO) -> bytes:
    """The Exif of a PNG, wherever in the file it stands, without its pixels; empty without, and of
    any other file."""
    file.seek(0)
    if file.read(8) != b"\x89PNG\r\n\x1a\n":
        return b""
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return file.read(min(length, MOST_EXIF))
        file.seek(length + 4, 1)
    return b""
