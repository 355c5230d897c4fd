"""RAW photographs, where rawpy is installed: the picture that the camera put into the file, or a
quick development of half its size where there is none worth looking at.

One sees and scores what the camera showed. A development of one's own in Lightroom or darktable is
not known here: export it, and it is an image of its own.
"""

import importlib
import io
import math
from typing import Any

from PIL import Image, TiffImagePlugin

from tastemaker.errors import BadImage

LEAST = 1000  # pixels of the long side of an embedded picture that is worth taking
MAGIC = (  # what a RAW file begins with that is no TIFF: Fuji, Olympus, Panasonic, Sigma
    b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb",
)  # fmt: skip
MAKE, DNG_VERSION = 0x010F, 0xC612  # tags that a camera's TIFF has


def may_be_raw(content: bytes) -> bool:
    """Whether bytes may be a RAW photograph: most are TIFFs that name the camera's maker."""
    if content.startswith(MAGIC) or content[4:12] == b"ftypcrx ":
        return True
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return False
    try:
        header = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(header.next)
        header.load(file)
    except Exception:  # hostile bytes make it raise nearly anything
        return False
    return MAKE in header or DNG_VERSION in header


def preview(content: bytes, pixels: int) -> bytes | None:
    """A JPEG or BMP of the photograph, at most `pixels` large; None where it is no RAW file after
    all, or nothing is installed that reads one. Raises `BadImage` for one that is damaged."""
    try:
        rawpy: Any = importlib.import_module("rawpy")
    except ImportError:
        return None
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            sizes = raw.sizes
            if sizes.raw_width * sizes.raw_height > pixels:
                raise BadImage(
                    f"The photograph has more than the {pixels / 1e6:.0f} million pixels allowed.",
                    "Raise TASTEMAKER_MAX_IMAGE_MEGAPIXELS.",
                )
            return _embedded(rawpy, raw) or _developed(raw)
    except rawpy.LibRawFileUnsupportedError:
        return None
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # LibRaw's own, and those of every shape it did not expect
        raise BadImage(
            "The RAW photograph is damaged and cannot be read.",
            "Copy it from the card again, or leave it out.",
        ) from error


def _embedded(rawpy: Any, raw: Any) -> bytes | None:
    """The largest picture inside, with its orientation in its EXIF."""
    try:
        found = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return None
    if found.format != rawpy.ThumbFormat.JPEG:
        return None
    content = bytes(found.data)
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
        return content if max(picture.size) >= LEAST else None


def _developed(raw: Any) -> bytes:
    """Upright, in the camera's white balance."""
    half = math.prod((raw.sizes.raw_width, raw.sizes.raw_height)) > LEAST**2
    picture = Image.fromarray(raw.postprocess(half_size=half, use_camera_wb=True))
    out = io.BytesIO()
    picture.save(out, "BMP")
    return out.getvalue()
