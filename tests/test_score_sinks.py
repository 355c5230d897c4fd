"""What scoring leaves behind: a column for each version, embeddings for the next run, a contact
sheet, and columns by the names that other programs read."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tastemaker.encoding import encode_files
from tastemaker.encoding.clip_retrieval import open_layout
from tastemaker.encoding.embedding_files import open_embeddings
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load
from tastemaker.errors import Conflict, Invalid
from tastemaker.filtering import parts
from tastemaker.filtering.columns import _of_shards
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.scorer import Scorer
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tests import pictures
from tests.command_line import Run
from tests.test_shards import tarred

DIM = 1280


def head_of(path: Path, seed: int, **about: str) -> Path:
    weights = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    tensors = linear_head(weights, 0.0, np.zeros(DIM, "f"), np.full(DIM, 10, "f"))
    told = {"project": "Mine", "version": f"v1.{seed}", "encoder": BUNDLED}
    told["encoder_fingerprint"] = load(parse(BUNDLED)).fingerprint
    save_checkpoint(path, tensors, told | about)
    return path


@pytest.fixture
def heads(tmp_path: Path) -> list[Path]:
    return [head_of(tmp_path / f"{seed}.safetensors", seed) for seed in range(2)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six pictures."""
    for number in range(6):
        content = pictures.encoded(pictures.scene(seed=number))
        pictures.write(tmp_path / "in" / f"{number}.png", content)
    return tmp_path / "in"


def test_several_versions_score_in_one_pass_a_column_each(
    tmp_path: Path, source: Path, heads: list[Path], run: Run
) -> None:
    files = sorted(source.iterdir())
    scores = [Scorer(head).score(files) for head in heads]
    names = [file.name for file in files]
    wanted = [dict(zip(names, each.tolist(), strict=True)) for each in scores]
    out = tmp_path / "o.parquet"
    both = ("--model", heads[0], "--model", heads[1])
    assert run("score", source, *both, "--out", out, "--min", "1%").code == 0
    rows = pq.read_table(out)
    assert rows.column_names == ["path", "aesthetic_score", "percent", "Mine@v1.0", "Mine@v1.1"]
    assert rows["aesthetic_score"].equals(rows["Mine@v1.0"])
    for name, of in zip(rows.column_names[3:], wanted, strict=True):
        expected = [of[path] for path in rows["path"].to_pylist()]
        assert np.allclose(rows[name], expected, atol=1e-5)
    told = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()}
    assert told["model"] == "Mine@v1.0"
    assert [one["model"] for one in json.loads(told["models"])] == ["Mine@v1.0", "Mine@v1.1"]


def test_heads_of_other_encoders_and_the_same_one_twice_do_not_go_together(
    tmp_path: Path, heads: list[Path]
) -> None:
    first = Scorer(heads[0])
    other = head_of(tmp_path / "other.safetensors", 3, encoder_fingerprint="0123")
    with pytest.raises(Conflict, match="one pass has one encoder"):
        Panel([first, Scorer(other)])
    small = tmp_path / "small.safetensors"
    ones = np.ones(8, np.float32)
    save_checkpoint(small, linear_head(ones, 0.0, 0 * ones, ones), {})
    with pytest.raises(Invalid, match="1280 values, and small of 8"):
        Panel([first, Scorer(small)])
    with pytest.raises(Invalid, match="same file"):
        Panel([first, Scorer(heads[0])])
    alike = head_of(tmp_path / "alike.safetensors", 4, version="v1.0")
    names = Panel([first, Scorer(alike)]).names
    assert len(set(names)) == 2 and all(name.startswith("Mine@v1.0 (") for name in names)


def test_embeddings_that_are_kept_make_the_next_run_free_and_are_a_source(
    tmp_path: Path, source: Path, heads: list[Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PICTURES", 4)
    pictures.write(source / "bad.png", b"no picture")
    kept, words = tmp_path / "kept", ("score", source, "--model")
    said = run(*words, heads[0], "--embeddings-out", kept, "--out", tmp_path / "first.parquet")
    assert said.code == 0 and "skipped bad.png" in said.err
    assert "6 of 6 pass; 1 was skipped." in said.sentence
    assert len(list(kept.glob("part-*.parquet"))) == 2
    tried = run(*words, heads[0], "--embeddings-out", tmp_path / "tried", "--dry-run", "--top", "1")
    assert tried.code == 0 and not (tmp_path / "tried").exists()
    first = pq.read_table(tmp_path / "first.parquet")
    assert first["path"].to_pylist() == [f"{number}.png" for number in range(6)]
    plain = Scorer(heads[0]).score([source / name for name in first["path"].to_pylist()])
    assert np.allclose(plain, first["aesthetic_score"], atol=1e-3)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a picture was encoded again")

    monkeypatch.setattr("tastemaker.filtering.picture_order.embed_files", never)
    assert encode_files.embed_files is not never
    more = ("--embeddings-out", kept, "--out", tmp_path / "folder")
    assert run(*words, heads[1], *more).code == 0
    assert run("score", kept, "--model", heads[1], "--out", tmp_path / "of.parquet",
               "--sheet", tmp_path / "s.png").code == 0  # fmt: skip
    of = pq.read_table(tmp_path / "of.parquet")
    assert of.drop_columns("percent").to_pylist() == [
        row
        for path in sorted((tmp_path / "folder").glob("*.parquet"))
        for row in pq.read_table(path).drop_columns("percent").to_pylist()
    ]
    with Image.open(tmp_path / "s.png") as sheet:  # the pictures are found where they were
        assert len(sheet.convert("L").crop((8, 40, 168, 200)).getcolors() or []) != 1
    both = ("--model", heads[0], "--model", heads[1])
    assert run("score", kept, *both, "--out", tmp_path / "o.csv").code == 0
    assert (tmp_path / "o.csv").read_text().startswith("path,aesthetic_score,percent,Mine@v1.0,")
    stranger = head_of(tmp_path / "stranger.safetensors", 5, encoder_fingerprint="0123")
    refused = run("score", kept, "--model", stranger)
    assert refused.code == 1 and "every score would be wrong" in refused.sentence
    part = next(kept.glob("part-*.parquet"))
    assert "every score would be wrong" in run("score", part, "--model", stranger).sentence
    elsewhere = run("score", source / "0.png", "--model", heads[0], "--embeddings-out", kept)
    assert "holds embeddings of" in elsewhere.sentence and len(list(kept.glob("part-*"))) == 2
    assert run("score", kept, "--model", heads[0], "--embeddings-out", tmp_path / "k").code == 2
    told = json.loads((kept / "manifest.json").read_text())
    (kept / "manifest.json").write_text(json.dumps(told | {"complete": False}))
    assert "is not whole" in run("score", kept, "--model", heads[0]).sentence
    pictures.write(tmp_path / "mine" / "a.txt", b"mine")
    filled = run(*words, heads[0], "--embeddings-out", tmp_path / "mine")
    assert "is not empty" in filled.sentence


def test_an_index_of_the_kept_keys_stands_in_for_a_second_copy_of_the_shards(
    tmp_path: Path, source: Path, heads: list[Path], run: Run
) -> None:
    content = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    names = list(content)
    for shard in range(2):
        some = names[3 * shard : 3 * shard + 3]
        members = {f"deep.er/{name[0]}.big.png": content[name] for name in some}
        members |= {f"deep.er/{name[0]}.json": b"{}" for name in some}
        tarred(tmp_path / "shards" / f"{shard}.tar", members)
    out, sheet = tmp_path / "kept.parquet", tmp_path / "sheet.png"
    words = ("score", tmp_path / "shards", "--model", heads[0], "--out", out, "--top", "4")
    more = ("--columns", "webdataset", "--columns", "laion", "--columns", "prediction")
    assert run(*words, *more, "--sheet", sheet).code == 0
    rows = pq.read_table(out).to_pylist()
    keys = defaultdict(set)
    for row in rows:
        keys[row["__url__"]].add(row["__key__"])
        assert row["aesthetic"] == row["prediction"] == pytest.approx(10 * row["aesthetic_score"])
    told = {(url, f"{key}.big.png") for url in keys for key in keys[url]}
    assert told == {tuple(row["path"].split("/", 1)) for row in rows} and len(told) == 4
    assert all(key.startswith("deep.er/") for key in set.union(*keys.values()))
    with Image.open(sheet) as drawn:
        assert drawn.size == (8 + 4 * 168, 40 + 192)
        best = Image.open(source / rows[0]["path"].split("/")[-1].replace(".big", ""))
        best = best.convert("RGB")
        best.thumbnail((160, 160))
        middle = (8 + (160 - best.width) // 2, 40 + (160 - best.height) // 2)
        placed = drawn.crop((*middle, middle[0] + best.width, middle[1] + best.height))
        assert np.abs(np.asarray(placed, int) - np.asarray(best, int)).mean() < 3
    assert "no columns “nima”" in run(*words, "--columns", "nima").sentence
    assert "has no known ending" in run(*words, "--sheet", tmp_path / "s.jpg").sentence
    folder = ("score", tmp_path / "shards", "--model", heads[0], "--out", tmp_path / "parts")
    assert run(*folder, "--sheet", tmp_path / "p.png", "--columns", "laion").code == 0
    assert (tmp_path / "p.png").is_file() and "columns differs" in run(*folder).sentence


def test_a_part_without_a_row_has_the_columns_and_types_of_the_others(
    tmp_path: Path, source: Path, heads: list[Path], run: Run
) -> None:
    whole = {path.name: path.read_bytes() for path in source.iterdir()}
    for number, members in enumerate(({"bad.png": b"no picture"}, whole, {"a.txt": b"none"})):
        tarred(tmp_path / "shards" / f"{number}.tar", members)
    words = ["score", tmp_path / "shards", "--out", tmp_path / "parts"]
    for name in ("webdataset", "laion"):
        words += ["--columns", name]
    said = run(*words, *(word for head in heads for word in ("--model", head)))
    assert said.code == 0 and "6 rows in 3 parts" in said.out
    files = sorted((tmp_path / "parts").glob("part-*.parquet"))
    schemas = [pq.read_schema(file).remove_metadata() for file in files]
    assert [pq.read_metadata(file).num_rows for file in files] == [0, 6, 0]
    assert schemas[0] == schemas[1] == schemas[2] and len(schemas[1]) == 8
    read = pyarrow.dataset.dataset(files).to_table(columns=["Mine@v1.1", "__key__", "aesthetic"])
    assert len(read) == 6 and None not in read["Mine@v1.1"].to_pylist()


def test_a_table_of_paths_only_takes_no_webdataset_names(tmp_path: Path) -> None:
    rows = pa.table({"path": ["a/b.tar/c/d.e.jpg", "plain.jpg", "x.TAR.gz/y.png"]})
    assert [(row["__url__"], row["__key__"]) for row in _of_shards(rows).to_pylist()] == [
        ("a/b.tar", "c/d"), (None, None), ("x.TAR.gz", "y"),
    ]  # fmt: skip


def test_a_part_that_begins_in_the_middle_of_a_file_has_the_rows_of_the_whole(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    names = [f"{row}.jpg" for row in range(50)]
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", embeddings=x, paths=np.array(names))
    lists = pa.array(list(x), pa.list_(pa.float16()))
    table = pa.table({"path": names, "embedding": lists})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    for shard in range(2):
        half = slice(25 * shard, 25 * shard + 25)
        (tmp_path / "img_emb").mkdir(exist_ok=True)
        (tmp_path / "metadata").mkdir(exist_ok=True)
        np.save(tmp_path / "img_emb" / f"img_emb_{shard}.npy", x[half])
        beside = pa.table({"image_path": pa.array(names[half], pa.large_string())})
        pq.write_table(beside, tmp_path / "metadata" / f"metadata_{shard}.parquet")
    opened = [open_embeddings(tmp_path / f"x.{form}") for form in ("npy", "npz", "parquet")]
    for each in (*opened, open_layout(tmp_path)):
        for first in (0, 6, 7, 30, 49):
            blocks = list(each.read(first))
            assert np.array_equal(np.concatenate([block[1] for block in blocks]), x[first:])
            told = [name.as_py() for block in blocks for name in block[0]]
            assert told in (names[first:], [str(row) for row in range(first, 50)])
        assert list(each.read(50)) == []
    assert told == names[49:], "paths that pandas wrote as large texts are paths"
