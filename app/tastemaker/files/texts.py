"""Texts that people and their programs wrote: one way to read them, to split them, to spell them.

A file may be in UTF-8 or UTF-16, with a byte order mark or without, or in the encoding of an old
Windows. Lines end at a line feed and nowhere else: Unicode knows more line ends, and file names
contain them. Letters with marks are composed (NFC), as everything but a Mac's file system has them.
"""

import codecs
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tastemaker.errors import Invalid, NotFound
from tastemaker.files.roots import Roots, open_within

MARKS = (  # the longer first: a UTF-32 mark begins with one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, most_bytes: int, roots: Roots = ()) -> str:
    """The text of a file of at most `most_bytes`, in one of the roots, whatever its encoding.
    Raises `NotFound` where there is none, `Invalid` for one that is too large, cannot be read, or
    is no text."""
    try:
        with open_within(path, roots) as file:
            content = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", "Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise Invalid(f"{path} cannot be read: {reason}.", "Check its permissions.") from error
    if len(content) > most_bytes:
        raise Invalid(f"{path.name} is larger than {most_bytes / 2**20:g} MB.", "Split it.")
    return decoded(content, path.name)


def decoded(content: bytes, name: str) -> str:
    """The text that bytes hold: by their byte order mark, else in UTF-16 where every other byte is
    zero, else in UTF-8, else in the encoding of Western Windows. Raises `Invalid`, about the file
    `name`, for what is no text: zeros among its characters, half a character."""
    encoding = _encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise Invalid(f"{name} is damaged: it is not in {encoding.upper()}.") from None
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:  # five bytes mean nothing there
            text = content.decode("latin-1")
    text = text.rstrip("\0")
    if "\0" in text:
        raise Invalid(f"{name} is no text file: it holds zero bytes.", "Save it as text in UTF-8.")
    return text


def _encoding(content: bytes) -> str:
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    start = content[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if even + odd and len(start) > 2:  # ASCII letters in UTF-16 have a zero each
        if odd > 0.4 * len(start) / 2 and even == 0:
            return "utf-16-le"
        if even > 0.4 * len(start) / 2 and odd == 0:
            return "utf-16-be"
    return "utf-8"


def lines_of(text: str) -> list[str]:
    """The lines, without their ends: `\\n`, `\\r\\n`, or an old Mac's `\\r` where no other is."""
    if "\n" not in text:
        text = text.replace("\r", "\n")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def encodable(text: str) -> str:
    """The text with “?” for each half of a pair of UTF-16 that stands alone, which JSON can name
    and no file or page can hold."""
    return text.encode("utf-8", "replace").decode()


def enumerated(parts: Sequence[str], most: int | None = None) -> str:
    """“A”, “A and B”, “A, B and C”; empty without any. Of more than `most`, the first of them “and
    23 more”."""
    if most is not None and len(parts) > most + 1:
        parts = [*parts[:most], f"{len(parts) - most} more"]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def composed(text: str) -> str:
    """The text in the one form in which names and tags are kept and looked for (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
