"""The head's layout, its algebra and its files, checked against a forward pass of our own here."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from tastemaker.errors import CheckpointError, Invalid
from tastemaker.learning import checkpoints, city96, heads, network

WEIGHTS = {
    "up.0": (1024, 768),
    "up.1.long.0": (1024, 1024),
    "up.1.long.2": (1024, 1024),
    "up.1.long.4": (1024, 1024),
    "down.0": (128, 1024),
    "down.1": (64, 128),
    "down.4": (32, 64),
    "down.5": (1, 32),
}


def forward(tensors, x):
    """The original's forward pass, layer by layer in float64, from its description alone."""

    def linear(name, v):
        return v @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"]

    def leaky(v, slope):
        return np.where(v > 0, v, slope * v)

    u = linear("up.0", np.asarray(x, np.float64))
    h = leaky(linear("up.1.long.0", u), 0.1)
    h = leaky(linear("up.1.long.2", h), 0.1)
    r = np.maximum(linear("up.1.long.4", h) + u, 0)
    h = leaky(linear("down.1", linear("down.0", r)), 0.01)
    return linear("down.5", linear("down.4", h))


def score(tensors, x):
    return (np.tanh(forward(tensors, x)[:, 0]) + 1) / 2


def random_head(features=768, outputs=1, seed=0, spread=8.0):
    """A head of random weights whose scores spread over most of 0-1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = network.tensors_of(network.City96(features, outputs))
    return city96.fold_platt(tensors, spread, 0.2)


def module_of(tensors):
    """The torch module that holds these tensors, in eval mode."""
    module = network.City96(*city96.check_layout(tensors))
    module.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()})
    return module.eval()


@pytest.fixture(scope="module")
def head():
    return random_head()


@pytest.fixture(scope="module")
def small_head():
    """Few features, so that files are quick to write."""
    return random_head(features=4)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(300, 768)).astype(np.float32)


# ---------------------------------------------------------------- layout


def test_the_module_has_exactly_the_sixteen_tensors(head):
    expected = {f"{name}.weight": shape for name, shape in WEIGHTS.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in WEIGHTS.items()}
    assert {name: value.shape for name, value in head.items()} == expected
    assert city96.layout(768) == expected
    assert sum(value.size for value in head.values()) == 4_077_825


def test_the_module_agrees_with_the_independent_forward_pass(head, x):
    with torch.inference_mode():
        z = module_of(head)(torch.from_numpy(x)).numpy()
    assert np.abs(z - forward(head, x)).max() < 1e-5


def test_dropout_acts_in_training_only(head, x):
    module = module_of(head)
    rows = torch.from_numpy(x[:8])
    assert torch.equal(module(rows), module(rows))
    module.train()
    assert not torch.equal(module(rows), module(rows))


# ---------------------------------------------------------------- scoring


def test_fp32_scores_agree_with_the_forward_pass_to_1e_5(head, x):
    got = heads.Head(head)(x)
    assert got.dtype == np.float32
    assert got.shape == (300,)
    assert np.ptp(got) > 0.3
    assert np.abs(got - score(head, x)).max() < 1e-5


def test_fast_scores_agree_to_2e_3_and_keep_apart(x):
    mild = random_head(spread=4.0)
    many = np.random.default_rng(1).normal(size=(4096, 768)).astype(np.float32)
    got = heads.Head(mild, "fast")(many)
    assert np.abs(got[:500] - score(mild, many[:500])).max() < 2e-3
    assert len(np.unique(got)) > 4000


def test_fast_scores_need_no_fused_layers(x, monkeypatch):
    mild = random_head(spread=4.0)
    quickest = heads.Head(mild, "fast")(x)
    monkeypatch.setattr(heads, "_fuses", lambda: False)
    plain = heads.Head(mild, "fast")(x)
    assert np.abs(plain - score(mild, x)).max() < 2e-3
    assert np.abs(plain - quickest).max() < 2e-3


def test_scores_do_not_depend_on_the_number_of_threads_and_leave_it_alone(head, x):
    before = torch.get_num_threads()
    try:
        scores = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            scores.append(heads.Head(head)(x))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.abs(scores[0] - scores[1]).max() < 1e-6


def test_classes_give_a_softmax(x):
    head = random_head(outputs=3)
    z = forward(head, x)
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    got = heads.Head(head)(x)
    assert got.shape == (300, 3)
    assert np.abs(got - expected).max() < 1e-5


def test_a_memory_mapped_float16_file_scores_like_the_array_whatever_the_chunk(
    head, x, tmp_path, monkeypatch
):
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(heads.Head, "CHUNKS", dict.fromkeys(heads.Head.CHUNKS, 77))
    assert np.abs(heads.Head(head)(mapped) - score(head, mapped)).max() < 1e-5


def test_no_rows_give_no_scores(head):
    assert heads.Head(head)(np.empty((0, 768), np.float32)).shape == (0,)


def test_a_row_of_nan_scores_nan_and_leaves_the_others_alone(head, x):
    rows = x[:3].copy()
    rows[1, 5] = np.nan
    got = heads.Head(head)(rows)
    assert np.isnan(got).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(3, 512), (768,), (1, 1, 768)])
def test_embeddings_of_another_shape_are_refused(head, shape):
    with pytest.raises(Invalid, match="embeddings of 768 numbers"):
        heads.Head(head)(np.zeros(shape, np.float32))


def test_an_unknown_precision_is_refused(head):
    with pytest.raises(Invalid, match="int4"):
        heads.Head(head, "int4")


# ---------------------------------------------------------------- algebra


def test_standardisation_folds_into_the_first_layer(head):
    random = np.random.default_rng(2)
    raw = random.normal(3, 2, size=(100, 768)).astype(np.float32)
    mean, scale = raw.mean(0), raw.std(0)
    folded = city96.fold_standardisation(head, mean, scale)
    assert np.abs(score(folded, raw) - score(head, (raw - mean) / scale)).max() < 1e-5


def test_a_scale_of_zero_does_not_fold(head):
    with pytest.raises(Invalid, match="positive"):
        city96.fold_standardisation(head, np.zeros(768), np.zeros(768))


@settings(max_examples=8, deadline=None)
@given(a=st.floats(-3, 3), c=st.floats(-3, 3))
def test_platt_scaling_folds_into_the_last_layer(head, x, a, c):
    logit = 2 * forward(head, x[:20])[:, 0]
    expected = 1 / (1 + np.exp(-(a * logit + c)))
    assert np.abs(score(city96.fold_platt(head, a, c), x[:20]) - expected).max() < 1e-5


vectors = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=8, deadline=None)
@given(random=vectors, steepness=st.floats(0.01, 5), bias=st.floats(-4, 4))
def test_a_logistic_head_is_exact_in_the_layout(random, steepness, bias):
    features = 24
    w = random.normal(size=features) * steepness / np.sqrt(features)
    mean, scale = random.normal(size=features) * 3, random.uniform(0.1, 3, features)
    raw = (mean + scale * random.normal(size=(200, features))).astype(np.float32)
    linear = ((raw - mean) / scale) @ w + bias
    tensors = city96.linear_head(w, bias, mean, scale)
    expected = 1 / (1 + np.exp(-linear))
    assert np.abs(score(tensors, raw) - expected).max() < 1e-5
    assert np.abs(heads.Head(tensors)(raw) - expected).max() < 1e-5


@settings(max_examples=8, deadline=None)
@given(random=vectors, steepness=st.floats(0.01, 3), bias=st.floats(-0.5, 1.5))
def test_a_clipped_linear_head_is_within_1e_4_in_the_layout(random, steepness, bias):
    features = 24
    w = random.normal(size=features) * steepness / np.sqrt(features)
    raw = random.normal(size=(500, features)).astype(np.float32)
    expected = np.clip(raw @ w + bias, 0, 1)
    tensors = city96.linear_head(w, bias, np.zeros(features), np.ones(features), link="identity")
    assert np.abs(score(tensors, raw) - expected).max() < 1e-4
    assert np.abs(heads.Head(tensors)(raw) - expected).max() < 1e-4


def test_an_unknown_link_is_refused():
    with pytest.raises(Invalid, match="probit"):
        city96.linear_head(np.ones(3), 0.0, np.zeros(3), np.ones(3), link="probit")


# ---------------------------------------------------------------- two heads in one


@pytest.fixture(scope="module")
def with_lane():
    head = {name: value.copy() for name, value in random_head(features=24).items()}
    city96.silence_lane(head)
    return head


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(random=vectors, share=st.floats(0, 1), bias=st.floats(-4, 4))
def test_the_logit_of_two_heads_side_by_side_is_the_weighted_sum_of_theirs(
    with_lane, random, share, bias
):
    mean, scale = random.normal(size=24) * 3, random.uniform(0.1, 3, 24)
    raw = (mean + scale * random.normal(size=(200, 24))).astype(np.float32)
    line = city96.linear_head(random.normal(size=24) / 3, bias, mean, scale)
    large = city96.fold_standardisation(with_lane, mean, scale)
    both = city96.side_by_side(
        city96.fold_platt(large, share, 0), city96.fold_platt(line, 1 - share, 0)
    )
    expected = share * forward(large, raw) + (1 - share) * forward(line, raw)
    assert np.abs(forward(both, raw) - expected).max() < 1e-5
    assert np.abs(heads.Head(both)(raw) - 1 / (1 + np.exp(-2 * expected[:, 0]))).max() < 1e-5
    torch_says = module_of(both).double()(torch.from_numpy(raw).double())
    assert np.abs(torch_says.detach().numpy() - expected).max() < 1e-5


def test_a_silent_lane_has_no_slope_and_stays_silent_in_training(with_lane):
    """With momentum, decay and dropout, in torch's own words."""
    module = module_of(with_lane).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 24)).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(5):
            optimiser.zero_grad()
            (torch.tanh(module(x)[:, 0]) - torch.tanh(x[:, 0])).abs().mean().backward()
            optimiser.step()
    after = network.tensors_of(module)
    moved = [name for name in after if not np.array_equal(after[name], with_lane[name])]
    assert len(moved) == 16
    for name, parts in city96.LANE.items():
        for part in parts:
            assert not after[name][part].any()


@pytest.mark.parametrize("name", sorted(city96.LANE))
def test_heads_that_share_units_do_not_go_side_by_side(with_lane, name):
    line = city96.linear_head(np.ones(24), 0.0, np.zeros(24), np.ones(24))
    for part in city96.LANE[name]:
        taken = {**with_lane, name: with_lane[name].copy()}
        taken[name][part] = 1e-3
        with pytest.raises(Invalid, match="share units"):
            city96.side_by_side(taken, line)


def test_what_is_no_line_does_not_go_beside_a_head(with_lane):
    with pytest.raises(Invalid, match="share units"):
        city96.side_by_side(with_lane, with_lane)


# ---------------------------------------------------------------- files


def test_a_saved_head_comes_back_bit_by_bit_with_its_metadata(head, tmp_path):
    path = tmp_path / "Base-v1.8.safetensors"
    sha256 = checkpoints.save_checkpoint(path, head, {"project": "Base", "version": "v1.8"})
    read = checkpoints.load_checkpoint(path, features=768)
    assert read.sha256 == sha256
    assert (read.features, read.outputs) == (768, 1)
    assert read.metadata == {"project": "Base", "version": "v1.8"}
    assert all(np.array_equal(read.tensors[name], head[name]) for name in head)
    assert sorted(load_file(path)) == sorted(head)  # the public library reads the same names
    assert path.stat().st_size < 16.4e6


def test_the_same_head_gives_the_same_bytes(small_head, tmp_path):
    hashes = {
        checkpoints.save_checkpoint(tmp_path / f"{i}.safetensors", tensors, {"a": "1"})
        for i, tensors in enumerate([small_head, dict(reversed(small_head.items()))])
    }
    assert len(hashes) == 1


def test_a_strange_head_is_not_saved(small_head, tmp_path):
    with pytest.raises(CheckpointError, match="lacks 1 of the 16"):
        checkpoints.save_checkpoint(
            tmp_path / "x.safetensors", {k: v for k, v in small_head.items() if k != "down.5.bias"},
            {},
        )  # fmt: skip
    assert not (tmp_path / "x.safetensors").exists()


def test_half_precision_files_load(small_head, tmp_path):
    half = {name: value.astype(np.float16) for name, value in small_head.items()}
    save_file(half, tmp_path / "half.safetensors")
    read = checkpoints.load_checkpoint(tmp_path / "half.safetensors").tensors
    assert all(np.array_equal(read[name], half[name].astype(np.float32)) for name in half)

    import safetensors.torch

    brain = {name: torch.from_numpy(value).bfloat16() for name, value in small_head.items()}
    safetensors.torch.save_file(brain, tmp_path / "brain.safetensors")
    read = checkpoints.load_checkpoint(tmp_path / "brain.safetensors").tensors
    assert all(np.array_equal(read[name], brain[name].float().numpy()) for name in brain)


def test_the_sidecar_of_a_score_is_what_the_original_reads(tmp_path):
    config = checkpoints.sidecar("Base", "v1.8", features=768, encoder="ViT-L-14")
    assert json.loads(json.dumps(config)) == {
        "name": "Base",
        "rev": "v1.8",
        "arch": "score",
        "labels": None,
        "model_params": {"features": 768, "hidden": 1024, "outputs": 1},
        "encoder": "ViT-L-14",
    }
    path = checkpoints.sidecar_path(tmp_path / "Base-v1.8.safetensors")
    assert path.name == "Base-v1.8.config.json"


def test_the_sidecar_of_classes_names_them():
    config = checkpoints.sidecar("Base", "v1.0", features=768, labels=["Pass", "JPEG"])
    assert config["arch"] == "class"
    assert config["labels"] == {"0": "Pass", "1": "JPEG"}
    assert config["model_params"]["outputs"] == 2


def test_the_sidecar_keeps_its_own_keys():
    with pytest.raises(Invalid, match="'arch'"):
        checkpoints.sidecar("Base", "v1.0", features=768, arch="other")


# ---------------------------------------------------------------- files that nobody vouches for


def refused(path, data: bytes, match: str, **options):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoints.load_checkpoint(path, **options)
    assert caught.value.message.endswith(".")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "suspect.safetensors"


def with_header(header, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def taken_apart(tensors) -> tuple[dict, bytes]:
    data = save(dict(tensors))
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for suspect in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoints.load_checkpoint(suspect)


def test_an_empty_file_is_refused(path):
    refused(path, b"", "too short")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_and_not_run(path, tmp_path, protocol):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    refused(path, pickle.dumps(Trap(), protocol), "pickle")
    assert not (tmp_path / "ran").exists()


def test_a_pytorch_zip_is_refused(path, small_head):
    torch.save({name: torch.from_numpy(value) for name, value in small_head.items()}, path)
    assert zipfile.is_zipfile(path)
    refused(path, path.read_bytes(), "zip archive")


def test_a_file_over_the_cap_is_refused(path, small_head, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_FILE_BYTES", 2**20)
    refused(path, save(small_head), "larger than 1 MB")


def test_a_giant_header_is_refused_before_it_is_parsed(path):
    refused(path, (2**62).to_bytes(8, "little") + b"{}" + bytes(20), "claims a header of")


def test_a_file_that_ends_within_its_header_is_refused(path, small_head):
    refused(path, save(small_head)[:100], "within its header")


@pytest.mark.parametrize("header", [b"{not json", b"\xff\xfe", b"[" * 100_000, b'{"a": 1e}'])
def test_a_header_that_is_no_json_is_refused(path, header):
    refused(path, with_header(header, b""), "not valid JSON")


def test_a_header_that_is_no_object_is_refused(path):
    refused(path, with_header([1, 2], b""), "not a JSON object")


def test_a_name_given_twice_is_refused(path):
    refused(path, with_header(b'{"up.0.weight": {}, "up.0.weight": {}}', b""), "twice")


def test_metadata_that_is_no_table_of_strings_is_refused(path):
    refused(path, with_header({"__metadata__": {"a": [1]}}, b""), "metadata")


def test_a_missing_tensor_is_refused(path, small_head):
    rest = {name: value for name, value in small_head.items() if name != "down.4.bias"}
    refused(path, save(rest), r"lacks 1 of the 16 tensors of a head, down\.4\.bias")


def test_an_extra_tensor_is_refused(path, small_head):
    refused(path, save({**small_head, "layers.0.weight": np.ones(3, np.float32)}), "no head has")


def test_a_wrong_shape_is_refused(path, small_head):
    wrong = {**small_head, "down.1.weight": np.zeros((64, 127), np.float32)}
    refused(path, save(wrong), r"down\.1\.weight is 64 × 127; a head needs 64 × 128")


def test_another_hidden_width_is_refused(path, small_head):
    wrong = {**small_head, "up.0.weight": np.zeros((512, 4), np.float32)}
    refused(path, save(wrong), r"up\.0\.weight is 512 × 4")


def test_a_flattened_first_layer_is_refused(path, small_head):
    wrong = {**small_head, "up.0.weight": small_head["up.0.weight"].ravel()}
    refused(path, save(wrong), "must be non-empty matrices")


def test_a_head_for_another_encoder_is_refused(path, small_head):
    refused(path, save(small_head), "takes embeddings of 4 numbers, but the encoder gives 768",
            features=768)  # fmt: skip


def test_a_strange_dtype_is_refused(path, small_head):
    wrong = {**small_head, "down.5.bias": np.zeros(1, np.float64)}
    refused(path, save(wrong), r"down\.5\.bias is stored as F64")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(path, small_head, value):
    wrong = {**small_head, "down.0.weight": small_head["down.0.weight"].copy()}
    wrong["down.0.weight"][7, 9] = value
    refused(path, save(wrong), r"down\.0\.weight holds values that are not finite")


def test_overlapping_tensors_are_refused(path, small_head):
    header, body = taken_apart(small_head)
    entry = header["up.0.bias"]
    assert entry["data_offsets"][0] > 0
    entry["data_offsets"] = [offset - 4 for offset in entry["data_offsets"]]
    refused(path, with_header(header, body), "overlaps")


def test_truncated_tensors_are_refused(path, small_head):
    refused(path, save(small_head)[:-5], "within its tensors")


def test_bytes_behind_the_last_tensor_are_refused(path, small_head):
    refused(path, save(small_head) + b"MZ", "behind the last tensor")


def test_bytes_between_tensors_are_refused(path, small_head):
    header, body = taken_apart(small_head)
    for entry in header.values():
        entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]
    refused(path, with_header(header, bytes(8) + body), "unused bytes before")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"dtype": "F32"},
        {"dtype": "F32", "shape": 3, "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0]},
        {"dtype": "F32", "shape": [-3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": ["3"], "data_offsets": [0, 12]},
    ],
)
def test_a_malformed_entry_is_refused(path, small_head, entry):
    header, body = taken_apart(small_head)
    header["up.0.bias"] = entry
    refused(path, with_header(header, body), r"entry of the tensor up\.0\.bias is malformed")


def test_a_tensor_that_claims_other_bytes_than_its_shape_is_refused(path, small_head):
    header, body = taken_apart(small_head)
    header["up.0.bias"]["shape"] = [1023]
    refused(path, with_header(header, body), "does not fill")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_damage_gives_anything_but_a_clear_error(tmp_path_factory, data):
    """Random bytes overwritten anywhere in the header: the file loads or is refused in words."""
    good = save(random_head_once())
    header = int.from_bytes(good[:8], "little")
    at = data.draw(st.integers(0, header + 7))
    damage = data.draw(st.binary(min_size=1, max_size=12))
    path = tmp_path_factory.mktemp("damage") / "x.safetensors"
    path.write_bytes(good[:at] + damage + good[at + len(damage) :])
    try:
        read = checkpoints.load_checkpoint(path)
    except CheckpointError as error:
        assert str(error)
    else:
        assert read.features == 1


def random_head_once(cache=[]):  # noqa: B006
    """Made once: hypothesis asks for it at every example."""
    if not cache:
        cache.append({n: np.zeros(s, np.float16) for n, s in city96.layout(1).items()})
    return cache[0]
