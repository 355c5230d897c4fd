"""Ray as an engine: the rows of one process, whatever becomes of a machine of the cluster."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from tastemaker import __version__
from tastemaker.encoding.embedding_folders import EmbeddingFolder
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import Unavailable
from tastemaker.filtering import parts, ray_engine
from tastemaker.filtering.manifests import MANIFEST
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.parts import Terms, Written, parts_of, write_parts
from tastemaker.filtering.ray_engine import OnRay
from tastemaker.filtering.scorer import Scorer
from tastemaker.filtering.sources import score_source
from tests import pictures
from tests.command_line import Run
from tests.s3_server import serving
from tests.test_remote import access, vectors_in
from tests.test_score_parts import FEATURES, head_of
from tests.test_score_sinks import head_of as bundled_head
from tests.test_shards import tarred

# How soon a machine that was killed is known to be dead; the usual half minute is for real nets.
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300,
        "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}  # fmt: skip
NODE = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args=NODE | {"_system_config": SOON})
    ray.init(made.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield made
    ray.shutdown()
    made.shutdown()


def rows_of(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])


@pytest.mark.slow
def test_a_machine_that_is_killed_and_a_run_that_is_started_again_give_the_rows_of_one_process(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "BLOCK", 10)
    x = np.random.default_rng(1).normal(size=(205 * 16, FEATURES)).astype(np.float32)
    x[100] = np.nan
    np.save(tmp_path / "x.npy", x)
    panel = Panel([Scorer(head_of(tmp_path / f"{n}.safetensors", n)) for n in range(2)])
    out, faults = tmp_path / "out", list[str]()
    doomed = cluster.add_node(**NODE)

    def run(watch: Any) -> Written:
        engine = OnRay(panel, lambda path, _: faults.append(path), print)
        every = parts_of(tmp_path / "x.npy", panel, lambda *_: None, print)
        return write_parts(every, Terms(out), engine, panel.about, watch, **panel.run)

    def stopped(done: int, _: int) -> None:
        if done > 640:  # two parts are done, and one is listed
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stopped)

    def kill(*_: int) -> None:
        if doomed in cluster.worker_nodes:
            cluster.remove_node(doomed, allow_graceful=False)

    written = run(kill)
    assert doomed not in cluster.worker_nodes and set(faults) == {"100"}
    assert written.kept >= 1 and len(written.parts) == 11
    whole, got = pa.concat_tables(score_source(tmp_path / "x.npy", panel)), rows_of(out)
    assert got["path"].equals(whole["path"]) and got.schema.names == whole.schema.names
    for name in got.schema.names[1:]:
        assert np.abs(got[name].to_numpy() - whole[name].to_numpy()).max() < 1e-5, name
    assert whole.column_names == ["path", "aesthetic_score", "percent", "Mine@v1.0", "Mine@v1.1"]
    told = json.loads((out / MANIFEST).read_text())
    assert told["complete"] and sum(part["rows"] for part in told["parts"]) == len(whole)


@pytest.mark.soak
@pytest.mark.slow
def test_shards_are_embedded_by_machines_that_die_one_after_the_other(
    tmp_path: Path, cluster: Cluster
) -> None:
    """Pictures in tars, their embeddings kept, and every machine but the first killed in turn."""
    for shard in range(12):
        members = {
            f"{shard:02}{number}.png": pictures.encoded(pictures.scene(seed=10 * shard + number))
            for number in range(10)
        }
        tarred(tmp_path / "shards" / f"{shard:02}.tar", members | {"bad.png": b"no picture"})
    panel = Panel(Scorer(bundled_head(tmp_path / "head.safetensors", 0)))
    made_by = panel.load_encoder()
    kept = EmbeddingFolder(tmp_path / "kept", BUNDLED, made_by.fingerprint, made_by.dim, "shards")
    machines = [cluster.add_node(**NODE) for _ in range(2)]
    faults: list[str] = []

    def kill(*_: int) -> None:
        if machines:
            cluster.remove_node(machines.pop(), allow_graceful=False)

    engine = OnRay(panel, lambda path, _: faults.append(path), print)
    every = parts_of(tmp_path / "shards", panel, lambda *_: None, print)
    terms = Terms(tmp_path / "out", embeddings=kept)
    write_parts(every, terms, engine, panel.about, kill, **panel.run)
    whole, got = pa.concat_tables(score_source(tmp_path / "shards", panel)), rows_of(terms.out)
    assert not machines and got["path"].equals(whole["path"]) and len(got) == 120
    assert np.abs(got["percent"].to_numpy() - whole["percent"].to_numpy()).max() < 0.1
    assert set(faults) == {f"{shard:02}.tar/bad.png" for shard in range(12)}
    again = pa.concat_tables(score_source(tmp_path / "kept", panel))
    assert again["path"].equals(whole["path"])


def test_a_cluster_that_is_not_there_is_told_at_once(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, FEATURES), np.float32))
    head = head_of(tmp_path / "head.safetensors")
    words = ("score", tmp_path / "x.npy", "--model", head, "--engine", "ray")
    said = run(*words, "--out", tmp_path / "out", "--ray-address", "127.0.0.1:1")
    assert said.code == 1 and "no Ray cluster at 127.0.0.1:1" in said.sentence
    assert "out FOLDER" in run(*words, "--out", tmp_path / "o.parquet").sentence
    gone = tmp_path / "elsewhere" / "out"
    gone.mkdir(parents=True)
    (gone / MANIFEST).write_text("{}")
    packed = ray_engine._Packed.of(Panel(Scorer(head)), Terms(gone))
    assert ray_engine._why_unfit(packed) is None
    older = str(ray_engine._why_unfit(replace(packed, version="0.0.9")))
    assert f"has Tastemaker {__version__}, and the run was started by 0.0.9" in older
    (gone / MANIFEST).unlink()
    assert "does not see" in str(ray_engine._why_unfit(packed))
    raised = ray.exceptions.RayError("trace\nOSError: [Errno 5] Input/output error\nTo retry, do …")
    assert "could not finish: OSError: [Errno 5]" in str(ray_engine._in_words(raised))
    lacking = ray.exceptions.RayError("ModuleNotFoundError: No module named 'tastemaker'")
    assert "lacks tastemaker" in str(ray_engine._in_words(lacking))
    with pytest.raises(Unavailable, match="no Ray cluster"):
        ray_engine._check_there("ray://localhost:2")


@pytest.mark.soak
@pytest.mark.slow
def test_machines_read_from_a_bucket_each_for_itself(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, head: Path
) -> None:
    with serving() as store:
        for name, value in access(store).items():
            monkeypatch.setenv(name, value)
        address = store.put(vectors_in(tmp_path / "v", range(4)), "ray")
        lost = "ray/metadata/metadata_2.parquet"

        def refuse_the_copy(key: str) -> None:  # not the reading of its end
            store.refused = {key} if key == lost and store.got[key] > 1 else set()

        store.arrived = refuse_the_copy
        words = ("score", address, "--model", head, "--out", "out", "--engine", "ray")
        said = run(*words)
        assert said.code == 1 and "147 rows in 3 parts" in said.out
        assert f"does not let s3://pictures/{lost} be read" in said.err
        store.reset()
        assert "3 parts were there already" in run(*words).out
        assert {key for key, count in store.got.items() if count > 1} == {
            "ray/img_emb/img_emb_2.npy", lost,
        }  # fmt: skip
    assert run("score", tmp_path / "v", "--model", head, "--out", "here.parquet").code == 0
    here, there = pq.read_table(tmp_path / "here.parquet"), rows_of(tmp_path / "out")
    assert there["path"].equals(here["path"])
    assert np.abs(there["percent"].to_numpy() - here["percent"].to_numpy()).max() < 1e-3
