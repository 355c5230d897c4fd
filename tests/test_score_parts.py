"""Scores written in parts: a run that was stopped goes on, and nothing is done or counted twice."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tastemaker.encoding import embedding_files
from tastemaker.errors import Conflict, Invalid
from tastemaker.filtering import manifests, parts, sources
from tastemaker.filtering.manifests import MANIFEST
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.parts import Here, Terms, Written, parts_of, write_parts
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.sources import score_source
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tests import pictures
from tests.command_line import Run

FEATURES = 8


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "BLOCK", 10)
    monkeypatch.setattr(parts, "BLOCK", 10)
    monkeypatch.setattr(parts, "BLOCKS", 3)


def head_of(path: Path, seed: int = 0) -> Path:
    weights = np.random.default_rng(seed).normal(size=FEATURES).astype(np.float32)
    tensors = linear_head(weights, 0.0, np.zeros(FEATURES, "f"), np.ones(FEATURES, "f"))
    save_checkpoint(path, tensors, {"project": "Mine", "version": f"v1.{seed}"})
    return path


@pytest.fixture
def scorer(tmp_path: Path) -> Scorer:
    return Scorer(head_of(tmp_path / "head.safetensors"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    x = np.random.default_rng(1).normal(size=(205, FEATURES)).astype(np.float32)
    x[100] = np.nan
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def ignore(*_: object) -> None:
    """For what a test does not look at."""


def written(source: Path, scorer: Scorer, out: Path, *limits: float) -> Written:
    panel = Panel(scorer)
    every = parts_of(source, panel, ignore, ignore)
    return write_parts(every, Terms(out, *limits), Here(panel, ignore, ignore), panel.about)


def rows_of(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])


class Stopped(BaseException):
    """As Ctrl-C, or a kill: nothing catches it."""


def test_twenty_stops_at_random_places_give_the_rows_of_one_run(
    tmp_path: Path, source: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a part is scored, before its file has its name, before the manifest tells of it."""
    whole = pa.concat_tables(score_source(source, scorer))
    random = np.random.default_rng(0)
    out, left = tmp_path / "out", 0
    write, listed, score = parts.write, manifests.write_atomic, Scorer.vectors

    def stopping(what: Any) -> Any:
        def done(*words: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped
            return what(*words, **more)

        return done

    monkeypatch.setattr(parts, "write", stopping(write))
    monkeypatch.setattr(manifests, "write_atomic", stopping(listed))
    monkeypatch.setattr(Scorer, "vectors", stopping(score))
    stops, most = 0, 0
    while stops < 20:
        left = int(random.integers(1, 9))
        try:
            written(source, scorer, out)
        except Stopped:
            stops += 1
            there = len(list(out.glob("*.parquet")))
            assert there >= most, "what is whole stays"
            most = there
            pictures.write(out / "half-written.part", b"PAR1")
        else:
            for path in sorted(out.glob("*.parquet"))[:4]:  # done: there shall be more to do
                path.unlink()
            most = 0
    left = 0
    assert len(written(source, scorer, out).parts) == 7
    assert rows_of(out).equals(whole) and len(whole) == 204
    told = json.loads((out / MANIFEST).read_text())
    assert told["complete"] and told["model"] == "Mine@v1.0"
    assert sum(part["rows"] for part in told["parts"]) == 204


def test_files_of_embeddings_are_done_in_parts_as_one(
    tmp_path: Path, scorer: Scorer, source: Path
) -> None:
    """A part goes over the end of a file; one file that was made again makes all of them anew."""
    x, folder = np.load(source), tmp_path / "in"
    folder.mkdir()
    for number, rows in enumerate(np.split(x, [47, 99])):
        np.save(folder / f"{number}.npy", rows)
    made = written(folder, scorer, tmp_path / "out")
    whole = pa.concat_tables(score_source(folder, scorer))
    assert rows_of(tmp_path / "out").equals(whole) and len(made.parts) == 7
    assert written(folder, scorer, tmp_path / "out").kept == 7
    np.save(folder / "1.npy", x[47:99] + 1)
    assert written(folder, scorer, tmp_path / "out").kept == 0
    assert not rows_of(tmp_path / "out").equals(whole)


def test_what_is_done_is_not_done_again_and_what_changed_is_replaced(
    tmp_path: Path, source: Path, scorer: Scorer
) -> None:
    out = tmp_path / "out"
    assert written(source, scorer, out, 20, 90).kept == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    again = written(source, scorer, out, 20, 90)
    assert again.kept == len(again.parts) == 7
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == before
    percent = rows_of(out)["percent"].to_numpy()
    assert percent.min() >= 20 and percent.max() <= 90
    np.save(source, np.random.default_rng(2).normal(size=(65, FEATURES)).astype(np.float32))
    changed = written(source, scorer, out, 20, 90)
    assert (changed.kept, len(changed.parts)) == (0, 3)
    assert sum(part.rows for part in changed.parts) == len(rows_of(out))
    assert len(list(out.glob("*.parquet"))) == 3, "rows of what was there before count no more"


@pytest.mark.parametrize("form", ["x.npz", "x.parquet", "layout"])
def test_a_source_is_opened_once_however_many_parts_it_has(
    tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    x = np.random.default_rng(3).normal(size=(100, FEATURES)).astype(np.float32)
    source = tmp_path / form
    if form == "x.npz":
        np.savez_compressed(source, embeddings=x)
    elif form == "x.parquet":
        pq.write_table(pa.table({"emb": list(x)}), source, row_group_size=40)
    else:
        (source / "img_emb").mkdir(parents=True)
        for shard in range(4):
            np.save(source / "img_emb" / f"img_emb_{shard}.npy", x[25 * shard : 25 * shard + 25])
    opened: list[Path] = []

    def counting(what: Any) -> Any:
        def done(path: Path) -> Any:
            opened.append(path)
            return what(path)

        return done

    monkeypatch.setattr(sources, "open_embeddings", counting(sources.open_embeddings))
    monkeypatch.setattr(sources, "open_layout", counting(sources.open_layout))
    monkeypatch.setattr(parts, "BLOCKS", 1)
    assert len(written(source, scorer, tmp_path / "out").parts) == 10
    assert len(opened) == 2, "to tell the parts, and to read them"
    rows = rows_of(tmp_path / "out")
    whole = pa.concat_tables(score_source(source, scorer))
    assert rows["path"].equals(whole["path"])
    assert np.abs(rows["aesthetic_score"].to_numpy() - scorer.score(x)).max() < 1e-6


def test_a_part_that_is_not_as_it_was_written_is_written_again(
    tmp_path: Path, source: Path, scorer: Scorer
) -> None:
    out = tmp_path / "out"
    written(source, scorer, out)
    whole = rows_of(out)
    first, second, *_ = sorted(out.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    pq.write_table(pq.read_table(second).slice(3), second)
    assert written(source, scorer, out).kept == 5
    assert rows_of(out).equals(whole)


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, source: Path, scorer: Scorer
) -> None:
    out = tmp_path / "out"
    written(source, scorer, out)
    with pytest.raises(Conflict, match="another run: min differs"):
        written(source, scorer, out, 50)
    other = Scorer(head_of(tmp_path / "other.safetensors", 1))
    with pytest.raises(Conflict, match="another run: model_sha256 differs"):
        written(source, other, out)
    told = json.loads((out / MANIFEST).read_text())
    told["parts"][0]["scored"] = None
    (out / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(Conflict, match=r"manifest\.json is damaged"):
        written(source, scorer, out)
    (out / MANIFEST).write_text("{")
    with pytest.raises(Conflict, match=r"manifest\.json is damaged"):
        written(source, scorer, out)
    pictures.write(tmp_path / "mine" / "a.txt", b"mine")
    with pytest.raises(Conflict, match="is not empty"):
        written(source, scorer, tmp_path / "mine")
    np.save(source, np.full((9, FEATURES), np.nan, np.float32))
    with pytest.raises(Invalid, match="Nothing of the source"):
        written(source, scorer, tmp_path / "none")


def test_the_command_writes_parts_where_out_has_no_ending(
    tmp_path: Path, source: Path, scorer: Scorer, run: Run
) -> None:
    words = ("score", source, "--model", scorer.path, "--out", tmp_path / "scores")
    said = run(*words)
    assert said.code == 0 and "204 rows in 7 parts" in said.out and "204 of 204 pass" in said.err
    assert "7 parts were there already" in run(*words).out
    (tmp_path / "scores").rename(tmp_path / "scores.v1")
    assert "7 parts were there already" in run(*words[:-1], tmp_path / "scores.v1").out
    (tmp_path / "scores.v1").rename(tmp_path / "scores")
    assert "precision differs" in run(*words, "--precision", "fast").sentence
    assert run(*words, "--top", "3").code == 2
    assert run(*words[:-1], tmp_path / "o.csv", "--sort").code == 0
    ranked = pa.csv.read_csv(tmp_path / "o.csv")["aesthetic_score"].to_pylist()
    assert ranked == sorted(ranked, reverse=True) and len(ranked) == 204


def test_what_an_encoder_gives_that_is_no_number_is_named_and_not_dropped_in_silence(
    scorer: Scorer,
) -> None:
    x = np.ones((4, FEATURES), np.float16)
    x[1], x[3, 0] = np.nan, np.inf
    told: dict[str, Exception] = {}
    blocks = [(pa.array(["a", "b", "c", "d"]), x, None)]
    every = Panel(scorer).tables(blocks, "in", told.__setitem__, ignore, encoded=True)
    assert pa.concat_tables(every)["path"].to_pylist() == ["a", "c"]
    assert list(told) == ["b", "d"] and "not finite" in str(told["d"])


def test_heads_called_like_a_column_have_one_of_their_own(
    tmp_path: Path, source: Path, run: Run
) -> None:
    ones = np.ones(FEATURES, np.float32)
    words: list[object] = ["score", source]
    for number, name in enumerate(("model", "prediction", "percent", "plain")):
        tensors = linear_head(number * ones, 0.0, 0 * ones, ones)
        save_checkpoint(tmp_path / f"{name}.safetensors", tensors, {})
        words += ["--model", tmp_path / f"{name}.safetensors"]
    words += ["--columns", "prediction", "--out"]
    assert run(*words, tmp_path / "o.csv").code == 0
    read = pa.csv.read_csv(tmp_path / "o.csv")
    assert len(set(read.column_names)) == len(read.column_names) == 9
    assert set(read["model"].to_pylist()) == {"model"} and "plain" in read.column_names
    assert run(*words, tmp_path / "o.jsonl").code == 0
    odd = tmp_path / os.fsdecode(b"odd \xe4.safetensors")
    odd.write_bytes((tmp_path / "plain.safetensors").read_bytes())
    assert run("score", source, "--model", odd, "--out", tmp_path / "odd.parquet").code == 0
    assert pq.read_schema(tmp_path / "odd.parquet").metadata[b"model"].decode() == "odd \ufffd"
    row = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    assert row["model"] == "model" and set(row) == set(read.column_names)
    assert row["prediction"] == pytest.approx(10 * row["aesthetic_score"])
    assert sum(name.startswith(("model (", "prediction (", "percent (")) for name in row) == 3
