"""`replay --learn`: the learning curves of several people, as anyone can check them."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import people as judge
from tastemaker.encoding.encoder_specs import parse
from tastemaker.encoding.encoders import load
from tastemaker.learning import metrics
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import fit_ridge
from tastemaker.learning.training import train
from tastemaker.replay.people import Curves, People, curves, finished, prior_of_file
from tests.command_line import Run, fails

PEOPLE, IMAGES, FEATURES = 6, 240, 40


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes takes longer than all that is fitted here; test_replay starts them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def people(**changed: Any) -> dict[str, Any]:
    """Six people who agree in part, each of whom rated half of the pictures."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(IMAGES, FEATURES)).astype(np.float32)
    tastes = (rng.normal(size=FEATURES) + 0.7 * rng.normal(size=(PEOPLE, FEATURES))) / 6
    scores = np.round(10 / (1 + np.exp(-tastes @ x.T)))
    scores[rng.random(scores.shape) < 0.5] = -1
    return {"embeddings": x, "scores": scores} | changed


def written(**changed: Any) -> Path:
    np.savez("people.npz", **{k: v for k, v in people(**changed).items() if v is not None})
    return Path("people.npz")


def test_anyone_can_refit_from_the_picks_and_finds_the_same(run: Run) -> None:
    said = run("replay", written(), "--learn", "--labels", "10,20", "--seeds", 2, "--json")
    assert said.code == 0
    runs, data = said.json["runs"], people()
    assert len(runs) == 2 * 2 * PEOPLE
    for told in runs[:4]:
        own = data["scores"][told["person"]]
        picks, test = np.array(told["picks"]), np.array(told["test"])
        assert len(picks) == told["labels"] and not set(picks) & set(test)
        assert (own[picks] >= 0).all() and (own[test] >= 0).all()
        again = fit_ridge(data["embeddings"][picks], own[picks] / 10).predict(
            data["embeddings"][test]
        )
        assert told["mae"] == pytest.approx(10 * np.abs(again - own[test] / 10).mean(), abs=2e-3)
        assert told["srocc"] == pytest.approx(metrics.spearman(own[test], again), abs=2e-3)


def test_the_others_help_and_the_picks_are_the_same_for_every_prior_and_recipe(run: Run) -> None:
    alone, others = (
        run("replay", written(), "--learn", "--labels", "10", "--seeds", 2, "--prior", prior,
            "--json").json
        for prior in ("none", "others")
    )  # fmt: skip
    for mine, theirs in zip(alone["runs"], others["runs"], strict=True):
        assert (mine["picks"], mine["test"]) == (theirs["picks"], theirs["test"])
    assert others["means"][0]["srocc"] > alone["means"][0]["srocc"] + 0.1
    assert others["means"][0]["mae"] < alone["means"][0]["mae"]


def test_priors_come_from_the_same_group_only(run: Run) -> None:
    group = np.array(["a", "a", "a", "a", "a", "alone"])
    alone, others = (
        run("replay", written(group=group), "--learn", "--labels", "10", "--seeds", 1, "--prior",
            prior, "--json").json["runs"]
        for prior in ("none", "others")
    )  # fmt: skip
    assert alone[-1]["group"] == "alone" and alone[-1] == others[-1]
    assert alone[0]["mae"] != others[0]["mae"]


def test_a_file_may_be_the_prior_and_its_line_is_told(run: Run) -> None:
    data = people()
    mean = np.ma.masked_less(data["scores"], 0).mean(0).filled(5) / 10
    ridge = fit_ridge(data["embeddings"], mean)
    tensors = linear_head(ridge.weights, ridge.bias, ridge.mean, ridge.scale)
    save_checkpoint(Path("prior.safetensors"), tensors, {})
    words = ("replay", written(), "--learn", "--labels", "10", "--seeds", 1)
    started = run(*words, "--prior", "prior.safetensors", "--json")
    assert started.json["prior"] == "prior.safetensors"
    assert "points from it" not in started.err  # it is a line itself
    line, off = prior_of_file(Path("prior.safetensors"), data["embeddings"])
    np.testing.assert_allclose(line.weights, ridge.raw()[0], rtol=1e-3, atol=1e-6)
    assert off < 1e-3
    assert started.json["means"][0]["mae"] < run(*words, "--json").json["means"][0]["mae"]
    fails(run("replay", written(embeddings=data["embeddings"][:, :9]), *words[2:], "--prior",
              "prior.safetensors"))  # fmt: skip


def test_a_network_is_a_prior_by_the_line_that_follows_it_best(run: Run) -> None:
    data = people()
    mean = np.ma.masked_less(data["scores"], 0).mean(0).filled(5) / 10
    labels = TrainingSet(
        np.arange(IMAGES), data["embeddings"], mean.astype(np.float32), np.arange(IMAGES),
        np.zeros(IMAGES, bool),
    )  # fmt: skip
    network = train(labels, recipe_named("city96", passes=5))
    save_checkpoint(Path("network.safetensors"), network.tensors, {})
    words = ("replay", written(), "--learn", "--labels", "10", "--seeds", 1, "--prior")
    assert "points from it" in run(*words, "network.safetensors", "--json").err


def test_options_of_the_other_kind_are_refused(run: Run) -> None:
    for words in (("--learn", "--svg", "x.svg"), ("--learn", "--budget", 60), ("--labels", "10")):
        said = run("replay", written(), *words)
        assert said.code == 2 and "--learn" in said.err, words


def test_broken_off_what_is_left_is_of_whole_seeds() -> None:
    arrays = people()
    scores = np.where(arrays["scores"] < 0, np.nan, arrays["scores"] / 10)
    data = People(arrays["embeddings"], scores, scores, np.zeros(PEOPLE), np.arange(IMAGES))
    plan = Curves(labels=(10,), seeds=3)
    done = [runs for _, _, runs in islice(curves(data, plan, processes=1), PEOPLE + 2)]
    assert finished(data, plan, done).seeds == 1
    assert finished(data, plan, done[:2]).seeds == 0


def test_what_is_judged_may_be_other_scores_of_the_same_people(run: Run) -> None:
    again = np.where(people()["scores"] < 0, 5.0, -1.0)
    told = run("replay", written(test_scores=again), "--learn", "--labels", 10, "--seeds", 1,
               "--json").json["runs"][0]  # fmt: skip
    assert (again[told["person"]][told["test"]] == 5).all()
    assert told["srocc"] is None  # ten equal scores are in no order


def test_ten_equal_scores_are_their_mean_or_the_order_of_the_prior(run: Run) -> None:
    scores = people()["scores"]
    scores[0] = np.where(scores[0] < 0, -1, 7)
    judged = people()["scores"]
    words = ("replay", written(scores=scores, test_scores=judged), "--learn", "--labels", 10,
             "--seeds", 1, "--json")  # fmt: skip
    assert run(*words).json["runs"][0]["srocc"] == 0
    assert run(*words, "--prior", "others").json["runs"][0]["srocc"] > 0.3


@pytest.mark.parametrize(
    ("changed", "words", "sentence"),
    [
        ({"scores": np.full((2, 7), 5.0)}, (), "has the shape (2, 7)"),
        ({"scores": np.full((2, IMAGES), 11.0)}, (), "The score 11 in row 0"),
        ({"scores": np.full((2, IMAGES), -1.0)}, (), "Nobody rated any"),
        ({"group": np.zeros(3, int)}, (), "“group” in people.npz has the shape (3,)"),
        ({}, ("--prior", "nobody"), "nobody"),
        ({}, ("--recipe", "magic"), "There is no recipe “magic”"),
        ({}, ("--labels", "500"), "Nobody has scores enough"),
        ({}, ("--labels", "0"), "1 or more"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence(
    run: Run, changed: dict[str, Any], words: tuple[str, ...], sentence: str
) -> None:
    fails(run("replay", written(**changed), "--learn", "--seeds", 1, *words), sentence)


def test_a_folder_is_embedded_into_a_file_that_replays(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("b/two.png", "a.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(
            tmp_path / "pictures" / name
        )
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    bundled = "efficientnet_lite0/bundled"
    said = run("embed", "pictures", "--encoder", bundled, "--out", "found.npz")
    assert said.code == 0 and "2 pictures embedded" in said.out and "broken.jpg" in said.err
    with np.load("found.npz", allow_pickle=False) as file:
        assert file["paths"].tolist() == ["a.png", "b/two.png"]
        vectors = file["embeddings"]
    encoder = load(parse(bundled))
    with Image.open("pictures/a.png") as picture:
        alone = encoder.encode(encoder.preprocess(picture.convert("RGB"))[None])[0]
    np.testing.assert_allclose(vectors[0], alone, rtol=1e-4, atol=1e-4)

    fails(run("embed", "nowhere", "--encoder", bundled, "--out", "x.npz"), "nowhere")
    fails(run("embed", "pictures", "--encoder", bundled, "--out", "x.csv"), ".npz")
    fails(run("embed", "pictures", "--encoder", "none/such", "--out", "x.npz"))
    assert run("embed", "pictures", "--out", "x.npz").code == 2
    assert not Path("x.npz").exists()


@pytest.mark.slow
def test_heads_are_judged_by_real_people_beside_todays(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bench people`: the same draws for all heads, useless priors, and a person's other rating."""
    data = people()
    other = np.where(data["scores"] < 0, -1, np.clip(data["scores"] + 1, 0, 10))
    file = written(test_scores=other)
    np.savez("wide.npz", embeddings=np.hstack([data["embeddings"], data["embeddings"] ** 2]))
    monkeypatch.setattr(
        "sys.argv",
        ["people", str(file), "--people", "4", "--labels", "10,15", "--recipes", "ridge",
         "--encoders", "wide=wide.npz", "--priors", "none", "others", "useless",
         "--processes", "1", "--json", "runs.json"],
    )  # fmt: skip
    judge.main()
    told = capsys.readouterr().out
    assert "4 of 6 people on 240 images, 1 seed; features: plain 40, wide 80." in told
    rows = [[cell.strip() for cell in line.split("|")] for line in told.splitlines()]
    methods = {(row[1], row[3]) for row in rows if len(row) == 10 and row[4] == "10"}
    assert methods == {
        ("", ""), ("plain", "none"), ("plain", "others"), ("wide", "none"), ("wide", "others"),
        ("plain", "random"), ("plain", "reversed"), ("plain", "constant"),
    }  # fmt: skip
    again = next(row for row in rows if len(row) == 10 and "other rating" in row[2])
    assert float(again[6].split()[0]) == pytest.approx(1, abs=0.05), "points between two ratings"
    assert told.count("at most 2 %: met") == 3
    kept = json.loads(Path("runs.json").read_text())
    auto, ridge = (
        next(k for k in kept if (k["encoder"], k["recipe"], k["prior"], k["labels"]) == of)
        for of in (("plain", "auto", "none", 10), ("plain", "ridge", "none", 10))
    )
    assert auto["runs"] == ridge["runs"], "below twenty labels they are one head"
