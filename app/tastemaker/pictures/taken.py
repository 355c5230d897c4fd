"""When a picture was taken, by the clock of its camera: what Exif says of it.

It is kept as the camera showed it, in ISO 8601: “2024-05-03T14:22:05.120000+02:00”, the fraction
and the offset from UTC only where they are stated. A file's own time says when the file was
written, which is another thing once it was copied, unpacked, sent or edited.

Of all that Exif holds three texts are wanted. They are read from where they lie: that takes half of
the time in which Pillow makes objects of everything, asks a RAW file for no more than its
directories, and knows the numbers that makers of cameras put in the place of TIFF's.
"""

import io
import re
import struct
import warnings
from datetime import date, datetime, time
from typing import Any, BinaryIO

from PIL import ExifTags, Image

ORIGINAL = ExifTags.Base.DateTimeOriginal
SUBSECONDS, OFFSET = ExifTags.Base.SubsecTimeOriginal, ExifTags.Base.OffsetTimeOriginal
MOST_BEFORE = 2**16  # bytes of a RAW file before its Exif, where that is no TIFF

# How files begin that are built as a TIFF is: Exif itself, TIFF, most RAW files, and those of
# Olympus and Panasonic, who changed the number.
TIFF_HEADS = frozenset({b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"})

# Before that no camera wrote Exif: the date was put in by hand, or is the zero of a clock (1904,
# 1970, 1980).
FIRST_YEAR = 1990
# Days on which counters of seconds begin anew: what programs make of a field that was never set.
COUNTERS_END = frozenset(
    {date(2036, 2, 7), date(2038, 1, 19), date(2040, 2, 6), date(2106, 2, 7)}
)  # fmt: skip

_WHEN = re.compile(
    r"([0-9]{4})[:/-]([0-9]{2})[:/-]([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})"
)  # fmt: skip
_FRACTION = re.compile(r"[0-9]+")
_OFFSET = re.compile(r"([+-](?:0[0-9]|1[0-4])):?([0-5][0-9])")


def of_picture(info: dict[Any, Any], content: bytes) -> str:
    """What is said by the Exif that Pillow found (the `info` of an opened picture), or by the file
    itself; empty without, and where it cannot be read or is no time of a clock. Never raises."""
    exif = info.get("exif")
    return of_exif(exif) if isinstance(exif, bytes) else of_file(io.BytesIO(content))


def of_exif(block: bytes) -> str:
    """The same of a block of Exif as formats hold it: behind a name, or behind how far it is."""
    block = block.removeprefix(bytes(4))
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    return of_file(io.BytesIO(block))


def of_file(file: BinaryIO) -> str:
    """The same of a file that is built as a TIFF is, or is a RAW file of Canon's or Fuji's; empty
    for any other. Reads no more than the directories."""
    try:
        file.seek(0)
        start = file.read(16)
        if start[:4] in TIFF_HEADS:
            return _of_tiff(file)
        if start[4:12] == b"ftypcrx ":
            return _of_tiff(_after(file, b"CMT2"))
        if start.startswith(b"FUJIFILMCCD-RAW"):
            return _of_tiff(_after(file, b"Exif\0\0"))
    except Exception:  # cut short, or hostile, which makes Pillow raise nearly anything
        pass  # the pixels may be good
    return ""


def by_clock(at: datetime) -> str:
    """A time that a camera's clock showed, in ISO 8601; empty where it cannot be one. Midnight to
    the second is a date without a time, as people give it to scans, or the zero of a clock."""
    if at.year < FIRST_YEAR or at.date() in COUNTERS_END or at.time() == time.min:
        return ""
    return at.isoformat()


def _after(file: BinaryIO, mark: bytes) -> BinaryIO:
    file.seek(0)
    _, _, block = file.read(2 * MOST_BEFORE).partition(mark)
    return io.BytesIO(block)


def _of_tiff(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(8)
    exif = Image.Exif()
    exif.endian = ">" if head[:2] == b"MM" else "<"
    with warnings.catch_warnings(action="ignore"):  # of what is cut short
        exif.load_from_fp(file, *struct.unpack(f"{exif.endian}I", head[4:]))
        cells = exif.get_ifd(ExifTags.IFD.Exif) or dict(exif)
    return _stated(*(_text(cells.get(tag)) for tag in (ORIGINAL, SUBSECONDS, OFFSET)))


def _text(value: object) -> str:
    return value.strip(" \0") if isinstance(value, str) else ""


def _stated(original: str, subseconds: str, offset: str) -> str:
    found = _WHEN.fullmatch(original)
    if found is None:
        return ""
    fraction = int(f"{subseconds[:6]:0<6}") if _FRACTION.fullmatch(subseconds) else 0
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        shown = by_clock(datetime(year, month, day, hour, minute, second, fraction))
    except ValueError:  # “0000:00:00 00:00:00”: the camera did not know
        return ""
    return shown and shown + _stated_offset(offset)


def _stated_offset(offset: str) -> str:
    found = _OFFSET.fullmatch(offset.replace("Z", "+00:00"))
    return ":".join(found.groups()) if found else ""
