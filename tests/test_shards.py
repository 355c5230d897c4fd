"""Pictures in tar shards and zips: scored where they lie, past whatever is wrong with some."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import Incomplete, Invalid, NotFound
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.parts import Here, Terms, parts_of, write_parts
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.shards import Shards, archives_of
from tastemaker.filtering.sources import archives_in, named_pictures, score_source
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.pictures.pictures import Limits
from tests import pictures
from tests.command_line import Run

PNG = pictures.encoded(pictures.scene())
Members = dict[str, bytes]


def entry(name: str, content: bytes = b"", **facts: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member


def tarred(path: Path, members: Members, *more: tarfile.TarInfo, mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            archive.addfile(entry(name, content), io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return path


def zipped(path: Path, members: Members, method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def read(source: Path, **limits: int) -> tuple[Members, dict[str, str], Shards]:
    """What is read, why the rest is not, both by name; and the shards that were gone through."""
    shards = Shards(archives_of(source), Limits(**limits))
    had: Members = {}
    faults: dict[str, str] = {}
    for name, content in shards.pictures():
        if isinstance(content, bytes):
            had[name] = content
        else:
            faults[name] = str(content)
    return had, faults, shards


def samples(count: int, seed: int = 0) -> Members:
    """As webdataset writes them: each key a picture and what belongs to it."""
    members = {}
    for number in range(count):
        members[f"{seed:02}{number:04}.png"] = PNG + bytes([seed, number])
        members[f"{seed:02}{number:04}.json"] = b"{}"
        members[f"{seed:02}{number:04}.txt"] = b"a caption"
    return members


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz", "s.zip", "s.cbz"])
def test_the_pictures_of_an_archive_come_in_its_order_with_their_bytes(
    tmp_path: Path, name: str
) -> None:
    members = samples(40) | {
        "deep/./b.JPG": b"\xff\xd8",
        "a.webp": b"RIFF",
        "x.mp4": b"",
        "._a.png": b"x",
    }
    if name.endswith(("zip", "cbz")):
        path = zipped(tmp_path / name, members)
    else:
        path = tarred(tmp_path / name, members, mode="w" if name == "s.tar" else "w:gz")
    had, faults, shards = read(path)
    wanted = {
        key: content for key, content in members.items() if key.endswith((".png", ".webp", ".JPG"))
    }
    del wanted["._a.png"]
    assert list(had.values()) == list(wanted.values())
    assert list(had) == [f"{name}/{key.replace('./', '')}" for key in wanted]
    assert faults == {} and shards.progress == 1
    assert dict(shards.left_out) == {".mp4": 1, "hidden or system file": 1}


def test_shards_are_named_by_a_folder_a_pattern_or_a_range(tmp_path: Path) -> None:
    for number in range(3):
        tarred(tmp_path / "in" / f"{number:03}.tar", samples(2, number))
    zipped(tmp_path / "in" / "deep" / "more.zip", samples(1, 9))
    (tmp_path / "in" / "000.json").write_text("{}")
    had, _, _ = read(tmp_path / "in")
    assert len(had) == 7 and list(had)[-1] == "deep/more.zip/090000.png"
    assert next(iter(had)) == "000.tar/000000.png"
    patterns = {"*.tar": 6, "00[12].tar": 4, "{000..001}.tar": 4, "**/*.zip": 1, "**.tar": 6}
    for pattern, many in patterns.items():
        assert len(read(tmp_path / "in" / pattern)[0]) == many
    with pytest.raises(NotFound, match=r"no file .*003\.tar"):
        archives_of(tmp_path / "in" / "{000..003}.tar")
    with pytest.raises(NotFound, match="No file is named like"):
        archives_of(tmp_path / "in" / "*.tgz")
    with pytest.raises(Invalid, match=r"000\.json is neither a tar nor a zip"):
        archives_of(tmp_path / "in" / "000*")
    (tmp_path / "in" / "a.png").write_bytes(PNG)
    assert archives_in(tmp_path / "in") == [], "a folder of pictures is one as before"


# --- what is wrong --------------------------------------------------------------------------------


def test_an_archive_whose_name_is_no_text_is_told_and_the_others_follow(tmp_path: Path) -> None:
    tarred(tmp_path / "in" / "a\udcff.tar", {"0.png": PNG})
    tarred(tmp_path / "in" / "b.tar", {"1.png": PNG})
    had, faults, shards = read(tmp_path / "in")
    assert list(had) == ["b.tar/1.png"] and shards.progress == 1
    assert faults == {"a\ufffd.tar": "Its name is not in UTF-8; rename it."}


def test_a_path_outside_a_link_and_a_giant_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = (
        entry("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("hard.png", type=tarfile.LNKTYPE, linkname="a.png"),
        entry("device.png", type=tarfile.CHRTYPE),
        entry("folder.png", type=tarfile.DIRTYPE),
    )
    members = {"../../up.png": PNG, "/etc/root.png": PNG, "C:\\x.png": PNG, "b\udcff.png": PNG}
    members |= {"giant.png": bytes(3000), "a.png": PNG}
    path = tarred(tmp_path / "s.tar", members, *bad)
    had, faults, _ = read(path, bytes=2000)
    assert had == {"s.tar/a.png": PNG}
    reasons = [(name.removeprefix("s.tar/"), reason) for name, reason in faults.items()]
    outside, strange = "leads out of the archive", "a link or a device"
    wanted = [
        ("up.png", outside), ("etc/root.png", outside), ("x.png", outside),
        ("b.png", "not in UTF-8"),
        ("giant.png", "more than the 0 MB"), ("link.png", strange), ("hard.png", strange),
        ("device.png", strange),
    ]  # fmt: skip
    assert [name for name, _ in reasons] == [name for name, _ in wanted]
    assert all(part in reason for (_, reason), (_, part) in zip(reasons, wanted, strict=True))
    assert not list(tmp_path.glob("**/*.png"))


def test_what_unpacks_to_far_more_than_pictures_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "in" / "b.zip", {"0.png": bytes(50 * 2**20), "1.png": PNG},
                  zipfile.ZIP_DEFLATED)  # fmt: skip
    had, faults, _ = read(bomb)
    assert list(had) == ["b.zip/1.png"] and "far more than a picture" in faults["b.zip/0.png"]
    tarred(tmp_path / "in" / "a.tar.gz", {"0.png": PNG, "1.png": bytes(50 * 2**20), "2.png": PNG},
           mode="w:gz")  # fmt: skip
    had, faults, _ = read(tmp_path / "in")
    assert list(had) == ["a.tar.gz/0.png", "b.zip/1.png"], "the next archive follows"
    assert "unpacks to far more than pictures would after 0.png" in faults["a.tar.gz"]
    claim = entry("pax", type=tarfile.XHDTYPE, size=2**32)
    header = claim.tobuf(tarfile.USTAR_FORMAT)
    path = pictures.write(tmp_path / "claims.tar", header + bytes(1024))
    assert "claims more than pictures need" in read(path)[1]["claims.tar"]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.zip"])
def test_a_damaged_archive_is_named_and_the_next_follows(tmp_path: Path, name: str) -> None:
    make = zipped if name == "s.zip" else tarred
    packed = {"mode": "w:gz"} if name == "s.tar.gz" else {}
    noise = np.random.default_rng(0).bytes(20_000)
    members = {f"{number}.png": PNG + noise for number in range(9)}
    whole = make(tmp_path / "whole" / name, members, **packed).read_bytes()
    tarred(tmp_path / "in" / "z.tar", {"last.png": PNG})
    for cut in (1, 100, len(whole) // 2, len(whole) * 3 // 4, 0):
        pictures.write(tmp_path / "in" / name, whole[:cut])
        had, faults, _ = read(tmp_path / "in")
        assert list(had)[-1] == "z.tar/last.png"
        assert list(faults) == [name] and "what follows in it was not read" in faults[name]
        assert all(had[key] == content for key, content in had.items() if key.startswith(name)
                   and content == members[key.split("/")[1]])  # fmt: skip
    if name == "s.zip":
        assert len(had) == 1, "without its directory nothing of a zip is known"


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = tarred(tmp_path / "s.tar", {f"{number}.png": PNG for number in range(6)})
    with tarfile.open(path) as archive:
        third = archive.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    content[third : third + 100] = b"\x07" * 100
    path.write_bytes(content)
    had, faults, _ = read(path)
    assert list(had) == ["s.tar/0.png", "s.tar/1.png", "s.tar/2.png"]
    assert "is damaged after 2.png" in faults["s.tar"]
    member = bytearray(zipped(tmp_path / "s.zip", {"a.png": PNG, "b.png": PNG}).read_bytes())
    member[60] ^= 255
    pictures.write(tmp_path / "s.zip", bytes(member))
    had, faults, _ = read(tmp_path / "s.zip")
    assert list(had) == ["s.zip/b.png"] and "damaged" in faults["s.zip/a.png"]
    assert "s.tar" in read(pictures.write(tmp_path / "x" / "s.tar", os.urandom(5000)))[1]
    packed = pictures.write(tmp_path / "y" / "s.tar.gz", gzip.compress(bytes(5000)))
    assert read(packed)[0] == {}


def test_a_size_below_zero_does_not_lead_round_for_ever(tmp_path: Path) -> None:
    path = tarred(tmp_path / "s.tar", {"x.txt": b"x", "a.png": PNG, "b.txt": b"y"})
    with tarfile.open(path) as archive:
        start = archive.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    header = content[start : start + 512]
    header[124:136] = (-1536).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[start : start + 512] = header
    path.write_bytes(content)
    had, faults, _ = read(path)
    assert list(had) == ["s.tar/a.png"] and "damaged" in faults["s.tar"]


# --- scored ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "Mine-v1.0.safetensors"
    weights = np.random.default_rng(0).normal(size=1280).astype(np.float32)
    tensors = linear_head(weights / 300, 0.0, np.zeros(1280, "f"), np.ones(1280, "f"))
    save_checkpoint(path, tensors, {"encoder": BUNDLED})
    return path


def _add(course: list[tuple[int, ...]], *at: int) -> None:
    course.append(at)


@pytest.mark.slow
def test_shards_score_as_the_same_pictures_in_a_folder(
    tmp_path: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any format, one member that is cut short, one shard that is none."""
    formats = ("png", "jpg", "webp", "gif")
    members = {}
    for number in range(8):
        suffix = formats[number % 4]
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        members[f"{number:04}.{suffix}"] = pictures.encoded(pictures.scene(seed=number), kind)
    for name, content in members.items():
        pictures.write(tmp_path / "folder" / name, content)
    half = len(members) // 2
    first = dict(list(members.items())[:half]) | {"0003z.jpg": pictures.truncated()}
    tarred(tmp_path / "shards" / "0.tar", first)
    pictures.write(tmp_path / "shards" / "1.tar", b"not a tar")
    zipped(tmp_path / "shards" / "2.zip", dict(list(members.items())[half:]))
    told: list[str] = []
    seen: list[tuple[int, int]] = []
    scorer = Scorer(head)
    got = pa.concat_tables(
        score_source(tmp_path / "shards", scorer, on_error=lambda name, _: told.append(name),
                     progress=lambda done, total: seen.append((done, total)))
    )  # fmt: skip
    wanted = pa.concat_tables(score_source(tmp_path / "folder", scorer))
    paths = [str(tmp_path / "folder" / name) for name in reversed(members)]
    lines = [os.fsencode(line) for line in (*paths, "", str(tmp_path / "gone.png"), "\udcff.png")]
    (tmp_path / "list.txt").write_bytes(b"\r\n".join(lines))
    from_list = pa.concat_tables(
        score_source(Path(f"@{tmp_path / 'list.txt'}"), scorer,
                     on_error=lambda *one: told.append(" ".join(map(str, one))))
    )  # fmt: skip
    assert from_list["path"].to_pylist() == paths
    assert np.allclose(from_list["aesthetic_score"], wanted["aesthetic_score"][::-1], atol=1e-5)
    gone, unnamed = sorted(told[-2:])
    assert "gone.png cannot be read" in gone and "not in UTF-8" in unnamed
    del told[-2:]
    with pytest.raises(NotFound, match=r"There is no list nowhere\.txt"):
        score_source(Path("@nowhere.txt"), scorer)
    names = got["path"].to_pylist()
    assert [name.split("/")[1] for name in names] == wanted["path"].to_pylist()
    assert names[0] == "0.tar/0000.png" and names[-1] == "2.zip/0007.gif"
    assert np.allclose(got["aesthetic_score"], wanted["aesthetic_score"], atol=1e-5)
    assert sorted(told) == ["0.tar/0003z.jpg", "1.tar"]
    assert seen[-1] == (10, 10)
    (tmp_path / "shards" / "1.tar").unlink()
    panel, ignore = Panel(scorer), lambda *_: None
    here, terms = Here(panel, ignore, ignore), Terms(tmp_path / "out")
    for again in (False, True):
        parts = parts_of(tmp_path / "shards", panel, ignore, ignore)
        course: list[tuple[int, ...]] = []
        done = write_parts(parts, terms, here, panel.about, partial(_add, course))
        assert course[-1] == (8, 8)
        assert all(every > 5 for rows, every in course if rows == 5), "not the first archive alone"
        assert (len(done.parts), done.kept) == (2, 2 * again)
    rows = [pq.read_table(tmp_path / "out" / part.file) for part in done.parts]
    assert pa.concat_tables(rows)["path"].to_pylist() == names
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    with pytest.raises(Invalid, match="could be scored"):  # a list that came out empty
        write_parts([], terms, here, panel.about)
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(told["parts"]) == 2 and not told["complete"]


def test_pictures_in_an_archive_are_not_copied_and_the_command_says_so(
    tmp_path: Path, head: Path, run: Run
) -> None:
    path = tarred(tmp_path / "s.tar", {"a.png": PNG})
    said = run("score", path, "--model", head, "--copy", tmp_path / "into")
    assert said.code == 2 and "stay there" in said.sentence
    assert not (tmp_path / "into").exists()


@pytest.mark.slow
def test_a_shard_that_is_cut_short_leaves_its_rows_and_ends_with_1(
    tmp_path: Path, head: Path, run: Run
) -> None:
    """As a table, as parts, with embeddings kept and embedded only; a picture that is none ends
    with 0. Once the shard is whole, the same command reads it alone."""
    whole = tarred(tmp_path / "whole.tar", {f"{number}.png": PNG for number in range(3)})
    shards = tmp_path / "shards"
    tarred(shards / "0.tar", {"a.png": PNG, "b.jpg": pictures.truncated()})
    pictures.write(shards / "1.tar", whole.read_bytes()[: len(PNG) + 1024])
    told = "1 archive or folder could not be read whole; rows of its pictures are missing."
    score = ("score", shards, "--model", head)
    for words, rows in (
        ((*score,), None),
        ((*score, "--out", tmp_path / "t.csv"), "2 rows written"),
        ((*score, "--out", tmp_path / "out", "--embeddings-out", tmp_path / "e"), "2 rows in 2"),
        ((*score, "--out", tmp_path / "out", "--embeddings-out", tmp_path / "e"), "2 rows in 2"),
        (("embed", shards, "--encoder", BUNDLED, "--out", tmp_path / "x.npz"), "2 pictures"),
    ):
        said = run(*words)
        assert said.code == 1 and told in said.sentence, words
        assert "1.tar: The archive is cut short after 0.png" in said.sentence
        assert said.out.count("%") == 2 if rows is None else rows in said.out
        if "--embeddings-out" not in words and "embed" not in words:
            assert "2 of 2 pass; 1 was skipped." in said.sentence
    pictures.write(shards / "1.tar", whole.read_bytes())
    os.utime(shards / "1.tar", ns=(10**18, 10**18))
    said = run(*score, "--out", tmp_path / "out", "--embeddings-out", tmp_path / "e")
    assert said.code == 0 and "4 rows in 2 parts" in said.out and "1 part was there" in said.out
    assert "b.jpg" not in said.sentence, "the part that is there is not read again"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [part["whole"] for part in manifest["parts"]] == [True, True]


def test_what_cannot_be_entered_is_told_apart_from_a_picture_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder of pictures, and of one of archives, which passed over it without a word."""
    locked = tmp_path / "in" / "locked"
    locked.mkdir(parents=True)
    walk = os.walk

    def walked(root: Any, onerror: Any) -> Any:
        yield from walk(root, onerror=onerror)
        onerror(PermissionError(13, "Permission denied", str(locked)))

    monkeypatch.setattr(os, "walk", walked)
    for name, found in (("0.tar", archives_in), ("a.png", named_pictures)):
        pictures.write(tmp_path / "in" / name, PNG)
        faults: dict[str, Exception] = {}
        more = () if found is archives_in else (print,)
        found(tmp_path / "in", faults.__setitem__, *more)
        assert type(faults["locked"]) is Incomplete
        assert "cannot be entered: permission denied" in str(faults["locked"])
