"""`tastemaker.load`: scores for programs, without database, server or home folder."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import tastemaker
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load
from tastemaker.errors import BadImage, CheckpointError, Conflict, Invalid, NotFound
from tastemaker.filtering import scorer as module
from tastemaker.filtering.sources import score_source
from tastemaker.learning import laion
from tastemaker.learning.checkpoints import save_checkpoint, sidecar
from tastemaker.learning.city96 import layout
from tests import pictures
from tests.conftest import forward
from tests.test_scoring import FEATURES, head_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return head_of(FEATURES)


@pytest.fixture
def make(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Writes a head of few features with this metadata: make(encoder=…)."""

    def write(name: str = "Mine-v1.3.safetensors", **metadata: str) -> Path:
        save_checkpoint(tmp_path / name, tensors, metadata)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def for_pictures(tmp_path_factory: pytest.TempPathFactory) -> tastemaker.Scorer:
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    save_checkpoint(path, head_of(1280), {"encoder": BUNDLED})
    return tastemaker.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        pictures.write(base / f"{number}.png", pictures.encoded(pictures.scene(seed=number)))
    return base


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, FEATURES)).astype(np.float32)


def run(program: str, cwd: Path, **env: str) -> str:
    """What a program of its own prints, with nothing of ours in its environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TASTEMAKER_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env=clean | env, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# ---------------------------------------------------------------- alone


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("numpy", "torch", "PIL", "pydantic", "sqlalchemy", "sqlmodel", "fastapi")
    program = f"import sys, tastemaker; print([m for m in {heavy} if m in sys.modules])"
    assert run(program, tmp_path).strip() == "[]"


@pytest.mark.slow
def test_a_program_scores_without_database_server_or_home_folder(
    tmp_path: Path, folder: Path, for_pictures: tastemaker.Scorer
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    program = f"""
import json, sys
import numpy as np
import tastemaker
scorer = tastemaker.load({str(for_pictures.path)!r})
assert not any(name in sys.modules for name in ("timm", "open_clip")), "no encoder so far"
scores = [scorer.score({str(folder / "0.png")!r}), scorer.score(np.ones(1280))]
assert isinstance(scorer, tastemaker.Scorer)
loaded = ("sqlalchemy", "sqlmodel", "fastapi", "uvicorn", "alembic", "apscheduler")
print(json.dumps([scores, [name for name in loaded if name in sys.modules]]))
"""
    scores, loaded = json.loads(run(program, tmp_path, HOME=str(home)))
    assert loaded == []
    assert list(home.iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == ["home"]
    assert scores[0] == pytest.approx(for_pictures.score(folder / "0.png"), abs=1e-6)


# ---------------------------------------------------------------- embeddings


def test_one_embedding_gives_a_float_and_several_an_array(
    make: Callable[..., Path], tensors: dict[str, np.ndarray], x: np.ndarray
) -> None:
    scorer = tastemaker.load(str(make()))
    truth = forward(tensors, x)
    many = scorer.score(x)
    assert many.dtype == np.float32 and many.shape == (40,)
    assert np.abs(many - truth).max() < 1e-5
    one = scorer.score(x[3])
    assert type(one) is float and one == pytest.approx(truth[3], abs=1e-5)
    assert scorer.score(x[:1]).shape == (1,)
    assert scorer.score(x[:0]).shape == (0,)
    assert np.array_equal(scorer.score(list(x)), many), "a list of vectors is an array of them"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "longdouble"])
def test_embeddings_are_of_any_float_type(
    make: Callable[..., Path], tensors: dict[str, np.ndarray], x: np.ndarray, dtype: str
) -> None:
    rows = x.astype(dtype)
    got = tastemaker.load(make()).score(rows)
    assert np.abs(got - forward(tensors, rows.astype(np.float64))).max() < 1e-5


def test_embeddings_may_be_tensors_or_lie_on_the_disk(
    make: Callable[..., Path], x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    scorer = tastemaker.load(make())
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(scorer.score(mapped), scorer.score(x))
    assert np.array_equal(scorer.score(torch.from_numpy(x)), scorer.score(x))  # type: ignore[call-overload]


def test_embeddings_that_cannot_be_scored_are_named_or_skipped(
    make: Callable[..., Path], x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    scorer = tastemaker.load(make())
    x[20, 5], x[30] = np.nan, 0
    with pytest.raises(Invalid, match=r"^Row 20: The embedding holds values that are not finite"):
        scorer.score(x)
    skipped = scorer.score(x, errors="skip")
    assert np.flatnonzero(np.isnan(skipped)).tolist() == [20, 30]
    assert np.allclose(skipped[:20], scorer.score(x[:20]), atol=1e-5)
    with pytest.raises(Invalid, match=r"^The embedding is all zeros: it was never written"):
        scorer.score(np.zeros(FEATURES, np.float32))
    assert np.isnan(scorer.score(x[20], errors="skip"))


def test_the_normalisation_must_be_that_of_the_training(
    make: Callable[..., Path], tensors: dict[str, np.ndarray], x: np.ndarray
) -> None:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    raw = tastemaker.load(make(embedding="not L2-normalised"))
    assert raw.normalised is False
    for rows in (unit, unit[0], unit.astype(np.float16)):
        with pytest.raises(Invalid, match=r"This array holds L2-normalised.*would be wrong"):
            raw.score(rows)
    normalised = tastemaker.load(make(embedding="L2-normalised"))
    assert np.allclose(normalised.score(x), forward(tensors, unit), atol=1e-5)
    assert np.allclose(normalised.score(unit), forward(tensors, unit), atol=1e-5)
    assert tastemaker.load(make()).normalised is None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.ones((2, 5), np.float32), "This array holds vectors of 5 values; this head reads 8"),
        (np.ones(3), "holds vectors of 3 values"),
        (np.empty((0, 3)), "holds vectors of 3 values"),
        (np.ones((2, 2, 8)), r"shape \(2, 2, 8\)"),
        (np.float32(1), r"shape \(\)"),
        (np.zeros((64, 64, 3), np.uint8), r"whole numbers \(uint8\).*PIL\.Image\.fromarray"),
        (np.array("a.jpg"), "cannot be scored"),
        (["a.jpg", np.ones(8)], r"A list of \w+, \w+ cannot be scored"),
        ([[0.5] * 8, [0.5]], "A list of list cannot be scored"),
        (None, "NoneType cannot be scored"),
        (7, "Int cannot be scored"),
        (b"\x89PNG", "Bytes cannot be scored"),
        ({"a": 1}, "Dict cannot be scored"),
    ],
)
def test_what_is_neither_picture_nor_embedding_is_refused_in_words(
    make: Callable[..., Path], value: Any, sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence):
        tastemaker.load(make()).score(value)


def test_a_misspelt_way_with_errors_is_refused(make: Callable[..., Path], x: np.ndarray) -> None:
    with pytest.raises(Invalid, match="'raise' or 'skip', not 'ignore'"):
        tastemaker.load(make()).score(x, errors="ignore")  # type: ignore[arg-type]


# ---------------------------------------------------------------- pictures


@pytest.mark.slow
def test_pictures_score_as_on_the_command_line(
    for_pictures: tastemaker.Scorer, folder: Path, tastemaker: Any
) -> None:
    ran = tastemaker("score", folder, "--model", for_pictures.path, "--json")
    assert ran.returncode == 0, ran.stderr
    wanted = {row["path"]: row["aesthetic_score"] for row in json.loads(ran.stdout)}
    paths = [folder / name for name in wanted]
    got = for_pictures.score(paths)
    assert got.dtype == np.float32 and np.abs(got - list(wanted.values())).max() < 1e-6
    assert len(set(got.round(5).tolist())) == 6
    assert type(for_pictures.score(str(paths[0]))) is float
    streamed = [table["aesthetic_score"].to_numpy() for table in score_source(folder, for_pictures)]
    assert np.abs(np.concatenate(streamed) - for_pictures.score(sorted(paths))).max() < 1e-6


@pytest.mark.slow
def test_a_picture_in_memory_scores_as_its_file(
    for_pictures: tastemaker.Scorer, folder: Path, tmp_path: Path
) -> None:
    lying = Image.open(folder / "1.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    drawn = Image.new("RGBA", (90, 60), (0, 0, 0, 0))
    drawn.paste((200, 30, 30, 255), (20, 20, 50, 50))
    drawn.save(tmp_path / "drawn.png")
    files = [folder / "0.png", tmp_path / "lying.jpg", tmp_path / "drawn.png", folder / "0.png"]
    opened = [Image.open(file) for file in files[:3]]
    by_file = for_pictures.score(files)
    in_memory = for_pictures.score([*opened, opened[0]])
    assert np.abs(in_memory - by_file).max() < 1e-6
    assert for_pictures.score(opened[1]) == pytest.approx(by_file[1], abs=1e-6)
    mixed = for_pictures.score(iter([files[0], opened[1]]))
    assert np.abs(mixed - by_file[:2]).max() < 1e-6
    assert for_pictures.score(np.array([str(file) for file in files])) == pytest.approx(by_file)


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_named_or_skipped(
    for_pictures: tastemaker.Scorer, folder: Path, tmp_path: Path
) -> None:
    bad = pictures.write(tmp_path / "bad.jpg", pictures.truncated())
    good = [folder / f"{number}.png" for number in range(3)]
    with pytest.raises(BadImage, match=r"bad\.jpg: The picture is cut short"):
        for_pictures.score([*good, bad])
    with pytest.raises(BadImage, match=r"nowhere\.png cannot be read: no such file"):
        for_pictures.score(tmp_path / "nowhere.png")
    with pytest.raises(BadImage, match="is a directory"):
        for_pictures.score(folder)
    with pytest.raises(BadImage, match=r"^Picture 1: The picture has no pixels"):
        for_pictures.score([Image.new("RGB", (4, 4)), Image.new("RGB", (0, 4))])
    closed = Image.open(good[0])
    closed.close()
    with pytest.raises(BadImage, match=r"0\.png: The picture is damaged"):
        for_pictures.score(closed)
    skipped = for_pictures.score([good[0], bad, good[1], tmp_path / "nowhere.png"], errors="skip")
    assert np.isnan(skipped).tolist() == [False, True, False, True]
    assert np.abs(skipped[[0, 2]] - for_pictures.score(good[:2])).max() < 1e-6
    assert np.isnan(for_pictures.score(bad, errors="skip"))
    assert for_pictures.score([]).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "\ud800.png", ""], ids=ascii)
def test_a_name_that_no_file_can_have_costs_only_itself(
    for_pictures: tastemaker.Scorer, folder: Path, name: str
) -> None:
    good = str(folder / "0.png")
    skipped = for_pictures.score([good, name, good], errors="skip")
    assert np.isnan(skipped).tolist() == [False, True, False]
    with pytest.raises(BadImage):
        for_pictures.score([good, name])


# ---------------------------------------------------------------- the file


def test_a_file_says_where_it_comes_from(make: Callable[..., Path]) -> None:
    path = make(
        encoder=BUNDLED, encoder_fingerprint="f" * 16, project="Anime", version="v1.8",
        threshold="0.45",
    )  # fmt: skip
    scores = [round(n / 100, 2) for n in range(101)]
    beside = sidecar(
        "Other", "v9", features=FEATURES, threshold=0.7, percentiles={"scores": scores}
    )
    path.with_name("Mine-v1.3.config.json").write_text(json.dumps(beside))
    scorer = tastemaker.load(path)
    assert (scorer.project, scorer.version, scorer.threshold) == ("Anime", "v1.8", 0.45)
    assert (scorer.encoder, scorer.fingerprint) == (BUNDLED, "f" * 16)
    assert (scorer.features, scorer.path) == (FEATURES, path)
    assert scorer.percentiles == tuple(scores) and scorer.percentiles[90] == 0.9
    assert scorer.about == {"model": "Anime@v1.8", "model_sha256": scorer.sha256}
    assert repr(scorer) == f"<Scorer Anime@v1.8: 8 features of {BUNDLED}>"


def test_what_the_file_does_not_say_its_sidecar_does(make: Callable[..., Path]) -> None:
    path = make()
    bare = tastemaker.load(path)
    assert (bare.project, bare.version, bare.encoder, bare.fingerprint) == (None,) * 4
    assert (bare.threshold, bare.percentiles) == (0.5, ())
    beside = path.with_name("Mine-v1.3.config.json")
    beside.write_text(json.dumps({"name": "Base", "rev": "v1.8", "threshold": 0.6}))
    known = tastemaker.load(path)
    assert (known.project, known.version, known.threshold) == ("Base", "v1.8", 0.6)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 100_000, '{"threshold": "high", "percentiles": [1], "name": 3}',
     '{"threshold": 60, "percentiles": {"scores": [0.5]}}',
     json.dumps({"threshold": None, "percentiles": {"scores": [0.5] * 100 + [0.1]}}),
     json.dumps({"percentiles": {"scores": ["a"] * 101}}),
     json.dumps({"percentiles": {"scores": [7.0] * 101}}),
     '{"threshold": NaN}'],
)  # fmt: skip
def test_a_sidecar_of_another_make_does_no_harm(make: Callable[..., Path], content: str) -> None:
    path = make()
    path.with_name("Mine-v1.3.config.json").write_text(content)
    scorer = tastemaker.load(path)
    assert (scorer.threshold, scorer.percentiles, scorer.project) == (0.5, (), None)


def test_a_sidecar_of_another_file_is_refused_with_both_names(make: Callable[..., Path]) -> None:
    path, other = make(), make("Other.safetensors", project="Other")
    beside = path.with_name("Mine-v1.3.config.json")
    mine = tastemaker.load(path).sha256
    for described in (tastemaker.load(other).sha256, "0" * 64):
        beside.write_text(json.dumps({"sha256": described, "threshold": 0.6}))
        with pytest.raises(CheckpointError) as told:
            tastemaker.load(path)
        assert "Mine-v1.3.config.json describes another file than Mine-v1.3.saf" in str(told.value)
        assert "or remove it" in told.value.hint
    for described in (mine, mine.upper(), None, "", 7, "unknown"):  # its own, or it does not say
        beside.write_text(json.dumps({"sha256": described, "threshold": 0.6}))
        assert tastemaker.load(path).threshold == 0.6


def test_a_flipped_byte_is_found_where_the_true_sidecar_lies_beside(
    make: Callable[..., Path],
) -> None:
    path = make()
    sha256 = tastemaker.load(path).sha256
    path.with_name("Mine-v1.3.config.json").write_text(json.dumps({"sha256": sha256}))
    tastemaker.load(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"Mine-v1\.3\.safetensors was changed or damaged"):
        tastemaker.load(path)


def test_what_is_no_head_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no file .*nowhere\.safetensors"):
        tastemaker.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: The file is too short"):
        tastemaker.load(pictures.write(tmp_path / "bad.safetensors", b""))
    classes = {name: np.zeros(shape, "f") for name, shape in layout(4, 2).items()}
    save_checkpoint(tmp_path / "two.safetensors", classes, {})
    two = tastemaker.load(tmp_path / "two.safetensors")
    with pytest.raises(tastemaker.TastemakerError, match="tells 2 classes apart"):
        two.score(np.ones(4, "f"))
    assert two.classify(np.ones(4, "f")).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("path", "encoder"),
    [("a" * 5000, None), ("a\0b", None), ("\ud800", None), (3, None), (b"a", None), (None, None),
     ("there", 3), ("there", b"ViT-B-32/openai"), ("a" * 5000, "a" * 5000)],
    ids=ascii,
)  # fmt: skip
def test_what_can_be_no_file_or_encoder_is_refused_in_words(
    make: Callable[..., Path], path: Any, encoder: Any
) -> None:
    with pytest.raises(tastemaker.TastemakerError) as told:
        tastemaker.load(make() if path == "there" else path, encoder=encoder)
    assert type(told.value) in (Invalid, NotFound)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("embedding", ["L2-normalised", "not L2-normalised", ""])
@pytest.mark.parametrize("kind", [np.float64, np.longdouble])
def test_numbers_of_any_size_are_scored_or_told_without_a_warning(
    make: Callable[..., Path], x: np.ndarray, embedding: str, kind: type
) -> None:
    scorer = tastemaker.load(make(**{"embedding": embedding} if embedding else {}))
    wide = x.astype(kind)
    wide[3], wide[5] = 1e300, -1e308
    scores = scorer.score(wide, errors="skip")
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 5]
    with pytest.raises(Invalid, match="Row 3: The embedding holds values that are not finite"):
        scorer.score(wide)
    if embedding == "L2-normalised":  # squares beyond float32 are no reason for another score
        assert np.allclose(scorer.score(x * np.float32(1e20)), scorer.score(x), atol=1e-5)


def test_a_laion_head_scores_normalised_embeddings(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    file = {}
    for layer, shape in laion.SHAPES.items():
        file[f"{layer}.weight"] = (random.normal(size=shape) / np.sqrt(shape[1])).astype("f4")
        file[f"{layer}.bias"] = (0.001 * random.normal(size=shape[0])).astype("f4")
    file["layers.7.weight"] *= 40
    file["layers.7.bias"] += 5
    save_file(file, tmp_path / "sac.safetensors")
    scorer = tastemaker.load(tmp_path / "sac.safetensors")
    assert (scorer.encoder, scorer.features, scorer.normalised) == (laion.ENCODER, 768, True)
    x = random.normal(size=(50, 768)).astype(np.float32)
    rows = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64)
    for layer in laion.SHAPES:
        rows = rows @ file[f"{layer}.weight"].T.astype(np.float64) + file[f"{layer}.bias"]
    assert np.abs(scorer.score(x) - np.clip(rows[:, 0] / 10, 0, 1)).max() < 2e-5
    assert scorer.score(x).std() > 0.05
    del file["layers.4.bias"]
    save_file(file, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: .*lacks 1 of the 10 tensors"):
        tastemaker.load(tmp_path / "cut.safetensors")


@pytest.mark.slow
def test_the_encoder_is_named_by_the_file_or_by_the_caller(
    make: Callable[..., Path], folder: Path
) -> None:
    picture = folder / "0.png"
    with pytest.raises(Invalid, match=r"does not say which encoder.*encoder=…"):
        tastemaker.load(make()).score(picture)
    with pytest.raises(Invalid, match="is not the name of an encoder"):
        tastemaker.load(make(), encoder="nonsense")
    named = tastemaker.load(make(), encoder=BUNDLED)
    assert named.encoder == BUNDLED
    with pytest.raises(Invalid, match=r"gives 1280 values; Mine-v1\.3\.safetensors reads 8"):
        named.score(picture)
    with pytest.raises(Conflict, match=r"is not the encoder Mine-v1\.3 was trained on"):
        tastemaker.load(make(encoder=BUNDLED, encoder_fingerprint="f" * 16)).score([picture])


@pytest.mark.parametrize(
    ("own", "given", "refused"),
    [
        (BUNDLED, "foo/bar", "open_clip has no model “foo”"),
        (None, "foo/bar", "open_clip has no model “foo”"),
        (BUNDLED, "ViT-B-16/laion2b_s34b_b88k", f"was trained on {BUNDLED}, not on ViT-B-16/"),
        ("ViT-L-14-quickgelu/openai", "ViT-L-14-336-quickgelu/openai", "not on ViT-L-14-336"),
        ("ViT-B-16/datacomp_xl_s13b_b90k", "ViT-B-16/laion2b_s34b_b88k", "not on ViT-B-16/laion"),
        ("ViT-B-16/a", "ViT-B-16/a@/x.safetensors", None),
        ("ViT-B-16/a@/there.safetensors", "ViT-B-16@/here.safetensors", None),
        ("openai/clip-vit-large-patch14", "ViT-L-14-quickgelu/openai", None),
        (None, "ViT-L-14-quickgelu/openai", None),
    ],
)
def test_another_encoder_than_the_file_names_is_refused_at_once(
    make: Callable[..., Path], own: str | None, given: str, refused: str | None
) -> None:
    path = make(**{"encoder": own} if own else {})
    if refused is None:
        assert tastemaker.load(path, encoder=given).encoder == given
    else:
        with pytest.raises(tastemaker.TastemakerError, match=refused):
            tastemaker.load(path, encoder=given)


# ---------------------------------------------------------------- the README


def example(containing: str) -> str:
    """The one Python example of the README with this text."""
    (code,) = [
        code for code in re.findall(r"```python\n(.*?)```", README, re.S) if containing in code
    ]
    return code


@pytest.mark.slow
def test_the_examples_for_programs_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a head that `train` made, of embeddings of the bundled encoder."""
    from tastemaker.encoding.encode_files import embed_files
    from tastemaker.learning.folds import TrainingSet
    from tastemaker.learning.recipes import recipe_named
    from tastemaker.learning.training import train

    encoder = load(parse(BUNDLED))
    paths = sorted(folder.glob("*.png"))
    vectors = dict(embed_files(encoder, paths))
    x = np.stack([vectors[row] for row in range(len(paths))])
    rows = np.arange(len(paths))
    data = TrainingSet(rows, x, np.float32(rows / 5), rows, np.zeros(len(rows), bool))
    trained = train(data, recipe_named("ridge"))
    save_checkpoint(tmp_path / "Anime-v1.8.safetensors", trained.tensors,
                    {"encoder": BUNDLED, "encoder_fingerprint": encoder.fingerprint,
                     "threshold": "0.5", "embedding": "not L2-normalised"})  # fmt: skip
    shown = tmp_path / "pictures"
    shown.mkdir()
    for path in paths:
        Image.open(path).save(shown / f"{path.stem}.jpg")
    np.save(tmp_path / "embeddings.npy", x.astype(np.float16))
    monkeypatch.chdir(tmp_path)

    first: dict[str, Any] = {}
    exec(example("pictures"), first)
    assert first["scorer"].encoder == BUNDLED
    assert first["scores"].shape == (6,) and isinstance(first["score"], float)
    good = np.flatnonzero(first["scores"] >= 0.5)
    assert [path.name for path in first["good"]] == [f"{number}.jpg" for number in good]
    second: dict[str, Any] = {}
    exec(example("embeddings.npy"), second)
    assert np.abs(second["scores"] - trained.final).max() < 1e-2
    assert len(second["best"]) <= 100 and second["best"][0] == np.argmax(trained.final)
