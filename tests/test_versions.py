"""A version is old or new, never in between, and its numbers are those of its file."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sqlalchemy import Engine
from sqlmodel import Session, col, select
from trained_world import open_trained, trained_home

from tastemaker import __version__, embeddings, jobs, projects, scores, versions
from tastemaker.cli import doctor
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import PlainTransactions
from tastemaker.database.tables import (
    EncoderRow,
    Image,
    Label,
    Prediction,
    Project,
    Tag,
    Version,
    VersionLabel,
)
from tastemaker.errors import Conflict, NotFound, NotTrainable
from tastemaker.evaluation import expectations, slices
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.learning.city96 import layout
from tastemaker.training import retrain
from tastemaker.versions import file_checks, training_set
from tests.conftest import add_images, environment, forward, free_port, until

POINTS = ["begun", "predicted", "written", "hashed", "linked", "ready"]

# Runs train jobs named on its input, each in a fork of its own that a fault may kill. The fork is
# made after the imports and before any arithmetic, so it starts at once and shares nothing.
FORGE = """
import os, sys
from pathlib import Path
import tastemaker.learning.heads, tastemaker.learning.metrics, tastemaker.learning.training
from tastemaker import processes
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.training import retrain
from tests.conftest import work_on
print("ready", flush=True)
for line in sys.stdin:
    home, job_id, fault = line.split()
    child = os.fork()
    if child == 0:
        processes._failpoint = "" if fault == "-" else fault
        settings = Settings(home=Path(home), min_free_gb=0, _env_file=None)
        engine = sessions.make_engine(settings)
        result = retrain.run(work_on(settings, engine, int(job_id)))
        print(result["version"], flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        print("killed" if os.WIFSIGNALED(status) else "crashed", flush=True)
"""


class Home:
    """One home folder with the sample project, and its open database."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(home=root, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
        self.engine: Engine = migrate(self.settings)

    def project(self, session: Session) -> Project:
        return projects.by_name(session, "Sample")

    def request(self) -> int:
        with sessions.writing(self.engine) as session:
            return retrain.request_training(
                session, self.settings, self.project(session), recipe="ridge"
            ).id

    def hand_back(self) -> None:
        """What a worker does when it starts."""
        with sessions.writing(self.engine) as session:
            jobs.requeue_orphans(session, counts=False)

    def listed(self) -> list[str]:
        with sessions.reading(self.engine) as session:
            return [v.number for v in versions.list_ready(session, self.project(session))]

    def get(self, number: str) -> Version:
        with sessions.reading(self.engine) as session:
            return versions.by_number(session, self.project(session), number)

    def damage(self) -> list[str]:
        return [f.what for f in doctor.examine(self.settings) if f.level == "damage"]

    def predictions(self, number: str) -> dict[int, Prediction]:
        version = self.get(number)
        with sessions.reading(self.engine) as session:
            rows = session.exec(select(Prediction).where(Prediction.version_id == version.id))
            return {row.image_id: row for row in rows}

    def saw(self, number: str) -> dict[int, tuple[float, str, int | None]]:
        """The labels a version saw: image id -> value, side, fold."""
        version = self.get(number)
        with sessions.reading(self.engine) as session:
            rows = session.exec(select(VersionLabel).where(VersionLabel.version_id == version.id))
            return {row.image_id: (row.value, row.side, row.fold) for row in rows}

    def matrix(self) -> tuple[list[int], np.ndarray]:
        with sessions.reading(self.engine) as session:
            ids, x = embeddings.project_matrix(session, self.project(session))
        return ids.tolist(), x.astype(np.float32)

    def tensors(self, number: str) -> dict[str, np.ndarray]:
        return load_file(versions.verify(self.settings, self.get(number)))


class Forge:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=Path(__file__).parent.parent, env=environment(Path("unused")),
        )  # fmt: skip
        assert self._answer() == "ready"

    def run(self, home: Home, job_id: int, fault: str = "-") -> str:
        assert self.process.stdin is not None
        print(home.settings.root, job_id, fault, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def train(self, home: Home) -> str:
        return self.run(home, home.request())


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    forge = Forge()
    yield forge
    forge.process.stdin.close()  # type: ignore[union-attr]
    forge.process.wait(30)


@pytest.fixture(scope="module")
def undisturbed(
    forge: Forge, sample_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """The sample project after one more training that nothing disturbed. Read only."""
    root = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(sample_home, root)
    home = Home(root)
    assert forge.train(home) == "v1.2"
    yield home
    home.engine.dispose()


@pytest.fixture
def home(sample: Path) -> Iterator[Home]:
    home = Home(sample)
    yield home
    home.engine.dispose()


# --- killed while publishing -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "points",
    [
        pytest.param(["written", "ready"], id="twice"),
        pytest.param(POINTS, id="at every step", marks=pytest.mark.soak),
    ],
)
def test_killed_while_publishing_it_ends_as_if_nothing_had_happened(
    home: Home, forge: Forge, undisturbed: Home, points: list[str]
) -> None:
    job_id = home.request()
    with sessions.writing(home.engine) as session:  # said while it trains: not of this version
        person = projects.annotator(session, "me")
        image = session.exec(select(Image.id)).first()
        assert image is not None
        scores.record(session, home.project(session), image, person, "set", 0)
    for point in points:
        assert forge.run(home, job_id, f"publish.{point}") == "killed", point
        there = home.listed()
        if point == "ready":
            assert there == ["v1.2", "v1.1", "v1.0"]
        else:
            assert there == ["v1.1", "v1.0"], f"half a version is shown after {point}"
            assert home.get("active").number == "v1.1"
            with pytest.raises(NotFound):
                home.get("v1.2")
        versions.verify(home.settings, home.get("active"))
        assert home.damage() == []
        home.hand_back()
    assert forge.run(home, job_id) == "v1.2"
    assert home.listed() == ["v1.2", "v1.1", "v1.0"]

    ours, theirs = home.get("v1.2"), undisturbed.get("v1.2")
    assert home.saw("v1.2") == undisturbed.saw("v1.2")
    assert ours.metrics == theirs.metrics
    assert ours.sha256 == theirs.sha256
    assert (ours.active, ours.activation, ours.event_high) == (
        theirs.active, theirs.activation, theirs.event_high,
    )  # fmt: skip
    mine, others = home.predictions("v1.2"), undisturbed.predictions("v1.2")
    assert {i: (p.score, p.out_of_fold, p.uncertainty) for i, p in mine.items()} == {
        i: (p.score, p.out_of_fold, p.uncertainty) for i, p in others.items()
    }
    folder = versions.checkpoint_path(home.settings, ours).parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"Sample-v1.{minor}.{end}" for minor in range(3) for end in ("config.json", "safetensors")
    ), "something was left behind"


@pytest.mark.slow
def test_a_file_that_a_killed_attempt_left_behind_is_not_taken_for_the_version(
    home: Home, forge: Forge, undisturbed: Home
) -> None:
    left = home.settings.checkpoints / home.get("v1.1").file.replace("v1.1", "v1.2")
    left.write_bytes(b"half of something")
    part = left.with_name(f".{left.name}.1.part")
    part.write_bytes(b"half of something else")
    assert forge.train(home) == "v1.2"
    assert home.get("v1.2").sha256 == undisturbed.get("v1.2").sha256
    assert not part.exists()
    assert home.damage() == []


# --- what a version says of itself -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", ["v1.0", "v1.1", "v1.2"])
def test_predictions_and_metrics_are_those_of_the_exported_file(
    undisturbed: Home, number: str
) -> None:
    tensors = undisturbed.tensors(number)
    assert len(tensors) == 16
    ids, x = undisturbed.matrix()
    said = dict(zip(ids, forward(tensors, x).tolist(), strict=True))
    stored = undisturbed.predictions(number)
    assert stored.keys() == said.keys(), "every image of the project is predicted"
    assert max(abs(stored[i].score - said[i]) for i in ids) < 1e-5

    labels = undisturbed.saw(number)
    holdout = {i: value / 10 for i, (value, side, _) in labels.items() if side == "holdout"}
    version = undisturbed.get(number)
    measured = version.metrics.holdout
    assert measured.n == len(holdout) > 20
    errors = [abs(said[i] - y) for i, y in holdout.items()]
    assert measured.mae.value == pytest.approx(10 * np.mean(errors), abs=1e-4)
    passed = {i for i in holdout if said[i] >= 0.5}
    liked = {i for i in holdout if holdout[i] >= 0.5}
    # A rate over no images is no rate.
    wrong = pytest.approx(len(passed - liked) / len(passed)) if passed else None
    assert measured.fp_rate.value == wrong
    assert measured.fn_rate.value == pytest.approx(len(liked - passed) / len(liked))
    assert measured.mae.low < measured.mae.value < measured.mae.high
    assert version.metrics.images == sum(side == "train" for _, side, _ in labels.values())


@pytest.mark.slow
def test_the_sidecar_and_the_metadata_name_the_encoder_and_the_version(undisturbed: Home) -> None:
    version = undisturbed.get("v1.2")
    config = json.loads(versions.config_path(undisturbed.settings, version).read_text())
    assert (config["name"], config["rev"], config["labels"]) == ("Sample", "v1.2", None)
    assert config["model_params"] == {"features": 1280, "hidden": 1024, "outputs": 1}
    assert config["sha256"] == version.sha256
    with sessions.reading(undisturbed.engine) as session:
        shown = versions.as_json(session, undisturbed.settings, version)
        assert versions.list_as_json(session, undisturbed.settings, [version]) == [shown]
    assert config["encoder"]["fingerprint"] == shown["encoder_fingerprint"]
    assert (shown["version"], shown["parent"], shown["active"]) == ("v1.2", "v1.1", True)


@pytest.mark.slow
def test_the_file_names_its_training_set_so_that_anyone_can_check_it(undisturbed: Home) -> None:
    version = undisturbed.get("v1.2")
    said = load_checkpoint(versions.verify(undisturbed.settings, version)).metadata
    assert said["embedding"] == "not L2-normalised"
    assert said["program"] == f"tastemaker {__version__}"
    with sessions.reading(undisturbed.engine) as session:
        rows = csv.DictReader(io.StringIO(training_set.as_csv(session, version)))
        lines = sorted(f"{row['sha256']},{row['score']}\n" for row in rows)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert said["training_set_sha256"] == digest and len(lines) > 200


@pytest.mark.slow
def test_labels_are_the_ones_of_the_moment_and_a_photograph_is_on_one_side_and_in_one_fold(
    undisturbed: Home,
) -> None:
    saw = undisturbed.saw("v1.2")
    with sessions.reading(undisturbed.engine) as session:
        project = undisturbed.project(session)
        event_high = undisturbed.get("v1.2").event_high
        labels = scores.labels_at(session, project, event_high)
        group_of = dict(session.execute(select(Image.id, Image.source_group)).all())
    assert {i: value for i, (value, _, _) in saw.items()} == {
        i: label.value for i, label in labels.items()
    }, "to the last bit"
    sides, folds = defaultdict(set), defaultdict(set)
    for image_id, (_, side, fold) in saw.items():
        sides[group_of[image_id]].add(side == "train")
        assert (fold is None) == (side != "train")
        assert (side == "train") <= (not labels[image_id].holdout)
        assert (side == "holdout") == labels[image_id].measures
        if fold is not None:
            folds[group_of[image_id]].add(fold)
    assert all(len(s) == 1 for s in sides.values())
    assert all(len(f) == 1 for f in folds.values()) and len(set.union(*folds.values())) == 10

    trained = set(folds)
    for image_id, row in undisturbed.predictions("v1.2").items():
        assert (row.out_of_fold is not None) == (group_of[image_id] in trained), (
            "relatives of a trained image, scored or not, are judged out-of-fold; others need not"
        )


@pytest.mark.slow
def test_out_of_fold_predictions_come_from_a_head_that_never_saw_the_fold(
    home: Home, forge: Forge, undisturbed: Home
) -> None:
    before = undisturbed.saw("v1.2")
    scrambled = [i for i, (_, _, fold) in before.items() if fold == 0]
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, "liar")
        lies = [scores.Given(i, person.id, round(10 - before[i][0])) for i in scrambled]
        scores.record_many(session, project, lies, origin=scores.Origin.QUEUE)
    assert forge.train(home) == "v1.2"
    after = home.saw("v1.2")
    assert {i for i, (_, _, fold) in after.items() if fold == 0} == set(scrambled)
    old, new = undisturbed.predictions("v1.2"), home.predictions("v1.2")
    for image_id in scrambled:
        assert new[image_id].out_of_fold == pytest.approx(old[image_id].out_of_fold, abs=1e-6)
    assert np.mean([abs(new[i].score - old[i].score) for i in scrambled]) > 0.02
    others = [i for i, (_, _, fold) in before.items() if fold == 1]
    moved = [abs(new[i].out_of_fold - old[i].out_of_fold) for i in others]  # type: ignore[operator]
    assert np.mean(moved) > 0.01, "the heads of the other folds did see the lies"


# --- activation and numbers --------------------------------------------------------------------


@pytest.mark.slow
def test_a_version_that_is_worse_beyond_doubt_is_published_but_not_activated(
    home: Home, forge: Forge
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, "somebody of the opposite taste")
        labels = session.exec(
            select(Label).where(Label.project_id == project.id, ~col(Label.holdout))
        ).all()
        # What was drawn at random keeps its scores: it is what both versions are judged by.
        drawn = scores.drawn_at_random(session, project.id, scores.highest_event(session, project))
        told = [
            scores.Given(label.image_id, person.id, round(10 - label.value))
            for label in labels
            if label.image_id not in drawn
        ]
        scores.record_many(session, project, told, origin=scores.Origin.QUEUE)
    assert forge.train(home) == "v1.2"
    new, active = home.get("v1.2"), home.get("active")
    assert active.number == "v1.1" and not new.active
    versus = new.metrics.versus_parent
    assert versus is not None and versus.verdict == "worse"
    assert versus.difference.low is not None and versus.difference.low > 0
    assert new.activation == (
        f"not activated: worse than v1.1 on {versus.difference.n} "
        "images drawn at random or from files"
    )
    with sessions.writing(home.engine) as session:
        versions.activate(session, versions.get(session, new.id))
    assert home.get("active").number == "v1.2", "a person may think otherwise"
    with sessions.reading(home.engine) as session:
        assert len(session.exec(select(Version).where(Version.active)).all()) == 1


def test_the_first_version_is_active_whatever_it_is_and_better_is_said_with_its_numbers(
    sample_home: Path, tmp_path: Path
) -> None:
    shutil.copytree(sample_home, tmp_path / "home")
    home = Home(tmp_path / "home")
    first, second = home.get("v1.0"), home.get("v1.1")
    assert first.activation == "first version" and first.metrics.versus_parent is None
    assert second.parent_id == first.id
    versus = second.metrics.versus_parent
    assert versus is not None
    low, high = versus.difference.low, versus.difference.high
    assert low is not None and high is not None
    verdict = "better" if high < 0 else "worse" if low > 0 else None
    assert versus.verdict == (verdict or versus.verdict)
    assert (versus.verdict in ("better", "worse")) == (verdict is not None)
    assert second.active == (verdict != "worse")
    assert first.active == (not second.active)


@pytest.mark.slow
def test_a_cancelled_training_leaves_no_gap_in_the_numbers(
    home: Home, forge: Forge, undisturbed: Home
) -> None:
    job_id = home.request()
    assert forge.run(home, job_id, "publish.linked") == "killed"
    with sessions.writing(home.engine) as session:
        jobs.cancel(session, job_id)
        jobs.requeue_orphans(session)
        assert jobs.get(session, job_id).state == "cancelled"
    assert forge.train(home) == "v1.2"
    assert home.get("v1.2").sha256 == undisturbed.get("v1.2").sha256
    assert home.damage() == []


@pytest.mark.slow
def test_a_missed_expectation_that_blocks_publishes_without_activating_and_says_why(
    home: Home, forge: Forge, undisturbed: Home
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        for defined in slices.listing(session, project):
            slices.remove(session, defined)
        row = slices.add(session, project, "tag", {"tag": "night"})
        expectations.expect(session, project, row.id, "mean", "at most", 0.01, blocks=True)
        expectations.expect(session, project, row.id, "pass_rate", "at most", 1.0)
    assert forge.train(home) == "v1.2"
    new, active = home.get("v1.2"), home.get("active")
    assert active.number == "v1.1" and not new.active
    assert new.activation.startswith("not activated: “night”: mean prediction ")
    assert new.activation.endswith("expected at most 0.1 points")
    missed, met = new.metrics.expectations
    assert (missed.met, missed.blocks, met.met, met.blocks) == (False, True, True, False)
    (measured,) = new.metrics.slices
    dark = {
        i: p.score if p.out_of_fold is None else p.out_of_fold
        for i, p in home.predictions("v1.2").items()
        if i in set(tagged(home, "night"))
    }
    assert measured.images == len(dark) > 40
    assert missed.value == pytest.approx(np.mean(list(dark.values())))
    assert new.sha256 == undisturbed.get("v1.2").sha256, "only its activation is another"


def tagged(home: Home, tag: str) -> list[int]:
    with sessions.reading(home.engine) as session:
        return list(session.exec(select(Tag.image_id).where(Tag.tag == tag)))


@pytest.mark.slow
def test_a_new_series_begins_at_a_whole_number_and_goes_on_by_itself(
    home: Home, forge: Forge
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        job_id = retrain.request_training(
            session, home.settings, project, major=True, recipe="ridge"
        ).id
    assert forge.run(home, job_id) == "v2.0"
    assert forge.train(home) == "v2.1"
    assert home.listed() == ["v2.1", "v2.0", "v1.1", "v1.0"]


def test_the_training_set_is_frozen_to_the_last_bit(tmp_path: Path) -> None:
    trained_home(tmp_path / "home")
    home = open_trained(tmp_path / "home")
    with sessions.reading(home.engine) as session:
        kept = dict(session.execute(select(Label.image_id, Label.value)).all())
        rows = list(training_set.rows(session, home.version()))
        saw = dict(session.execute(select(VersionLabel.image_id, VersionLabel.value)).all())
    assert saw == kept and {row["score"] for row in rows} <= set(range(11))
    sides = [row["side"] for row in rows]
    assert {"train", "holdout"} <= set(sides) and len(sides) == 80


def test_the_same_head_with_the_same_facts_is_the_same_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    head = {name: random.normal(size=shape) for name, shape in layout(24, 1).items()}
    facts = {f"fact {n}": f"“{n}” <\\" for n in range(12)}
    path = tmp_path / "head.safetensors"
    hashes = {save_checkpoint(path, head, facts) for _ in range(8)}
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest()}
    read = load_checkpoint(path)
    assert read.metadata == facts and list(read.metadata) == sorted(facts)
    assert all(np.array_equal(read.tensors[name], np.float32(head[name])) for name in head)


def test_two_who_activate_at_once_leave_one_active_version(home: Home) -> None:
    chosen = [home.get("v1.0").id, home.get("v1.1").id] * 8

    def choose(version_id: int) -> None:
        with sessions.writing(home.engine) as session:
            versions.activate(session, versions.get(session, version_id))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(choose, chosen))
    with sessions.reading(home.engine) as session:
        assert len(session.exec(select(Version).where(Version.active)).all()) == 1


# --- files that are not what was published -----------------------------------------------------


def test_what_happened_to_a_file_is_told_at_the_start_and_by_doctor(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    assert file_checks.damaged(home.engine, home.settings) == []
    one, other = (versions.verify(home.settings, home.get(n)) for n in ("v1.0", "v1.1"))
    kept = one.read_bytes(), other.read_bytes()

    def told() -> str:
        caplog.clear()
        file_checks.check_all_files(home.engine, home.settings).join()
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == len(home.damage()) == 1
        with pytest.raises((Conflict, NotFound)):
            versions.verify(home.settings, home.get("v1.1"))
        return found[0]

    other.write_bytes(kept[0])
    assert "v1.1 now holds the file of v1.0" in told()
    other.write_bytes(kept[1][:-4096])
    assert "v1.1 was cut short: " in told()
    flipped = bytearray(kept[1])
    flipped[-1] ^= 1
    other.write_bytes(flipped)
    assert "v1.1 was altered after publishing" in told()
    status = other.stat()
    flipped[-1] ^= 3
    other.write_bytes(flipped)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "altered" in told(), "an old time does not hide a new content"
    other.unlink()
    assert "v1.1 is missing" in told() and "active version" in told()
    other.write_bytes(kept[1])
    assert file_checks.damaged(home.engine, home.settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", [("serve", "--port"), ("worker",)], ids=["serve", "worker"])
def test_an_altered_truncated_or_swapped_file_is_told_when_the_program_starts(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """By the process as people start it, on what it prints; the web process gives none of them out,
    nor anything that has one of them inside."""
    trained_home(tmp_path / "home")
    home = open_trained(tmp_path / "home")
    for _ in range(3):
        home.train()
    numbers = ("v1.0", "v1.1", "v1.2", "v1.3")
    sound, *files = (versions.verify(home.settings, home.version(n)) for n in numbers)
    altered, truncated, swapped = files
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    truncated.write_bytes(truncated.read_bytes()[:-4096])
    swapped.write_bytes(sound.read_bytes())
    port = str(free_port())
    command = [*words, port] if words[0] == "serve" else list(words)
    said = tmp_path / "said"
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tastemaker.cli", *command], stdout=log, stderr=log,
            env=environment(home.settings.root), cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        try:
            for sentence in (
                "v1.1 was altered after publishing", "v1.2 was cut short: ",
                "v1.3 now holds the file of v1.0. It is the active version.",
            ):  # fmt: skip
                until(lambda s=sentence: s in said.read_text(), 60, f"for “{sentence}”")
            assert "v1.0 " not in said.read_text().replace("the file of v1.0. ", "")
            if words[0] == "serve":
                _gives_out_the_sound_one_alone(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)


def _gives_out_the_sound_one_alone(url: str) -> None:
    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(url + path) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    until(lambda: status("/healthz") == 200, 30, "for the server")
    for version_id in (1, 2, 3, 4):
        wanted = 200 if version_id == 1 else 409
        for path in ("checkpoint", "download"):
            assert status(f"/versions/{version_id}/{path}") == wanted
        assert status(f"/api/v1/versions/{version_id}/export?format=city96") == wanted


def test_the_file_is_proved_by_a_forward_pass_of_its_own(home: Home) -> None:
    with sessions.reading(home.engine) as session:
        proof = file_checks.verify_scores(session, home.settings, home.get("v1.1"))
    assert proof.holds and proof.sidecar and proof.tensors == 16 and proof.images == 32
    assert proof.largest is not None and proof.largest < 1e-5
    tensors = home.tensors("v1.1")
    x = home.matrix()[1][:50].astype(np.float64)
    assert np.abs(file_checks.forward(tensors, x) - forward(tensors, x)).max() < 1e-12

    path = versions.checkpoint_path(home.settings, home.get("v1.1"))
    save_checkpoint(path, tensors | {"down.5.bias": tensors["down.5.bias"] + 1}, {})
    with sessions.reading(home.engine) as session:
        proof = file_checks.verify_scores(session, home.settings, home.get("v1.1"))
    assert not proof.holds and "differ" in proof.why and not proof.sidecar
    path.write_bytes(b"not a head at all")
    with sessions.reading(home.engine) as session:
        assert not file_checks.verify_scores(session, home.settings, home.get("v1.1")).holds


def test_an_altered_or_missing_file_is_not_given_out_and_doctor_says_so(home: Home) -> None:
    v0, v1 = home.get("v1.0"), home.get("v1.1")
    path = versions.verify(home.settings, v1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Conflict, match=r"v1\.1 was altered") as altered:
        versions.verify(home.settings, v1)
    assert "restore" in altered.value.hint.lower()
    versions.checkpoint_path(home.settings, v0).unlink()
    with pytest.raises(NotFound, match=r"v1\.0 is missing"):
        versions.verify(home.settings, v0)
    assert len(home.damage()) == 2


def test_versions_are_found_by_number_with_or_without_v_and_by_being_active(home: Home) -> None:
    active = home.get("active").number
    assert home.get("v1.0").id == home.get("1.0").id
    assert home.get(active).active
    with pytest.raises(NotFound, match=r"no version v9.9.*v1.1, v1.0"):
        home.get("v9.9")


# --- what cannot train -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], "No image is scored yet"),
        ([5], "Only one image is scored"),
        ([5, 5, 5, 5], "All 4 scored images have the same score"),
    ],
)
def test_labels_that_teach_nothing_are_refused_at_once(
    settings: Settings, engine: Engine, values: list[int], sentence: str
) -> None:
    with pytest.raises(NotTrainable, match=sentence), sessions.writing(engine) as session:
        project = projects.create(session, "P", holdout_share=0)
        person = projects.annotator(session, "me")
        for image, value in zip(
            add_images(session, len(values), project=project), values, strict=True
        ):
            scores.record(session, project, image.id, person, "set", value)
        retrain.request_training(session, settings, project)
    with sessions.reading(engine) as session:
        assert jobs.recent(session) == []


def test_scores_on_the_holdout_side_alone_cannot_train(settings: Settings, engine: Engine) -> None:
    with (
        pytest.raises(NotTrainable, match="Outside the hold-out"),
        sessions.writing(engine) as session,
    ):
        project = projects.create(session, "P", holdout_share=0.5)
        person = projects.annotator(session, "me")
        for n, image in enumerate(add_images(session, 30, project=project)):
            if projects.on_holdout_side(project, image.source_group):
                scores.record(session, project, image.id, person, "set", n % 11)
        retrain.request_training(session, settings, project)


def test_scores_of_images_without_a_vector_wait_for_the_embedding(
    settings: Settings, engine: Engine
) -> None:
    with sessions.writing(engine) as session:
        project = projects.create(session, "P", holdout_share=0)
        person = projects.annotator(session, "me")
        for value, image in enumerate(add_images(session, 4, project=project)):
            scores.record(session, project, image.id, person, "set", value)
    late = retrain.Request(project.id, "by hand", event_high=10**6, seed=0)
    with (
        pytest.raises(NotTrainable, match=r"No image is embedded yet\."),
        sessions.writing(engine) as session,
    ):
        retrain.request_training(session, settings, project)
    with pytest.raises(NotTrainable, match=r"No image is embedded yet\."):
        retrain.train_and_publish(PlainTransactions(engine), settings, late)
    with sessions.writing(engine) as session:
        encoder = EncoderRow(fingerprint="f", name="e", dim=4)
        session.add(encoder)
        session.flush()
        projects.pin_encoder(session, projects.get(session, project.id), encoder)
    with pytest.raises(NotTrainable, match=r"None of the scored images is embedded yet\."):
        retrain.train_and_publish(PlainTransactions(engine), settings, late)


def test_file_names_made_of_project_names_stay_plain() -> None:
    def named(name: str) -> Any:
        return versions.base_name(Project(name=name))

    assert named("CityAesthetics - Anime") == "CityAesthetics-Anime"
    assert named("../../etc") == "etc"
    assert named("日本") == "Project"
    assert named("a*b?[c]") == "a-b-c"
