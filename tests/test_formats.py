"""Pictures of every format come in alike, within the same limits, or with a sentence that helps."""

import functools
import io
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    assert set(formats.readable()) == set(formats.ENDINGS) - {"HEIF", "JXL", "RAW"}
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


# ---- photographs as the sensor saw them


def directory(tags: dict[int, tuple[str, Any]], at: int) -> tuple[bytes, bytes]:
    """A directory of a TIFF in little-endian order, and the values that stand outside of it, which
    begin at `at`."""
    codes = {"B": 1, "s": 2, "H": 3, "I": 4, "R": 5, "r": 10}
    body, outside = struct.pack("<H", len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        if kind == "s":
            raw, count = values + b"\0", len(values) + 1
        elif kind in "Rr":
            raw = b"".join(struct.pack("<ii", value, 1) for value in values)
            count = len(values)
        else:
            raw, count = struct.pack(f"<{len(values)}{kind}", *values), len(values)
        cell = raw.ljust(4, b"\0")
        if len(raw) > 4:
            cell = struct.pack("<I", at + len(outside))
            outside += raw + b"\0" * (len(raw) % 2)
        body += struct.pack("<HHI", tag, codes[kind], count) + cell
    return body + bytes(4), outside


def dng(preview: int = 1200, orientation: int = 1, exif_at: int = 0) -> bytes:
    """A RAW photograph of the scene, 1200 × 800, with a JPEG of it inside that is so many pixels
    wide (0: none), to be turned as told; its Exif, if any, is at that place."""
    scene = pictures.scene(1200, 800)
    inside = pictures.encoded(pictures.scene(preview, preview * 2 // 3), "JPEG") if preview else b""
    colours = np.asarray(scene).astype(np.uint16) * 257
    sensor = colours[..., 1].copy()
    sensor[0::2, 0::2], sensor[1::2, 1::2] = colours[0::2, 0::2, 0], colours[1::2, 1::2, 2]
    pixels = sensor.tobytes()
    about = {
        271: ("s", b"Maker"), 272: ("s", b"Camera"), 274: ("H", [orientation]),
        50706: ("B", [1, 4, 0, 0]), 50708: ("s", b"Maker Camera"),
        50721: ("r", [1, 0, 0, 0, 1, 0, 0, 0, 1]), 50728: ("R", [1, 1, 1]),
    } | ({34665: ("I", [exif_at])} if exif_at else {})  # fmt: skip

    def parts(*at: int) -> list[bytes]:
        jpeg, raw, second, first_values, second_values = at
        sensor_tags = {
            254: ("I", [0]), 256: ("I", [1200]), 257: ("I", [800]), 258: ("H", [16]),
            259: ("H", [1]), 262: ("H", [32803]), 273: ("I", [raw]), 277: ("H", [1]),
            278: ("I", [800]), 279: ("I", [len(pixels)]), 33421: ("H", [2, 2]),
            33422: ("B", [0, 1, 1, 2]), 50714: ("H", [0]), 50717: ("H", [65535]),
        }  # fmt: skip
        if not preview:
            return [*directory(sensor_tags | about, first_values), b"", b""]
        jpeg_tags = {
            254: ("I", [1]), 256: ("I", [preview]), 257: ("I", [preview * 2 // 3]),
            258: ("H", [8, 8, 8]), 259: ("H", [7]), 262: ("H", [6]), 273: ("I", [jpeg]),
            277: ("H", [3]), 278: ("I", [800]), 279: ("I", [len(inside)]), 330: ("I", [second]),
        }  # fmt: skip
        first = directory(jpeg_tags | about, first_values)
        return [*first, *directory(sensor_tags, second_values)]

    ends = [8 + sum(map(len, parts(0, 0, 0, 0, 0)[: n + 1])) for n in range(4)]
    jpeg = ends[3]
    whole = parts(jpeg, jpeg + len(inside), ends[1], ends[0], ends[2])
    return b"II*\0" + struct.pack("<I", 8) + b"".join(whole) + inside + pixels


def test_of_a_raw_photograph_the_cameras_own_picture_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = pictures.write(tmp_path / "a.nef", dng())
    found = ingest(path, tmp_path / "thumbs")
    assert (found.format, found.width, found.height) == ("RAW", 1200, 800)
    expected = np.asarray(pictures.scene(1200, 800)).astype(int)
    assert np.abs(np.asarray(decode(path)).astype(int) - expected).mean() < 3
    assert decode(dng(orientation=6)).size == (800, 1200)
    with pytest.raises(BadImage, match="million pixels"):
        decode(path, Limits(pixels=1200 * 800 - 1))


@pytest.mark.parametrize("preview", [0, 240])
def test_without_a_picture_worth_seeing_the_pixels_are_developed(preview: int) -> None:
    pytest.importorskip("rawpy")
    picture = decode(dng(preview))
    assert picture.size in ((600, 400), (1200, 800))
    right, left = picture.getpixel((picture.width - 20, 200)), picture.getpixel((10, 10))
    assert right[0] > right[2] and left[2] > left[0], "red to the right, the blue block to the left"  # type: ignore[index]
    assert decode(dng(preview, orientation=6)).height > decode(dng(preview, orientation=6)).width


def test_a_scan_that_names_its_scanner_is_no_raw_and_a_maimed_raw_is_a_sentence() -> None:
    scan = pictures.encoded(pictures.scene(), "TIFF", tiffinfo={271: "Scanner"})
    assert off_by(decode(scan)) == 0
    whole = dng()
    for length in (200, len(whole) // 2):
        try:
            decode(whole[:length])
        except BadImage as error:
            assert error.message.endswith(".")
