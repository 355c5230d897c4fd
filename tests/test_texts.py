"""What people wrote is read whatever its encoding; what is printed never dies of one."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from tastemaker import images, projects
from tastemaker.config import Settings
from tastemaker.errors import Invalid, NotFound
from tastemaker.files.folders import FolderWalk, is_system, left_out_line
from tastemaker.files.texts import composed, decoded, enumerated, lines_of, read_text
from tastemaker.library import filters, tags
from tests.command_line import Run, fails
from tests.conftest import environment
from tests.pictures import write

TEXT = "sky, café, 日本"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
)
def test_a_text_says_the_same_in_every_encoding(encoding: str) -> None:
    mostly_latin = f"{TEXT}, " + "some words " * 9
    assert decoded(mostly_latin.encode(encoding), "a.txt") == mostly_latin


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("café".encode("latin-1"), "café"),
        ("“café” – €".encode("cp1252"), "“café” – €"),
        (b"\x81", "\x81"),
        (b"tags\0\0", "tags"),
        (b"", ""),
    ],
)
def test_old_encodings_and_zeros_at_the_end_are_read(content: bytes, text: str) -> None:
    assert decoded(content, "a.txt") == text


@pytest.mark.parametrize("content", [b"a\0b", b"\x89PNG\r\n\0\0\0\rIHDR", b"\xff\xfea", b"PK\0\0x"])
def test_what_is_no_text_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(Invalid, match=r"^a\.txt is "):
        decoded(content, "a.txt")


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_a_text_or_a_sentence(content: bytes) -> None:
    try:
        assert "\0" not in decoded(content, "a.txt")
    except Invalid as error:
        assert "a.txt" in error.message


@hypothesis.given(st.lists(st.text(st.characters(blacklist_characters="\n\r"), min_size=1)))
def test_lines_end_at_a_line_feed_and_nowhere_else(lines: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert lines_of("".join(line + end for line in lines)) == (lines or [""])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no file .*gone\.txt"):
        read_text(tmp_path / "gone.txt", 10)
    with pytest.raises(Invalid, match="cannot be read: is a directory"):
        read_text(tmp_path, 10)
    with pytest.raises(Invalid, match=r"a\.txt is larger than"):
        read_text(write(tmp_path / "a.txt", b"x" * 11), 10)


def test_letters_are_composed_once_and_for_all() -> None:
    assert composed("Cafe\u0301") == "Caf\u00e9" == composed("Caf\u00e9")
    assert composed("plain") == "plain"


def test_what_is_looked_for_is_composed_as_what_is_kept() -> None:
    apart, whole = "Cafe\u0301", "Caf\u00e9"
    assert tags.parse(f"{apart}, {whole}, plain") == [whole, "plain"]
    wanted = filters.from_dict({"tags": [apart, whole], "name": f" {apart}"})
    assert (wanted.tags, wanted.name) == ((whole,), whole)
    assert projects.validate_name(apart) == whole
    assert images.validate_collection_name(apart) == whole


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["._a.png", ".AppleDouble", "@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", "lost+found",
     "__MACOSX", "Thumbs.db", "System Volume Information", ".Trash-1000"],
)  # fmt: skip
def test_what_systems_leave_among_pictures_is_known(name: str) -> None:
    assert is_system(name)


@pytest.mark.parametrize("name", ["a.png", "..", "@home", "#1", "lost", "eaDir", "$1.png"])
def test_what_people_call_their_folders_is_theirs(name: str) -> None:
    assert not is_system(name)


def test_a_walk_goes_in_one_order_and_round_no_circle(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "in/c.png", "a/d.png", "e.txt", "f.pdf", ".hidden/g.png"):
        write(tmp_path / name, b"")
    (tmp_path / "in" / "round").symlink_to(tmp_path)
    walk = FolderWalk(tmp_path, {".png"}.__contains__, frozenset({".txt"}), tmp_path / "a")
    names = [str(path.relative_to(tmp_path)) for path in walk.files()]
    assert names == ["a.png", "b.png", "in/c.png"]
    assert walk.left_out == {".pdf": 1, "hidden or system folder": 1, "link to a folder": 1}


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({}, ""),
        ({".tif": 1200}, "Left out: 1,200 .tif."),
        ({"link to a folder": 2, "file without an ending": 1},
         "Left out: 2 links to a folder, 1 file without an ending."),
        ({"file without an ending": 3, "hidden or system file": 2},
         "Left out: 3 files without an ending, 2 hidden or system files."),
        ({f".{n}": 9 for n in range(14)},
         "Left out: " + ", ".join(f"9 .{n}" for n in range(12)) + ", 18 others."),
    ],
)  # fmt: skip
def test_what_was_left_out_is_one_line(counts: dict[str, int], line: str) -> None:
    assert left_out_line(Counter(counts)) == line


# --- settings ------------------------------------------------------------------------------------


def test_an_empty_setting_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for empty in ("", "  "):
        monkeypatch.setenv("TASTEMAKER_HOME", empty)
        assert Settings().root == tmp_path / "me" / ".tastemaker"
    monkeypatch.setenv("TASTEMAKER_MIN_FREE_GB", "")
    assert Settings().min_free_gb == 1.0
    write(tmp_path / ".env", "\ufeffTASTEMAKER_ANNOTATOR=Zoë\n".encode())
    assert Settings().annotator == "Zoë"


@pytest.mark.parametrize("content", [b"NAME=\xe9\xff", "NAME=x".encode("utf-16"), None])
def test_a_settings_file_of_another_program_that_cannot_be_read_is_named(
    run: Run, tmp_path: Path, content: bytes | None
) -> None:
    if content is None:
        (tmp_path / ".env").mkdir()
        assert run("project", "list").code == 0, "a folder is no settings file"
        return
    write(tmp_path / ".env", content)
    fails(run("project", "list"), f"The file .env in {tmp_path} cannot be read", "another folder")


# --- what is printed -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spoken", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_output_never_dies_of_an_encoding(tmp_path: Path, spoken: dict[str, str]) -> None:
    def done(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "tastemaker.cli", *words]
        own = environment(tmp_path / "home") | spoken
        return subprocess.run(command, env=os.environ | own, capture_output=True, check=False)

    made = done("project", "create", "Jörg 日本")
    assert made.returncode == 0, made.stderr
    listed = done("project", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)[0]["name"] == "Jörg 日本"
    wrong = done("project", "rename", "日", "本")
    assert wrong.returncode in (1, 2) and b"Traceback" not in wrong.stderr


def test_names_are_listed_as_one_says_them() -> None:
    said = [enumerated(["A", "B", "C"][:count]) for count in range(4)]
    assert said == ["", "A", "A and B", "A, B and C"]
    shortened = [enumerated(list("ABCDE")[:count], 2) for count in range(6)]
    assert shortened[3:] == ["A, B and C", "A, B and 2 more", "A, B and 3 more"]
