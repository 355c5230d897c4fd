"""The formats that are read: what their files are called, what opens them, and what to do where
that is not installed.

A file is told by its first bytes, whatever its name says. Of a file of several pages the first
picture is taken; of an animation an encoder may see more (`frames`), the thumbnail is of the first.
"""

import functools
import importlib
import importlib.util
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image, features

from tastemaker.errors import BadImage
from tastemaker.files.folders import left_out_line

# Photographs as the sensor saw them: many formats, one per maker.
RAW_SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".mef", ".mos", ".mrw", ".nef",
        ".nrw", ".orf", ".pef", ".raf", ".rw2", ".sr2", ".srw", ".x3f",
    }
)  # fmt: skip

# Pillow's name of each format → the endings of its files, the usual one first.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JXL": (".jxl",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}
# Also where nothing reads RAW by now: an upload lies under the name that it was stored by.
SUFFIXES = {format: endings[0] for format, endings in ENDINGS.items()} | {"RAW": ".raw"}
if importlib.util.find_spec("rawpy") is not None:
    ENDINGS["RAW"] = (".raw", *sorted(RAW_SUFFIXES))
IMAGE_SUFFIXES = frozenset(itertools.chain.from_iterable(ENDINGS.values()))
NAMES = "JPEG, PNG, WebP, GIF, AVIF, HEIC, JPEG XL, TIFF and BMP"
NOT_ONE = f"The file is not a picture of a known format ({NAMES}), whatever its name says."

RAW_REMEDY = (
    "RAW photographs are read where rawpy is installed (“pip install rawpy”, then restart). "
    "Without it export JPEGs, or take out those that cameras put in: "
    "“exiftool -b -JpgFromRaw -w .jpg FOLDER” (where that finds none, -PreviewImage)."
)


def left_out_of(found: Counter[str]) -> str:
    """What was left out of a folder, and what to do about it; empty where nothing was."""
    told = [left_out_line(found)]
    if RAW_SUFFIXES & found.keys():
        told.append(RAW_REMEDY)
    return " ".join(filter(None, told))


class _PlugIn(NamedTuple):
    """What Pillow needs to open a format: the module that does, and what brings it."""

    module: str
    package: str


PLUG_INS = {
    "HEIF": _PlugIn("pillow_heif", "pillow-heif"),
    "JXL": _PlugIn("pillow_jxl", "pillow-jxl-plugin"),
}


@functools.cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that this installation opens. Plug-ins are loaded with it, and
    told to decode in one thread: there is a process for each processor already."""
    missing = {format for format in PLUG_INS if not _load(format)}
    if features.check("avif"):
        avif: Any = importlib.import_module("PIL.AvifImagePlugin")
        avif.DEFAULT_MAX_THREADS = 1
    else:
        missing.add("AVIF")
    return tuple(format for format in ENDINGS if format not in missing | {"RAW"})


def _load(format: str) -> bool:
    try:
        module = importlib.import_module(PLUG_INS[format].module)
    except ImportError:  # not installed, or built for another system
        return False
    if format == "HEIF":
        module.register_heif_opener()
        options = module.options  # one picture at a time, and nothing but the picture
        options.DECODE_THREADS = 1
        options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    else:
        module.JpegXLImagePlugin.DECODE_THREADS = 0  # in this thread, that is
    return True


def refusal(content: bytes) -> BadImage:
    """What is said of bytes that could not be opened: they are no picture, or what would open them
    is not installed."""
    format = told_by(content)
    if format is None or format in readable():
        return BadImage(NOT_ONE, "Convert it to one of these, or leave it out.")
    name = {"HEIF": "HEIC", "JXL": "JPEG XL"}.get(format, format)
    package = PLUG_INS[format].package if format in PLUG_INS else "pillow>=11.3"
    return BadImage(
        f"It is a picture in the format {name}, and what reads that is not installed.",
        f"Install it, “pip install '{package}'”, restart, and import the file again.",
    )


def told_by(content: bytes) -> str | None:
    """Of the formats that a plug-in opens, the one that the first bytes are of."""
    if content[:2] == b"\xff\x0a" or content[4:12] == b"JXL \r\n\x87\n":
        return "JXL"
    if content[4:8] != b"ftyp":
        return None
    brands = content[8 : min(int.from_bytes(content[:4], "big"), 256)]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    known = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
    return "HEIF" if any(brand in brands for brand in known) else None


def is_upright(image: Image.Image, content: bytes) -> bool:
    """Whether the decoder has turned the picture already, so that its EXIF says it of what was. Of
    a JPEG that was packed into JPEG XL it has not."""
    return image.format == "HEIF" or (image.format == "JXL" and b"jbrd" not in content[:4096])


# ---- how large a JPEG XL is, which its decoder says only when everything is decoded


def pixels_of_jxl(content: bytes) -> int:
    """The pixels that the header of a JPEG XL states; 0 where it is damaged."""
    stream = _codestream(content)
    if stream[:2] != b"\xff\x0a":
        return 0
    bits = _Bits(int.from_bytes(stream[2:18], "little"))
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return height * _side(bits, small)
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * (height * across // down)


def _side(bits: "_Bits", small: int) -> int:
    return 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])


class _Bits:
    def __init__(self, rest: int) -> None:
        self._rest = rest

    def take(self, count: int) -> int:
        taken = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return taken


def _codestream(content: bytes) -> bytes:
    """The beginning of the codestream: the file itself, or what a box of it holds."""
    for kind, body in boxes(content):
        if kind in (b"jxlc", b"jxlp"):
            return body[4 * (kind == b"jxlp") :][:64]
    return content[:64]


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of every box of a JPEG XL, as far as they are whole; none where it is a bare
    codestream."""
    at = 0 if content[4:8] == b"JXL " else len(content)
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = at + 8
        if size == 1:
            size, body = int.from_bytes(content[at + 8 : at + 16], "big"), at + 16
        end = len(content) if size == 0 else at + size
        if end <= at:
            return
        yield kind, content[body:end]
        at = end
