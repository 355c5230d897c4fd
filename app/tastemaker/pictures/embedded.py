"""What a picture file says about itself in its own metadata, read without its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image

from tastemaker.errors import BadImage, Invalid
from tastemaker.files import xmp
from tastemaker.files.roots import open_within
from tastemaker.pictures import formats, png_texts, taken
from tastemaker.pictures.pictures import Limits

RATING, RATING_PERCENT, TIFF_XMP = 0x4746, 0x4749, 700  # tags of EXIF, as Windows writes them

T = TypeVar("T")


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

    def read(file: BinaryIO) -> Embedded:
        if _is_jxl(file):  # its decoder would decode all of it first
            return Embedded(_box_of_jxl(file, b"xml ", limits))
        with Image.open(file, formats=formats.readable()) as image:
            return _of(image)

    return _asked(path, limits, read, Embedded())


def taken_at(path: Path, limits: Limits) -> str:
    """When the picture was taken, as `taken` tells it; under the same terms as `embedded`."""

    def read(file: BinaryIO) -> str:
        if _is_jxl(file):
            return taken.of_exif(_box_of_jxl(file, b"Exif", limits))
        if said := taken.of_file(file):
            return said
        if block := png_texts.exif_of_png(file):  # it may lie behind the pixels
            return taken.of_exif(block)
        file.seek(0)
        with Image.open(file, formats=formats.readable()) as image:
            return taken.of_picture(image.info, b"")

    return _asked(path, limits, read, "")


def _asked(path: Path, limits: Limits, read: Callable[[BinaryIO], T], nothing: T) -> T:
    try:
        with open_within(path, limits.roots) as file:
            return read(file)
    except OSError as error:
        if error.errno:
            raise BadImage(
                f"It cannot be read: {(error.strerror or str(error)).lower()}."
            ) from None
        return nothing  # Pillow does not know it
    except BadImage:
        raise
    except Invalid as error:  # it lies outside of what may be read
        raise BadImage(error.message, error.hint) from None
    except Exception:  # hostile bytes make decoders raise nearly anything
        return nothing


def _is_jxl(file: BinaryIO) -> bool:
    start = file.read(16)
    file.seek(0)
    return formats.told_by(start) == "JXL"


def _box_of_jxl(file: BinaryIO, kind: bytes, limits: Limits) -> bytes:
    return b"".join(b for k, b in formats.boxes(file.read(limits.bytes)) if k == kind)


def _of(image: Image.Image) -> Embedded:
    exif = image.getexif()
    found = image.info.get("xmp") or exif.get(TIFF_XMP) or b""
    packet = found.encode() if isinstance(found, str) else bytes(found)
    return Embedded(
        packet[: xmp.MOST_BYTES], _whole(exif.get(RATING)), _whole(exif.get(RATING_PERCENT))
    )


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and abs(value) < 2**32 else None
