"""What leaves comes back as it was: heads, labels with who and when, predictions, folders."""

import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from sqlmodel import select

from tastemaker import embeddings, files, projects, scores, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Image, Label, Prediction, ScoreEvent, Version
from tastemaker.errors import Conflict, Invalid, NotFound, StorageFull
from tastemaker.files import escape_formula, unescape_formula
from tastemaker.importing import imports
from tastemaker.learning import laion
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.learning.heads import Head
from tastemaker.publishing import exports
from tastemaker.scores import row_files, score_files
from tastemaker.training import retrain
from tastemaker.versions import file_checks, prediction_files, predictions
from tests.conftest import made_once, work_on
from tests.desk import request_import
from tests.test_import_head import (
    L14,
    L14_336,
    Home,
    head,
    load_strictly,
    make_home,
    random_laion,
    run_head,
    vectors,
)

__all__ = ["head"]  # a fixture

EVIL = ['=HYPERLINK("http://evil.example")', "@SUM(A1)", "-2+3", "'=quoted already", "plain"]


@pytest.fixture
def home(settings: Settings, engine: Any) -> Home:
    return make_home(settings, engine, L14_336)


@pytest.fixture
def scored(home: Home) -> Home:
    score(home)
    return home


def score(home: Home) -> None:
    """Twelve images scored by two people, one of whom has a name a spreadsheet would run."""
    begun = datetime(2025, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        for person, shift in (("me", 0), (EVIL[0], 3)):
            who = projects.annotator(session, person)
            for i in range(1, 13):
                at = begun + timedelta(hours=i, microseconds=i)
                value = (i + shift) % 11
                scores.record(session, project, i, who, "set", value, origin="control", at=at)


@pytest.fixture
def trained(settings: Settings) -> Iterator[tuple[Home, Version]]:
    """The same with a trained version, v1.0."""
    shutil.copytree(made_once(train_in), settings.root)
    engine = migrate(settings)
    with sessions.reading(engine) as session:
        version = versions.by_number(session, projects.get(session, 1), "v1.0")
    yield Home(settings, engine, vectors()), version
    engine.dispose()


def train_in(folder: Path) -> None:
    settings = Settings(home=folder, min_free_gb=0, _env_file=None)
    engine = migrate(settings)
    home = make_home(settings, engine, L14_336)
    score(home)
    with sessions.writing(engine) as session:
        job = retrain.request_training(session, settings, home.project(session))
    result = retrain.run(work_on(settings, engine, job.id))
    assert result["version"] == "v1.0"
    engine.dispose()


def export_city96(home: Home, version: Version, folder: Path) -> tuple[Path, Path]:
    with sessions.reading(home.engine) as session:
        file, config = exports.write(
            [
                exports.checkpoint(home.settings, version),
                exports.config(session, home.settings, version),
            ],
            folder,
        )
    return file, config


# --- heads ---------------------------------------------------------------------------------------


def test_a_trained_head_leaves_as_a_file_that_an_independent_loader_runs(
    trained: tuple[Home, Version], tmp_path: Path
) -> None:
    home, version = trained
    file, config = export_city96(home, version, tmp_path / "out")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == version.sha256
    told = run_head(load_strictly(file, 1), home.x)
    np.testing.assert_allclose(home.said(version), told, atol=2e-6)
    said = json.loads(config.read_text())
    assert said["model_params"] == {"features": 768, "hidden": 1024, "outputs": 1}
    assert (said["arch"], said["labels"], said["rev"]) == ("score", None, "v1.0")
    assert config.name == file.name.replace(".safetensors", ".config.json")


def test_the_sidecar_tells_what_a_score_means(
    trained: tuple[Home, Version], tmp_path: Path
) -> None:
    home, version = trained
    said = json.loads(export_city96(home, version, tmp_path / "out")[1].read_text())
    assert said["score_range"] == [0, 10] and said["threshold"] == 0.5 and said["brackets"]
    assert said["encoder"]["name"] == L14_336
    assert said["encoder"]["fingerprint"].startswith("declared:")
    assert said["sha256"] == version.sha256 and said["parent"] is None
    assert said["percentiles"]["images"] == 12 and len(said["percentiles"]["scores"]) == 101


def test_a_trained_head_brought_in_again_says_exactly_the_same(
    trained: tuple[Home, Version], tmp_path: Path
) -> None:
    home, version = trained
    file, _ = export_city96(home, version, tmp_path / "out")
    again = home.adopt(file)
    assert (again.number, again.sha256) == ("v0.0", version.sha256)
    assert home.said(again).tolist() == home.said(version).tolist()


def test_a_full_disk_leaves_whole_files_and_a_count_and_what_is_there_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [exports.Part(f"{name}.txt", name.encode() * 9) for name in "abc"]
    calls: list[Path] = []

    def full_at_the_third(path: Path, content: Any) -> None:
        calls.append(path)
        if path.name == "c.txt" and len(calls) == 3:
            raise StorageFull("The disk is full.")
        files.write_atomic(path, content)

    monkeypatch.setattr(exports, "write_atomic", full_at_the_third)
    with pytest.raises(StorageFull, match=r"2 of 3 files are in .*, each whole; c\.txt is not"):
        exports.write(parts, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt"}
    calls.clear()
    exports.write(parts, tmp_path / "out")
    assert [path.name for path in calls] == ["c.txt"], "what is there unchanged is left"


@pytest.mark.parametrize("damage", ["altered", "truncated", "swapped", "gone"])
def test_a_file_that_is_no_longer_the_published_one_is_in_no_export(
    trained: tuple[Home, Version], tmp_path: Path, damage: str
) -> None:
    home, version = trained
    path = versions.checkpoint_path(home.settings, version)
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "altered":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "swapped":
        save_file({"up.0.weight": np.zeros(1, np.float32)}, path)
    with sessions.reading(home.engine) as session, pytest.raises((Conflict, NotFound)):
        exports.export_all(session, home.settings, version)


def test_a_damaged_sidecar_is_told_and_not_made_up(trained: tuple[Home, Version]) -> None:
    home, version = trained
    path = versions.config_path(home.settings, version)
    path.write_text("{")
    with sessions.reading(home.engine) as session:
        with pytest.raises(Conflict, match="damaged"):
            exports.config(session, home.settings, version)
        path.unlink()
        with pytest.raises(NotFound, match="missing"):
            exports.config(session, home.settings, version)


@pytest.mark.parametrize(
    "said", ["[1]", '{"rev": "v1.0"}', "another encoder", "another number", "another file"]
)
def test_an_altered_sidecar_is_in_no_export_and_its_page_says_so(
    trained: tuple[Home, Version], said: str
) -> None:
    home, version = trained
    path = versions.config_path(home.settings, version)
    written = json.loads(path.read_text())
    if said == "another encoder":
        written["encoder"]["name"] = "open_clip:ViT-L-14@openai"
    elif said == "another number":
        written["rev"] = "v7.7"
    elif said == "another file":
        written["sha256"] = "0" * 64
    else:
        written = json.loads(said)
    with sessions.reading(home.engine) as session:
        assert file_checks.verify_scores(session, home.settings, version).sidecar
        path.write_text(json.dumps(written))
        assert not file_checks.verify_scores(session, home.settings, version).sidecar
        with pytest.raises(Conflict, match="altered"):
            exports.config(session, home.settings, version)
        with pytest.raises(Conflict, match="altered"):
            exports.export_all(session, home.settings, version)


def test_the_best_tenth_begins_where_a_tenth_of_the_images_lies_above(
    trained: tuple[Home, Version],
) -> None:
    home, version = trained
    with sessions.reading(home.engine) as session:
        spread = predictions.percentiles(session, version)
    said = home.said(version)
    assert spread is not None and spread.scores[0] == pytest.approx(said.min(), abs=1e-6)
    assert spread.top(25) == pytest.approx(np.percentile(said, 75), abs=1e-6)
    assert list(spread.scores) == sorted(spread.scores)


# --- the LAION layout ----------------------------------------------------------------------------


def test_a_sigmoid_head_is_not_written_in_the_laion_layout(
    settings: Settings, engine: Any, tmp_path: Path
) -> None:
    home = make_home(settings, engine, L14, normalised=True)
    zero, one = np.zeros(768, np.float32), np.ones(768, np.float32)
    weights = np.linspace(-3, 3, 768).astype(np.float32)
    for name, link, fits in (("line", "identity", True), ("sigmoid", "logit", False)):
        file = tmp_path / f"{name}.safetensors"
        tensors = linear_head(weights, 0.4, zero, one, link=link)  # type: ignore[arg-type]
        save_file(tensors, file, metadata={"encoder": L14, "embedding": "L2-normalised"})
        version = home.adopt(file)
        with sessions.reading(engine) as session:
            if not fits:
                with pytest.raises(Conflict, match="sigmoid"):
                    exports.laion_file(session, settings, version)
                continue
            (out,) = exports.write([exports.laion_file(session, settings, version)], tmp_path / "o")
        line, _, _ = laion.read_line(out)
        points = np.clip(home.x @ line.weights + line.bias, 0, 10)
        np.testing.assert_allclose(home.said(version), points / 10, atol=3e-5)


def test_only_the_normalised_224_pixel_encoder_gets_the_laion_layout(
    home: Home, head: Path, settings: Settings
) -> None:
    version = home.adopt(head, encoder=L14_336)
    with sessions.reading(home.engine) as session, pytest.raises(Conflict, match=L14_336):
        exports.laion_file(session, settings, version)


@hypothesis.settings(max_examples=5, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_a_line_written_and_read_is_the_same_line(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = laion.collapse(random_laion(seed))
    file = tmp_path_factory.mktemp("laion") / "head.safetensors"
    file.write_bytes(laion.laion_bytes(line, {}))
    again, _, _ = laion.read_line(file)
    np.testing.assert_array_equal(again.weights.astype("f4"), line.weights.astype("f4"))
    assert np.float32(again.bias) == np.float32(line.bias)
    zero, one = np.zeros(768, np.float32), np.ones(768, np.float32)
    tensors = linear_head(line.weights / 10, line.bias / 10, zero, one, link="identity")
    found = laion.line_of(tensors)
    x = np.random.default_rng(seed).normal(size=(64, 768)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.clip(x @ found.weights + found.bias, 0, 10) / 10, Head(tensors)(x), atol=3e-5
    )


# --- labels --------------------------------------------------------------------------------------


def everything_said(home: Home) -> list[tuple[Any, ...]]:
    with sessions.reading(home.engine) as session:
        rows = score_files.labels_of(session, home.project(session))
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("ending", row_files.ENDINGS)
def test_labels_come_back_with_who_said_them_and_when(
    scored: Home, tmp_path: Path, ending: str
) -> None:
    with sessions.writing(scored.engine) as session:  # paths that a spreadsheet would run
        for image, name in zip(session.exec(select(Image)).all(), EVIL, strict=False):
            image.name = name
    before = everything_said(scored)
    file = tmp_path / f"labels{ending}"
    score_files.write_scores(score_files.export_scores(scored.engine, "Taste"), file)
    with sessions.writing(scored.engine) as session:
        project = projects.create(session, "Copy", encoder=L14_336)
        collection = session.exec(select(projects.Collection)).one()
        projects.add_collection(session, project, collection)
    told = score_files.import_scores(scored.engine, "Copy", file)
    assert (told.recorded, told.unchanged, told.overruled, told.bad) == (24, 0, 0, [])
    with sessions.reading(scored.engine) as session:
        copy = projects.by_name(session, "Copy")
        after = [tuple(row.values()) for row in score_files.labels_of(session, copy)]
        labels = [
            dict(session.execute(select(Label.image_id, Label.value).where(
                Label.project_id == project_id)).all())
            for project_id in (1, copy.id)
        ]  # fmt: skip
    assert after == before
    assert labels[0] == labels[1] and len(labels[0]) == 12
    assert score_files.import_scores(scored.engine, "Copy", file).recorded == 0


def test_no_cell_of_an_exported_csv_is_a_formula(trained: tuple[Home, Version]) -> None:
    home, version = trained
    with sessions.writing(home.engine) as session:
        for image, name in zip(session.exec(select(Image)).all(), EVIL, strict=False):
            image.name = name
    with sessions.reading(home.engine) as session:
        rows = score_files.labels_of(session, home.project(session))
        files = [
            score_files.score_bytes(rows, ".csv"),
            prediction_files.prediction_bytes(session, version, ".csv"),
        ]
    for file in files:
        for row in csv.reader(io.StringIO(file.decode())):
            assert not any(cell.startswith(("=", "+", "@")) for cell in row)


@hypothesis.given(st.text())
def test_a_cell_made_inert_is_told_back_as_it_was(cell: str) -> None:
    assert unescape_formula(escape_formula(cell)) == cell or cell[:1] == "'"
    assert not escape_formula(cell).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("when", ["yesterday", "2025-13-01", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_is_none_refuses_the_file(scored: Home, tmp_path: Path, when: str) -> None:
    with sessions.reading(scored.engine) as session:
        sha256 = session.exec(select(Image.sha256)).first()
    row = {"sha256": sha256, "score": 3, "annotator": "new", "scored_at": when}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    with pytest.raises(Invalid, match=r"Line 1.*point in time"):
        score_files.import_scores(scored.engine, "Taste", tmp_path / "s.jsonl")


def test_a_parquet_file_that_is_none_is_told(scored: Home, tmp_path: Path) -> None:
    for content, told in ((b"PAR1 but cut", "is cut short or damaged"), (b"PK", "not a Parquet")):
        (tmp_path / "s.parquet").write_bytes(content)
        with pytest.raises(Invalid, match=told):
            score_files.import_scores(scored.engine, "Taste", tmp_path / "s.parquet")


# --- predictions ---------------------------------------------------------------------------------


def rows_of(home: Home, version: Version) -> list[tuple[Any, ...]]:
    with sessions.reading(home.engine) as session:
        rows = session.exec(
            select(Prediction)
            .where(Prediction.version_id == version.id)
            .order_by(Prediction.image_id)
        )
        return [(r.image_id, r.score, r.out_of_fold, r.uncertainty) for r in rows]


@pytest.mark.parametrize("ending", row_files.ENDINGS)
def test_predictions_come_back_to_the_last_bit(
    trained: tuple[Home, Version], tmp_path: Path, ending: str
) -> None:
    home, version = trained
    before = rows_of(home, version)
    with sessions.reading(home.engine) as session:
        file = tmp_path / f"said{ending}"
        file.write_bytes(prediction_files.prediction_bytes(session, version, ending))
    with sessions.writing(home.engine) as session:
        for row in session.exec(select(Prediction).where(Prediction.image_id > 4)).all():
            session.delete(row)
    told = prediction_files.import_predictions(home.engine, "Taste", "v1.0", file)
    assert told == {"added": 8, "there_already": 4}
    assert rows_of(home, version) == before


def test_predictions_of_another_head_and_impossible_ones_are_refused(
    trained: tuple[Home, Version], tmp_path: Path
) -> None:
    home, version = trained
    with sessions.reading(home.engine) as session:
        row = prediction_files.rows_of(session, version)[0]
    for change, reason in (
        ({"model_sha256": "0" * 64}, "another head"),
        ({"aesthetic_score": 1.2}, "not a number from 0 to 1"),
        ({"aesthetic_score": "nan"}, "not a number"),
        ({"uncertainty": None}, "not a number"),
        ({"sha256": "f" * 64}, "no image"),
    ):
        (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
        with pytest.raises((Conflict, Invalid, NotFound), match=f"Line 2.*{reason}"):
            prediction_files.import_predictions(home.engine, "Taste", "v1.0", tmp_path / "p.jsonl")


# --- folders -------------------------------------------------------------------------------------


def test_the_originals_folders_come_back_with_every_vector_and_score(
    home: Home, tmp_path: Path
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        who = projects.annotator(session, "me")
        for i in range(1, 12):
            scores.record(session, project, i, who, "set", i - 1)
        told = exports.write_folders(session, project, tmp_path / "out")
    assert told["written"] == 11 and told["between_scores"] == 0
    folders = sorted(
        p.name for p in (tmp_path / "out/data/ViT-L-14-336-quickgelu_openai").iterdir()
    )
    assert folders == [f"{score:02d}_Taste" for score in range(11)]
    shape = np.load(next((tmp_path / "out").rglob("*.npy"))).shape
    assert shape == (1, 768)

    other = Settings(home=tmp_path / "other", min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(other)
    with sessions.writing(engine) as session:
        project = projects.create(session, "Taste", encoder=L14_336)
        job = request_import(
            session, other, [tmp_path / "out"], project=project, scores_from_folders=True
        )
    imports.run(work_on(other, engine, job.id))
    with sessions.reading(engine) as session:
        project = projects.by_name(session, "Taste")
        labels = dict(session.execute(select(Label.image_id, Label.value)).all())
        ids, x = embeddings.project_matrix(session, project)
    engine.dispose()
    came_back = {labels[i]: v.astype(np.float32) for i, v in zip(ids.tolist(), x, strict=True)}
    assert sorted(came_back) == list(range(11))
    for score, vector in came_back.items():
        np.testing.assert_array_equal(vector, home.x[int(score)])


def test_folders_without_a_label_are_refused(home: Home, tmp_path: Path) -> None:
    with (
        sessions.reading(home.engine) as session,
        pytest.raises(Invalid, match="No image is scored"),
    ):
        exports.write_folders(session, home.project(session), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the zip -------------------------------------------------------------------------------------


def test_the_zip_holds_everything_once_and_its_sums_are_right(
    trained: tuple[Home, Version],
) -> None:
    home, version = trained
    with sessions.reading(home.engine) as session:
        parts = exports.export_all(session, home.settings, version)
    stem = exports.stem(version)
    content = b"".join(exports.zipped(parts, stem, version.created_at))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        files = {name.removeprefix("Taste-v1.0/"): archive.read(name) for name in names}
    assert all(name.startswith("Taste-v1.0/") and ".." not in name for name in names)
    assert set(files) == {
        "Taste-v1.0.safetensors", "Taste-v1.0.config.json", "README.md", "labels.csv",
        "training-set.csv", "predictions.parquet", "top-100.png", "SHA256SUMS",
    }  # fmt: skip
    sums = dict(line.split("  ")[::-1] for line in files.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert pq.read_table(io.BytesIO(files["predictions.parquet"])).num_rows == 12
    assert load_checkpoint_bytes(files["Taste-v1.0.safetensors"]) == version.sha256


def load_checkpoint_bytes(data: bytes) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return load_checkpoint(Path(file.name)).sha256


def test_the_zip_is_made_piece_by_piece(tmp_path: Path) -> None:
    big = tmp_path / "big.safetensors"
    big.write_bytes(bytes(range(256)) * 2**15)  # 8 MB
    at = datetime(2025, 1, 1, tzinfo=UTC)
    pieces = list(exports.zipped([exports.Part(big.name, big)], "Big", at))
    assert max(map(len, pieces)) < 2 * exports.PIECE
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.read("Big/big.safetensors") == big.read_bytes()


def test_a_projects_name_cannot_lead_out_of_the_zip(home: Home, head: Path) -> None:
    with sessions.writing(home.engine) as session:
        home.project(session).name = "..  =evil: ünï"
    version = home.adopt(head, encoder=L14_336)
    assert exports.stem(version) == "evil-n-v0.0"


def test_events_brought_in_keep_their_time_beside_those_of_today(scored: Home) -> None:
    with sessions.writing(scored.engine) as session:
        project = scored.project(session)
        who = projects.annotator(session, "me")
        fresh = scores.record(session, project, 1, who, "set", 5).event
        times = [e.at.replace(tzinfo=UTC) for e in session.exec(select(ScoreEvent))]
    assert min(times).year == 2025
    assert abs(fresh.at - datetime.now(UTC)) < timedelta(minutes=5)
