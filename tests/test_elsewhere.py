"""A version in the forms that run without this program gives what `tastemaker score` gives."""

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_browser import BY_ALL_RULES, troubles
from PIL import Image
from playwright.sync_api import Browser, expect
from safetensors.numpy import save_file
from web_world import client_of

import tastemaker
from tastemaker import projects, versions
from tastemaker.config import DEFAULT_ENCODER, Settings, shipped
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import EncoderRow, Version
from tastemaker.embeddings import store_vectors
from tastemaker.encoding import bundled_layers, efficientnet
from tastemaker.encoding.bundled_layers import FINGERPRINTS
from tastemaker.encoding.encoder_specs import BUNDLED, parse, spec_of
from tastemaker.encoding.encoders import Encoder, load
from tastemaker.encoding.preprocessing import Preprocessing, fitted
from tastemaker.errors import Conflict, Invalid
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.learning.heads import Head
from tastemaker.learning.plain_head import plain_head
from tastemaker.pages.app import create_app
from tastemaker.publishing import elsewhere, exports, import_head
from tastemaker.publishing.html_page import Numbers, html_page, model_of
from tastemaker.publishing.hub_folder import front_matter
from tastemaker.publishing.portable import Portable
from tests.conftest import add_images, forward, work_on
from tests.test_import_head import random_head

CLOSE = 1e-3
EXTRA = "onnxruntime is of the extra dev"
NODE = shutil.which("node") or "node"


# --- a version that sees pictures ----------------------------------------------------------------


@dataclass(frozen=True)
class World:
    settings: Settings
    engine: Any
    version: Version
    pictures: Path
    expected: dict[str, float]  # by the name of the file

    def bundle(self, form: elsewhere.Form, **how: str) -> elsewhere.Bundle:
        with sessions.reading(self.engine) as session:
            return elsewhere.bundle_of(session, self.settings, self.version, form, **how)

    def written(self, form: elsewhere.Form, folder: Path) -> Path:
        bundle = self.bundle(form)
        return exports.write(bundle.parts, folder / bundle.folder)[0].parent


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load(parse(DEFAULT_ENCODER), device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("elsewhere")
    pictures = draw(folder / "pictures")
    settings = Settings(home=folder / "home", min_free_gb=0, _env_file=None)
    settings.make_folders()
    engine = migrate(settings)
    head = trained_on(folder / "Taste.safetensors", encoder, pictures)
    with sessions.writing(engine) as session:
        project = projects.create(session, "Taste", encoder=encoder.name)
        row = EncoderRow(fingerprint=encoder.fingerprint, name=encoder.name, dim=encoder.dim)
        session.add(row)
        session.flush()
        projects.pin_encoder(session, project, row)
        (image,) = add_images(session, 1, project=project)
        store_vectors(session, row.id, [(image.id, np.ones(encoder.dim, np.float32))])
    job = import_head.import_checkpoint(engine, settings, 1, head, encoder=encoder.name)
    result = import_head.run(work_on(settings, engine, job.id))
    with sessions.reading(engine) as session:
        version = versions.get(session, result["version_id"])
    scorer = tastemaker.load(head)
    names = sorted(path.name for path in pictures.iterdir())
    scores = scorer.score([pictures / name for name in names])
    expected = dict(zip(names, map(float, scores), strict=True))
    assert max(expected.values()) - min(expected.values()) > 0.2, "they can be told apart"
    yield World(settings, engine, version, pictures, expected)
    engine.dispose()


def draw(folder: Path) -> Path:
    """Pictures of several shapes and kinds: tall and small ones, turned by EXIF, see-through."""
    folder.mkdir()
    random = np.random.default_rng(3)
    for number, (width, height) in enumerate([(640, 480), (300, 900), (97, 120), (224, 256)]):
        coarse = random.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
        turned = Image.Exif()
        turned[0x0112] = (1, 6, 3, 1)[number]
        picture.save(folder / f"{number}.jpg", quality=90, exif=turned)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(folder / "see-through.png")
    return folder


def trained_on(path: Path, encoder: Encoder, pictures: Path) -> Path:
    """A linear head whose scores of these pictures lie apart."""
    opened = [Image.open(one).convert("RGB") for one in sorted(pictures.iterdir())]
    x = encoder.encode(np.stack([encoder.preprocess(one) for one in opened])).astype(np.float64)
    weights = np.random.default_rng(5).normal(size=encoder.dim)
    weights *= 0.8 / (x @ weights).std()
    none, one = np.zeros(encoder.dim, np.float32), np.ones(encoder.dim, np.float32)
    tensors = linear_head(weights, -(x @ weights).mean(), none, one)
    known = {
        "encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint,
        "embedding": "not L2-normalised", "project": "Taste", "version": "v0.0",
    }  # fmt: skip
    save_checkpoint(path, tensors, known)
    return path


# --- what all of them rest on --------------------------------------------------------------------


def test_the_bundled_encoder_as_plain_layers_gives_what_torch_gives(encoder: Encoder) -> None:
    """Its fingerprints too, on which it rests whether a version may take it along."""
    network = efficientnet.load_network().eval()
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = block = pixels
    for layer in bundled_layers.layers():
        block = x if layer.opens else block
        before, after = bundled_layers.same_padding(x.shape[2], layer.kernel, layer.stride)
        x = torch.nn.functional.conv2d(
            torch.nn.functional.pad(x, (before, after, before, after)),
            torch.from_numpy(layer.weight), torch.from_numpy(layer.bias), layer.stride,
            groups=x.shape[1] if layer.depthwise else 1,
        )  # fmt: skip
        x = x.clamp(0, 6) if layer.relu6 else x
        x = x + block if layer.adds else x
    with torch.inference_mode():
        np.testing.assert_allclose(x.mean((2, 3)), network(pixels), atol=1e-4)
    assert FINGERPRINTS[encoder.spec.blocks] == encoder.fingerprint
    for blocks in FINGERPRINTS.keys() - {encoder.spec.blocks}:
        name = efficientnet.name_of(blocks)
        assert load(parse(name), device="cpu").fingerprint == FINGERPRINTS[blocks]


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_a_plain_head_is_the_same_function(kind: str) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(40, 768)).astype(np.float32)
    if kind == "linear":
        unit = np.zeros(768, np.float32), np.ones(768, np.float32)
        tensors = linear_head(random.normal(size=768) / 40, 0.5, *unit)
    else:
        tensors = random_head()
    plain = plain_head(tensors)
    u = x @ plain.up.weight.T + plain.up.bias
    h = u
    for number, layer in enumerate(plain.long):
        h = h @ layer.weight.T + layer.bias
        h = h if number == 2 else np.where(h > 0, h, 0.1 * h)
    r = np.maximum(h + u if plain.long else u, 0)
    neck = r @ plain.narrow.weight.T + plain.narrow.bias
    z = np.where(neck > 0, neck, 0.01 * neck) @ plain.last.weight.T + plain.last.bias
    np.testing.assert_allclose(1 / (1 + np.exp(-2 * z[:, 0])), forward(tensors, x), atol=2e-6)
    assert (len(plain.up.bias) < 1024, len(plain.long)) == (
        (True, 0) if kind == "linear" else (False, 3)
    )


# --- ComfyUI -------------------------------------------------------------------------------------


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Any]]:
    """ComfyUI as far as a node sees it: it imports the folder as a package, calls the method that
    `FUNCTION` names with the inputs of `INPUT_TYPES`, and knows blocked outputs."""

    class ExecutionBlocker:
        def __init__(self, message: str | None) -> None:
            self.message = message

    execution = types.ModuleType("comfy_execution.graph_utils")
    execution.ExecutionBlocker = ExecutionBlocker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy_execution", types.ModuleType("comfy_execution"))
    monkeypatch.setitem(sys.modules, execution.__name__, execution)
    imported: list[str] = []

    def start(folder: Path) -> Callable[..., Any]:
        name = f"custom_nodes_{len(imported)}"
        imported.append(name)
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec and spec.loader
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()

        def node(kind: str, **given: Any) -> tuple[Any, ...]:
            (key,) = (key for key in module.NODE_CLASS_MAPPINGS if key.startswith(kind))
            made = module.NODE_CLASS_MAPPINGS[key]
            inputs = made.INPUT_TYPES()["required"]
            assert made.CATEGORY == "Tastemaker" and key in module.NODE_DISPLAY_NAME_MAPPINGS
            values = {
                name: given.get(name, how[1]["default"] if len(how) > 1 else None)
                for name, how in inputs.items()
            }
            with torch.inference_mode():
                results: tuple[Any, ...] = getattr(made(), made.FUNCTION)(**values)
            assert len(results) == len(made.RETURN_TYPES)
            return results

        return node

    yield start
    for name in [name for name in sys.modules if name.startswith(tuple(imported or ["-"]))]:
        del sys.modules[name]


def batch_of(picture: Path) -> torch.Tensor:
    """As ComfyUI's own node loads it."""
    pixels = np.array(Image.open(picture).convert("RGB")).astype(np.float32) / 255
    return torch.from_numpy(pixels)[None]


def test_the_comfyui_nodes_score_filter_and_keep_the_best_without_tastemaker(
    world: World, comfyui: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.written("comfyui", tmp_path)
    assert folder.name == "tastemaker-Taste-v0.0"
    monkeypatch.setitem(sys.modules, "tastemaker", None)  # importing it would fail
    node = comfyui(folder)
    for name in ("0.png", "1.png", "2.png", "0.jpg"):
        images, scores, text = node("TastemakerScore:", images=batch_of(world.pictures / name))
        assert scores == [pytest.approx(world.expected[name], abs=1e-5)]
        assert text == f"{100 * scores[0]:.1f} %" and len(images) == 1

    same = [Image.open(world.pictures / f"{n}.png").resize((224, 224)) for n in range(4)]
    batch = torch.from_numpy(np.stack([np.asarray(one.convert("RGB")) for one in same]) / 255)
    _, scores, _ = node("TastemakerScore:", images=batch)
    middle = sum(sorted(scores)[1:3]) / 2
    passing, failing, count = node("TastemakerFilter:", images=batch, threshold=middle)
    above = [score >= middle for score in scores]
    assert count == 2
    assert torch.equal(passing, batch[above]) and torch.equal(failing, batch[~np.array(above)])
    best, highest = node("TastemakerBest:", images=batch, how_many=3)
    assert highest == sorted(scores, reverse=True)[:3]
    assert torch.equal(best[0], batch[int(np.argmax(scores))])
    how = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(how | {"encoder_by": "tastemaker"}))
    with pytest.raises(ImportError, match="python -m pip install FOLDER-OF-TASTEMAKER"):
        comfyui(folder)("TastemakerScore:", images=batch)
    monkeypatch.delitem(sys.modules, "tastemaker")
    _, through_tastemaker, _ = comfyui(folder)("TastemakerScore:", images=batch)
    assert through_tastemaker == pytest.approx(scores, abs=1e-5)
    nothing, everything, count = node("TastemakerFilter:", images=batch, threshold=1.0)
    assert (type(nothing).__name__, nothing.message, count) == ("ExecutionBlocker", None, 0)
    assert len(everything) == 4
    percent = sys.modules["custom_nodes_0"].percent
    assert [percent(x) for x in (0.99996, 1, 0.5, 0.0001, 0)] == [
        "> 99.9 %", "100.0 %", "50.0 %", "< 0.1 %", "0.0 %",
    ]  # fmt: skip


def test_a_node_loads_an_encoder_of_open_clip_itself(
    world: World, comfyui: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From weights in its folder, where there are some: nothing is fetched."""
    import open_clip

    torch.manual_seed(1)
    model = open_clip.create_model("ViT-S-32-alt")
    weights = tmp_path / "encoder_weights.safetensors"
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, weights)
    head = tmp_path / "Clip-v1.0.safetensors"
    features = model.visual.output_dim
    save_file(random_head(features=features), head)
    file = exports.Part(head.name, head)
    clip = portable(
        world, spec=parse("ViT-S-32-alt/laion400m"), features=features, stem="Clip-v1.0"
    )
    parts = elsewhere.comfyui_folder(clip, [file])
    names = {part.name for part in parts}
    assert "encoder.safetensors" not in names and "requirements.txt" in names
    folder = exports.write(parts, tmp_path / "node")[0].parent
    shutil.copy(weights, folder)
    monkeypatch.setitem(sys.modules, "tastemaker", None)
    _, scores, _ = comfyui(folder)("TastemakerScore:", images=batch_of(world.pictures / "0.png"))
    monkeypatch.undo()
    scorer = tastemaker.load(head, encoder=f"ViT-S-32-alt@{weights}")
    assert scores == [pytest.approx(scorer.score(world.pictures / "0.png"), abs=CLOSE)]


def portable(world: World, **other: Any) -> Portable:
    with sessions.reading(world.engine) as session:
        return replace(elsewhere.portable(session, world.settings, world.version), **other)


def test_what_cannot_run_elsewhere_says_why(world: World) -> None:
    both = portable(world, spec=parse(f"{BUNDLED}+ViT-B-32-quickgelu/openai"), fingerprint="f" * 16)
    with pytest.raises(Conflict, match="several networks side by side"):
        html_page(both)
    assert elsewhere.encoder_by(both) == "tastemaker", "which puts them together"
    with pytest.raises(Conflict, match="another make of it"):
        html_page(portable(world, fingerprint="declared:f"))
    with pytest.raises(Conflict, match="another make of"):
        elsewhere.encoder_by(portable(world, fingerprint="declared:f"))
    for name, why in (
        ("tiles", "five tiles"),
        ("middle-frame", "the middle frame"),
        ("mean-frames", "the means over up to 8 evenly spaced frames"),
    ):
        seen_otherwise = portable(
            world, spec=parse(f"efficientnet_lite0+{name}/bundled"), fingerprint="f" * 16
        )
        with pytest.raises(Conflict, match=why):
            html_page(seen_otherwise)
        assert elsewhere.encoder_by(seen_otherwise) == "tastemaker"
    for spec, why in (
        (parse("ViT-B-32@/mine.safetensors"), "weights that only this machine has"),
        (spec_of("made at home"), "came from outside, of an encoder called “made at home”"),
    ):
        mine = portable(world, spec=spec)
        with pytest.raises(Conflict, match=why):
            elsewhere.encoder_by(mine)
        assert "base_model" not in front_matter(mine, "") and "/mine" not in str(mine.about())
    with pytest.raises(Invalid, match="no name of a license"):
        world.bundle("hub", license="All rights reserved")
    classes = world.version.model_copy()
    classes.recipe = {**world.version.recipe, "labels": ["bad", "good"]}
    with sessions.reading(world.engine) as session:
        offers = elsewhere.offers(session, world.settings, classes)
    assert all("sorts into 2 classes" in offer.why_not for offer in offers)


# --- ONNX ----------------------------------------------------------------------------------------


def test_the_onnx_files_score_pixels_and_embeddings(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very lines of the README in the folder."""
    pytest.importorskip("onnxruntime", reason=EXTRA)
    folder = world.written("onnx", tmp_path)
    head, pixels = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    x = np.random.default_rng(2).normal(size=(5, 4128)).astype(np.float32)
    monkeypatch.chdir(folder)
    said: dict[str, Any] = {"embeddings": x}
    exec(head, said)
    want = tastemaker.load(versions.checkpoint_path(world.settings, world.version)).score(x)
    np.testing.assert_allclose(said["scores"], want, atol=1e-5)
    for name in ("0.jpg", "1.png"):
        shutil.copy(world.pictures / name, folder / "picture.jpg")
        exec(pixels, said)
        assert said["scores"].tolist() == [pytest.approx(world.expected[name], abs=1e-5)]


def test_a_head_with_all_its_layers_and_normalised_embeddings_is_the_same_in_onnx(
    world: World, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=EXTRA)
    file = tmp_path / "Base-v1.0.safetensors"
    save_file(random_head(), file)
    version = portable(
        world, spec=parse("ViT-L-14-quickgelu/openai"), features=768, normalised=True, file=file
    )
    parts = elsewhere.onnx_folder(version, exports.Part("config.json", b"{}"))
    assert [part.name for part in parts] == ["Taste-v0.0.head.onnx", "config.json", "README.md"]
    x = np.random.default_rng(2).normal(size=(7, 768)).astype(np.float32)
    (scores,) = onnxruntime.InferenceSession(parts[0].content).run(None, {"embedding": x})
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, Head(random_head())(unit), atol=1e-5)


# --- a model hub ---------------------------------------------------------------------------------


def test_the_hub_folder_has_a_card_that_the_hub_reads_and_a_head_that_loads(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import ModelCard  # half a second that only this test pays

    bundle = world.bundle("hub", license="cc-by-4.0")
    folder = exports.write(bundle.parts, tmp_path / bundle.folder)[0].parent
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "tastemaker"
    assert "aesthetic-score" in card.data.tags and card.data.model_name == "Taste v0.0"
    assert "# Taste v0.0" in card.text and "## Metrics" in card.text
    (usage,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    shutil.copy(world.pictures / "0.jpg", folder / "picture.jpg")
    monkeypatch.chdir(folder)
    exec(usage, {})
    assert float(capsys.readouterr().out) == pytest.approx(world.expected["0.jpg"], abs=1e-5)


# --- the web page --------------------------------------------------------------------------------


def test_pictures_are_made_smaller_to_the_bit_as_pillow_does_it(tmp_path: Path) -> None:
    """In the page's own code, by node: every shape, both ways of fitting."""
    random = np.random.default_rng(4)
    shapes = [(640, 480), (301, 907), (97, 121), (256, 256), (1200, 40), (40, 1201), (225, 700)]
    views = [efficientnet.CROP, Preprocessing(32, 32, "squash", "bicubic", (0,) * 3, (1,) * 3)]
    cases, wanted = [], []
    for number, (width, height) in enumerate(shapes):
        pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        (tmp_path / f"{number}").write_bytes(pixels.tobytes())
        for view in views:
            how = {"size": view.size, "resize_to": view.resize_to, "resize_mode": view.resize_mode}
            cases.append(
                {"file": str(tmp_path / f"{number}"), "size": [width, height], "view": how}
            )
            made = fitted(Image.fromarray(pixels[..., :3]), view)
            wanted.append(hashlib.sha256(made.tobytes()).hexdigest())
    script = shipped("templates") / "elsewhere" / "scoring.js"
    program = """
      const { fitted } = require(process.argv[1]), fs = require("fs"), crypto = require("crypto");
      for (const { file, size, view } of JSON.parse(process.argv[2])) {
        const made = fitted(fs.readFileSync(file), ...size, view);
        console.log(crypto.createHash("sha256").update(made).digest("hex"));
      }"""
    words = [NODE, "-e", program, str(script), json.dumps(cases)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == wanted, run.stderr


def test_a_head_with_all_its_layers_judges_the_same_in_the_page(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "Base-v1.0.safetensors"
    save_file(random_head(features=1280), file)
    plain = {"spec": parse(BUNDLED), "features": 1280, "fingerprint": FINGERPRINTS[()]}
    numbers = Numbers()
    model = model_of(portable(world, file=file, normalised=True, **plain), numbers)
    x = np.random.default_rng(2).normal(size=(3, 1280)).astype(np.float32)
    for name, content in (("model", json.dumps(model).encode()), ("x", x.tobytes()),
                          ("weights", gzip.decompress(numbers.compressed()))):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    program = """
      const [script, kernels, folder] = process.argv.slice(1), fs = require("fs");
      const { Scorer } = require(script), read = (name) => fs.readFileSync(`${folder}/${name}`);
      const floats = (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
      WebAssembly.instantiate(fs.readFileSync(kernels)).then(({ instance }) => {
        const model = JSON.parse(read("model")), weights = floats(read("weights"));
        const scorer = new Scorer(instance.exports, model, weights);
        const x = floats(read("x")), wide = x.length / 3;
        for (let i = 0; i < x.length; i += wide)
          console.log(scorer.judge([...x.slice(i, i + wide)]));
      });"""
    parts = shipped("templates") / "elsewhere"
    words = [NODE, "-e", program, parts / "scoring.js", parts / "kernels.wasm", tmp_path]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    want = Head(random_head(features=1280))(x / np.linalg.norm(x, axis=1, keepdims=True))
    np.testing.assert_allclose([float(s) for s in run.stdout.split()], want, atol=1e-5)


def test_the_kernels_of_the_page_are_built_from_their_source() -> None:
    """`make kernels` writes both and this record of them."""
    folder = shipped("templates") / "elsewhere"
    record = json.loads((folder / "kernels.json").read_text())
    for name in ("kernels.c", "kernels.wasm"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == record[name], name


@pytest.mark.browser
def test_the_page_scores_a_folder_in_a_browser_without_a_network(
    world: World, chromium: Browser, tmp_path: Path
) -> None:
    (part,) = world.bundle("html").parts
    (file,) = exports.write([part], tmp_path)
    folder = tmp_path / "to score"
    shutil.copytree(world.pictures, folder / "inner")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("left out")
    context = chromium.new_context(offline=True, accept_downloads=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url)
            if not asked.url.startswith(("file:", "blob:", "data:")) else None)  # fmt: skip
    page.goto(file.as_uri())
    page.locator("#folder").set_input_files(folder)
    expect(page.locator("#status")).to_have_attribute("data-done", "true", timeout=60_000)
    expect(page.locator("#failed summary")).to_have_text("1 file could not be opened as a picture")
    expect(page.locator("#grid li")).to_have_count(len(world.expected))

    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    found = {Path(row["path"]).name: float(row["aesthetic_score"]) for row in rows}
    assert found == {name: pytest.approx(score, abs=CLOSE)
                     for name, score in world.expected.items()}  # fmt: skip
    assert rows[0]["path"] == f"to score/inner/{max(found, key=lambda name: found[name])}"
    assert {row["model"] for row in rows} == {"Taste@v0.0"}

    page.locator("#threshold").fill("65.5")
    expect(page.locator("#threshold-said")).to_have_text("65.5 %")
    page.locator("#threshold").fill(str(round(100 * sorted(found.values())[-2])))
    page.locator("#show").select_option("pass")
    passing = sum(100 * score >= round(100 * sorted(found.values())[-2])
                  for score in found.values())  # fmt: skip
    expect(page.locator("#passing")).to_contain_text(f"{passing} of {len(found)} pass")
    assert troubles(page) == []
    page.locator("#as-table").click()
    expect(page.locator("#table tbody tr")).to_have_count(passing)
    assert troubles(page, BY_ALL_RULES) == []
    context.close()
    assert wrong == []


# --- how one gets them ---------------------------------------------------------------------------


def test_all_forms_come_by_the_lines_of_the_documentation_the_page_and_the_api(
    world: World, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What docs/comfyui.md tells to type is typed."""
    monkeypatch.setenv("TASTEMAKER_HOME", str(world.settings.root))
    page = (Path(__file__).parent.parent / "docs" / "comfyui.md").read_text("utf-8")
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.split("\n")
    ]
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    for line in filter(None, lines):
        words = line.replace("Anime", "Taste").replace("v1.0", "v0.0").split()
        if words[0] == "tastemaker":
            said = run(*words[1:])
            assert said.code == 0, (line, said.err)
        else:
            subprocess.run(words, cwd=tmp_path, check=True)
    assert (tmp_path / "ComfyUI/custom_nodes/tastemaker-Taste-v0.0/__init__.py").is_file()
    said = run("publish", "Taste@v0.0", "--as", "comfyui", "--out", tmp_path / "out", "--json")
    assert said.code == 0 and str(tmp_path / "out/tastemaker-Taste-v0.0/model.json") in said.json
    written = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*") if path.is_file()
    }  # fmt: skip
    assert {"Taste-v0.0.html", "tastemaker-Taste-v0.0/__init__.py", "Taste-v0.0/README.md",
            "Taste-v0.0-onnx/Taste-v0.0.onnx"} <= written  # fmt: skip
    assert 'license: "cc-by-4.0"' in (tmp_path / "out/Taste-v0.0/README.md").read_text("utf-8")
    assert run("publish", "Taste", "--as", "pdf", "--out", tmp_path).code == 2

    client = client_of(create_app(world.settings))
    shown = client.get("/projects/1/publish").text
    for form in elsewhere.FORMS:
        assert f"/versions/{world.version.id}/elsewhere/{form}" in shown
    for form in ("html", "hub"):
        answer = client.get(f"/api/v1/versions/{world.version.id}/export?format={form}")
        assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]
        if form == "html":
            assert answer.content == (tmp_path / "out" / "Taste-v0.0.html").read_bytes()
        else:
            assert set(zipfile.ZipFile(io.BytesIO(answer.content)).namelist()) <= written
