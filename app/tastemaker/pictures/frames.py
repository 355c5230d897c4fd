"""Which frames of an animated file are looked at.

GIF, WebP, PNG and AVIF files can be animated. The pages of a TIFF and the pictures of a HEIC or MPO
file are not frames: of them the first is taken, whatever the rule. What decodes JPEG XL gives the
first frame alone.

Most formats decode a frame from the one before it, so the thousandth costs a thousand. No more than
`MOST_FRAMES` are looked at, nor more than `MOST_PIXELS` in all of them: of a longer animation its
beginning stands for the whole.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

from PIL import Image

from tastemaker.pictures import formats

T = TypeVar("T")
FrameRule = Literal["first", "middle", "mean"]

MEAN_OF = 8  # frames that a mean is taken of, at most
MOST_FRAMES = 1000
MOST_PIXELS = 250_000_000  # width × height × frames: seconds of decoding, whatever the format
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # as Pillow calls them


def may_be_animated(content: bytes) -> bool:
    """Whether the first bytes are of a format that has frames."""
    return (
        content[:4] == b"GIF8"
        or content[:8] == b"\x89PNG\r\n\x1a\n"
        or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
        or formats.told_by(content) == "AVIF"
    )


def looked_at(image: Image.Image) -> range:
    """The frames of an opened picture that count, by Pillow's numbers: one of a still. The picture
    that a PNG shows where nothing can play it is no frame."""
    if image.format not in ANIMATED:
        return range(1)
    start = int(bool(image.info.get("default_image")))
    count = getattr(image, "n_frames", 1) - start
    if count < 1:
        return range(1)
    affordable = max(1, MOST_PIXELS // max(1, image.width * image.height))
    return range(start, start + min(count, MOST_FRAMES, affordable))


def chosen(frames: range, rule: FrameRule) -> list[int]:
    """Those of the frames that are looked at: of `mean` the middles of up to `MEAN_OF` stretches of
    equal length. Counted in frames, however long each is shown."""
    if rule == "first":
        return [0]
    if rule == "middle":
        return [frames[len(frames) // 2]]
    count = min(MEAN_OF, len(frames))
    return [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]


def each(
    image: Image.Image, rule: FrameRule, read: Callable[[], Image.Image], use: Callable[..., T]
) -> list[T]:
    """What `use` makes of each frame that is chosen, which `read` gives once the opened picture
    stands at it. Where one does not decode, the frames before the first such are all there are."""
    frames = looked_at(image)
    try:
        return _used(image, chosen(frames, rule), read, use)
    except _REFUSED:
        raise
    except Exception:  # hostile bytes make decoders raise nearly anything
        whole = _whole(image, frames)
        if not whole or whole == frames:  # none is, or they all are and something else is wrong
            raise
    return _used(image, chosen(whole, rule), read, use)


def _used(
    image: Image.Image, some: list[int], read: Callable[[], Image.Image], use: Callable[..., T]
) -> list[T]:
    found = []
    for at in some:
        _stand_at(image, at)
        found.append(use(read()))
    return found


_REFUSED = (MemoryError, Image.DecompressionBombWarning, Image.DecompressionBombError)


def _stand_at(image: Image.Image, at: int) -> None:
    if at or image.tell():
        image.seek(at)


def _whole(image: Image.Image, frames: range) -> range:
    """The frames up to the first that does not decode."""
    for at in frames:
        try:
            _stand_at(image, at)
            image.load()
        except _REFUSED:
            raise
        except Exception:
            return range(frames.start, at)
    return frames
