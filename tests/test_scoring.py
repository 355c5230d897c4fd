"""Scoring what lies outside the library: embeddings and pictures, in bounded memory, in order."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tastemaker.encoding import embedding_files
from tastemaker.encoding.embedding_files import open_embeddings
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import CheckpointError, Conflict, Invalid, NotFound
from tastemaker.filtering.score_tables import as_dicts, best, table, within, write
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.sources import embeddings_in, score_source
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import layout
from tests import pictures
from tests.conftest import environment, forward
from tests.test_shards import zipped

FEATURES = 8


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def head_of(features: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A head with all its layers at work, whose scores spread over most of 0–1."""
    random = np.random.default_rng(seed)
    tensors = {
        name: random.normal(0, 1.4 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for name, shape in layout(features).items()
    }
    return tensors | {"down.5.bias": np.zeros(1, np.float32)}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return head_of(FEATURES)


@pytest.fixture(scope="module")
def file(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "Mine-v1.3.safetensors"
    save_checkpoint(path, tensors, {"project": "Mine", "version": "v1.3"})
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> Scorer:
    return Scorer(file)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(500, FEATURES)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "BLOCK", 120)


def scored(source: Path, model: Scorer, **options: Any) -> pa.Table:
    return pa.concat_tables(score_source(source, model, **options))


def saved(path: Path, x: Any) -> Path:
    np.save(path, x)
    return path


def lists(x: np.ndarray, kind: str = "list") -> pa.Array:
    flat = pa.array(x.ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    many = {"list": pa.ListArray, "large": pa.LargeListArray}[kind]
    offset = np.int32 if kind == "list" else np.int64
    return many.from_arrays(np.arange(0, x.size + 1, x.shape[1], dtype=offset), flat)


# ---------------------------------------------------------------- embeddings


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_an_array_of_any_float_type_is_scored_in_its_own_order(
    tmp_path: Path, tensors: dict[str, np.ndarray], model: Scorer, x: np.ndarray, dtype: str
) -> None:
    rows = scored(saved(tmp_path / "x.npy", x.astype(dtype)), model)
    assert rows["path"].to_pylist() == [str(number) for number in range(len(x))]
    truth = forward(tensors, x.astype(dtype).astype(np.float64))
    assert np.abs(rows["aesthetic_score"].to_numpy() - truth).max() < 1e-5
    assert np.abs(rows["percent"].to_numpy() - 100 * truth).max() < 0.0061
    assert truth.std() > 0.1


@pytest.mark.usefixtures("small_blocks")
def test_an_array_stored_by_columns_is_scored_as_one_stored_by_rows(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    by_rows = scored(saved(tmp_path / "rows.npy", x), model)
    assert scored(saved(tmp_path / "columns.npy", np.asfortranarray(x)), model).equals(by_rows)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("name", ["path", "image_path", None])
def test_a_parquet_file_is_scored_under_its_own_paths(
    tmp_path: Path, tensors: dict[str, np.ndarray], model: Scorer, x: np.ndarray,
    kind: str, name: str | None,
) -> None:  # fmt: skip
    columns = {"caption": pa.array([""] * len(x)), "anything": lists(x, kind)}
    paths = [f"a/{number}.jpg" for number in range(len(x))]
    if name:
        columns[name] = pa.array(paths)
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=200)
    rows = scored(tmp_path / "x.parquet", model)
    assert rows["path"].to_pylist() == (paths if name else [str(n) for n in range(len(x))])
    assert np.abs(rows["aesthetic_score"].to_numpy() - forward(tensors, x)).max() < 1e-5


@pytest.mark.usefixtures("small_blocks")
def test_what_else_a_parquet_file_tells_of_its_rows_goes_with_them(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    """Text, numbers and times; no pictures, no other lists, and nothing in the place of a score."""
    count = len(x)
    urls = [f"https://a.example/{number}" for number in range(count)]
    vectors = {"embedding": lists(x)}
    apart = {f"emb_{place}": x[:, place] for place in range(x.shape[1])}
    told = {
        "url": urls, "caption": [None, *["=a cat"] * (count - 1)], "width": range(count),
        "licence": pa.array(["by"] * count).dictionary_encode(),
        "at": [datetime(2026, 1, 1, tzinfo=UTC)] * count, "percent": range(count),
        "png": [b"PNG"] * count, "boxes": [[1, 2]] * count, "about": [{"a": 1}] * count,
    }  # fmt: skip
    for columns in (told | vectors, told | apart):
        pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=190)
        got = scored(tmp_path / "x.parquet", model)
        own = ["path", "aesthetic_score", "percent"]
        assert got.column_names == [*own, "url", "caption", "width", "licence", "at"]
        assert (got["url"].to_pylist(), got["width"].to_pylist()) == (urls, [*range(count)])
        assert got["percent"].to_pylist()[:9] != [*range(9)]
        for form in ("parquet", "csv", "jsonl"):
            rows = score_source(tmp_path / "x.parquet", model)
            assert write(tmp_path / f"o.{form}", rows, {"model": "m"}) == count
    assert pq.read_table(tmp_path / "o.parquet").equals(got)
    rows = list(csv.DictReader((tmp_path / "o.csv").open(newline="")))
    assert (rows[0]["caption"], rows[1]["caption"]) == ("", "'=a cat")
    line = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[-1])
    assert (line["url"], line["licence"]) == (urls[-1], "by")


def as_files(folder: Path, x: np.ndarray) -> list[str]:
    """The rows in three files of three kinds, in folders; what they are called."""
    (folder / "b").mkdir(parents=True)
    np.save(folder / "a-2.npy", x[:130])
    np.savez(folder / "a-10.npz", embeddings=x[130:300], paths=[f"p/{n}.jpg" for n in range(170)])
    rest = x[300:]
    told = {"embedding": lists(rest), "url": [f"u{n}" for n in range(len(rest))]}
    pq.write_table(pa.table(told), folder / "b" / "c.parquet", row_group_size=90)
    return [
        *(f"a-2.npy/{n}" for n in range(130)), *(f"p/{n}.jpg" for n in range(170)),
        *(f"b/c.parquet/{n}" for n in range(len(rest))),
    ]  # fmt: skip


@pytest.mark.usefixtures("small_blocks")
def test_files_of_embeddings_in_a_folder_are_scored_as_one(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    """In the order of their names, 2 before 10; a row is called by its path, or by its file."""
    names = as_files(tmp_path / "in", x)
    (tmp_path / "in" / "note.txt").write_text("beside")
    alone = scored(saved(tmp_path / "x.npy", x), model)
    got = scored(tmp_path / "in", model)
    assert got["path"].to_pylist() == names
    assert np.allclose(got["aesthetic_score"], alone["aesthetic_score"], atol=1e-6)
    assert got["url"].to_pylist() == [None] * 300 + [f"u{n}" for n in range(len(x) - 300)]
    for start in (0, 129, 130, 250, 300, 433):
        opened = embeddings_in(tmp_path / "in")
        assert opened is not None
        rest = [(paths.to_pylist(), rows) for paths, rows, _ in opened.read(start)]
        assert [name for paths, _ in rest for name in paths] == names[start:]
        assert np.array_equal(np.concatenate([rows for _, rows in rest]), x[start:])


def test_files_of_embeddings_are_named_by_a_pattern(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    for number in range(8, 12):
        np.save(tmp_path / f"part-{number:02}.npy", x[10 * number : 10 * number + 10])
    got = scored(tmp_path / "part-{08..10}.npy", model)
    assert got["path"].to_pylist()[9:11] == ["part-08.npy/9", "part-09.npy/0"]
    assert len(got) == 30 and len(scored(tmp_path / "part-*.npy", model)) == 40
    with pytest.raises(NotFound, match=r"no file .*part-12\.npy"):
        scored(tmp_path / "part-{08..12}.npy", model)
    (tmp_path / "part-x.tar").write_bytes(b"")
    with pytest.raises(Invalid, match=r"archives \(.*\) or files of embeddings .* not both"):
        scored(tmp_path / "part-*", model)


@pytest.mark.parametrize("wrong", ["width", "damaged", "no vectors", "encoder", "columns"])
def test_files_of_embeddings_that_do_not_belong_together_are_refused(
    tmp_path: Path, model: Scorer, x: np.ndarray, wrong: str
) -> None:
    vectors = {"embedding": lists(x[:9])}
    pq.write_table(pa.table(vectors | {"n": range(9)}), tmp_path / "a.parquet")
    other, sentence = {
        "width": ({"embedding": lists(x[:9, :5])}, r"b\.parquet holds vectors of 5 values, those"),
        "damaged": (vectors, r"^b\.parquet is "),
        "no vectors": ({"score": [0.5]}, r"^b\.parquet has no column of embeddings"),
        "encoder": (vectors, r"a\.parquet and b\.parquet do not say the same encoder"),
        "columns": (vectors | {"n": ["a word"] * 9}, "columns of the files do not fit each other"),
    }[wrong]  # fmt: skip
    table = pa.table(other)
    if wrong == "encoder":
        table = table.replace_schema_metadata({"encoder": "another"})
    pq.write_table(table, tmp_path / "b.parquet")
    if wrong == "damaged":
        (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-9])
    with pytest.raises(Invalid, match=sentence):
        score_source(tmp_path, model)


def test_of_several_columns_of_lists_the_one_called_embedding_is_scored(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    both = {"other": lists(-x), "embedding": lists(x)}
    pq.write_table(pa.table(both), tmp_path / "both.parquet")
    assert scored(tmp_path / "both.parquet", model).equals(
        scored(saved(tmp_path / "x.npy", x), model)
    )
    pq.write_table(pa.table({"a": lists(x), "b": lists(x)}), tmp_path / "which.parquet")
    with pytest.raises(Invalid, match=r"several columns of embeddings: a, b\."):
        score_source(tmp_path / "which.parquet", model)


def test_what_is_missing_or_not_finite_is_set_aside_and_the_rest_is_scored(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    rows: list[Any] = x[:6].tolist()
    rows[1] = None
    rows[4][2] = float("inf")
    paths = ["a", "b", None, "d", "e", "f"]
    embedding = pa.array(rows, pa.list_(pa.float32()))
    pq.write_table(pa.table({"path": paths, "embedding": embedding}), tmp_path / "x.parquet")
    told: list[str] = []
    got = scored(tmp_path / "x.parquet", model, on_error=lambda path, reason: told.append(path))
    assert got["path"].to_pylist() == ["a", "2", "d", "f"], "a row without path has its number"
    assert told == ["b", "e"]
    with pytest.raises(Invalid, match="None of the embeddings"):
        scored(saved(tmp_path / "x.npy", np.full((3, FEATURES), np.nan, np.float32)), model)


def test_rows_that_were_never_written_are_set_aside(
    tmp_path: Path, model: Scorer, x: np.ndarray, small_blocks: None
) -> None:
    """As an array that was made in full and filled in part."""
    holey = x.copy()
    holey[[0, 7, 300]] = 0
    told: list[tuple[str, Exception]] = []
    got = scored(saved(tmp_path / "x.npy", holey), model, on_error=lambda *said: told.append(said))
    assert [path for path, _ in told] == ["0", "7", "300"] and len(got) == 497
    assert all("never written" in str(reason) for _, reason in told)
    with pytest.raises(Invalid, match="None of the embeddings"):
        scored(saved(tmp_path / "x.npy", np.zeros((3, FEATURES), np.float32)), model)


@pytest.mark.parametrize("float_type", [np.float16, np.float32])
def test_normalised_and_raw_embeddings_are_told_apart(
    tmp_path: Path, tensors: dict[str, np.ndarray], x: np.ndarray, float_type: Any
) -> None:
    """As clip-retrieval writes them: float16, of length 1. Their length cannot be brought back."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    raw_file = saved(tmp_path / "raw.npy", x.astype(float_type))
    unit_file = saved(tmp_path / "unit.npy", unit.astype(float_type))

    def trained_on(said: dict[str, str]) -> Scorer:
        save_checkpoint(tmp_path / "head.safetensors", tensors, said)
        return Scorer(tmp_path / "head.safetensors")

    def of(source: Path, model: Scorer) -> Any:
        return scored(source, model)["aesthetic_score"].to_numpy()

    on_raw = trained_on({"embedding": "not L2-normalised"})
    with pytest.raises(Invalid, match=r"unit\.npy holds L2-normalised.*would be wrong"):
        scored(unit_file, on_raw)
    assert np.allclose(of(raw_file, on_raw), forward(tensors, x.astype(float_type)), atol=1e-5)
    mixed = np.concatenate([np.zeros((20, FEATURES)), unit[:30], x[:30]])
    with pytest.raises(Invalid, match="would be wrong"):
        scored(saved(tmp_path / "mixed.npy", mixed.astype(float_type)), on_raw)
    on_unit = trained_on({"embedding": "L2-normalised"})
    wanted = forward(tensors, unit)
    assert np.allclose(of(unit_file, on_unit), wanted, atol=2e-3)
    assert np.allclose(of(raw_file, on_unit), wanted, atol=2e-3), "they are normalised on the way"
    told: list[str] = []
    silent = pa.concat_tables(score_source(unit_file, trained_on({}), tell=told.append))
    given = silent["aesthetic_score"].to_numpy()
    assert np.allclose(given, wanted, atol=2e-3), "a file that says nothing is taken at its word"
    assert len(told) == 1 and "does not say whether it was trained on such" in told[0]
    with pytest.warns(UserWarning, match="every score is wrong"):
        trained_on({}).score(unit)
    raw = trained_on({})
    raw.score(x)
    assert raw.doubts == []


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (pa.array([5, 6, 7]), ["5", "6", "7"]),
        (pa.array([b"a.png", None, b"c.png"]), ["a.png", "41", "c.png"]),
        (pa.array([b"\xff", b"b", b"c"]), ["40", "41", "42"]),
        (pa.array([["a"], ["b"], ["c"]]), ["40", "41", "42"]),
    ],
)
def test_embeddings_of_other_makes_are_scored_under_what_they_call_their_rows(
    tmp_path: Path, model: Scorer, x: np.ndarray, paths: pa.Array, named: list[str]
) -> None:
    """Many missing embeddings come first, in lists of the large kind."""
    rows = pa.array([None] * 40 + x[:3].tolist(), pa.large_list(pa.float32()))
    paths = pa.concat_arrays([pa.nulls(40, paths.type), paths])
    pq.write_table(pa.table({"path": paths, "embedding": rows}), tmp_path / "x.parquet")
    assert scored(tmp_path / "x.parquet", model)["path"].to_pylist() == named


def clip_retrieval(folder: Path, number: int, x: np.ndarray, **columns: Any) -> Path:
    """A shard as clip-retrieval writes it; its vectors."""
    for part in ("img_emb", "metadata"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if columns:
        pq.write_table(pa.table(columns), folder / f"metadata/metadata_{number}.parquet",
                       row_group_size=70)  # fmt: skip
    return saved(folder / f"img_emb/img_emb_{number}.npy", x.astype(np.float16))


@pytest.mark.usefixtures("small_blocks")
def test_a_folder_of_clip_retrieval_is_scored_with_what_stands_beside(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    """Shards in the order of their numbers; a column that one of them lacks is empty there."""
    paths = [f"{number}.jpg" for number in range(500)]
    captions = ["=a cat", None] * 250
    clip_retrieval(tmp_path / "in", 2, x[:200], image_path=paths[:200], caption=captions[:200])
    clip_retrieval(tmp_path / "in", 10, x[200:], image_path=[*paths[200:499], None],
                   width=pa.array(range(300)))  # fmt: skip
    got = scored(tmp_path / "in", model)
    alone = scored(saved(tmp_path / "x.npy", x.astype(np.float16)), model)
    assert got["path"].to_pylist() == [*paths[:499], "img_emb_10.npy/299"]
    assert np.allclose(got["aesthetic_score"], alone["aesthetic_score"], atol=1e-6)
    assert got["caption"].to_pylist() == captions[:200] + [None] * 300
    assert got["width"].to_pylist() == [None] * 200 + [*range(300)]
    for form in ("parquet", "csv", "jsonl"):
        write(tmp_path / f"o.{form}", score_source(tmp_path / "in", model), {"model": "m"})
    assert pq.read_table(tmp_path / "o.parquet").equals(got)
    rows = list(csv.DictReader((tmp_path / "o.csv").open(newline="")))
    assert [row["caption"] for row in rows[:2]] == ["'=a cat", ""] and rows[-1]["width"] == "299"
    assert json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])["caption"] == "=a cat"
    clip_retrieval(tmp_path / "odd", 0, x[:3], similarity=[float("nan"), float("inf"), 0.5],
                   half=np.array([1, np.nan, 2], np.float16))  # fmt: skip
    write(tmp_path / "odd.jsonl", score_source(tmp_path / "odd", model), {"model": "m"})
    lines = (tmp_path / "odd.jsonl").read_text().splitlines()
    odd = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [(row["similarity"], row["half"]) for row in odd] == [(None, 1), (None, None), (0.5, 2)]
    top = best(score_source(tmp_path / "in", model), 5)
    caption_of = dict(zip(got["path"].to_pylist(), got["caption"].to_pylist(), strict=True))
    assert top["caption"].to_pylist() == [caption_of[path] for path in top["path"].to_pylist()]


def test_vectors_and_metadata_that_do_not_belong_together_are_refused(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    first = clip_retrieval(tmp_path, 0, x[:9])
    alone = scored(tmp_path, model)
    assert alone["path"].to_pylist()[-1] == "img_emb_0.npy/8", "without metadata, by number"
    clip_retrieval(tmp_path, 1, x[:9], image_path=["a"] * 9)
    with pytest.raises(Invalid, match=r"img_emb_0\.npy has no metadata beside it"):
        score_source(tmp_path, model)
    clip_retrieval(tmp_path, 0, x[:9], image_path=["a"] * 8)
    with pytest.raises(
        Invalid, match=r"img_emb_0\.npy holds 9 vectors, and .*_0\.parquet tells of 8"
    ):
        score_source(tmp_path, model)
    clip_retrieval(tmp_path, 0, x[:9], n=pa.array([2**63 + 1] * 9, pa.uint64()))
    clip_retrieval(tmp_path, 1, x[:9], n=[-1] * 9)
    with pytest.raises(Invalid, match=r"beside img_emb_0\.npy do not fit those of others: Integer"):
        scored(tmp_path, model)
    beside = tmp_path / "metadata" / "metadata_0.parquet"
    with pytest.raises(Invalid, match=r"clip-retrieval keeps them in .*img_emb_0\.npy"):
        score_source(beside, model)
    beside.write_bytes(b"PAR1")
    with pytest.raises(Invalid, match=r"metadata_0\.parquet is cut short or damaged"):
        score_source(tmp_path, model)
    saved(first, x[:9, :5])
    clip_retrieval(tmp_path, 1, x[:9])
    beside.unlink()
    with pytest.raises(Invalid, match=r"holds vectors of 8 values, those before of 5"):
        score_source(tmp_path, model)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True])
def test_an_npz_is_scored_under_its_paths(
    tmp_path: Path, model: Scorer, x: np.ndarray, packed: bool
) -> None:
    save = np.savez_compressed if packed else np.savez
    paths = np.array([f"ä/{number}.jpg" for number in range(len(x))])
    save(tmp_path / "x.npz", embeddings=x, paths=paths, labels=np.arange(len(x)))
    alone = scored(saved(tmp_path / "x.npy", x), model)
    got = scored(tmp_path / "x.npz", model)
    assert got["path"].to_pylist() == paths.tolist()
    assert got["aesthetic_score"].equals(alone["aesthetic_score"])
    for key in ("names", "filenames"):
        save(tmp_path / "named.npz", embeddings=x, **{key: paths})
        assert scored(tmp_path / "named.npz", model).equals(got)
    save(tmp_path / "both.npz", embeddings=x, names=np.array(["of", "classes"]), paths=paths)
    assert scored(tmp_path / "both.npz", model).equals(got)
    save(tmp_path / "bare.npz", x)
    assert scored(tmp_path / "bare.npz", model).equals(alone)
    for wrong, sentence in (
        ({"embeddings": x, "paths": paths[:9]}, "holds 500 embeddings and 9 paths"),
        ({"embeddings": x, "names": paths[:9]}, "500 embeddings and 9 paths in “names”"),
        ({"embeddings": x, "paths": paths.astype(object)}, "Python objects.*dtype=str"),
        ({"embeddings": x[:2], "paths": np.array(["a", "b" * 9999])}, "too long to be one"),
        ({"a": x, "b": x}, r"several arrays of embeddings: a, b\."),
        ({"a": np.asfortranarray(x)}, "stored by rows"),
        ({"a": x.astype(int)}, "holds no embedding"),
        ({"a": np.array([{}, {}])}, "holds no embedding"),
    ):
        save(tmp_path / "wrong.npz", **wrong)
        with pytest.raises(Invalid, match=sentence):
            score_source(tmp_path / "wrong.npz", model)
    content = bytearray((tmp_path / "bare.npz").read_bytes())
    content[len(content) // 2] ^= 255
    pictures.write(tmp_path / "bad.npz", bytes(content))
    with pytest.raises(Invalid, match=r"bad\.npz is damaged after row"):
        scored(tmp_path / "bad.npz", model)
    with pytest.raises(Invalid, match=r"cut\.npz is cut short or damaged\. Copy it again"):
        score_source(pictures.write(tmp_path / "cut.npz", bytes(content[:5000])), model)


@pytest.mark.usefixtures("small_blocks")
def test_a_column_for_each_value_is_an_embedding(
    tmp_path: Path, model: Scorer, x: np.ndarray
) -> None:
    values = {f"emb_{number}": pa.array(x[:, number]) for number in (*range(7, -1, -1),)}
    paths = [f"{number}.jpg" for number in range(len(x))]
    more = {"path": paths, "score_0": x[:, 0], "v2": x[:, 1], "v3": x[:, 2]}
    pq.write_table(pa.table(values | more), tmp_path / "x.parquet", row_group_size=90)
    got = scored(tmp_path / "x.parquet", model)
    assert got["path"].to_pylist() == paths
    assert got["aesthetic_score"].equals(
        scored(saved(tmp_path / "x.npy", x), model)["aesthetic_score"]
    )
    both = values | {f"other_{number}": x[:, 0] for number in range(3)}
    pq.write_table(pa.table(both), tmp_path / "two.parquet")
    with pytest.raises(Invalid, match="no column of embeddings"):
        score_source(tmp_path / "two.parquet", model)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"path": ["a"]}, "no column of embeddings"),
        ({"embedding": [[1, 2]]}, "no column of embeddings"),
        ({"embedding": pa.array([None], pa.list_(pa.float32()))}, "holds no embedding"),
        ({"embedding": pa.array([], pa.list_(pa.float32()))}, "holds no embedding"),
        ({"embedding": [[0.5] * 3]}, "vectors of 3 values; this head reads 8"),
    ],
)
def test_a_parquet_file_without_fitting_embeddings_is_refused_before_the_first_row(
    tmp_path: Path, model: Scorer, columns: dict[str, Any], sentence: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(Invalid, match=sentence):
        score_source(tmp_path / "x.parquet", model)


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path: Path, model: Scorer) -> None:
    np.savez(tmp_path / "zip.npz", a=np.ones(3))
    with pytest.raises(Invalid, match=r"zip\.npz holds no embedding"):
        score_source(tmp_path / "zip.npz", model)
    zip_of_text = zipped(tmp_path / "t.zip", {"a.txt": b"a text of some length"}).read_bytes()
    for name, content, sentence in (
        ("a.parquet", b"Par1 and so on", r"a\.parquet is not a Parquet file\."),
        ("c.npy", (tmp_path / "zip.npz").read_bytes(), "It does not begin as one does"),
        ("d.npz", b"no zip", r"d\.npz is not an \.npz\."),
        ("e.npz", zip_of_text, r"not an \.npz that can be read: the magic string is not correct"),
    ):
        with pytest.raises(Invalid, match=sentence):
            score_source(pictures.write(tmp_path / name, content), model)
    for array in (np.ones((0, FEATURES), "f"), np.float32(1), np.ones((2, 2, FEATURES), "f")):
        with pytest.raises(Invalid, match="Rows of floating-point embeddings"):
            score_source(saved(tmp_path / "x.npy", array), model)
    pq.write_table(pa.table({"e": [[0.5] * FEATURES, [0.5]]}), tmp_path / "ragged.parquet")
    with pytest.raises(Invalid, match=r"Row 1 of ragged.parquet holds 1 values"):
        scored(tmp_path / "ragged.parquet", model)


@pytest.mark.parametrize("kind", ["parquet", "npz", "npy"])
def test_a_file_that_is_cut_short_is_not_told_to_be_another_kind_of_file(
    tmp_path: Path, model: Scorer, x: np.ndarray, kind: str
) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"embedding": lists(x)}), path)
    else:
        (np.savez if kind == "npz" else np.save)(path, x)
    whole = path.read_bytes()
    cuts = {3, 8, 50, len(whole) // 2, len(whole) - 5}
    for size in sorted(cuts):
        path.write_bytes(whole[:size])
        with pytest.raises(Invalid, match=rf"^x\.{kind} is cut short.*Copy it again"):
            scored(path, model)
    path.write_bytes(b"")
    with pytest.raises(Invalid, match=rf"^x\.{kind} is empty: it holds no byte\."):
        scored(path, model)
    if os.geteuid():
        path.chmod(0)
        with pytest.raises(Invalid, match=rf"^x\.{kind} cannot be read: permission denied\."):
            scored(path, model)


@pytest.mark.usefixtures("small_blocks")
def test_damage_half_way_is_told_in_words(tmp_path: Path, model: Scorer, x: np.ndarray) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"e": lists(x)}), path, row_group_size=100, compression="zstd",
                   use_dictionary=False)  # fmt: skip
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(Invalid, match="is damaged after row"):
        scored(path, model)

    short = saved(tmp_path / "x.npy", x)
    rows = score_source(short, model)
    next(rows)
    short.write_bytes(short.read_bytes()[: 100 * FEATURES * 4])
    there = f"{100 * FEATURES * 4:,} of its {x.nbytes + 128:,} bytes are there"
    with pytest.raises(Invalid, match=rf"x\.npy is cut short: {there}"):
        list(rows)


MEASURE = """
import sys
from pathlib import Path
import torch
from tastemaker.filtering.score_tables import best, write
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.sources import score_source
source, file, out, top = sys.argv[1:]
torch.set_num_threads(2)
scorer, sizes = Scorer(file, precision="fast"), []

def megabytes():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024

def watched(tables):
    for table in tables:
        sizes.append(megabytes())
        yield table

tables = watched(score_source(Path(source), scorer))
written = write(Path(out), [best(tables, int(top))] if int(top) else tables, scorer.about)
print(written, max(sizes) - sizes[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("form", "top"), [("npy", 0), ("npy", 1000), ("parquet", 0)])
def test_memory_stays_bounded_whatever_the_size_of_the_file(
    tmp_path: Path, form: str, top: int
) -> None:
    """300 MB of embeddings pass through, and the process grows by less than two thirds of that: by
    the rows under way, a block more where another process has the processor, and what Arrow keeps
    for reuse."""
    features, rows = 512, 300_000
    random = np.random.default_rng(0)
    block = random.standard_normal((10_000, features), np.float32).astype(np.float16)
    source = tmp_path / f"x.{form}"
    if form == "npy":
        mapped = np.lib.format.open_memmap(source, "w+", np.float16, (rows, features))
        for start in range(0, rows, len(block)):
            mapped[start : start + len(block)] = block
        mapped.flush()
        del mapped
    else:
        column = pa.table({"embedding": lists(block, "fixed")})
        with pq.ParquetWriter(source, column.schema, use_dictionary=False) as writer:
            writer.write_table(pa.concat_tables([column] * 30), row_group_size=rows)
    # A linear head, so that the arithmetic takes no time.
    linear = head_of(features) | {
        "up.1.long.4.weight": np.zeros((1024, 1024), np.float32),
        "up.1.long.4.bias": np.zeros(1024, np.float32),
    }
    linear["down.0.weight"] = np.where(np.arange(1024) < 16, linear["down.0.weight"], 0).astype("f")
    save_checkpoint(tmp_path / "m.safetensors", linear, {})
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path / "m.safetensors",
         tmp_path / "o.parquet", str(top)],
        cwd=Path(__file__).parent.parent, env=environment(tmp_path / "home"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    written, grown = map(int, ran.stdout.split())
    assert source.stat().st_size > 290e6
    assert written == (top or rows)
    assert grown < (100 if form == "npy" else 200), f"{grown} MB"


# ---------------------------------------------------------------- the model


def test_a_model_names_itself_and_its_encoder_from_metadata_or_sidecar(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "Other.safetensors"
    save_checkpoint(path, tensors, {})
    assert (Scorer(path).name, Scorer(path).encoder) == ("Other", None)
    for content in ("{", "[]", '{"encoder": "text"}', '{"encoder": {}}'):
        (tmp_path / "Other.config.json").write_text(content)
        assert Scorer(path).encoder is None
    (tmp_path / "Other.config.json").write_bytes(b'{"encoder": "\0"}')
    with pytest.raises(Invalid, match=r"which encoder it needs\. Other\.config\.json is no"):
        Scorer(path).load_encoder()
    beside = {"encoder": {"name": BUNDLED, "fingerprint": "abc"}}
    (tmp_path / "Other.config.json").write_text(json.dumps(beside))
    assert (Scorer(path).encoder, Scorer(path).fingerprint) == (BUNDLED, "abc")
    (tmp_path / "Other.config.json").write_text(json.dumps(beside), encoding="utf-16")
    assert Scorer(path).encoder == BUNDLED


def test_what_is_no_model_of_scores_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        Scorer(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: The file is too short"):
        Scorer(pictures.write(tmp_path / "bad.safetensors", b""))
    classes = {name: np.zeros(shape, "f") for name, shape in layout(4, 2).items()}
    save_checkpoint(tmp_path / "two.safetensors", classes, {})
    (tmp_path / "two.config.json").write_text('{"labels": {"0": "photo"}}')
    with pytest.raises(CheckpointError, match=r"two\.safetensors: The sidecar must name the 2"):
        Scorer(tmp_path / "two.safetensors")


# ---------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def for_pictures(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(saved_head(tmp_path_factory.mktemp("wide") / "wide.safetensors", BUNDLED))


def saved_head(path: Path, encoder: str, **metadata: str) -> Path:
    save_checkpoint(path, head_of(1280), {"encoder": encoder} | metadata)
    return path


@pytest.mark.slow
def test_a_folder_is_scored_in_the_order_of_its_paths_past_bad_files(
    tmp_path: Path, for_pictures: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.filtering.picture_order.PICTURES_AT_ONCE", 4)
    for number in range(11):
        place = tmp_path / "in" / ("deep" if number % 3 else "") / f"{number:02}.png"
        pictures.write(place, pictures.encoded(pictures.scene(seed=number)))
    for name in ("00-first.jpg", "deep/05-between.jpg", "zz-last.jpg"):
        pictures.write(tmp_path / "in" / name, pictures.truncated())
    pictures.write(tmp_path / "in" / "notes.txt", b"not looked at")
    told: list[str] = []
    seen: list[tuple[int, int]] = []
    got = scored(
        tmp_path / "in", for_pictures, on_error=lambda path, reason: told.append(path),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    paths = got["path"].to_pylist()
    assert paths == [str(path) for path in sorted(map(Path, paths))] and len(paths) == 11
    assert sorted(told) == ["00-first.jpg", "deep/05-between.jpg", "zz-last.jpg"]
    assert seen == sorted(seen) and {total for _, total in seen} == {14}
    one = scored(tmp_path / "in" / "00.png", for_pictures)
    assert one["path"].to_pylist() == ["00.png"]
    score_of = dict(zip(paths, got["aesthetic_score"].to_pylist(), strict=True))
    assert one["aesthetic_score"][0].as_py() == pytest.approx(score_of["00.png"], abs=1e-4)
    assert len({round(score, 6) for score in score_of.values()}) > 5


@pytest.mark.slow
def test_the_encoder_must_be_the_one_the_head_was_trained_on(
    tmp_path: Path, model: Scorer, for_pictures: Scorer
) -> None:
    picture = pictures.write(tmp_path / "a.png", pictures.encoded(pictures.scene()))
    with pytest.raises(Invalid, match="does not say which encoder"):
        score_source(picture, model)
    with pytest.raises(Invalid, match=r"gives 1280 values; Mine-v1\.3\.safetensors reads 8"):
        score_source(picture, Scorer(model.path, encoder=BUNDLED))
    strange = Scorer(
        saved_head(tmp_path / "Other.safetensors", BUNDLED, encoder_fingerprint="f" * 16)
    )
    with pytest.raises(Conflict, match="not the encoder Other was trained on"):
        score_source(picture, strange)
    with pytest.raises(Invalid, match="None of the pictures"):
        scored(pictures.write(tmp_path / "bad.png", pictures.truncated()), for_pictures)
    with pytest.raises(Invalid, match="holds no picture"):
        (tmp_path / "empty").mkdir()
        score_source(tmp_path / "empty", for_pictures)


# ---------------------------------------------------------------- choosing


def tables_of(scores: list[float], size: int) -> Iterator[pa.Table]:
    for start in range(0, len(scores), size):
        part = np.array(scores[start : start + size], np.float32)
        numbers = pa.array(np.arange(start, start + len(part))).cast(pa.string())
        yield table(numbers, part)


@examples(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 20).map(lambda n: n / 20), max_size=60),
    size=st.integers(1, 9),
    most=st.integers(1, 12),
)
def test_the_best_are_those_of_a_full_sort_and_of_equal_ones_the_first(
    scores: list[float], size: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tastemaker.filtering.score_tables.ROW_GROUP", 3)
        got = best(tables_of(scores, size), most)
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:most]
    assert got["path"].to_pylist() == [str(row) for row in order]
    assert best(tables_of(scores, size))["path"].to_pylist()[:most] == got["path"].to_pylist()


def test_limits_are_compared_before_rounding() -> None:
    (rows,) = within(tables_of([0.29999, 0.3001, 0.5, 0.50004, 0.6], 9), 30, 50)
    assert rows["path"].to_pylist() == ["1", "2"]


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_what_is_written_is_read_back_in_order_with_the_model_s_name(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.filtering.score_tables.ROW_GROUP", 10)
    scores = np.random.default_rng(0).random(37).astype(np.float32)
    paths = [f"ä/{n}.png" for n in range(36)] + ["=cmd.png"]
    rows = table(pa.array(paths), scores)
    parts = [rows.slice(start, 4) for start in range(0, 37, 4)]
    out = tmp_path / "new" / f"o.{form}"
    assert write(out, parts, {"model": "Mine@v1.3", "model_sha256": "0"}) == 37
    if form == "parquet":
        assert pq.read_table(out).to_pylist() == rows.to_pylist()
        assert pq.ParquetFile(out).num_row_groups == 4
        assert pq.read_schema(out).metadata[b"model"] == b"Mine@v1.3"
        return
    with out.open(encoding="utf-8", newline="") as handle:
        read = list(csv.DictReader(handle)) if form == "csv" else [*map(json.loads, handle)]
    assert {row["model"] for row in read} == {"Mine@v1.3"}
    assert [row["path"].lstrip("'") for row in read] == paths
    assert form == "jsonl" or read[-1]["path"] == "'=cmd.png"
    assert [float(row["percent"]) for row in read] == [row["percent"] for row in as_dicts(rows)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_an_interrupted_run_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, model: Scorer, x: np.ndarray, form: str
) -> None:
    out = pictures.write(tmp_path / f"o.{form}", b"of last week")
    source = saved(tmp_path / "x.npy", x)

    def interrupted() -> Iterator[pa.Table]:
        yield next(score_source(source, model))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, interrupted(), model.about)
    assert out.read_bytes() == b"of last week"
    nothing = saved(tmp_path / "x.npy", np.full((9, FEATURES), np.nan, np.float32))
    with pytest.raises(Invalid, match="None of the embeddings"):
        write(out, score_source(nothing, model), model.about)
    assert out.read_bytes() == b"of last week"
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "x.npy"}


def test_an_unknown_ending_is_refused_before_any_work(tmp_path: Path) -> None:
    def never() -> Iterator[pa.Table]:
        raise AssertionError("asked for a row")
        yield

    with pytest.raises(Invalid, match="no known ending"):
        write(tmp_path / "o.xlsx", never(), {"model": "m"})


@pytest.mark.usefixtures("small_blocks")
def test_an_opened_file_says_how_much_it_holds(tmp_path: Path, x: np.ndarray) -> None:
    one = open_embeddings(saved(tmp_path / "one.npy", x[0]))
    assert (one.rows, one.dim) == (1, FEATURES)
    pq.write_table(pa.table({"e": lists(x)}), tmp_path / "x.parquet")
    many = open_embeddings(tmp_path / "x.parquet")
    assert (many.rows, many.dim) == x.shape
    assert np.array_equal(np.concatenate([block for _, block, _ in many.blocks]), x)
