"""Pictures of every format come in alike, within the same limits, or with a sentence that helps."""

import functools
import io
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tastemaker.errors import BadImage
from tastemaker.importing.requests import way_in
from tastemaker.pictures import formats
from tastemaker.pictures.pictures import Limits, decode, ingest
from tests import pictures

NEW = {
    "AVIF": {"quality": 90},
    "HEIF": {"quality": 90},
    "JXL": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
}  # fmt: skip
ORIENTATION = 0x0112


@functools.cache
def scene(format: str) -> bytes:
    formats.readable()
    return pictures.encoded(pictures.scene(), format, **NEW[format])


def off_by(picture: Image.Image) -> float:
    """The mean difference from the scene, of 255."""
    expected = np.asarray(pictures.scene()).astype(int)
    assert picture.size == pictures.scene().size
    return float(np.abs(np.asarray(picture).astype(int) - expected).mean())


@pytest.mark.parametrize("format", NEW)
def test_a_picture_of_every_format_comes_in_whatever_its_name_says(
    format: str, tmp_path: Path
) -> None:
    assert off_by(decode(scene(format))) < 3
    found = ingest(pictures.write(tmp_path / "a.jpg", scene(format)), tmp_path / "thumbs")
    assert (found.format, found.width, found.height) == (format, 96, 64)
    assert formats.SUFFIXES[format] in formats.IMAGE_SUFFIXES
    with pytest.raises(BadImage, match="million pixels"):
        decode(scene(format), Limits(pixels=96 * 64 - 1))


@pytest.mark.parametrize("format", ["AVIF", "HEIF", "TIFF"])
def test_other_formats_come_out_upright_too(format: str) -> None:
    formats.readable()
    stored = pictures.scene().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored.info["exif"] = exif.tobytes()  # where pillow-heif looks for it
    content = pictures.encoded(stored, format, exif=exif.tobytes())
    assert off_by(decode(content)) < 3


def test_a_jpeg_packed_into_jpeg_xl_is_set_upright_once(tmp_path: Path) -> None:
    formats.readable()
    photo = pictures.write(tmp_path / "a.jpg", pictures.turned(6))
    with Image.open(photo) as picture:
        picture.save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert b"jbrd" in (tmp_path / "a.jxl").read_bytes()
    assert off_by(decode(tmp_path / "a.jxl")) < 3


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (600, 400), (1920, 1080), (8, 8), (3000, 17)])
def test_a_jpeg_xl_says_its_size_before_it_is_decoded(size: tuple[int, int]) -> None:
    formats.readable()
    content = pictures.encoded(Image.new("RGB", size), "JXL", lossless=True, effort=1)
    assert formats.pixels_of_jxl(content) == size[0] * size[1]


def test_a_bomb_in_jpeg_xl_is_refused_from_its_header() -> None:
    formats.readable()
    bomb = pictures.encoded(Image.new("L", (4000, 4000)), "JXL", lossless=True, effort=1)
    assert len(bomb) < 5000
    start = time.process_time()
    with pytest.raises(BadImage, match="million pixels"):
        decode(bomb, Limits(pixels=15_000_000))
    assert time.process_time() - start < 0.05


def test_a_heic_that_claims_thousands_of_tiles_is_refused() -> None:
    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I", 8 + len(body)) + kind + body

    def item(number: int) -> bytes:
        return box(b"infe", struct.pack(">IHH", 0x02000000, number, 0), b"hvc1\0")

    tiles = 5000
    content = box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", 1)),
        box(b"iinf", bytes(4), struct.pack(">H", tiles), *map(item, range(1, tiles + 1))),
    )
    with pytest.raises(BadImage) as caught:
        decode(content)
    assert caught.value.message.endswith(".")


def test_of_ten_thousand_frames_the_first_costs_no_more_than_one() -> None:
    two = pictures.animated()
    start = two.index(b"\x21\xf9", two.index(b"\x21\xf9") + 1)  # of the second frame
    frame = two[start:-1]
    content = two[:-1] + frame * 10_000 + b";"
    begun = time.process_time()
    red, _, blue = decode(content).getpixel((12, 8))  # type: ignore[misc]
    assert red > 240 and blue < 15
    assert time.process_time() - begun < 0.2


def test_of_a_tiff_with_pages_the_first_is_taken() -> None:
    pages = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue")]
    content = pictures.encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert decode(content).getpixel((12, 8)) == (255, 0, 0)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_measured_grey_is_seen_in_its_own_range(top: float) -> None:
    ramp = np.tile(np.linspace(0, top, 64, dtype=np.float32), (8, 1))
    row = np.asarray(decode(pictures.encoded(Image.fromarray(ramp), "TIFF")))[0, :, 0].astype(int)
    assert np.abs(row - np.linspace(0, 255, 64)).max() <= 1


@settings(max_examples=80)
@given(st.integers(0, 1000), st.integers(0, 255), st.sampled_from(sorted(NEW)))
def test_a_changed_byte_gives_a_picture_or_a_sentence(at: int, value: int, format: str) -> None:
    content = bytearray(scene(format))
    content[at % len(content)] = value
    try:
        assert decode(bytes(content)).mode == "RGB"
    except BadImage as error:
        assert error.message.endswith(".")


@pytest.fixture
def without_plug_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for content in (scene("HEIF"), scene("JXL")):  # made while they are there
        assert content
    for plug_in in formats.PLUG_INS.values():
        monkeypatch.setitem(sys.modules, plug_in.module, None)
    formats.readable.cache_clear()
    yield
    formats.readable.cache_clear()


@pytest.mark.usefixtures("without_plug_ins")
@pytest.mark.parametrize(
    ("format", "name", "package"),
    [("HEIF", "HEIC", "pillow-heif"), ("JXL", "JPEG XL", "pillow-jxl-plugin")],
)
def test_a_format_that_is_not_installed_is_named_with_its_remedy(
    format: str, name: str, package: str
) -> None:
    assert set(formats.readable()) == set(formats.ENDINGS) - {"HEIF", "JXL"}
    with pytest.raises(BadImage, match=f"format {name}, and what reads that is not") as caught:
        decode(scene(format))
    assert f"pip install '{package}'" in caught.value.hint
    assert decode(io.BytesIO(scene("TIFF")).getvalue()).size == (96, 64)


def test_raw_photographs_are_left_out_with_what_to_do_about_them() -> None:
    told = formats.left_out_of(Counter({".cr3": 3, ".mp4": 1}))
    assert told.startswith("Left out: 3 .cr3, 1 .mp4. RAW photographs")
    assert "exiftool -b -JpgFromRaw" in told
    assert "RAW" not in formats.left_out_of(Counter({".mp4": 1}))
    assert way_in(Path("a.NEF")) == formats.RAW_REMEDY
