"""Replaying strategies on known labels: fair to all, honest in its numbers, clear in refusing."""

import contextlib
import io
import json
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.trade_off import chart as front
from bench.trade_off import points as points_of
from tastemaker import embeddings, images, projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.errors import Invalid
from tastemaker.learning.posterior import posterior_sd
from tastemaker.learning.ridge import fit_ridge
from tastemaker.replay.chart import chart
from tastemaker.replay.labelled_sets import read_collection, read_file
from tastemaker.replay.report import report, table
from tastemaker.replay.runs import (
    STRATEGIES,
    LabelledSet,
    Plan,
    Run,
    planned,
    replay,
    split,
    strategy,
)
from tastemaker.replay.shared_out import shared_out
from tests.conftest import add_images, environment, until

SMALL = Plan(("mixed", "random"), seeds=2, budget=60, batch=10, start=20)


def labelled_set(n: int = 260, unlabelled: int = 0, group_size: int = 1, seed: int = 0) -> Any:
    """A taste that is mostly linear in twelve features."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // group_size
    x = rng.normal(size=(groups[-1] + 1, 12))[groups] + 0.3 * rng.normal(size=(n, 12))
    points = np.clip(np.round(5 + 2 * x[:, 0] + 1.5 * x[:, 1] + rng.normal(0, 0.7, n)), 0, 10)
    points[rng.permutation(n)[:unlabelled]] = -1
    known = np.where(points < 0, np.nan, points / 10)
    return LabelledSet(x.astype(np.float32), known, groups.astype(np.intp))


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def points(data: LabelledSet) -> Any:
    return np.nan_to_num(data.scores * 10, nan=-1)


def runs(data: LabelledSet, plan: Plan = SMALL) -> list[Run]:
    return [run for _, _, run in replay(data, plan, processes=1)]


# --- fairness ----------------------------------------------------------------------------------


def test_every_strategy_has_the_same_test_and_first_labels_and_never_picks_what_tests() -> None:
    data = labelled_set(unlabelled=40, group_size=2)
    plan = Plan(tuple(STRATEGIES), seeds=2, budget=60, batch=10, start=20)
    found = runs(data, plan)
    assert {(r.strategy, r.seed) for r in found} == {(s, i) for s in STRATEGIES for i in (0, 1)}
    tests = {r.seed: r.test.tolist() for r in found}
    assert tests[0] != tests[1]
    first = {r.seed: r.picks[:20].tolist() for r in found}
    for r in found:
        assert r.test.tolist() == tests[r.seed]
        assert r.picks[:20].tolist() == first[r.seed]
        assert len(r.picks) == len(set(r.picks.tolist())) == 60
        assert np.isfinite(data.scores[r.picks]).all() and np.isfinite(data.scores[r.test]).all()
        assert not set(data.groups[r.picks]) & set(data.groups[r.test])
        assert r.labels.tolist() == [20, 30, 40, 50, 60]
    different = {tuple(r.picks.tolist()) for r in found if r.seed == 0}
    assert len(different) == len(STRATEGIES)


def test_a_quarter_of_the_labels_test() -> None:
    data = labelled_set(400, unlabelled=100, group_size=4)
    test, free = split(data, 3)
    assert len(test) == pytest.approx(75, abs=4)
    assert not free[test].any() and free.sum() < 310


def test_anyone_can_refit_from_the_picks_and_gets_the_same_figures() -> None:
    data = labelled_set(unlabelled=30)
    said = report(data, SMALL, runs(data))
    mae, wrong = [], []
    for one in said["strategies"]["mixed"]["runs"]:
        for at, count in enumerate(said["strategies"]["mixed"]["labels"]):
            rows = one["picks"][:count]
            ridge = fit_ridge(data.x[rows], data.scores[rows], link="identity")
            predicted, truth = ridge.predict(data.x[one["test"]]), data.scores[one["test"]]
            mae.append((at, 10 * np.abs(predicted - truth).mean()))
            wrong.append((at, np.mean((predicted >= 0.5) != (truth >= 0.5))))
    for key, values in (("mae", mae), ("error_at_threshold", wrong)):
        for at, mean in enumerate(said["strategies"]["mixed"][key]):
            assert mean == pytest.approx(np.mean([v for i, v in values if i == at]), abs=1e-4)


def test_an_image_without_a_label_is_shown_but_costs_none() -> None:
    open_at: list[Any] = []

    def watching(pool: Any) -> Any:
        open_at.append(pool.free.copy())
        return STRATEGIES["random"](pool)

    data = labelled_set(400, unlabelled=280)
    STRATEGIES["watching"] = watching
    try:
        (found,) = runs(data, Plan(("watching",), seeds=1, budget=80, batch=10, start=20))
    finally:
        del STRATEGIES["watching"]
    shown = [np.flatnonzero(a & ~b) for a, b in pairwise(open_at)]
    rows = np.concatenate(shown)
    assert len(rows) == len(set(rows.tolist()))
    bought = [row for row in rows if np.isfinite(data.scores[row])]
    assert set(bought) == set(found.picks[20 : 20 + len(bought)].tolist())
    assert len(found.picks) == 80
    assert len(rows) > 2 * len(bought) > 60  # three in ten have a label


def test_hidden_labels_change_nothing_before_they_are_bought() -> None:
    data = labelled_set()
    plan = Plan(("mixed",), seeds=1, budget=60, batch=10, start=20)
    (before,) = runs(data, plan)
    changed = data.scores.copy()
    late = np.setdiff1d(np.arange(len(changed)), before.picks[:40])
    changed[late] = 1 - changed[late]
    (after,) = runs(LabelledSet(data.x, changed, data.groups), plan)
    assert after.picks[:40].tolist() == before.picks[:40].tolist()
    assert after.picks[40:].tolist() != before.picks[40:].tolist() or len(late) == 0


def test_two_processes_find_what_one_finds() -> None:
    data = labelled_set(120)
    plan = Plan(("mixed",), seeds=2, budget=40, batch=10, start=20)
    alone = [run for _, _, run in replay(data, plan, processes=1)]
    together = [run for _, _, run in replay(data, plan, processes=2)]
    assert [r.picks.tolist() for r in alone] == [r.picks.tolist() for r in together]
    assert [r.error.tolist() for r in alone] == [r.error.tolist() for r in together]


def test_first_labels_that_teach_nothing_do_not_stop_a_replay() -> None:
    data = labelled_set()
    values = np.where(np.arange(len(data.scores)) % 20 == 0, 0.9, 0.1)
    (found,) = runs(
        LabelledSet(data.x, values, data.groups), Plan(("mixed",), 1, 40, batch=10, start=2)
    )
    assert len(found.picks) == 40 and np.isfinite(found.mae).all()


def test_shares_are_a_strategy() -> None:
    data = labelled_set()
    (found,) = runs(data, Plan(("0/0/100",), 1, 60, batch=10, start=20))
    assert len(set(found.picks.tolist())) == 60
    for name in ("best", "20/60", "1/2/x", "-1/1/1", "0/0/0", "inf/1/1", "nan/1/1", "20/60/30"):
        with pytest.raises(Invalid, match="no strategy"):
            strategy(name)


def test_other_strategies_and_other_seeds_may_be_given() -> None:
    data = labelled_set()
    plan = Plan(("first rows", "random"), 2, 40, batch=10, start=20, first_seed=7)
    more = {"first rows": lambda pool: np.flatnonzero(pool.free)[: pool.count]}
    found = [run for _, _, run in replay(data, plan, processes=1, more=more)]
    assert {run.seed for run in found} == {7, 8}
    for one in found:
        test, free = split(data, one.seed)
        assert one.test.tolist() == test.tolist()
        if one.strategy == "first rows":
            left = np.setdiff1d(np.flatnonzero(free), one.picks[:20])
            assert one.picks[20:].tolist() == left[:20].tolist()
    assert report(data, plan, found)["tested"] == len(split(data, 7)[0])
    with pytest.raises(Invalid, match="no strategy"):
        planned(data, plan)


def test_a_strategy_that_asks_for_no_doubt_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def counted(*given: Any) -> Any:
        asked.append("sd")
        return posterior_sd(*given)

    monkeypatch.setattr("tastemaker.replay.runs.posterior_sd", counted)
    data = labelled_set()
    for name, times in (("random", 0), ("highest", 0), ("variance", 4), ("mixed", 4)):
        asked.clear()
        runs(data, Plan((name,), 1, 60, batch=10, start=20))
        assert len(asked) == times, name


# --- the report --------------------------------------------------------------------------------


def fake(name: str, seed: int, mae: list[float], error: list[float]) -> Run:
    labels = np.array([50, 100, 200])
    nothing = np.arange(3)
    return Run(name, seed, nothing, nothing, labels, np.array(mae), np.array(error))


def test_the_summary_says_how_many_labels_reach_what_random_reaches_at_the_end() -> None:
    plan = Plan(("mixed", "random"), seeds=3, budget=200)
    found = [fake("random", s, [2, 2, 2], [0.5, 0.4, 0.30 + s / 100]) for s in range(3)]
    found += [fake("mixed", s, [2, 1, 1.5], [0.5, 0.31, 0.1]) for s in range(3)]
    said = report(labelled_set(), plan, found)["strategies"]
    assert said["mixed"]["labels_to_reach_random"]["value"] == 100
    assert said["mixed"]["mae_area_ratio"]["value"] == 0.75
    assert said["random"]["labels_to_reach_random"]["value"] == 200
    assert said["random"]["mae_area_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert said["random"]["error_at_threshold"] == [0.5, 0.4, 0.31]
    assert said["random"]["error_at_threshold_low"][2] == pytest.approx(0.30, abs=0.005)


def test_a_mark_never_reached_is_null_and_said_in_words() -> None:
    plan = Plan(("highest", "random"), seeds=3, budget=200)
    found = [fake("random", s, [2, 2, 2], [0.5, 0.4, 0.3]) for s in range(3)]
    found += [fake("highest", s, [2, 3, 3], [0.5, 0.5, 0.5]) for s in range(3)]
    said = report(labelled_set(), plan, found)
    reached = said["strategies"]["highest"]["labels_to_reach_random"]
    assert reached == {"value": None, "low": None, "high": None, "reached": 0.0}
    assert "over 200" in table(said)


def test_two_seeds_are_too_few_for_an_interval() -> None:
    said = report(labelled_set(), SMALL, runs(labelled_set()))
    assert said["strategies"]["mixed"]["mae_low"] == [None] * 5
    assert said["strategies"]["mixed"]["mae_area_ratio"]["low"] is None
    json.dumps(said, allow_nan=False)
    ElementTree.fromstring(chart(said))


def test_the_chart_is_one_document_with_a_line_and_a_band_for_every_strategy() -> None:
    plan = Plan(("mixed", "20/60/20", "random"), seeds=3, budget=200)
    found = [
        fake(n, s, [2 - s / 9, 2, 1], [0.5, 0.4, 0.3 + s / 50])
        for n in plan.strategies
        for s in range(3)
    ]
    drawn = ElementTree.fromstring(chart(report(labelled_set(), plan, found)))
    tags = [element.tag.rpartition("}")[2] for element in drawn.iter()]
    assert tags.count("polyline") == tags.count("polygon") == 6
    assert "20/60/20" in "".join(drawn.itertext())
    assert not set(tags) & {"script", "image", "use"}


# --- the trade-off ------------------------------------------------------------------------------


def test_the_trade_off_averages_sets_and_marks_the_rules_that_no_other_beats() -> None:
    worse = {"random": (2.0, 0.40), "sharp": (2.2, 0.30), "mild": (2.0, 0.36), "bad": (2.2, 0.38)}
    made = {
        name: [
            fake(rule, seed, 3 * [mae * scale], [0.5, error, error * scale])
            for rule, (mae, error) in worse.items()
            for seed in range(4)
        ]
        for name, scale in (("one", 1.0), ("two", 0.9))
    }
    found = {point.rule: point for point in points_of(made)}
    assert found.keys() == {"sharp", "mild", "bad"}  # random is the measure of the others
    assert found["sharp"].mae.value == pytest.approx(1.1)
    assert found["sharp"].error.value == pytest.approx((1.1 / 1.3 + 1.07 / 1.26) / 2)
    assert found["sharp"].reached.value == 100
    assert {rule for rule, point in found.items() if point.best} == {"sharp", "mild"}
    one = found["mild"].error
    assert one.low == pytest.approx(one.value) == pytest.approx(one.high)  # seeds are alike here
    drawn = ElementTree.fromstring(front({"chosen by": list(found.values()), "fresh": []}))
    told = "".join(drawn.itertext())
    assert "chosen by: sharp, mild" in told and "bad" in told


def test_a_rule_that_is_worse_than_random_in_both_is_on_no_front() -> None:
    runs_of = [fake("random", s, [2, 2, 2], [0.5, 0.4, 0.3]) for s in range(3)]
    runs_of += [fake("worse", s, [2.1, 2, 2], [0.5, 0.5, 0.3]) for s in range(3)]
    (point,) = points_of({"set": runs_of})
    assert not point.best and point.reached.value == 200
    runs_of += [fake("never", s, [2, 2, 2], [0.5, 0.4, 0.31]) for s in range(2)]  # fewer seeds
    assert points_of({"set": runs_of})[1].reached.value == np.inf


# --- files -------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_groups_and_unlabelled_rows(tmp_path: Path) -> None:
    data = labelled_set(unlabelled=20, group_size=2)
    path = written(
        tmp_path / "a.npz", embeddings=data.x.astype(np.float16), scores=points(data),
        groups=np.array([f"source {g}" for g in data.groups]), unrelated=np.ones(3),
    )  # fmt: skip
    back = read_file(path)
    assert np.array_equal(np.isnan(back.scores), np.isnan(data.scores))
    assert np.allclose(back.scores, data.scores, equal_nan=True)
    assert len(np.unique(back.groups)) == 130 and back.x.dtype == np.float32


def _with(**changed: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"embeddings": np.eye(100, 8), "scores": np.arange(100) % 11}
    return {name: value for name, value in (whole | changed).items() if value is not None}


BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no scores": (_with(scores=None), "no array “scores”"),
    "no embeddings": (_with(embeddings=None), "no array “embeddings”"),
    "one number each": (_with(embeddings=np.ones(100)), r"shape \(100,\)"),
    "no rows": (_with(embeddings=np.ones((0, 8)), scores=np.ones(0)), "shape"),
    "too few scores": (_with(scores=np.ones(99)), r"shape \(99,\)"),
    "a column of scores": (_with(scores=np.ones((100, 1))), r"\(100,\) is needed"),
    "words for scores": (_with(scores=np.full(100, "good")), "type <U4"),
    "complex numbers": (_with(embeddings=np.eye(100, 8) * 1j), "complex"),
    "NaN score": (_with(scores=np.full(100, np.nan)), "score nan in row 0"),
    "score 11": (_with(scores=np.full(100, 11)), "score 11 in row 0"),
    "score -2": (_with(scores=np.full(100, -2)), "score -2 in row 0"),
    "a NaN row": (_with(embeddings=np.full((100, 8), np.nan)), "not numbers"),
    "infinite": (_with(embeddings=np.full((100, 8), np.inf)), "first is row 0"),
    "too large for float32": (_with(embeddings=np.full((100, 8), 1e300)), "not numbers"),
    "groups of pictures": (_with(groups=np.ones((100, 2), int)), "groups"),
    "fractional groups": (_with(groups=np.ones(100)), "groups"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_replayed_is_one_sentence(name: str, tmp_path: Path) -> None:
    arrays, sentence = BAD_FILES[name]
    with pytest.raises(Invalid, match=sentence):
        read_file(written(tmp_path / "a.npz", **arrays))


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_a_pickle_in_a_file_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = np.array([Bomb()] * 100, object)
    with pytest.raises(Invalid, match="pickled"):
        read_file(written(tmp_path / "a.npz", embeddings=np.eye(100, 8), scores=scores))
    Path("b.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Invalid, match=r"b\.npz is not an \.npz"):
        read_file(tmp_path / "b.npz")
    assert not Path("exploded").exists()


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 1280)}
    )
    scores = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        scores, {"descr": "<f4", "fortran_order": False, "shape": (10**7,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("embeddings.npy", header.getvalue())
        archive.writestr("scores.npy", scores.getvalue())
    with pytest.raises(Invalid, match="48 GB"):
        read_file(tmp_path / "a.npz")


@pytest.mark.parametrize("cut", [0, 10, 300, 2000])
def test_a_truncated_file_is_one_sentence(cut: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", **_with())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Invalid, match="is empty" if not cut else "is cut short or damaged"):
        read_file(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strategies": ()}, "No strategy"),
        ({"strategies": ("mixed", "best")}, "no strategy “best”"),
        ({"threshold": 1.0}, "between 0 and 100"),
        ({"threshold": float("nan")}, "between 0 and 100"),
        ({"start": 60}, "The budget is 60"),
        ({"start": 230, "budget": 600}, "Besides those that test there are 195"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused(change: Any, sentence: str) -> None:
    whole: dict[str, Any] = {"seeds": 2, "budget": 60, "start": 20}
    with pytest.raises(Invalid, match=sentence):
        planned(labelled_set(), Plan(**whole | change))


def test_labels_that_teach_nothing_are_refused() -> None:
    data = labelled_set()
    none, same, few = data.scores * np.nan, data.scores * 0 + 0.4, data.scores.copy()
    few[79:] = np.nan
    for values, sentence in ((none, "None of"), (same, "the same"), (few, "Only 79")):
        with pytest.raises(Invalid, match=sentence):
            planned(LabelledSet(data.x, values, data.groups), SMALL)
    two_sources = (np.arange(len(data.x)) % 2).astype(np.intp)
    one_source = np.zeros(len(data.x), np.intp)
    with pytest.raises(Invalid, match="of one source"):
        planned(LabelledSet(data.x, data.scores, one_source), SMALL)
    assert planned(LabelledSet(data.x, data.scores, two_sources), SMALL).budget == 60


# --- the command -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_table_writes_json_and_draws(tmp_path: Path, run: Any) -> None:
    data = labelled_set()
    path = written(tmp_path / "a.npz", embeddings=data.x, scores=points(data))
    words = ("replay", path, "--strategies", "mixed,random", "--seeds", 1, "--budget", 60)
    said = run(*words, "--start", 20, "--batch", 20, "--out", "o.json", "--svg", "c.svg")
    assert said.code == 0 and "mixed" in said.out and "random" in said.out
    written_down = json.loads(Path("o.json").read_text())
    assert written_down["strategies"]["mixed"]["labels"] == [20, 40, 60]
    assert written_down["strategies"]["mixed"]["runs"][0].keys() == {"seed", "test", "picks"}
    ElementTree.parse("c.svg")
    again = run(*words, "--start", 20, "--batch", 20, "--json")
    assert again.json == written_down


def test_a_budget_beyond_the_labels_is_told_and_kept_to(tmp_path: Path, run: Any) -> None:
    data = labelled_set(120)
    path = written(tmp_path / "a.npz", embeddings=data.x, scores=points(data))
    said = run("replay", path, "--strategies", "random", "--seeds", 1, "--json")
    assert said.json["budget"] == said.json["strategies"]["random"]["labels"][-1] == 90
    assert "for 90 only" in said.sentence
    assert said.json["notes"] and "every pool is spent" in said.json["notes"][0]
    table = run("replay", path, "--strategies", "random", "--seeds", 1).out
    assert "1 seed, " in table and "tells them apart" in table


def test_scores_on_one_side_of_the_threshold_are_told(tmp_path: Path, run: Any) -> None:
    data = labelled_set()
    path = written(tmp_path / "a.npz", embeddings=data.x, scores=points(data) / 10)
    words = ("--strategies", "random", "--seeds", 1, "--budget", 60)
    said = run("replay", path, *words, "--json").json
    assert "on one side of the threshold of 50 %" in said["notes"][0]
    half = written(tmp_path / "b.npz", embeddings=data.x, scores=points(data))
    assert run("replay", half, *words, "--json").json["notes"] == []


def _watch(screen: int, shown: list[bytes]) -> None:
    """Read all that a program writes to a terminal, until nobody has it open any more."""
    with contextlib.suppress(OSError):  # how Linux tells the end of a terminal
        while content := os.read(screen, 10_000):
            shown.append(content)


@pytest.mark.slow
def test_a_replay_broken_off_by_ctrl_c_tells_of_the_seeds_that_were_finished(
    tmp_path: Path,
) -> None:
    data = labelled_set()
    path = written(tmp_path / "a.npz", embeddings=data.x, scores=points(data))
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "replay", path, "--strategies", "mixed,random",
         "--json", "--seeds", "1000", "--budget", "60", "--start", "20", "--out",
         tmp_path / "o.json"],
        env=environment(tmp_path / "home", TERM="xterm", COLUMNS="200"), stderr=terminal,
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown: list[bytes] = []
        watching = threading.Thread(target=_watch, args=(screen, shown))  # a terminal always reads
        watching.start()
        try:
            begun = re.compile(rb" ([5-9]|\d\d+)/2000")
            until(lambda: begun.search(b"".join(shown)), 120, "for five runs")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children too
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    watching.join()
    os.close(screen)
    seen = b"".join(shown)
    said = json.loads(out)
    assert (
        process.returncode == 130 and f"Stopped. This is of the {said['seeds']} of".encode() in seen
    )
    assert b"Traceback" not in seen, seen.decode()
    assert 2 <= said["seeds"] < 1000
    assert all(len(own["runs"]) == said["seeds"] for own in said["strategies"].values())
    assert json.loads((tmp_path / "o.json").read_text()) == said


@pytest.mark.slow
def test_a_replay_broken_off_while_its_processes_start_leaves_none(tmp_path: Path) -> None:
    data = labelled_set()
    path = written(tmp_path / "a.npz", embeddings=data.x, scores=points(data))
    with subprocess.Popen(
        [sys.executable, "-m", "tastemaker.cli", "replay", path, "--strategies", "mixed,random",
         "--seeds", "1000", "--budget", "60", "--start", "20"],
        env=environment(tmp_path / "home"), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=Path(__file__).parent.parent, start_new_session=True,
    ) as process:  # fmt: skip
        here = psutil.Process(process.pid)
        below = until(
            lambda: [c for c in here.children() if "spawn_main" in " ".join(c.cmdline())],
            60, "for a process of the pool",
        )  # fmt: skip
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)  # what they leave open would keep it waiting
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert "Stopped before the first seed was finished" in err and "Traceback" not in err
    psutil.wait_procs(below, timeout=10)
    assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in below)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nowhere.npz",), 1),
        (("Nothing",), 1),
        (("a.npz", "--strategies", "mixed,best"), 1),
        (("a.npz", "--threshold", "100"), 1),
        (("a.npz", "--out", "a.npz/curves.json"), 1),
        (("a.npz", "--out", "."), 1),
        (("a.npz", "--out", "a.npz"), 1),
        (("a.npz", "--learn", "--out", "./a.npz"), 1),
        (("a.npz", "--out", "o", "--svg", "o"), 1),
        (("a.npz", "--svg", "/proc/curves.svg"), 1),
        (("a.npz", "--project", "P"), 2),
        (("a.npz", "--seeds", "0"), 2),
        (("a.npz", "--budget", "many"), 2),
    ],
)
def test_what_cannot_be_done_ends_with_a_sentence_and_its_exit_code(
    words: tuple[str, ...], code: int, tmp_path: Path, run: Any
) -> None:
    data = labelled_set(100)
    written(tmp_path / "a.npz", embeddings=data.x, scores=points(data))
    said = run("replay", *words)
    assert said.code == code and said.sentence and "Traceback" not in said.err
    assert np.load(tmp_path / "a.npz")["embeddings"].shape == data.x.shape, "as it was"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == ["a.npz"]


# --- a collection ------------------------------------------------------------------------------


def test_a_collection_is_replayed_with_the_projects_labels(
    settings: Settings, tmp_path: Path, run: Any
) -> None:
    data = labelled_set(120, unlabelled=20)
    engine = migrate(settings)
    with sessions.writing(engine) as session:
        project = projects.create(
            session, "Mine", threshold=0.6, encoder="ViT-B-32/of_unknown_width"
        )
        pictures = add_images(session, 120, "Pool")
        add_images(session, 5, "Pool", project)  # not embedded: left out
        encoder = embeddings.declare_encoder(session, project, data.x[0])
        embeddings.store_vectors(
            session, encoder.id, [(p.id, v) for p, v in zip(pictures, data.x, strict=True)]
        )
        me = projects.annotator(session, "me")
        for picture, value in zip(pictures, data.scores, strict=True):
            if np.isfinite(value):
                scores.record(session, project, picture.id, me, "set", round(10 * value))
    with sessions.reading(engine) as session:
        found, ids, whose = read_collection(session, "Pool")
    assert whose.name == "Mine" and ids == [p.id for p in pictures]
    assert np.allclose(found.scores, data.scores, equal_nan=True)
    said = run("replay", "Pool", "--strategies", "mixed", "--seeds", 1, "--start", 20, "--json")
    assert said.json["threshold"] == 60 and said.json["image_ids"] == ids
    assert said.json["labelled"] == 100
    with sessions.writing(engine) as session:
        projects.add_collection(
            session, projects.create(session, "Other"), images.find_collection(session, "Pool")
        )
    said = run("replay", "Pool")
    assert said.code == 1 and "Several projects" in said.sentence
    said = run("replay", "Pool", "--project", "Other")
    assert said.code == 1 and "embedded" in said.sentence
    engine.dispose()


def test_nothing_to_do_starts_no_process() -> None:
    assert list(shared_out(divmod, (), [])) == []
