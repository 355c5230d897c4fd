"""What lies in an object store or on a web server is scored as the local files it becomes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from web_world import make_world

import tastemaker
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import BadImage, Invalid, TastemakerError
from tastemaker.files.addresses import Address, is_address, local_path, parse, shown
from tastemaker.filtering import fetched, outgoing, remote, stores
from tastemaker.filtering.manifests import MANIFEST
from tastemaker.filtering.remote_sources import open_source
from tests import pictures
from tests.command_line import Run, Said, fails
from tests.conftest import environment
from tests.s3_server import BUCKET, Store, serving
from tests.test_score_sinks import head_of as bundled_head
from tests.test_scoring import clip_retrieval
from tests.test_shards import tarred, zipped

SECRET = "wJalrXUtnFEMI"
FEATURES = 24


@pytest.fixture(scope="module")
def served() -> Iterator[Store]:
    with serving() as store:
        yield store


@pytest.fixture
def store(served: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """The store, as a person's shell knows it; pieces are small, and nobody waits for long."""
    served.reset()
    for name, value in access(served).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "PIECE", 2**12)
    monkeypatch.setattr(remote, "pause", lambda seconds, stopped: None)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield served
    assert not list(scratch.glob(f"{fetched.PREFIX}*")), "what was read is deleted"


def access(store: Store) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }  # fmt: skip


def vectors_in(folder: Path, seeds: range = range(3), rows: int = 50) -> Path:
    """clip-retrieval's layout, with what it tells of each row; one vector is missing."""
    for seed in seeds:
        x = np.random.default_rng(seed).normal(0, 3, (rows, FEATURES)).astype(np.float32)
        x[7] = np.nan
        paths = [f"{seed}/{row}.jpg" for row in range(rows)]
        more = {"caption": [f"c{row}" for row in range(rows)]} if seed == 1 else {}
        clip_retrieval(folder, seed, x, image_path=paths, **more)
    return folder


def shards_in(folder: Path, shards: int = 3, each: int = 2) -> Path:
    for shard in range(shards):
        members = {
            f"{shard}{n}.png": pictures.encoded(pictures.scene(seed=10 * shard + n))
            for n in range(each)
        }
        tarred(folder / f"{shard:03}.tar", members | {f"{shard}.txt": b"beside"})
    return folder


def table_of(out: Path) -> pa.Table:
    """The rows of a table, or of all parts in a folder in their order."""
    if out.is_file():
        return pq.read_table(out)
    files = sorted(out.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files], promote_options="permissive")


def manifest(out: Path) -> Any:
    return json.loads((out / MANIFEST).read_text())


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whatever the order, and whichever columns the other has besides."""
    return one.sort_by("path").equals(other.select(one.column_names).sort_by("path"))


# --- the same rows --------------------------------------------------------------------------------


@pytest.mark.slow
def test_archives_give_the_rows_of_local_ones_and_so_do_their_embeddings(
    tmp_path: Path, store: Store, run: Run
) -> None:
    shards = shards_in(tmp_path / "shards", 1)
    zipped(shards / "more" / "z.zip", {"z.png": pictures.encoded(pictures.scene(seed=99))})
    address = store.put(shards, "named")
    head = bundled_head(tmp_path / "head.safetensors", 0)
    words = ("--model", head, "--columns", "webdataset", "--embeddings-out", "kept")
    assert run("score", shards, "--model", head, "--out", "here.parquet").code == 0
    said = run("score", f"{address}/", *words, "--out", "there")
    assert said.code == 0 and "3 rows in 2 parts" in said.out
    here, there = table_of(tmp_path / "here.parquet"), table_of(tmp_path / "there")
    assert here["path"].to_pylist() == ["000.tar/00.png", "000.tar/01.png", "more/z.zip/z.png"]
    assert here["path"].equals(there["path"]) and there["__url__"][2].as_py() == "more/z.zip"
    assert np.allclose(here["percent"], there["percent"], atol=0.1)
    told = manifest(tmp_path / "there")
    sources = [part["source"] for part in told["parts"]]
    assert told["complete"] and sources == [f"{address}/000.tar", f"{address}/more/z.zip"]
    store.reset()
    again = run("score", address, *words, "--out", "again")
    assert again.code == 0 and not store.got, "whose embeddings are kept is not read"
    sheet = run("score", "kept", "--model", head, "--sheet", "s.png", "--out", "k.parquet")
    assert sheet.code == 0 and same(table_of(tmp_path / "k.parquet"), there)
    kept = store.put(tmp_path / "kept", "kept")
    assert run("score", kept, "--model", head, "--out", "kept.parquet").code == 0
    assert table_of(tmp_path / "kept.parquet").equals(table_of(tmp_path / "k.parquet"))


def test_patterns_find_what_they_find_in_a_local_folder(tmp_path: Path, store: Store) -> None:
    for name in ("a1.tar", "a2.tar", "b1.tgz", "sub/a1.tar", "sub/deep/a1.tar"):
        pictures.write(tmp_path / "found" / name, b"x")
    address = store.put(tmp_path / "found", "found")
    for pattern, names in {
        "*.tar": ["a1.tar", "a2.tar"], "a[2-9].tar": ["a2.tar"], "?1.t*": ["a1.tar", "b1.tgz"],
        "*/a1.tar": ["sub/a1.tar"], "**/a1.tar": ["a1.tar", "sub/a1.tar", "sub/deep/a1.tar"],
        "a{1..2}.tar": ["a1.tar", "a2.tar"], "s*/**/*.tar": ["sub/a1.tar", "sub/deep/a1.tar"],
    }.items():  # fmt: skip
        source = open_source(parse(f"{address}/{pattern}"), 0)
        assert [piece.name for piece in source.pieces] == names, pattern
        assert (
            names
            == sorted(
                path.relative_to(tmp_path / "found").as_posix()
                for path in (tmp_path / "found").glob(pattern)
            )
            or "{" in pattern
        )
    with pytest.raises(TastemakerError, match=r"nothing at s3://pictures/found/a3\.tar.*range"):
        open_source(parse(f"{address}/a{{1..3}}.tar"), 0)


def test_embeddings_give_the_rows_of_local_ones(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    x = np.random.default_rng(5).normal(0, 3, (60, FEATURES)).astype(np.float32)
    single = tmp_path / "single"
    single.mkdir()
    np.save(single / "x.npy", x)
    np.savez(single / "x.npz", embeddings=x, paths=[f"{row}.png" for row in range(60)])
    columns = {"path": list(map(str, range(60))), "emb": list(x)}
    pq.write_table(pa.table(columns), single / "x.parquet")
    layout = vectors_in(tmp_path / "layout")
    address = store.put(single, "single")
    for name in ("x.npy", "x.npz", "x.parquet"):
        assert run("score", single / name, "--model", head, "--out", "here.parquet").code == 0
        said = run("score", f"{address}/{name}", "--model", head, "--out", "there.parquet")
        assert said.code == 0, said
        assert table_of(tmp_path / "there.parquet").equals(table_of(tmp_path / "here.parquet"))
    address = store.put(layout, "laion")
    assert run("score", layout, "--model", head, "--out", "here.parquet").code == 0
    here = table_of(tmp_path / "here.parquet")
    for place in (address, f"{address}/img_emb/"):
        said = run("score", place, "--model", head, "--out", "there.parquet")
        assert said.code == 0 and "skipped 0/7.jpg" in said.err
        there = table_of(tmp_path / "there.parquet")
        assert there.equals(here) and "caption" in there.column_names and len(there) == 147
    plain = run("score", address, "--model", head, "--top", "2")
    assert len(plain.out.splitlines()) == 2
    assert not any("scratch" in text for text in (plain.out, plain.err))


def test_several_files_of_embeddings_give_the_rows_of_local_ones(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    x = np.random.default_rng(5).normal(0, 3, (60, FEATURES)).astype(np.float32)
    folder = tmp_path / "several"
    (folder / "b").mkdir(parents=True)
    np.save(folder / "a-2.npy", x[:20])
    np.savez(folder / "a-10.npz", embeddings=x[20:40], paths=[f"{row}.png" for row in range(20)])
    columns = {"emb": list(x[40:]), "url": [f"u{row}" for row in range(20)]}
    pq.write_table(pa.table(columns), folder / "b" / "c.parquet")
    address = store.put(folder, "several")
    for pattern, rows in (("", 60), ("a-*.np?", 40), ("a-{2..2}.npy", 20), ("**/*.parquet", 20)):
        local = folder / pattern
        assert run("score", local, "--model", head, "--out", "here.parquet").code == 0
        said = run("score", f"{address}/{pattern}", "--model", head, "--out", "there.parquet")
        assert said.code == 0, said
        here, there = (table_of(tmp_path / f"{where}.parquet") for where in ("here", "there"))
        assert there.equals(here) and len(here) == rows, pattern
        if not pattern:
            order = [name.as_py() for name in here["path"]][::20]
            assert order == ["a-2.npy/0", "0.png", "b/c.parquet/0"]
            assert here["url"].to_pylist() == [None] * 40 + columns["url"]


def test_a_web_server_is_read_by_name_and_by_range(
    tmp_path: Path, store: Store, run: Run, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed address is read; its signature is in nothing that is told or written."""
    x = np.random.default_rng(5).normal(0, 3, (300, FEATURES)).astype(np.float32)
    (tmp_path / "web").mkdir()
    np.save(tmp_path / "web" / "x.npy", x)
    shards_in(tmp_path / "web", 2, 1)
    store.put(tmp_path / "web", "web")
    url = store.client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "web/x.npy"})
    signature = url.partition("Signature=")[2].partition("&")[0]
    waited: list[float] = []
    monkeypatch.setattr(remote, "pause", lambda seconds, stopped: waited.append(seconds))

    def break_the_copy(key: str) -> None:  # not the reading of its size and head
        store.broken[key] = 2 if store.got[key] == 3 else store.broken[key]

    store.arrived = break_the_copy
    said = run("score", url, "--model", head, "--out", "there")
    assert said.code == 0 and waited == [1.0, 4.0], said
    assert run("score", tmp_path / "web" / "x.npy", "--model", head, "--out", "h.parquet").code == 0
    assert table_of(tmp_path / "there").equals(table_of(tmp_path / "h.parquet"))
    assert store.asked[-1][1] == f"bytes={3 * (tmp_path / 'web/x.npy').stat().st_size // 4}-", (
        "it goes on where it broke"
    )
    told = [said.out, said.err, *(p.read_bytes().decode("latin1") for p in files_in(tmp_path))]
    assert signature not in "".join(told) and "AKIATEST" not in "".join(told)
    again = store.client.generate_presigned_url(
        "get_object", {"Bucket": BUCKET, "Key": "web/x.npy"}, ExpiresIn=99
    )
    assert again != url and "1 part was there already" in run(
        "score", again, "--model", head, "--out", "there").out  # fmt: skip
    store.refused.add("web/x.npy")
    late = run("score", url, "--model", head)
    fails(late, f"does not let {store.url}/{BUCKET}/web/x.npy be read (status 403)")
    assert signature not in late.err
    for key in ("web/000.tar", "web/001.tar"):
        store.client.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")
    source = open_source(parse(f"{store.url}/{BUCKET}/web/{{000..001}}.tar"), 0)
    assert [piece.name for piece in source.pieces] == ["000.tar", "001.tar"]
    fails(run("score", f"{store.url}/{BUCKET}/web/*.tar", "--model", head), "does not say which")


def test_a_plain_web_server_that_knows_no_ranges_will_do(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    """And one that does not say how large a file is will not: who would know when it is whole?"""

    class Plain(SimpleHTTPRequestHandler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words, directory=str(tmp_path / "web"))

        def send_header(self, keyword: str, value: str) -> None:
            if keyword != "Content-Length" or "silent" not in self.path:
                super().send_header(keyword, value)

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "web").mkdir()
    for name in ("x.npy", "silent.npy"):
        np.save(tmp_path / "web" / name, np.random.default_rng(1).normal(size=(40, FEATURES)))
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert run("score", f"{address}/x.npy", "--model", head, "--out", "t.parquet").code == 0
        silent = run("score", f"{address}/silent.npy", "--model", head)
        fails(silent, f"does not say how large {address}/silent.npy is")
        fails(run("score", f"{address}/none.npy", "--model", head), f"nothing at {address}/none")
        server.shutdown()
    assert run("score", tmp_path / "web/x.npy", "--model", head, "--out", "h.parquet").code == 0
    assert table_of(tmp_path / "t.parquet").equals(table_of(tmp_path / "h.parquet"))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- what stops -----------------------------------------------------------------------------------


def test_a_run_that_was_killed_reads_what_is_left_and_nothing_twice(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    address = store.put(vectors_in(tmp_path / "layout", range(5)), "killed")
    reached, go_on = threading.Event(), threading.Event()

    def hold_the_copy(key: str) -> None:  # not the reading of its head
        if "img_emb_3" in key and store.got[key] == 2:
            reached.set()
            go_on.wait(60)

    store.arrived = hold_the_copy
    words = ["score", address, "--model", head, "--out", tmp_path / "out"]
    scratch = tmp_path / "scratch"
    program = subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", *map(str, words)],
        env=environment(tmp_path / "home", **access(store), TMPDIR=str(scratch)),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert reached.wait(60)
    program.send_signal(signal.SIGKILL)
    program.wait()
    left = list(scratch.iterdir())
    assert left and not manifest(tmp_path / "out")["complete"]
    done = len(manifest(tmp_path / "out")["parts"])
    assert done >= 1
    go_on.set()
    store.reset()
    for folder in left:
        os.utime(folder, (0, 0))
    said = run(*words)
    assert said.code == 0 and f"; {done} part" in said.out
    for number in range(5):
        bodies = store.got[f"killed/img_emb/img_emb_{number}.npy"] - 1  # the head is always read
        assert (bodies > 0) == (number >= done), number
    assert manifest(tmp_path / "out")["complete"]
    assert run("score", tmp_path / "layout", "--model", head, "--out", "h.parquet").code == 0
    assert same(table_of(tmp_path / "h.parquet"), table_of(tmp_path / "out"))


def test_a_connection_that_breaks_is_tried_again_with_growing_waits_for_what_is_missing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(0).bytes(2**12 * 3 + 5)
    pictures.write(tmp_path / "b" / "x.tar", content)
    store.put(tmp_path / "b", "breaks")
    waited: list[float] = []
    monkeypatch.setattr(remote, "pause", lambda seconds, stopped: waited.append(seconds))
    monkeypatch.setattr(remote, "CONNECTIONS", 1)
    address = parse(f"s3://{BUCKET}/breaks/x.tar")
    opened = stores.store_of(address)
    file = opened.facts(address)
    assert file is not None and file.size == len(content)
    store.broken["breaks/x.tar"] = 3
    opened.copy(file, tmp_path / "copy", remote.NEVER)
    assert (tmp_path / "copy").read_bytes() == content
    assert waited == [1.0, 4.0, 15.0] and store.got["breaks/x.tar"] == 3 + 4
    store.broken["breaks/x.tar"] = 4
    with pytest.raises(TastemakerError, match=r"s3://pictures/breaks/x\.tar cannot be read: the"):
        opened.copy(file, tmp_path / "copy", remote.NEVER)
    store.client.put_object(Bucket=BUCKET, Key="breaks/x.tar", Body=content[::-1] + b"!")
    with pytest.raises(TastemakerError, match="was changed while it was read"):
        opened.copy(file, tmp_path / "copy", remote.NEVER)


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("http://nowhere.invalid/a.tar", ""),
        ("s3://pictures/a.tar", "http://nowhere.invalid"),
        ("s3://pictures/a.tar", ""),  # of Amazon, whose region is asked for first
    ],
    ids=["web", "endpoint", "bucket"],
)
def test_the_name_of_a_host_that_nobody_knows_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, store: Store, address: str, endpoint: str
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    waited: list[float] = []
    monkeypatch.setattr(remote, "pause", lambda seconds, stopped: waited.append(seconds))
    monkeypatch.setattr(remote, "_answered", set())
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    parsed = parse(address)
    with pytest.raises(TastemakerError, match="nobody knows the name of its host") as told:
        stores.store_of(parsed).facts(parsed)
    assert not waited and ("AWS_ENDPOINT_URL" in told.value.hint) == (parsed.scheme == "s3")
    assert told.value.__cause__ is None and told.value.__context__ is None


def test_a_host_that_answered_before_and_is_not_found_for_a_while_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, store: Store, tmp_path: Path
) -> None:
    pictures.write(tmp_path / "b" / "x.tar", b"content")
    store.put(tmp_path / "b", "found")
    store.client.put_object_acl(Bucket=BUCKET, Key="found/x.tar", ACL="public-read")
    address = parse(f"{store.url}/{BUCKET}/found/x.tar")
    web = stores.store_of(address)
    assert web.facts(address) is not None
    real, left, waited = socket.getaddrinfo, [2], []

    def away(*asked: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(*asked, **more)

    monkeypatch.setattr(remote, "pause", lambda seconds, stopped: waited.append(seconds))
    monkeypatch.setattr(socket, "getaddrinfo", away)
    assert stores.store_of(address).facts(address) is not None
    assert waited == [1.0, 4.0]


def test_a_file_that_cannot_be_had_or_has_changed_is_read_alone_by_the_next_run(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    layout = vectors_in(tmp_path / "layout")
    address = store.put(layout, "gap")
    gap = "gap/metadata/metadata_1.parquet"

    def break_the_copy(key: str) -> None:  # not the reading of its end
        store.broken[gap] = 99 if store.got[gap] > 1 else 0

    store.arrived = break_the_copy
    words = ("score", address, "--model", head, "--out", "out")
    said = run(*words)
    assert said.code == 1 and "98 rows in 2 parts" in said.out
    assert f"{address}/img_emb/img_emb_1.npy: s3://{BUCKET}/{gap} cannot be read" in said.err
    assert "1 file of the source could not be read; its rows are missing." in said.sentence
    assert not manifest(tmp_path / "out")["complete"]
    store.got.clear()
    table = run("score", address, "--model", head, "--out", "t.parquet")
    assert table.code == 1 and "1 file of the source could not be read" in table.sentence
    assert len(table_of(tmp_path / "t.parquet")) == 98
    store.reset()
    again = run(*words)
    assert again.code == 0 and "2 parts were there already" in again.out
    read = {key for key, count in store.got.items() if count > 1}
    assert read == {"gap/img_emb/img_emb_1.npy", gap}
    assert manifest(tmp_path / "out")["complete"] and len(table_of(tmp_path / "out")) == 147
    store.reset()
    store.replace("gap/img_emb/img_emb_0.npy", (layout / "img_emb/img_emb_2.npy").read_bytes())
    changed = run(*words)
    assert changed.code == 0 and "2 parts were there already" in changed.out
    assert {key for key, count in store.got.items() if count > 1} == {
        "gap/img_emb/img_emb_0.npy", "gap/metadata/metadata_0.parquet",
    }  # fmt: skip
    assert len(table_of(tmp_path / "out")) == 147, "what it replaced is gone"
    heads: set[str] = set()

    def refuse_the_copy(key: str) -> None:
        store.refused = {key} if key in heads and key.endswith(".npy") else set()
        heads.add(key)

    store.refused, store.arrived = set(), refuse_the_copy
    for path in (tmp_path / "out").glob("part-*"):
        path.unlink()
    gone = run(*words)
    assert gone.code == 1 and "3 files one after the other could not be read" in gone.sentence
    assert "does not let s3://" in gone.err


def test_the_next_file_is_read_while_one_is_scored_and_the_disk_holds_two(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        pictures.write(tmp_path / "n" / f"{number}.tar", bytes(1000 + number))
    store.put(tmp_path / "n", "next")
    source = open_source(parse(f"s3://{BUCKET}/next"), 0)
    begun = {n: threading.Event() for n in range(4)}
    store.arrived = lambda key: begun[int(key[5])].set()
    brought = fetched.brought_here(source.pieces, lambda piece: piece.needed, 0)
    most = 0
    for number, (_, folder) in enumerate(brought):
        assert isinstance(folder, Path) and files_in(folder)[0].stat().st_size == 1000 + number
        if number < 3:
            assert begun[number + 1].wait(20), "without being asked for"
            assert number > 1 or not begun[number + 2].is_set(), "one ahead, not more"
        most = max(most, len([p for p in folder.parent.iterdir() if p.is_dir()]))
    assert most == 2
    room = iter([1.0, 0.2, 0.6, 0.1, 0.1])  # gigabytes: of the first, of the second beside it …
    monkeypatch.setattr(fetched, "free_space", lambda path: next(room) * 1e9)
    brought = fetched.brought_here(source.pieces, lambda piece: piece.needed, 0.5)
    assert isinstance(next(brought)[1], Path) and isinstance(next(brought)[1], Path)
    with pytest.raises(TastemakerError, match=r"2\.tar takes 0\.00 GB .*0\.10 GB are free.*TMPDIR"):
        next(brought)


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path, store: Store) -> Store:
    folder = tmp_path / "odd"
    pictures.write(folder / "loose" / "a.png", b"x")
    pictures.write(folder / "words" / "a.txt", b"x")
    pictures.write(folder / "cut.npy", b"\x93NUMPY no")
    pictures.write(folder / "locked.tar", b"x")
    pictures.write(folder / "half" / "manifest.json", b'{"kind": "embeddings"}')
    np.save(folder / "wide.npy", np.ones((3, FEATURES + 1), "f"))
    np.save(folder / "short.npy", np.ones((3, FEATURES), "f"))
    (folder / "short.npy").write_bytes((folder / "short.npy").read_bytes()[:-4])
    vectors_in(folder / "apart", range(2))
    pq.write_table(pa.table({"image_path": ["a"]}), folder / "apart/metadata/metadata_1.parquet")
    vectors_in(folder / "foot", range(1))
    foot = folder / "foot/metadata/metadata_0.parquet"
    foot.write_bytes(foot.read_bytes()[:-9])
    vectors_in(folder / "widths", range(1))
    np.save(folder / "widths/img_emb/img_emb_1.npy", np.ones((3, FEATURES + 1), "f"))
    (folder / "unlike").mkdir()
    for name, wide in (("a", FEATURES), ("b", FEATURES + 1)):
        np.save(folder / "unlike" / f"{name}.npy", np.ones((3, wide), "f"))
    store.put(folder, "odd")
    store.client.put_object(Bucket=BUCKET, Key="odd/public.npy", ACL="public-read",
                            Body=(folder / "wide.npy").read_bytes())  # fmt: skip
    store.refused.add("odd/locked.tar")
    return store


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://nobody/shards", "There is no bucket “nobody”."),
        ("s3://nobody/a.tar", "There is no bucket “nobody”."),
        ("s3://pictures/odd/none.tar", "There is nothing at s3://pictures/odd/none.tar."),
        ("s3://pictures/odd/*.zip", "No file is named like s3://pictures/odd/*.zip."),
        ("s3://pictures/odd/locked.tar", "The store does not let s3://pictures/odd/locked.tar be"),
        ("s3://pictures/odd/loose", "holds pictures one by one (a.png)"),
        ("s3://pictures/odd/words", "neither an archive of pictures nor a file of embeddings"),
        ("s3://pictures/odd/loose/a.png", "neither an archive of pictures nor a file of"),
        ("s3://pictures/odd/cut.npy", "cut.npy is cut short or damaged."),
        ("s3://pictures/odd/foot", "metadata_0.parquet is cut short or damaged."),
        ("s3://pictures/odd/wide.npy", "25"),
        ("s3://pictures/odd/short.npy", "short.npy is cut short"),
        ("s3://pictures/odd/apart", "img_emb_1.npy holds 50 vectors, and metadata_1.parquet tells"),
        ("s3://pictures/odd/widths", "img_emb_1.npy holds vectors of 25 values"),
        ("s3://pictures/odd/unlike", "b.npy holds vectors of 25 values, and a.npy of 24."),
        ("s3://pictures/odd/unlike/?.npy", "b.npy holds vectors of 25 values, and a.npy of 24."),
        ("s3://pictures/odd/half", "s3://pictures/odd/half is not whole"),
        ("s3://*/a.tar", "names no bucket"),
        ("s3://", "s3:// names no bucket."),
        ("s3://pictures//a.tar", "s3://pictures//a.tar is no address that can be asked for."),
        ("s3://pictures/\udc80.tar", "is not in UTF-8"),
        ("file:///a.tar", "Nothing here reads file:// addresses. Known are s3://"),
        ("gs://pictures/a.tar", "gs:// addresses need the package gcsfs, which is not installed"),
        ("az://pictures/a.tar", "az:// addresses need the package adlfs, which is not installed"),
        (f"gs://me:{SECRET}@pictures/a.tar", "a name and a password in it is not taken"),
        (f"s3://AKIA:{SECRET}@pictures/a.tar", "a name and a password in it is not taken"),
        (f"s3://AKIA:a/{SECRET}@pictures/a.tar", "a name and a password in it is not taken"),
        (f"https://me:{SECRET}@example.org/a.tar", "a name and a password in it is not taken"),
        ("http://127.0.0.1:9/a.tar", "http://127.0.0.1:9/a.tar cannot be read: there is no server"),
    ],
)
def test_what_cannot_be_read_is_told_before_any_work_and_nothing_is_written(
    tmp_path: Path, odd: Store, run: Run, head: Path, address: str, sentence: str
) -> None:
    said = run("score", address, "--model", head, "--out", "out")
    fails(said, sentence)
    assert SECRET not in said.err and not (tmp_path / "out").exists()
    assert not any(ranged is None or not ranged.startswith("bytes=0-") for key, ranged in odd.asked
                   if key.endswith(".npy")), "no more than heads was read"  # fmt: skip


def test_without_credentials_what_is_public_is_read_and_what_is_not_is_told(
    odd: Store, run: Run, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    private = run("score", "s3://pictures/odd/wide.npy", "--model", head)
    fails(private, "with the credentials that were found, or found none. They are taken from")
    fails(run("score", "s3://pictures/odd/public.npy", "--model", head), "25")


@pytest.mark.parametrize(
    "words",
    [
        ("score", "x.npy", "--model", "ADDRESS"),
        ("score", "in", "--model", "HEAD", "--copy", "ADDRESS"),
        ("import", "ADDRESS"),
        ("import", "P", "ADDRESS"),
        ("import-embeddings", "P", "ADDRESS"),
        ("score", "x.npy", "--model", "HEAD", "--embeddings-out", "ADDRESS"),
        ("score", "x.npy", "--model", "HEAD", "--sheet", "ADDRESS"),
        ("embed", "in", "--encoder", "E", "--out", "ADDRESS"),
        ("restore", "ADDRESS"),
        ("versions", "export", "P", "v1.0", "ADDRESS"),
        ("versions", "predictions", "P", "v1.0", "--from", "ADDRESS"),
        ("scores", "export", "P", "--out", "ADDRESS"),
        ("scores", "folders", "P", "ADDRESS"),
        ("project", "create", "New", "--start-from", "ADDRESS.safetensors"),
        ("replay", "ADDRESS"),
        ("versions", "import", "P", "ADDRESS"),
        ("scores", "import", "P", "ADDRESS"),
        ("backup", "ADDRESS"),
        ("audit", "start", "P", "--table", "ADDRESS"),
    ],
    ids=" ".join,
)
def test_other_commands_and_outputs_say_what_does_take_an_address(
    tmp_path: Path, run: Run, head: Path, vectors: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "x.npy").write_bytes(vectors.read_bytes())
    run("project", "create", "P")
    address = f"s3://AKIA:{SECRET}@pictures/x"
    given = {"HEAD": head}
    said = run(*(given.get(word, word.replace("ADDRESS", address)) for word in words))
    fails(said, "s3://… lies on another machine", "only `tastemaker score` and `embed --out`, and")
    assert SECRET not in said.err


def sent(store: Store, prefix: str) -> dict[str, bytes]:
    """What lies below a prefix, by its names."""
    listed = store.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    keys = [one["Key"] for one in listed if not one["Key"].endswith("/")]
    got = [store.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    return dict(zip([key.removeprefix(f"{prefix}/") for key in keys], got, strict=True))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scores lie that go to an address, until they are there."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me" / ".cache" / "tastemaker" / "outgoing"


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_table_is_sent_to_an_address_once_it_is_whole(
    tmp_path: Path, store: Store, run: Run, head: Path, vectors: Path, kept: Path, name: str
) -> None:
    (tmp_path / "x.npy").write_bytes(vectors.read_bytes())
    assert run("score", "x.npy", "--model", head, "--out", name).code == 0
    for _ in range(2):  # and again, in its own place
        said = run("score", "x.npy", "--model", head, "--out", f"s3://{BUCKET}/sent/{name}")
        assert said.code == 0 and f"1 file sent to s3://{BUCKET}/sent/{name}." in said.out
    assert sent(store, "sent")[name] == (tmp_path / name).read_bytes()
    assert not list(kept.iterdir()), "nothing is left here"


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_parts_are_sent_with_the_manifest_last_and_what_broke_off_goes_on(
    tmp_path: Path, store: Store, run: Run, head: Path, kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    layout = vectors_in(tmp_path / "v")
    for number in range(3):  # a part each: embeddings far away, a file at a time
        assert (layout / "img_emb" / f"img_emb_{number}.npy").exists()
    source = store.put(layout, "from")
    to = f"s3://{BUCKET}/parts"
    assert run("score", source, "--model", head, "--out", "here").code == 0
    parts = sorted(path.name for path in (tmp_path / "here").glob("part-*.parquet"))
    assert len(parts) == 3
    store.refused.add(f"parts/{parts[1]}")
    said = run("score", source, "--model", head, "--out", to)
    assert said.code == 1 and "does not let" in said.err
    assert "What was scored is in" in said.err and set(sent(store, "parts")) == {parts[0]}
    store.refused.clear()
    (folder,) = kept.iterdir()
    assert manifest(folder / "parts")["complete"]
    store.got.clear()
    said = run("score", source, "--model", head, "--out", to)
    assert said.code == 0 and "3 parts were there already" in said.out, said
    assert "4 files sent" in said.out and not list(kept.iterdir())
    there = sent(store, "parts")
    assert set(there) == {*parts, MANIFEST} and json.loads(there[MANIFEST])["complete"]
    assert all(there[name] == (tmp_path / "here" / name).read_bytes() for name in parts)
    again = run("score", source, "--model", head, "--out", to)
    fails(again, f"{to} is not empty: {MANIFEST} lies there")
    with monkeypatch.context() as killed:  # after the manifest, before it let go of its folder
        killed.setattr(outgoing, "shutil", SimpleNamespace(rmtree=interrupted))
        with contextlib.suppress(KeyboardInterrupt):
            run("score", source, "--model", head, "--out", f"{to}-2")
    assert list(kept.iterdir()) and MANIFEST in sent(store, "parts-2")
    assert "4 files sent" in run("score", source, "--model", head, "--out", f"{to}-2").out
    assert set(sent(store, "parts-2")) == {*parts, MANIFEST} and not list(kept.iterdir())
    assert sent(store, "parts") == there


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("https://example.org/t.parquet", "A web server takes no files"),
        ("s3://nowhere-at-all/t", "There is no bucket “nowhere-at-all”"),
        ("s3://nowhere-at-all/t.csv", "There is no bucket “nowhere-at-all”"),
        ("s3://pictures/full", "s3://pictures/full is not empty: a.txt lies there"),
        ("s3://pictures/locked.csv", "The store does not let s3://pictures/locked.csv be"),
        ("s3://pictures/t.txt", "no known ending"),
        ("s3://pictures/..", "has a name that no file can have here"),
        (f"s3://AKIA:{SECRET}@pictures/t", "a name and a password in it is not taken"),
        ("gs://pictures/t.csv", "gs:// addresses need the package gcsfs"),
    ],
)
def test_where_nothing_can_be_sent_is_told_before_anything_is_scored(
    store: Store, run: Run, head: Path, kept: Path, to: str, sentence: str
) -> None:
    store.client.put_object(Bucket=BUCKET, Key="full/a.txt", Body=b"x")
    store.refused.add("locked.csv")
    said = run("score", "not-looked-at.npy", "--model", head, "--out", to)
    fails(said, sentence)
    assert SECRET not in said.err and not list(kept.glob("*/*"))


def test_what_is_not_whole_is_not_sent_and_a_cluster_writes_into_a_folder(
    tmp_path: Path, store: Store, run: Run, head: Path, kept: Path
) -> None:
    source = store.put(vectors_in(tmp_path / "v"), "holes")
    store.refused.add("holes/metadata/metadata_1.parquet")
    said = run("score", source, "--model", head, "--out", f"s3://{BUCKET}/half/t.csv")
    assert said.code == 1 and not sent(store, "half")
    refused = run("score", source, "--model", head, "--engine", "ray", "--out", f"s3://{BUCKET}/r")
    assert refused.code == 2 and "a cluster writes into" in refused.sentence
    shown = run("score", f"{source}/img_emb/img_emb_0.npy", "--model", head, "--dry-run", "--out",
                f"s3://{BUCKET}/half/t.csv")  # fmt: skip
    assert shown.code == 0 and not sent(store, "half")


def test_what_breaks_off_on_this_side_leaves_nothing_half_at_the_address(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.write(tmp_path / "t.csv", bytes(2**14))

    def stopped(content: Any, out: Any, _: int) -> None:
        out.write(content.read(100))
        raise KeyboardInterrupt

    address = parse(f"s3://{BUCKET}/stopped/t.csv")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.copyfileobj", stopped)
        stores.store_of(address).put(tmp_path / "t.csv", address)
    assert not sent(store, "stopped")
    stores.store_of(address).put(tmp_path / "t.csv", address)
    assert sent(store, "stopped") == {"t.csv": bytes(2**14)}


@pytest.mark.parametrize(
    "words",
    [
        ("embed", "ADDRESS"), ("train", "ADDRESS"), ("project", "show", "ADDRESS"),
        ("project", "create", "New", "--start-from", "ADDRESS"), ("stats", "-p", "ADDRESS"),
        ("versions", "list", "ADDRESS"), ("import", "in", "-p", "ADDRESS"),
        ("audit", "list", "ADDRESS"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_address_where_a_project_is_meant_is_told_as_one(
    run: Run, words: tuple[str, ...]
) -> None:
    address = f"s3://AKIA:{SECRET}@pictures/x"
    said = run(*(word.replace("ADDRESS", address) for word in words))
    fails(said, "s3://… is the address of something on another machine, and no project")
    assert SECRET not in said.err


@pytest.mark.slow
def test_pictures_behind_an_address_are_embedded_into_a_file_and_so_are_archives_here(
    tmp_path: Path, store: Store, run: Run
) -> None:
    shards = shards_in(tmp_path / "shards")
    address = store.put(shards, "embedded")
    for source, name in ((address, "far.npz"), (shards, "near.npz"), (shards / "001.tar", "1.npz")):
        said = run("embed", source, "--encoder", BUNDLED, "--out", name, "--json")
        assert said.json["skipped"] == 0, said
    far, near, one = (np.load(tmp_path / name) for name in ("far.npz", "near.npz", "1.npz"))
    assert list(far["paths"]) == [f"00{s}.tar/{s}{n}.png" for s in range(3) for n in range(2)]
    for key in ("paths", "embeddings"):
        assert np.array_equal(far[key], near[key]) and np.array_equal(far[key][2:4], one[key])
    vectors = store.put(vectors_in(tmp_path / "v", range(1)), "has")
    refused = run("embed", vectors, "--encoder", BUNDLED, "--out", "no.npz")
    fails(refused, "holds embeddings, which need no encoder any more")
    store.refused.add("embedded/001.tar")
    fails(run("embed", address, "--encoder", BUNDLED, "--out", "no.npz"), "does not let")
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.slow
def test_a_loaded_head_scores_pictures_behind_addresses(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = tastemaker.load(bundled_head(tmp_path / "bundled.safetensors", 0))
    for n in range(2):
        pictures.write(tmp_path / "p" / f"{n}.png", pictures.encoded(pictures.scene(seed=n)))
    at = store.put(tmp_path / "p", "singles")
    here = [scorer.score(tmp_path / "p" / f"{n}.png") for n in range(2)]
    assert here[0] != here[1]
    assert scorer.score(f"{at}/0.png") == here[0]
    mixed = [f"{at}/1.png", tmp_path / "p" / "0.png", f"{at}/gone.png"]
    values = scorer.score(mixed, errors="skip")
    assert list(values[:2]) == pytest.approx([here[1], here[0]]) and np.isnan(values[2])
    with pytest.raises(BadImage, match=r"singles/gone\.png: There is nothing at this address"):
        scorer.score(mixed)
    monkeypatch.setenv("TASTEMAKER_MAX_IMAGE_MB", "1")
    pictures.write(tmp_path / "l" / "large.png", bytes(2**20 + 1))
    with pytest.raises(BadImage, match="It has 1 MB; at most 1 are read"):
        scorer.score(f"{store.put(tmp_path / 'l', 'large')}/large.png")
    with pytest.raises(Invalid, match="Nothing here reads ftp://"):
        scorer.score(["ftp://h/a.png"], errors="skip")
    store.refused.add("singles/0.png")
    with pytest.raises(TastemakerError, match="does not let"):
        scorer.score([f"{at}/0.png"], errors="skip")
    with pytest.raises(Invalid, match=r"s3://b/head\.safetensors lies on another machine"):
        tastemaker.load("s3://b/head.safetensors")


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose folders are what fsspec knows as the buckets of gs://."""
    place = tmp_path / "buckets"

    class Buckets(DirFileSystem):
        def __init__(self, **_: Any) -> None:
            super().__init__(path=str(place), fs=LocalFileSystem(), skip_instance_cache=True)

    monkeypatch.setitem(_registry, "gs", Buckets)
    return place


def test_stores_of_other_makers_are_read_by_their_packages(
    tmp_path: Path, buckets: Path, run: Run, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PIECE", 2**12)
    vectors_in(buckets / "mine" / "v")
    for source, out in (("gs://mine/v", "far"), (buckets / "mine" / "v", "near")):
        assert run("score", source, "--model", head, "--out", f"{out}.parquet").code == 0
    assert same(table_of(tmp_path / "far.parquet"), table_of(tmp_path / "near.parquet"))
    fails(run("score", "gs://mine/none.npy", "--model", head), "There is nothing at gs://mine/none")
    address = parse("gs://mine/v/img_emb/img_emb_0.npy")
    opened = stores.store_of(address)
    file = opened.facts(address)
    assert file is not None
    pictures.write(buckets / "mine" / "v" / "img_emb" / "img_emb_0.npy", bytes(file.size))
    with pytest.raises(TastemakerError, match="was changed while it was read"):
        opened.copy(file, tmp_path / "copy", remote.NEVER)


def test_the_pages_and_the_api_say_so_too(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=1)
    typed = f"s3://AKIA:{SECRET}@pictures/x"
    for answer in (
        world.client.post(f"/api/v1{world.at}/imports", json={"folder": typed}),
        world.client.get(f"/api/v1/folders?at={typed}"),
        world.client.post(f"{world.at}/add/folder", data={"folder": typed}),
        world.client.post(f"{world.at}/library/copy", data={"folder": typed}),
    ):
        assert answer.status_code == 422 and "s3://… lies on another machine" in answer.text


def test_options_that_need_the_pictures_here_are_refused(
    tmp_path: Path, store: Store, run: Run, head: Path
) -> None:
    address = store.put(vectors_in(tmp_path / "v", range(1)), "options")
    for option in (("--copy", "c"), ("--move", "c"), ("--sheet", "s.png")):
        said = run("score", address, "--model", head, *option)
        assert said.code == 2 and "what lies at an address stays there" in said.sentence
    said = run("score", address, "--model", head, "--embeddings-out", "e")
    assert said.code == 2 and "the source is embeddings already" in said.sentence
    pictures.write(tmp_path / "list.txt", f"{address}/a.png\n".encode())
    bundled = bundled_head(tmp_path / "bundled.safetensors", 0)
    said = run("score", "@list.txt", "--model", bundled)
    assert said.code == 1 and f"skipped {address}/a.png: It lies on another machine" in said.err


def test_an_address_is_told_without_what_is_secret_in_it() -> None:
    signed = parse(f"https://example.org:8080/a@b/x.tar?X-Amz-Signature={SECRET}#top")
    assert str(signed) == "https://example.org:8080/a@b/x.tar" == shown(f"{signed}?{SECRET}")
    assert SECRET not in repr(signed) and signed.url.endswith(f"?X-Amz-Signature={SECRET}")
    assert signed == parse("https://example.org:8080/a@b/x.tar"), "the same file"
    assert parse("S3://b/k?.tar/").path == "b/k?.tar", "a query is of web servers alone"
    assert parse("s3://b/a@b:c.tar") == Address("s3", "b/a@b:c.tar")
    for text in (f"s3://k:{SECRET}@b/x", f"s3://k:s/{SECRET}@b/x", f"https://{SECRET}@h/x",
                 f"sftp://u:{SECRET}@h/x"):  # fmt: skip
        assert SECRET not in shown(text)
        with pytest.raises(Invalid) as refused:
            parse(text)
        assert SECRET not in str(refused.value)
        with pytest.raises(Invalid) as refused:
            local_path(text)
        assert SECRET not in str(refused.value)
    assert not any(map(is_address, ("C:/x", "a/b.tar", "s3:/b", "", Path("s3://b/x"))))


def test_help_says_it(run: Run) -> None:
    said: Said = run("score", "--help")
    assert "s3://" in said.out and "https://" in said.out
