import os
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tastemaker.errors import Conflict, Invalid
from tastemaker.importing.archives import ArchiveLimits, clean_name, unpack
from tests import pictures

PNG = pictures.encoded(pictures.scene())


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def refused(archive: Path, because: str, **limits) -> None:
    """The archive is refused with this sentence, and nothing of it is left anywhere."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(Invalid, match=because):
        unpack(archive, archive.parent / "into", ArchiveLimits(**limits))
    assert sorted(archive.parent.rglob("*")) == before


def test_pictures_keep_their_bytes_and_their_names_as_data(tmp_path):
    members = {"07_good/a.png": PNG, "07_good/a.txt": b"cat, sky", "03_bad/a.PNG": PNG + b"\0"}
    unpacked = unpack(zipped(tmp_path / "a.zip", members), tmp_path / "into")
    assert {name: path.read_bytes() for path, name in unpacked.files} == members
    assert unpacked.skipped == []
    at = {name: path for path, name in unpacked.files}
    assert all(path.parent == tmp_path / "into" for path in at.values())
    assert at["07_good/a.png"].stem == at["07_good/a.txt"].stem  # still beside each other
    assert at["07_good/a.png"].stem != at["03_bad/a.PNG"].stem


def test_what_is_no_picture_is_skipped_with_its_reason(tmp_path):
    members = {
        "a.png": PNG, "run.exe": b"MZ", "__MACOSX/._a.png": b"x", "._a.png": b"x",
        "v.npy": b"\x93NUMPY", "noext": b"",
    }  # fmt: skip
    unpacked = unpack(zipped(tmp_path / "a.zip", members), tmp_path / "into")
    assert sorted(name for _, name in unpacked.files) == ["a.png", "v.npy"]
    reasons = dict(unpacked.unwanted)
    assert unpacked.skipped == []
    assert "neither a picture" in reasons["run.exe"] and "neither a picture" in reasons["noext"]
    assert "operating system" in reasons["._a.png"]
    assert len(list((tmp_path / "into").iterdir())) == 2


HOSTILE_NAMES = [
    "../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "C:\\evil.png", "a/../../../evil.png",
    "\\\\server\\share\\evil.png", "....//evil.png", "evil.png\0.txt", "././/evil.png",
    "x/\x1b[31mevil.png", "~/evil.png",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_can_write_outside(name, tmp_path):
    place = tmp_path / "deep" / "deeper"
    place.mkdir(parents=True)
    # The zipfile module cleans some names as it writes them, so the bytes are patched afterwards.
    stand_in = "x" * len(name.encode())
    archive = zipped(place / "a.zip", {stand_in: PNG})
    archive.write_bytes(archive.read_bytes().replace(stand_in.encode(), name.encode()))
    unpacked = unpack(archive, place / "into")
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - {archive}
    assert written == {path for path, _ in unpacked.files}
    assert all(path.parent == place / "into" for path in written)
    for _, kept in unpacked.files:
        assert kept.endswith("evil.png") and ".." not in kept.split("/")


@pytest.mark.slow
@given(st.text(max_size=60))
def test_a_cleaned_name_is_a_plain_relative_path(name):
    cleaned = clean_name(name)
    parts = cleaned.split("/") if cleaned else []
    assert all(part not in ("", ".", "..") and "\\" not in part for part in parts)
    assert "\0" not in cleaned and "\n" not in cleaned
    assert not cleaned.startswith("/")


def test_the_same_name_twice_gives_two_files(tmp_path):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for content in (b"1", b"2", b"3"):
            archive.writestr("a.png", content)
        archive.writestr("b.png", b"4")
    unpacked = unpack(tmp_path / "a.zip", tmp_path / "into")
    assert [path.read_bytes() for path, _ in unpacked.files] == [b"1", b"2", b"3", b"4"]
    assert len({path for path, _ in unpacked.files}) == 4


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("a.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ok.png", PNG)
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", "is a link")


def test_archives_in_archives_are_refused(tmp_path):
    refused(zipped(tmp_path / "a.zip", {"ok.png": PNG, "x/more.7Z": b"?"}), "inside the archive")


def test_encrypted_archives_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"ok.png": PNG}, zipfile.ZIP_STORED)
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1  # the flag in the member's own header …
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # … and in the directory
    archive.write_bytes(raw)
    refused(archive, "encrypted")


def test_a_bomb_is_refused_while_it_unpacks(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"ok.png": PNG, "bomb.png": bytes(30_000_000)})
    assert archive.stat().st_size < 100_000
    refused(archive, "far more than a collection of pictures")


def test_a_bomb_that_lies_about_its_sizes_is_refused_too(tmp_path):
    """The directory claims that one byte comes out: no more than that may be believed."""
    archive = zipped(tmp_path / "a.zip", {"bomb.png": bytes(30_000_000)})
    raw = bytearray(archive.read_bytes())
    directory = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<I", raw, directory + 24, 1)
    archive.write_bytes(raw)
    unpacked = unpack(archive, tmp_path / "into")  # what comes out contradicts the directory
    assert unpacked.files == [] and "damaged" in unpacked.skipped[0][1]
    assert list((tmp_path / "into").iterdir()) == []


def test_overlapping_members_cannot_multiply_the_archive(tmp_path):
    """Many directory entries that all point at the same packed bytes."""
    archive = zipped(tmp_path / "a.zip", {"bomb.png": bytes(3_000_000)})
    raw = archive.read_bytes()
    start = raw.rindex(b"PK\x01\x02")
    end = raw.rindex(b"PK\x05\x06")
    copies = 500
    directory = raw[start:end] * copies
    tail = bytearray(raw[end:])
    struct.pack_into("<HHI", tail, 8, copies, copies, len(directory))
    archive.write_bytes(raw[:start] + directory + tail)
    into = tmp_path / "into"
    try:
        unpacked = unpack(archive, into)
    except Invalid:
        assert not into.exists()
    else:  # newer Pythons notice the overlap themselves, member by member
        assert sum(path.stat().st_size for path, _ in unpacked.files) <= 3_000_000


def test_limits_on_number_total_and_directory(tmp_path):
    archive = zipped(tmp_path / "a.zip", {f"{n}.png": PNG for n in range(12)})
    refused(archive, "12 files, more than the 11", entries=11)
    refused(archive, "far more", total_bytes=len(PNG) * 11)
    long_names = {f"{n:04d}" + "n" * 60_000 + ".png": b"" for n in range(60)}
    refused(zipped(tmp_path / "b.zip", long_names), "directory is too large", directory_bytes=10)


def test_a_member_that_is_too_large_is_skipped_and_the_rest_goes_on(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"big.png": os.urandom(2_000_000), "ok.png": PNG})
    unpacked = unpack(archive, tmp_path / "into", ArchiveLimits(entry_bytes=2**20))
    assert [name for _, name in unpacked.files] == ["ok.png"]
    assert unpacked.skipped == [("big.png", "It has more than the 1 MB allowed.")]
    assert len(list((tmp_path / "into").iterdir())) == 1


def test_a_damaged_member_is_skipped_and_the_rest_goes_on(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": PNG, "b.png": PNG}, zipfile.ZIP_STORED)
    raw = bytearray(archive.read_bytes())
    raw[raw.index(PNG) + 50] ^= 0xFF
    archive.write_bytes(raw)
    unpacked = unpack(archive, tmp_path / "into")
    assert [name for _, name in unpacked.files] == ["b.png"]
    assert unpacked.skipped == [("a.png", "It is damaged inside the archive.")]
    assert len(list((tmp_path / "into").iterdir())) == 1


def test_an_unusual_method_of_packing_is_skipped(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": PNG}, zipfile.ZIP_LZMA)
    assert "other than deflate" in unpack(archive, tmp_path / "into").skipped[0][1]


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (b"", "not a zip archive"),
        (b"Rar!\x1a\x07" + bytes(100), "not a zip archive"),
        (PNG, "not a zip archive"),
    ],
)
def test_what_is_no_zip_gets_a_clear_sentence(content, because, tmp_path):
    refused(pictures.write(tmp_path / "a.zip", content), because)


def test_an_archive_that_is_not_there_gets_a_clear_sentence(tmp_path):
    refused(tmp_path / "none.zip", "cannot be read")


def test_a_zip_cut_short_gets_a_clear_sentence(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": PNG, "b.png": PNG})
    archive.write_bytes(archive.read_bytes()[:-100])
    refused(archive, "cut short or damaged")


@example(350, 0)  # a member without a name
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_never_writes_outside_nor_escapes_as_another_error(position, value):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = zipped(root / "a.zip", {"a.png": PNG, "b/c.txt": b"tag"})
        raw = bytearray(archive.read_bytes())
        raw[position % len(raw)] = value
        archive.write_bytes(raw)
        try:
            unpacked = unpack(archive, root / "into")
        except Invalid:
            assert not (root / "into").exists()
        else:
            stored = {path for path, _ in unpacked.files}
            assert {path for path in root.rglob("*") if path.is_file()} == {archive} | stored


def test_an_existing_folder_is_never_unpacked_into(tmp_path):
    kept = pictures.write(tmp_path / "into" / "mine.png", b"mine")
    with pytest.raises(Conflict):
        unpack(zipped(tmp_path / "a.zip", {"a.png": PNG}), tmp_path / "into")
    assert kept.read_bytes() == b"mine"
