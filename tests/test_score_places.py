"""Where scoring writes: nothing takes the place of something else, and what goes wrong beside the
scores leaves them as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tastemaker.errors import StorageFull
from tastemaker.filtering import score_sheets
from tests import pictures
from tests.command_line import Run, fails
from tests.test_score_sinks import head_of


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return head_of(tmp_path / "head.safetensors", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five pictures and a list of them."""
    for number in range(5):
        content = pictures.encoded(pictures.scene(seed=number))
        pictures.write(tmp_path / "in" / f"{number}.png", content)
    (tmp_path / "list.csv").write_text("".join(f"in/{number}.png\n" for number in range(5)))
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--out d --embeddings-out d", "--out and --embeddings-out name the same place"),
        ("--out d --embeddings-out ./link/d", "--out and --embeddings-out name the same place"),
        ("--out d --embeddings-out d/e", "--embeddings-out lies in the folder of --out"),
        ("--out d/e --embeddings-out d", "--out lies in the folder of --embeddings-out"),
        ("--out d/s.parquet --embeddings-out d", "--out lies in the folder of --embeddings-out"),
        ("--out d.csv --embeddings-out d.csv", "--out and --embeddings-out name the same place"),
        ("--sheet d.png --embeddings-out d.png", "--embeddings-out and --sheet name the same"),
        ("--copy d --embeddings-out d", "--embeddings-out and --copy name the same place"),
        ("--out in", "--out names the source itself"),
        ("--embeddings-out in", "--embeddings-out names the source itself"),
        ("--embeddings-out .", "The source lies in the folder of --embeddings-out"),
        ("--sheet in/0.png", "the next run would score it too"),
    ],
)  # fmt: skip
def test_two_outputs_in_one_place_or_in_the_source_are_refused_before_anything_is_written(
    tmp_path: Path, source: Path, head: Path, run: Run, given: str, sentence: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    fails(run("score", "in", "--model", head, *given.split()), sentence)
    assert sorted(path for path in tmp_path.rglob("*") if "home" not in path.parts) == before


def test_a_list_a_picture_or_a_file_of_embeddings_is_not_written_over(
    tmp_path: Path, source: Path, head: Path, run: Run
) -> None:
    fails(run("score", "@list.csv", "--model", head, "--out", "list.csv"), "names the source")
    fails(run("score", "in/0.png", "--model", head, "--sheet", "in/0.png"), "names the source")
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.ones((3, 1280), np.float16))
    beside = tmp_path / "metadata" / "metadata_0.parquet"
    beside.parent.mkdir()
    pq.write_table(pa.table({"image_path": ["a", "b", "c"]}), beside)
    (tmp_path / "in").rename(tmp_path / "pictures")
    (tmp_path / "pictures").rename(tmp_path.with_name(f"{tmp_path.name}-pictures"))
    said = run("score", ".", "--model", head, "--out", beside)
    fails(said, "--out names the source itself")
    assert pq.read_table(beside).column_names == ["image_path"]


@pytest.mark.parametrize(("way", "done"), [("copy", "copied into"), ("symlink", "linked in"),
                                           ("move", "moved into")])  # fmt: skip
def test_what_passes_of_a_list_is_put_into_a_folder_wherever_it_lies(
    tmp_path: Path, source: Path, head: Path, run: Run, way: str, done: str
) -> None:
    far = pictures.write(tmp_path / "far" / "0.png", pictures.encoded(pictures.scene(seed=9)))
    before = {(source / "0.png").read_bytes(), far.read_bytes()}
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text(f"in/0.png\n{far}\nin/gone.png\n")
    words = ("score", "@lists/some.txt", "--model", head, f"--{way}")
    told = run(*words, "kept", "--keep")
    assert told.code == 2 and "a list has no folders to keep" in told.sentence
    dry = run(*words, "kept", "--dry-run")
    assert dry.code == 0 and not (tmp_path / "kept").exists()
    assert f"2 pictures would be {done} kept" in dry.sentence
    said = run(*words, "kept", "--out", "o.csv")
    assert said.code == 0 and f"2 pictures {done} kept." in said.sentence
    kept = sorted((tmp_path / "kept").iterdir())
    assert [path.name for path in kept] == ["0-1.png", "0.png"]
    assert {path.read_bytes() for path in kept} == before
    assert all(path.is_symlink() == (way == "symlink") for path in kept)
    assert far.exists() == (source / "0.png").exists() == (way != "move")


def test_scores_and_embeddings_beside_each_other_are_both_whole(
    tmp_path: Path, source: Path, head: Path, run: Run
) -> None:
    words = ("score", "in", "--model", head, "--out", "scores", "--embeddings-out", "emb")
    assert run(*words, "--sheet", "scores/top.png").code == 0
    assert "1 part was there already" in run(*words).out
    for folder in ("scores", "emb"):
        told = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert told["complete"] and [part["rows"] for part in told["parts"]] == [5]
    fails(run(*words[:4], "--out", "emb"), "holds embeddings, not scores")
    part = next((tmp_path / "emb").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    assert run(*words).code == 0 and len(pq.read_table(part)) == 5, "made anew"
    assert run("score", "emb", "--model", head, "--out", "o.csv").code == 0
    pq.write_table(pq.read_table(part).slice(2), part)
    fails(run("score", "emb", "--model", head), "is not as it was written")


# --- the contact sheet ---------------------------------------------------------------------------


def tiles_of(path: Path) -> int:
    """How many tiles are drawn, by the width of a single row of them."""
    with Image.open(path) as sheet:
        return (sheet.width - 8) // 168


@pytest.mark.parametrize(("top", "tiles"), [("40%", 2), ("1", 1), ("100%", 5), (None, 5)])
def test_a_sheet_shows_what_is_written_and_no_more(
    tmp_path: Path, source: Path, head: Path, run: Run, top: str | None, tiles: int
) -> None:
    words = ("score", "in", "--model", head, "--sheet", "s.png")
    said = run(*words, *(("--top", top) if top else ()))
    best = "one is" if tiles == 1 else f"{tiles} are"
    assert said.code == 0 and f"The best {best} drawn in s.png" in said.err
    assert tiles_of(tmp_path / "s.png") == tiles
    assert len(said.out.splitlines()) == tiles
    none = run(*words, "--min", "100")
    assert none.code == 0 and "Nothing passes, so no contact sheet is drawn." in none.sentence


def test_a_sheet_says_which_of_its_frames_are_empty_and_is_none_where_all_are(
    tmp_path: Path, source: Path, head: Path, run: Run
) -> None:
    np.savez(source / "x.npz", embeddings=np.ones((5, 1280), np.float32),
             paths=np.array([f"{number}.png" for number in range(5)]))  # fmt: skip
    words = ("score", source / "x.npz", "--model", head, "--sheet", "s.png")
    assert "The best 5 are drawn in s.png." in run(*words).sentence
    for number, frames in ((0, "1 frame is"), (1, "2 frames are")):
        (source / f"{number}.png").unlink()
        assert f"The best 5 are drawn in s.png; {frames} empty" in run(*words).sentence
    (tmp_path / "s.png").unlink()
    np.save(tmp_path / "bare.npy", np.ones((3, 1280), np.float32))
    for out in ((), ("--out", "o.csv"), ("--out", "parts")):
        none = run("score", "bare.npy", "--model", head, "--sheet", "s.png", *out)
        assert none.code == 0 and not (tmp_path / "s.png").exists()
        assert "None of the pictures was found, so no contact sheet is drawn." in none.sentence
        assert "The best" not in none.sentence


@pytest.mark.parametrize("fault", [StorageFull("The disk is full.", "Free some."), OSError("odd")])
@pytest.mark.parametrize("given", ["", "--json", "--out o.csv", "--copy out", "--out parts"])
def test_a_sheet_that_cannot_be_drawn_leaves_the_scores_and_says_so_last(
    tmp_path: Path, source: Path, head: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    fault: Exception, given: str,
) -> None:  # fmt: skip
    def fail(*_: Any) -> bytes:
        raise fault

    monkeypatch.setattr(score_sheets, "draw", fail)
    said = run("score", "in", "--model", head, "--sheet", "s.png", *given.split())
    assert said.code != 0 and not (tmp_path / "s.png").exists()
    assert "The scores are there; the contact sheet s.png is not." in said.sentence
    assert str(fault) in said.sentence
    if given == "--json":
        assert len(said.json) == 5
    elif given == "--out o.csv":
        assert len((tmp_path / "o.csv").read_text().splitlines()) == 6
    elif given == "--copy out":
        assert len(list((tmp_path / "out").iterdir())) == 5
    elif given:
        assert len(pq.read_table(next((tmp_path / "parts").glob("part-*.parquet")))) == 5
    else:
        assert len(said.out.splitlines()) == 5
