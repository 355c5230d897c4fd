"""What a picture file says about itself in its own metadata, read without its pixels."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tastemaker.errors import BadImage, Invalid
from tastemaker.files import xmp
from tastemaker.files.roots import open_within
from tastemaker.pictures import formats
from tastemaker.pictures.pictures import Limits

RATING, RATING_PERCENT, TIFF_XMP = 0x4746, 0x4749, 700  # tags of EXIF, as Windows writes them


@dataclass(frozen=True)
class Embedded:
    """The XMP packet inside of a picture, empty without one, and the `Rating` (0–5) and
    `RatingPercent` (0–100) of its EXIF, None without."""

    packet: bytes = b""
    rating: int | None = None
    percent: int | None = None


def embedded(path: Path, limits: Limits) -> Embedded:
    """Whatever can be read of it: a picture that is damaged says nothing. Runs in a child that a
    bad file may end. Raises `BadImage` where the file cannot be read at all."""
    try:
        with open_within(path, limits.roots) as file:
            start = file.read(16)
            if formats.told_by(start) == "JXL":  # its decoder would decode all of it first
                content = start + file.read(limits.bytes)
                return Embedded(
                    b"".join(b for kind, b in formats.boxes(content) if kind == b"xml ")
                )
            file.seek(0)
            with Image.open(file, formats=formats.readable()) as image:
                return _of(image)
    except OSError as error:
        if error.errno:
            raise BadImage(
                f"It cannot be read: {(error.strerror or str(error)).lower()}."
            ) from None
        return Embedded()  # Pillow does not know it
    except BadImage:
        raise
    except Invalid as error:  # it lies outside of what may be read
        raise BadImage(error.message, error.hint) from None
    except Exception:  # hostile bytes make decoders raise nearly anything
        return Embedded()


def _of(image: Image.Image) -> Embedded:
    exif = image.getexif()
    found = image.info.get("xmp") or exif.get(TIFF_XMP) or b""
    packet = found.encode() if isinstance(found, str) else bytes(found)
    return Embedded(
        packet[: xmp.MOST_BYTES], _whole(exif.get(RATING)), _whole(exif.get(RATING_PERCENT))
    )


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and abs(value) < 2**32 else None
