"""Pictures: safe decoding, and one reading that gives facts and thumbnails.

Every picture that enters is untrusted: only known formats are opened (`formats`), size is checked
from the header before a pixel is decoded, and whatever goes wrong inside a decoder comes out as one
`BadImage` sentence about that one file.
"""

import contextlib
import hashlib
import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from PIL import Image, ImageFile

from tastemaker.errors import BadImage, Invalid, TastemakerError
from tastemaker.files import content_path, write_atomic
from tastemaker.files.roots import open_within
from tastemaker.pictures import formats, frames, taken
from tastemaker.pictures.colours import on_checkerboard, on_white, srgb_pixels
from tastemaker.pictures.frames import FrameRule
from tastemaker.pictures.perceptual import perceptual_hash
from tastemaker.pictures.png_texts import without_large_texts
from tastemaker.pictures.raw import may_be_raw, preview

if TYPE_CHECKING:  # what reads the settings would take a third of the time that a decoder begins in
    from tastemaker.config import Settings

THUMB = 320  # long side in pixels, for grids
VIEW = 1280  # long side in pixels, for scoring
WEBP_QUALITY = {THUMB: 80, VIEW: 88}

SMALLER = "Save the picture in another size or shape, or leave it out."

# A picture that Pillow suspects of being a bomb is refused, never merely warned about.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Limits:
    """What one picture file may cost: bytes on disk and pixels (width × height) once decoded; and
    the folders it must lie in (none: anywhere)."""

    bytes: int = 200 * 2**20
    pixels: int = 150_000_000
    roots: tuple[Path, ...] = ()

    @classmethod
    def of(cls, settings: "Settings") -> "Limits":
        """Those of the settings; uploads lie in the program's own folder."""
        roots = (*settings.roots, settings.root) if settings.roots else ()
        return cls(settings.max_image_mb * 2**20, settings.max_image_megapixels * 1_000_000, roots)

    def anywhere(self) -> "Limits":
        """The same without the folders: for files that the person at this machine names."""
        return replace(self, roots=())


@dataclass(frozen=True)
class Examined:
    """The facts of a picture after one reading. `bytes` and `mtime_ns` (nanoseconds) are of the
    very file that was read, whatever took its name since. `width` and `height` are in pixels of the
    full picture as it is seen, that is, after its orientation is applied. `phash` is a perceptual
    hash: 64 bits as a signed integer, a few bits apart for near-duplicates. `taken_at` is the
    camera's time (`taken`), empty where none is stated."""

    sha256: str
    bytes: int
    mtime_ns: int
    format: str
    width: int
    height: int
    phash: int
    taken_at: str = ""


@dataclass(frozen=True)
class KnownPicture:
    """A file that must still hold the bytes of this SHA-256."""

    path: Path
    sha256: str


# ---- decoding

T = TypeVar("T")
Source = Path | bytes | KnownPicture | Image.Image


def decode(
    source: Source, limits: Limits | None = None, *, see_through: bool = False
) -> Image.Image:
    """A picture as encoders see it: upright, sRGB, mode RGB, first frame, flattened on white; with
    `see_through`, mode RGBA instead where parts of it are transparent.

    `source` is a path, the bytes of a file, or a picture that Pillow opened. Raises `BadImage`,
    whose sentence names what is wrong: not one of the formats, too large, cut short, damaged, or
    other bytes than a `KnownPicture` has.
    """
    limits = limits or Limits()
    if isinstance(source, Image.Image):
        with _opened_lock, _decoding(b"", limits, "Open the picture again."):
            picture = _upright(_checked(source, limits))[0]
    else:
        picture = decode_with_facts(_bytes_of(source, limits), limits).picture
    return picture if see_through else on_white(picture)


def decode_frames(
    source: Source,
    use: Callable[[Image.Image], T],
    limits: Limits | None = None,
    rule: FrameRule = "first",
) -> list[T]:
    """What `use` makes of each frame that the rule looks at, one after the other, so that no more
    than one is in memory: of a still picture, of the one that `decode` gives.

    A picture that Pillow opened counts as its file does, unless it was sought to a frame: then that
    one is taken. Raises `BadImage` as `decode` does. An animation that is cut short counts as far
    as its frames are whole.
    """
    limits = limits or Limits()
    if isinstance(source, Image.Image):
        if rule != "first" and source.format in frames.ANIMATED:
            with _opened_lock, _decoding(b"", limits, "Open the picture again."):
                if not source.tell():  # asked here: another thread may be at its frames until now
                    return _frames_of_opened(_checked(source, limits), use, rule)
        return [use(decode(source, limits))]
    content = _bytes_of(source, limits)
    return frames_with_facts(content, limits, rule, lambda picture: use(on_white(picture)))[0]


def _frames_of_opened(
    image: Image.Image, use: Callable[[Image.Image], T], rule: FrameRule
) -> list[T]:
    """Leaves it at its first frame, whatever happens: one that was sought is seen as it stands."""
    try:
        return frames.each(image, rule, lambda: on_white(_upright(image)[0]), use)
    finally:
        with contextlib.suppress(Exception):  # the first failure is the one that is told
            image.seek(0)


def _bytes_of(source: Path | bytes | KnownPicture, limits: Limits) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        return _read(source, limits)[0]
    content, _ = _read(source.path, limits)
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise BadImage(
            "The file was changed since it was imported; its scores are kept.",
            "Import its folder again.",
        )
    return content


_opened_lock = threading.Lock()  # Pillow reads the pixels of an opened file at the first use


def _checked(image: Image.Image, limits: Limits) -> Image.Image:
    """A picture that Pillow opened, within the pixel limit."""
    if math.prod(image.size) > limits.pixels:
        raise _too_many_pixels(limits)
    if not math.prod(image.size):
        raise BadImage("The picture has no pixels.")
    return image


def _read(path: Path, limits: Limits) -> tuple[bytes, int]:
    """The bytes of a regular file within the limit, and its time in nanoseconds: both of one open
    file, so that hash, pixels, size and time are of one moment. A file that somebody writes to
    meanwhile is a `BadImage`."""
    try:
        with open_within(path, limits.roots) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage(f"{path.name} is not a file.", "Give a picture file.")
            if status.st_size <= limits.bytes:
                content = file.read(limits.bytes + 1)
                after = os.fstat(file.fileno())
                same = (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
                if not same or len(content) != status.st_size:
                    raise BadImage(
                        f"{path.name} is being written: it changed while it was read.",
                        "Import it again when it is finished.",
                    )
                return content, status.st_mtime_ns
    except Invalid as error:
        raise BadImage(error.message, error.hint) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise BadImage(f"{path.name} cannot be read: {reason}.") from error
    raise BadImage(
        f"The file has {status.st_size / 2**20:.0f} MB; {limits.bytes / 2**20:.0f} MB are allowed.",
        "Raise TASTEMAKER_MAX_IMAGE_MB, or save the picture smaller.",
    )


class Decoded(NamedTuple):
    """An upright picture, in mode RGB, or RGBA where parts of it are transparent; the format, the
    full size after orientation, and when it was taken (`taken`)."""

    picture: Image.Image
    format: str
    size: tuple[int, int]
    taken_at: str


def decode_with_facts(content: bytes, limits: Limits, at_least: int | None = None) -> Decoded:
    """The picture, and what its file says of it.

    With `at_least`, a JPEG may come out smaller, its long side still at least that many pixels:
    the decoder then skips high frequencies, which is several times faster for large photographs.
    It is for thumbnails only, because features of a pre-shrunk picture are different features.
    """
    _check_bytes(content, limits)
    if may_be_raw(content) and (seen := preview(content, limits.pixels)) is not None:
        decoded = _decode_content(seen, limits, at_least)
        stated = taken.of_file(io.BytesIO(content)) or decoded.taken_at
        return decoded._replace(format="RAW", taken_at=stated)
    return _despite_large_texts(content, lambda kept: _decode_content(kept, limits, at_least))


def frames_with_facts(
    content: bytes, limits: Limits, rule: FrameRule, use: Callable[[Image.Image], T]
) -> tuple[list[T], str, tuple[int, int]]:
    """(what `use` makes of each frame that the rule looks at, format, full size of the picture).
    The frames are as `decode_with_facts` gives them, and so is the only one of a still picture."""
    if rule == "first" or not frames.may_be_animated(content):
        picture, format, size, _ = decode_with_facts(content, limits)
        return [use(picture)], format, size
    _check_bytes(content, limits)

    def read(kept: bytes) -> tuple[list[T], str, tuple[int, int]]:
        with _decoding(kept, limits), _opened(kept, limits) as image:
            size = image.size
            found = frames.each(image, rule, lambda: _upright(image, kept)[0], use)
            return found, str(image.format), size[::-1] if _turn(image) in _SIDEWAYS else size

    return _despite_large_texts(content, read)


def _check_bytes(content: bytes, limits: Limits) -> None:
    if not content:
        raise BadImage("The file is empty.")
    if len(content) > limits.bytes:
        raise BadImage(f"The file has more than the {limits.bytes / 2**20:.0f} MB allowed.")


def _despite_large_texts(content: bytes, read: Callable[[bytes], T]) -> T:
    """Pillow calls a PNG damaged for a large text in it: a workflow, an edit history."""
    try:
        return read(content)
    except BadImage as error:
        if not (isinstance(error.__cause__, ValueError) and "MAX_TEXT" in str(error.__cause__)):
            raise
    return read(without_large_texts(content))


def _decode_content(content: bytes, limits: Limits, at_least: int | None) -> Decoded:
    with _decoding(content, limits), _opened(content, limits) as image:
        width, height = image.size
        if at_least:
            scale = min(1.0, at_least / max(image.size))
            image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
        picture, turn = _upright(image, content)
        if turn in _SIDEWAYS:
            width, height = height, width
        # Phones write several pictures into one JPEG and Pillow then calls it MPO.
        format = "JPEG" if image.format == "MPO" else str(image.format)
        return Decoded(picture, format, (width, height), taken.of_picture(image.info, content))


def _upright(
    image: Image.Image, content: bytes = b""
) -> tuple[Image.Image, Image.Transpose | None]:
    """The pixels of an opened picture in sRGB, and the turn that set them upright. Without the
    bytes of its file the picture is somebody else's, and its EXIF speaks of it."""
    image.load()
    turn = None if content and formats.is_upright(image, content) else _turn(image)
    picture = srgb_pixels(image)
    return (picture if turn is None else picture.transpose(turn)), turn


@contextlib.contextmanager
def _decoding(
    content: bytes, limits: Limits, hint: str = "Save the picture again, or leave it out."
) -> Iterator[None]:
    """Whatever goes wrong inside of a decoder is one `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels(limits) from None
    except MemoryError:
        raise BadImage("Decoding the picture takes more memory than is allowed.") from None
    except Exception as error:  # hostile bytes make decoders raise nearly anything; a closed file
        raise BadImage(_what_is_wrong(error, content), hint) from error


def _opened(content: bytes, limits: Limits) -> ImageFile.ImageFile:
    """The picture with only its header read, within the pixel limit."""
    Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow checks again whenever a frame enlarges it
    if formats.told_by(content) == "JXL" and formats.pixels_of_jxl(content) > limits.pixels:
        raise _too_many_pixels(limits)
    try:
        image = Image.open(io.BytesIO(content), formats=formats.readable())
    except Image.UnidentifiedImageError:
        raise formats.refusal(content) from None
    if math.prod(image.size) > limits.pixels:
        raise _too_many_pixels(limits)
    return image


def _too_many_pixels(limits: Limits) -> BadImage:
    return BadImage(
        f"The picture has more than the {limits.pixels / 1e6:.0f} million pixels allowed.",
        "Raise TASTEMAKER_MAX_IMAGE_MEGAPIXELS, or save the picture smaller.",
    )


def _what_is_wrong(error: Exception, content: bytes) -> str:
    text = str(error).lower()
    cut_short = isinstance(error, EOFError) or "truncated" in text or "unexpected end" in text
    if content[:4] == b"RIFF":  # WebP's decoder does not say, but the file begins with its length
        cut_short = int.from_bytes(content[4:8], "little") + 8 > len(content)
    if cut_short:
        return "The picture is cut short: part of the file is missing."
    return "The picture is damaged and cannot be decoded."


_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[value] for value in (5, 6, 7, 8)}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that sets a picture upright; unreadable EXIF counts as none."""
    try:
        return _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # EXIF is as hostile as the rest, and the pixels are still good
        return None


# ---- facts and thumbnails


@contextlib.contextmanager
def own_faults(what: str) -> Iterator[None]:
    """What fails on the pixels of one picture is a fault of that picture: a `BadImage` that says
    `what` could not be done and why, so that only this picture is set aside. A full disk, or a file
    that cannot be written, is none."""
    try:
        yield
    except TastemakerError:
        raise
    except MemoryError:
        raise BadImage(f"{what}: it takes more memory than there is.", SMALLER) from None
    except Exception as error:  # Pillow raises its own, and those of every shape it did not expect
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).rstrip(".") or type(error).__name__
        raise BadImage(f"{what}: {reason}.", SMALLER) from error


def ingest(path: Path, thumbs_root: Path, limits: Limits | None = None) -> Examined:
    """The facts of a picture, and both thumbnails on the disk: one reading, one decoding.

    Raises `BadImage` for the file's own faults and `StorageFull` when the disk is.
    """
    limits = limits or Limits()
    content, mtime_ns = _read(path, limits)
    picture, format, size, taken_at = decode_with_facts(content, limits, at_least=VIEW)
    sha256 = hashlib.sha256(content).hexdigest()
    with own_faults("The picture cannot be made smaller"):
        seen = shrunk(on_white(picture), VIEW)
        shown = on_checkerboard(shrunk(picture, VIEW)) if picture.mode == "RGBA" else seen
        make_thumbnails(shown, thumbs_root, sha256)
        phash = perceptual_hash(seen)
        return Examined(sha256, len(content), mtime_ns, format, *size, phash, taken_at)


def make_thumbnails(picture: Image.Image, root: Path, sha256: str) -> None:
    """Write the VIEW and THUMB derivatives of an opaque picture as WebP without any metadata.

    Names are content hashes, so a thumbnail that is there is right and is left alone. A picture
    is never enlarged.
    """
    for size in (VIEW, THUMB):
        target = thumb_path(root, sha256, size)
        picture = shrunk(picture, size)  # the small one is made from the large one: 4× cheaper
        if not target.exists():
            buffer = io.BytesIO()
            picture.save(
                buffer, "WEBP", quality=WEBP_QUALITY[size], method=1, exif=b"", icc_profile=b""
            )
            write_atomic(target, buffer.getvalue())


def thumb_path(root: Path, sha256: str, size: int) -> Path:
    """Where the thumbnail of an image lies; `size` is THUMB or VIEW."""
    return content_path(root, sha256, f"-{size}.webp")


def shrunk(picture: Image.Image, long_side: int) -> Image.Image:
    """The picture with its long side at most `long_side` pixels, no side below one."""
    scale = long_side / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    # Above thrice the size, a box reduction goes first: equal to the eye, and several times faster.
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
