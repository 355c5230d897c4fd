"""When a picture was taken is read from whatever its camera wrote, and from nothing else."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sqlmodel import select

from tastemaker.database import sessions
from tastemaker.database.tables import Image as ImageRow
from tastemaker.pictures import embedded, taken
from tastemaker.pictures.pictures import Limits, ingest
from tests import pictures
from tests.desk import Desk, noise
from tests.test_formats import directory, dng

AT = "2024:05:03 14:22:05"


def both(path: Path, thumbs: Path) -> set[str]:
    """What an import reads, and what is read of the head of the file alone."""
    return {ingest(path, thumbs).taken_at, embedded.taken_at(path, Limits())}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF", "JXL"])
def test_every_format_that_holds_exif_is_asked(format: str, tmp_path: Path) -> None:
    if format in ("HEIF", "JXL"):
        pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[format])
    exif = pictures.taken(AT, subseconds="12", offset="+02:00").tobytes()
    path = pictures.write(tmp_path / "a", pictures.encoded(pictures.scene(), format, exif=exif))
    assert both(path, tmp_path / "thumbs") == {"2024-05-03T14:22:05.120000+02:00"}
    plain = pictures.write(tmp_path / "b", pictures.encoded(pictures.scene(), format))
    assert both(plain, tmp_path / "thumbs") == {""}


def test_of_a_png_it_may_stand_behind_the_pixels(tmp_path: Path) -> None:
    block = pictures.taken(AT).tobytes().removeprefix(b"Exif\0\0")
    plain = pictures.encoded(pictures.scene())
    end = plain.index(b"IEND") - 4
    late = plain[:end] + pictures.png_chunk(b"eXIf", block) + plain[end:]
    path = pictures.write(tmp_path / "a.png", late)
    assert both(path, tmp_path / "thumbs") == {"2024-05-03T14:22:05"}


@pytest.mark.parametrize(
    ("at", "more", "expected"),
    [
        (AT, {"subseconds": "007"}, "2024-05-03T14:22:05.007000"),
        (AT, {"subseconds": "123456789"}, "2024-05-03T14:22:05.123456"),
        (AT, {"subseconds": "x", "offset": "home"}, "2024-05-03T14:22:05"),
        (AT, {"offset": "Z"}, "2024-05-03T14:22:05+00:00"),
        (AT, {"offset": "-0330"}, "2024-05-03T14:22:05-03:30"),
        (AT, {"offset": "+25:00"}, "2024-05-03T14:22:05"),
        ("2024-05-03T14:22:05", {}, "2024-05-03T14:22:05"),
        ("2042:05:03 14:22:05", {}, "2042-05-03T14:22:05"),
        ("2024:05:03 00:00:00", {"subseconds": "5"}, "2024-05-03T00:00:00.500000"),
        ("2024:05:03 00:00:00", {}, ""),
        ("0000:00:00 00:00:00", {}, ""),
        ("    :  :     :  :  ", {}, ""),
        ("1904:01:01 01:00:00", {}, ""),
        ("1970:01:01 01:00:00", {}, ""),
        ("1980:01:01 00:00:00", {}, ""),
        ("2036:02:07 06:28:16", {}, ""),
        ("2024:13:40 99:99:99", {}, ""),
        ("2024:05:03 24:00:00", {}, ""),
        ("2024:05:03", {}, ""),
        ("last summer", {}, ""),
        ("", {}, ""),
        (AT * 1000, {}, ""),
    ],
)  # fmt: skip
def test_what_is_no_time_of_a_clock_is_none_and_the_picture_comes_in_all_the_same(
    at: str, more: dict[str, str], expected: str, tmp_path: Path
) -> None:
    content = pictures.encoded(pictures.scene(), "JPEG", exif=pictures.taken(at, **more))
    path = pictures.write(tmp_path / "a.jpg", content)
    assert both(path, tmp_path / "thumbs") == {expected}


def test_a_number_in_the_place_of_the_text_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = 2024
    path = pictures.write(tmp_path / "a", pictures.encoded(pictures.scene(), "JPEG", exif=exif))
    assert both(path, tmp_path / "thumbs") == {""}


def test_exif_that_is_cut_short_at_any_place_says_the_time_or_nothing(tmp_path: Path) -> None:
    block = pictures.taken(AT, subseconds="12", offset="+02:00").tobytes()
    assert {taken.of_exif(bytes(4) + block), taken.of_exif(block[6:])} == {taken.of_exif(block)}
    shorter = {taken.of_exif(block[:length]) for length in range(len(block))}
    assert "" in shorter and all(said == "" or said.startswith("2024-05-03T") for said in shorter)
    for length in range(6, len(block), 7):
        content = pictures.encoded(pictures.scene(), "JPEG", exif=block[:length])
        ingest(pictures.write(tmp_path / f"{length}.jpg", content), tmp_path / "thumbs")


@given(st.sampled_from(sorted(taken.TIFF_HEADS)), st.binary(max_size=200))
def test_hostile_exif_never_raises(head: bytes, rest: bytes) -> None:
    assert taken.of_exif(head + rest) == ""
    assert taken.of_exif(head + b"\x08\0\0\0" + rest) == ""


def exif_directory(at: int = 8) -> bytes:
    """A directory of Exif that begins at `at`."""
    tags: dict[int, tuple[str, Any]] = {
        0x9003: ("s", AT.encode()), 0x9011: ("s", b"+02:00"), 0x9291: ("s", b"5"),
    }  # fmt: skip
    return b"".join(directory(tags, at + 2 + 12 * len(tags) + 4))


def test_raw_photographs_are_asked_as_their_makers_build_them() -> None:
    expected = "2024-05-03T14:22:05.500000+02:00"
    first = b"".join(directory({0x8769: ("I", [8 + 18])}, 0))
    built = struct.pack("<I", 8) + first + exif_directory(8 + 18)
    for head in (b"II*\0", b"IIRO", b"IIU\0"):  # most, Olympus, Panasonic
        assert taken.of_file(io.BytesIO(head + built)) == expected
    canon = b"\0\0\0\x18ftypcrx " + bytes(200) + b"CMT2II*\0\x08\0\0\0" + exif_directory()
    assert taken.of_file(io.BytesIO(canon)) == expected
    fuji = b"FUJIFILMCCD-RAW " + bytes(200) + b"\xff\xd8\xff\xe1\0\0Exif\0\0II*\0" + built
    assert taken.of_file(io.BytesIO(fuji)) == expected


def test_a_raw_photograph_is_asked_at_its_import(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    whole = dng()
    content = dng(exif_at=len(whole) + 12) + exif_directory(len(whole) + 12)
    path = pictures.write(tmp_path / "a.dng", content)
    assert both(path, tmp_path / "thumbs") == {"2024-05-03T14:22:05.500000+02:00"}


def test_an_import_keeps_it_with_the_image_and_tells_it_of_files_it_knows(desk: Desk) -> None:
    exif = pictures.taken(AT)
    desk.put("a.jpg", pictures.encoded(noise(1), "JPEG", exif=exif))
    desk.put("b.jpg", pictures.encoded(noise(2), "JPEG"))
    desk.bring_in()

    def kept() -> dict[str, str | None]:
        with sessions.reading(desk.engine) as session:
            return dict(session.exec(select(ImageRow.name, ImageRow.taken_at)).all())

    assert kept() == {"a.jpg": "2024-05-03T14:22:05", "b.jpg": ""}
    with sessions.writing(desk.engine) as session:
        image = session.exec(select(ImageRow).where(ImageRow.name == "a.jpg")).one()
        image.taken_at = None  # as one that was imported before it was asked
        session.add(image)
    desk.upload(("again.jpg", pictures.encoded(noise(1), "JPEG", exif=exif)))
    assert kept() == {"a.jpg": "2024-05-03T14:22:05", "b.jpg": ""}
