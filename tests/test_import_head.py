"""Heads made elsewhere: what is taken in, what is refused, and that it leaves as it came."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import Engine
from sqlmodel import Session, select

from tastemaker import embeddings, jobs, projects, versions
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job, Prediction, Project, Version
from tastemaker.errors import CheckpointError, Conflict, Invalid, NotTrainable, TastemakerError
from tastemaker.learning import laion
from tastemaker.learning.city96 import layout
from tastemaker.publishing import exports, import_head
from tastemaker.publishing.foreign_files import read_foreign_head
from tastemaker.scores import record
from tastemaker.training import retrain
from tastemaker.versions import version_report
from tests.conftest import add_images, work_on

L14, L14_336 = "ViT-L-14-quickgelu/openai", "ViT-L-14-336-quickgelu/openai"


# --- an independent reading of the format --------------------------------------------------------

EXPECTED = {
    "up.0": (1024, 768), "up.1.long.0": (1024, 1024), "up.1.long.2": (1024, 1024),
    "up.1.long.4": (1024, 1024), "down.0": (128, 1024), "down.1": (64, 128), "down.4": (32, 64),
}  # fmt: skip


def load_strictly(path: Path, outputs: int) -> dict[str, np.ndarray]:
    """The tensors of a file by the published format alone: length, JSON header, raw values."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    shapes = {f"{k}.weight": v for k, v in EXPECTED.items()} | {"down.5.weight": (outputs, 32)}
    shapes |= {k.replace("weight", "bias"): (v[0],) for k, v in list(shapes.items())}
    assert header.keys() == shapes.keys(), "strict keys: not one more, not one less"
    tensors = {}
    for name, entry in header.items():
        assert tuple(entry["shape"]) == shapes[name] and entry["dtype"] == "F32"
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(raw[start:end], "<f4").reshape(entry["shape"])
    return tensors


def run_head(t: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(N, 768) -> (N,) scores, or (N, K) class probabilities, in float64."""
    w = {name: value.astype(np.float64) for name, value in t.items()}

    def dense(name: str, v: np.ndarray) -> np.ndarray:
        return v @ w[name + ".weight"].T + w[name + ".bias"]

    u = dense("up.0", x.astype(np.float64))
    a = dense("up.1.long.0", u)
    b = dense("up.1.long.2", np.maximum(a, 0.1 * a))
    r = np.maximum(dense("up.1.long.4", np.maximum(b, 0.1 * b)) + u, 0)
    n = dense("down.1", dense("down.0", r))
    z = dense("down.5", dense("down.4", np.maximum(n, 0.01 * n)))
    if z.shape[1] == 1:
        return (np.tanh(z[:, 0]) + 1) / 2
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# --- files as others make them -------------------------------------------------------------------


def random_head(outputs: int = 1, features: int = 768, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for name, shape in layout(features, outputs).items()
    }


def random_laion(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    tensors = {}
    for layer, shape in laion.SHAPES.items():
        tensors[f"{layer}.weight"] = (random.normal(size=shape) / np.sqrt(shape[1])).astype("f4")
        tensors[f"{layer}.bias"] = (0.1 * random.normal(size=shape[0])).astype("f4")
    tensors["layers.7.weight"] *= 20
    tensors["layers.7.bias"] += 5
    return tensors


def sidecar_of(outputs: int, **more: Any) -> dict[str, Any]:
    labels = {str(i): f"Kind {i}" for i in range(outputs)} if outputs > 1 else None
    params = {"features": 768, "hidden": 1024, "outputs": outputs}
    arch = "class" if outputs > 1 else "score"
    return {
        "name": "Base", "rev": "v1.8", "arch": arch, "labels": labels, "model_params": params
    } | more  # fmt: skip


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A score head as its author publishes it: no word about the encoder."""
    save_file(random_head(), tmp_path / "Base-v1.8.safetensors")
    (tmp_path / "Base-v1.8.config.json").write_text(json.dumps(sidecar_of(1)))
    return tmp_path / "Base-v1.8.safetensors"


# --- a project whose vectors came from outside ---------------------------------------------------


@dataclass
class Home:
    settings: Settings
    engine: Engine
    x: np.ndarray  # (12, 768) the vectors as they are stored

    def adopt(self, file: Path, **how: Any) -> Version:
        job = import_head.import_checkpoint(self.engine, self.settings, 1, file, **how)
        result = import_head.run(work_on(self.settings, self.engine, job.id))
        with sessions.reading(self.engine) as session:
            return versions.get(session, result["version_id"])

    def project(self, session: Session) -> Project:
        return projects.get(session, 1)

    def said(self, version: Version) -> np.ndarray:
        query = select(Prediction.score).where(Prediction.version_id == version.id)
        with sessions.reading(self.engine) as session:
            return np.array(session.exec(query.order_by(Prediction.image_id)).all())

    def nothing_stored(self) -> bool:
        with sessions.reading(self.engine) as session:
            rows = [*session.exec(select(Version)), *session.exec(select(Job))]
        kept = [*self.settings.incoming.iterdir(), *self.settings.checkpoints.rglob("*")]
        return not rows and not kept


def vectors(normalised: bool = False) -> np.ndarray:
    """(12, 768) vectors as a home here stores them."""
    x = np.random.default_rng(3).normal(size=(12, 768)).astype(np.float32)
    if normalised:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float16).astype(np.float32)


def make_home(settings: Settings, engine: Engine, encoder: str, normalised: bool = False) -> Home:
    x = vectors(normalised)
    with sessions.writing(engine) as session:
        project = projects.create(session, "Taste", encoder=encoder)
        images = add_images(session, len(x), project=project)
        row = embeddings.declare_encoder(session, project, x[0])
        pairs = zip((image.id for image in images), x, strict=True)
        embeddings.store_vectors(session, row.id, pairs)
    return Home(settings, engine, x)


@pytest.fixture
def home(settings: Settings, engine: Engine) -> Home:
    return make_home(settings, engine, L14_336)


# --- taking one in -------------------------------------------------------------------------------


def test_a_score_file_becomes_v0_0_predicts_every_image_and_is_active(
    home: Home, head: Path
) -> None:
    version = home.adopt(head, encoder=L14_336)
    assert (version.number, version.active, version.parent_id) == ("v0.0", True, None)
    told = run_head(load_strictly(head, 1), home.x)
    np.testing.assert_allclose(home.said(version), told, atol=2e-6)
    words = version_report.recipe_sentence(version)
    assert words == f"It was not trained here, but brought in from {head.name}."


def test_it_leaves_as_it_came_to_the_byte(home: Home, head: Path, tmp_path: Path) -> None:
    version = home.adopt(head, encoder=L14_336)
    with sessions.reading(home.engine) as session:
        parts = [
            exports.checkpoint(home.settings, version),
            exports.config(session, home.settings, version),
        ]
        file, config = exports.write(parts, tmp_path / "out")
    assert file.read_bytes() == head.read_bytes()
    assert version.sha256 == hashlib.sha256(head.read_bytes()).hexdigest()
    said = json.loads(config.read_text())
    assert said["model_params"] == {"features": 768, "hidden": 1024, "outputs": 1}
    assert said["arch"] == "score" and said["labels"] is None
    assert said["encoder"]["name"] == L14_336


def test_a_class_file_leaves_with_its_labels_and_runs_in_an_independent_loader(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "Kinds-v1.5.safetensors"
    save_file(random_head(3), file)
    config = sidecar_of(3, encoder=L14_336)
    (tmp_path / "Kinds-v1.5.config.json").write_text(json.dumps(config))
    version = home.adopt(file)
    with sessions.reading(home.engine) as session:
        assert home.project(session).kind == "class"
        out, sidecar = exports.write(
            [
                exports.checkpoint(home.settings, version),
                exports.config(session, home.settings, version),
            ],
            tmp_path / "out",
        )
    assert out.read_bytes() == file.read_bytes()
    written = json.loads(sidecar.read_text())
    assert {key: written[key] for key in ("arch", "labels", "model_params")} == {
        key: config[key] for key in ("arch", "labels", "model_params")
    }
    chances = run_head(load_strictly(out, written["model_params"]["outputs"]), home.x)
    np.testing.assert_allclose(home.said(version), 1 - chances[:, 0], atol=2e-6)
    again = read_foreign_head(out, config=sidecar)
    assert again.labels == ("Kind 0", "Kind 1", "Kind 2")


def test_a_class_project_says_that_it_cannot_be_trained(home: Home, tmp_path: Path) -> None:
    save_file(random_head(2), tmp_path / "k.safetensors")
    home.adopt(tmp_path / "k.safetensors", encoder=L14_336)
    with sessions.writing(home.engine) as session, pytest.raises(NotTrainable, match="classifier"):
        retrain.request_training(session, home.settings, home.project(session))


def test_a_laion_head_scores_as_its_own_layers_do_and_leaves_to_the_byte(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    home = make_home(settings, engine, L14, normalised=True)
    tensors = random_laion()
    save_file(tensors, tmp_path / "sac.safetensors")
    version = home.adopt(tmp_path / "sac.safetensors")
    points = home.x
    for layer in ("0", "2", "4", "6", "7"):
        points = points @ tensors[f"layers.{layer}.weight"].T + tensors[f"layers.{layer}.bias"]
    np.testing.assert_allclose(home.said(version), np.clip(points[:, 0], 0, 10) / 10, atol=3e-5)
    with sessions.reading(engine) as session:
        part = exports.laion_file(session, settings, version)
    assert b"".join(part.pieces()) == (tmp_path / "sac.safetensors").read_bytes()


def test_imports_count_up_and_the_first_one_stays_active(
    home: Home, head: Path, tmp_path: Path
) -> None:
    home.adopt(head, encoder=L14_336)
    other = tmp_path / "other.safetensors"
    save_file(random_head(seed=1), other)
    second = home.adopt(other, encoder=L14_336)
    third = home.adopt(other, encoder=L14_336, activate=True)
    assert [(v.number, v.active) for v in (second, third)] == [("v0.1", False), ("v0.2", True)]


def test_labels_measure_an_imported_head_and_are_not_called_its_training_set(
    home: Home, head: Path
) -> None:
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, "me")
        for image_id in range(1, 13):
            record(session, project, image_id, person, "set", image_id % 11, origin="control")
    version = home.adopt(head, encoder=L14_336)
    told = 10 * home.said(version)
    expected = np.mean([abs(told[i - 1] - i % 11) for i in range(1, 13)])
    assert version.metrics.all_labels.mae.value == pytest.approx(expected, abs=1e-5)
    assert version.metrics.images == 0


def test_the_next_trained_version_is_v1_0_with_the_import_as_its_parent(
    home: Home, head: Path
) -> None:
    home.adopt(head, encoder=L14_336)
    with sessions.writing(home.engine) as session:
        project = home.project(session)
        person = projects.annotator(session, "me")
        for image_id in range(1, 13):
            record(session, project, image_id, person, "set", image_id % 11, origin="queue")
        job = retrain.request_training(session, home.settings, project)
    result = retrain.run(work_on(home.settings, home.engine, job.id))
    with sessions.reading(home.engine) as session:
        version = versions.get(session, result["version_id"])
        parent = session.get(Version, version.parent_id)
    assert (version.number, parent.number) == ("v1.0", "v0.0")


def test_an_import_killed_half_way_goes_on_under_the_same_number(
    home: Home, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = import_head.import_checkpoint(home.engine, home.settings, 1, head, encoder=L14_336)
    work = work_on(home.settings, home.engine, job.id)
    with monkeypatch.context() as patched:
        patched.setattr(
            import_head, "_predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            import_head.run(work)
    with sessions.reading(home.engine) as session:
        assert versions.list_ready(session, home.project(session)) == []
    assert import_head.run(work)["version"] == "v0.0"
    assert import_head.run(work)["version"] == "v0.0", "a third time it is only told"
    assert list(home.settings.incoming.iterdir()) == []


# --- whose embeddings does it read? --------------------------------------------------------------


def test_a_file_that_names_no_encoder_is_asked_about_and_never_guessed(
    home: Home, head: Path
) -> None:
    with pytest.raises(Invalid) as told:
        home.adopt(head)
    assert L14 in str(told.value) and L14_336 in str(told.value)
    assert home.nothing_stored()


@pytest.mark.parametrize("named", [L14, "openai/clip-vit-large-patch14", "ViT-L/14"])
def test_the_224_pixel_encoder_is_not_taken_for_the_336_pixel_one(
    home: Home, head: Path, named: str
) -> None:
    with pytest.raises(Conflict, match="needs the encoder ViT-L-14-quickgelu/openai"):
        home.adopt(head, encoder=named)
    assert home.nothing_stored()


def test_the_name_other_programs_give_the_encoder_is_understood(home: Home, head: Path) -> None:
    assert home.adopt(head, encoder="openai/clip-vit-large-patch14-336").number == "v0.0"


def test_a_person_who_contradicts_the_file_is_told(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file(random_head(), file, metadata={"encoder": L14})
    with pytest.raises(Conflict, match="says that it was trained on"):
        home.adopt(file, encoder=L14_336)
    with pytest.raises(Conflict, match="needs the encoder"):
        home.adopt(file)
    assert home.nothing_stored()


def test_a_laion_head_is_refused_by_raw_embeddings(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    home = make_home(settings, engine, L14)
    save_file(random_laion(), tmp_path / "sac.safetensors")
    with pytest.raises(Conflict, match="L2-normalised"):
        home.adopt(tmp_path / "sac.safetensors")
    assert home.nothing_stored()


def test_a_head_of_another_width_is_refused(home: Home, tmp_path: Path) -> None:
    save_file(random_head(features=512), tmp_path / "b32.safetensors")
    with pytest.raises(Conflict, match="512 numbers"):
        home.adopt(tmp_path / "b32.safetensors", encoder="ViT-B-32-quickgelu/openai")
    assert home.nothing_stored()


def test_classes_are_refused_by_a_project_in_use(home: Home, head: Path, tmp_path: Path) -> None:
    home.adopt(head, encoder=L14_336)
    save_file(random_head(2), tmp_path / "k.safetensors")
    with pytest.raises(Conflict, match="classes apart"):
        home.adopt(tmp_path / "k.safetensors", encoder=L14_336)


# --- files that are not what they say ------------------------------------------------------------


def safe(tensors: dict[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path)


def without_one(path: Path) -> None:
    safe({k: v for k, v in random_head().items() if k != "down.1.bias"}, path)


def with_one_more(path: Path) -> None:
    safe(random_head() | {"extra": np.zeros(1, np.float32)}, path)


def with_nan(path: Path) -> None:
    head = random_head()
    head["down.4.weight"][3, 3] = np.nan
    safe(head, path)


def in_float64(path: Path) -> None:
    safe(random_head() | {"down.5.bias": np.zeros(1, np.float64)}, path)


def of_wrong_shape(path: Path) -> None:
    safe(random_head() | {"down.1.weight": np.zeros((64, 127), np.float32)}, path)


def a_torch_file(path: Path) -> None:
    import torch

    torch.save({"up.0.weight": torch.zeros(2)}, path)


def a_bare_pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"up.0.weight": [1.0]}))


def a_giant_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")


def truncated(path: Path) -> None:
    safe(random_head(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def overlapping(path: Path) -> None:
    safe(random_head(), path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["down.4.bias"]["data_offsets"] = header["down.0.bias"]["data_offsets"][:1] * 2
    start = header["down.0.bias"]["data_offsets"][0]
    header["down.4.bias"]["data_offsets"] = [start, start + 128]
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def laion_without_a_layer(path: Path) -> None:
    safe({k: v for k, v in random_laion().items() if "6" not in k}, path)


def laion_of_another_shape(path: Path) -> None:
    safe(random_laion() | {"layers.0.weight": np.zeros((1024, 512), np.float32)}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


BAD = (
    without_one, with_one_more, with_nan, in_float64, of_wrong_shape, a_torch_file, a_bare_pickle,
    a_giant_header, truncated, overlapping, laion_without_a_layer, laion_of_another_shape, empty,
)  # fmt: skip


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_file_that_is_no_head_is_refused_in_a_sentence_and_leaves_nothing(
    home: Home, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError) as told:
        home.adopt(tmp_path / "bad.safetensors", encoder=L14_336)
    assert told.value.message.startswith("bad.safetensors: ")
    assert "\n" not in str(told.value) and len(str(told.value)) < 250
    assert home.nothing_stored()


@pytest.mark.parametrize(
    "config",
    [
        "not json", "[1]", json.dumps(sidecar_of(1) | {"labels": {"0": "a"}}),
        json.dumps(sidecar_of(2)), json.dumps(sidecar_of(1) | {"model_params": {"features": 512}}),
        json.dumps(sidecar_of(1) | {"model_params": [1]}),
    ],
)  # fmt: skip
def test_a_sidecar_of_something_else_is_refused(home: Home, head: Path, config: str) -> None:
    head.with_name("Base-v1.8.config.json").write_text(config)
    with pytest.raises(CheckpointError, match="sidecar"):
        home.adopt(head, encoder=L14_336)
    assert home.nothing_stored()


def test_a_sidecar_that_describes_another_file_is_refused(home: Home, head: Path) -> None:
    head.with_name("Base-v1.8.config.json").write_text(
        json.dumps(sidecar_of(1) | {"sha256": "0" * 64})
    )
    with pytest.raises(CheckpointError, match=r"Base-v1\.8\.config\.json describes another file"):
        home.adopt(head, encoder=L14_336)
    assert home.nothing_stored()


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "a"},
        {"0": "a", "2": "b"},
        {"0": "a", "1": 3},
        ["a", "b"],
        {"0": "", "1": "b"},
        {"0": "a", "1": "half \ud800"},
    ],
)
def test_class_labels_are_all_there_or_the_sidecar_is_refused(
    home: Home, tmp_path: Path, labels: Any
) -> None:
    save_file(random_head(2), tmp_path / "k.safetensors")
    (tmp_path / "k.config.json").write_text(json.dumps(sidecar_of(2) | {"labels": labels}))
    with pytest.raises(CheckpointError):
        home.adopt(tmp_path / "k.safetensors", encoder=L14_336)


# --- a project for it ----------------------------------------------------------------------------


def test_a_project_is_made_for_a_head_whose_encoder_is_known(
    settings: Settings, engine: Engine, head: Path, tmp_path: Path
) -> None:
    made = import_head.project_for(engine, "New", head, L14_336)
    with sessions.reading(engine) as session:
        assert projects.get(session, made).encoder == L14_336
    truncated(tmp_path / "bad.safetensors")
    with pytest.raises(TastemakerError):
        import_head.project_for(engine, "Other", tmp_path / "bad.safetensors", L14_336)
    with pytest.raises(TastemakerError):
        import_head.project_for(engine, "Other", head, None)
    with sessions.reading(engine) as session:
        assert projects.find(session, "Other") is None


def test_the_command_refuses_a_bad_file_in_a_sentence_and_makes_no_project(
    tastemaker: Any, tmp_path: Path
) -> None:
    a_bare_pickle(tmp_path / "bad.safetensors")
    answer = tastemaker("versions", "import", "New", tmp_path / "bad.safetensors")
    assert answer.returncode == 1 and "Python pickle" in answer.stderr
    assert json.loads(tastemaker("project", "list", "--json").stdout) == []


def test_no_job_is_left_when_the_disk_is_full(home: Home, head: Path) -> None:
    full = Settings(home=home.settings.home, min_free_gb=1e9, _env_file=None)  # type: ignore[call-arg]
    with pytest.raises(TastemakerError, match="free"):
        import_head.import_checkpoint(home.engine, full, 1, head, encoder=L14_336)
    with sessions.reading(home.engine) as session:
        assert jobs.unfinished(session) == []
