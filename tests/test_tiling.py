"""Tiles: where they lie, what the original does and the honest way does not, one vector for each
picture, and a fingerprint of their own."""

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.encoding import efficientnet, tiling
from tastemaker.encoding.encoder_names import canonical
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load
from tastemaker.encoding.preprocessing import Preprocessing, fitted, fitted_views
from tastemaker.errors import Invalid
from tastemaker.pictures.pictures import decode

CROP = efficientnet.CROP
CLIP = Preprocessing(224, 224, "shortest", "bicubic", (0.5,) * 3, (0.5,) * 3)


def gradient(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return Image.fromarray(pixels)


def views(picture: Image.Image, name: str, how: Preprocessing = CROP) -> np.ndarray:
    flat = fitted_views(picture, tiling.views_of(how, name))
    return flat.reshape(5, how.size, how.size, 3)


def test_full_size_tiles_are_the_corners_and_the_centre_pixel_for_pixel() -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (500, 700, 3), np.uint8))
    pixels, found = np.asarray(picture), views(picture, "tiles")
    corners = ((0, 0), (0, 476), (276, 0), (276, 476), (138, 238))
    for tile, (top, left) in zip(found, corners, strict=True):
        assert (tile == pixels[top : top + 224, left : left + 224]).all()


@pytest.mark.parametrize(("width", "height"), [(100, 300), (300, 90), (1, 1), (224, 224)])
def test_a_picture_too_small_for_a_tile_is_mirrored_and_never_enlarged(width, height) -> None:
    picture = gradient(width, height)
    pixels, found = np.asarray(picture), views(picture, "tiles")
    across, down = min(width, 224), min(height, 224)
    assert (found[0][:down, :across] == pixels[:down, :across]).all()
    if width < 224:
        assert (found[0][:down, width : 2 * width] == pixels[:down, ::-1][:, : 224 - width]).all()


def test_the_original_s_tiles_are_those_of_its_own_steps() -> None:
    """Resized to 1536 on the short side where the long one is above that, which enlarges; five
    crops of twice the size; each fitted. Torchvision does the steps."""
    from torchvision.transforms import functional as steps

    for size in ((700, 1600), (1600, 1700), (1000, 800)):
        picture = gradient(*size)
        seen = steps.resize(picture, 1536) if max(size) > 1536 else picture
        if size == (700, 1600):
            assert seen.size == (1536, 3510)
        theirs = [np.array(tile.resize((224, 224), 3)) for tile in steps.five_crop(seen, 448)]
        assert (views(picture, "original-tiles", CLIP) == np.stack(theirs)).all()


def test_the_original_looks_at_the_whole_of_a_picture_no_more_than_twice_its_size() -> None:
    picture = gradient(448, 900)
    whole = fitted(picture, CLIP)
    assert all((tile == whole).all() for tile in views(picture, "original-tiles", CLIP))


def test_a_very_long_picture_is_cut_before_it_is_resized() -> None:
    found = views(gradient(29_000, 450), "original-tiles", CLIP)
    assert found.shape == (5, 224, 224, 3)
    assert found[0, 100, 100, 0] < 5 and found[1, 100, 100, 0] > 250


@pytest.mark.parametrize("how", tiling.REDUCTIONS)
def test_one_vector_remains_put_together_number_by_number(how: str) -> None:
    name = "tiles" if how == "mean" else f"tiles-{how}"
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(2 * 5, 7)).astype(np.float32))
    found = tiling.reader(lambda pixels: pixels, name)(x).numpy()
    expected = getattr(np, how)(x.numpy().reshape(2, 5, 7), axis=1)
    assert np.allclose(found, expected)


def test_a_tiled_encoder_sees_each_tile_as_the_plain_one_does_and_has_its_own_fingerprint() -> None:
    plain = load(parse(BUNDLED), device="cpu")
    tiled = load(parse("efficientnet_lite0+tiles/bundled"), device="cpu")
    picture = decode(
        Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8))
    )
    flat = tiled.preprocess(picture)
    alone = plain.encode(flat.reshape(5, -1))
    assert tiled.dim == tiled.spec.dim == 1280
    assert np.allclose(tiled.encode(flat[None])[0], alone.mean(axis=0), atol=1e-4)
    prints = {plain.fingerprint, tiled.fingerprint}
    for name in ("tiles-max", "original-tiles"):
        prints.add(load(parse(f"efficientnet_lite0+{name}/bundled"), device="cpu").fingerprint)
    assert len(prints) == 4


def test_names_with_tiles_have_one_form_and_bad_ones_a_sentence() -> None:
    spec = parse("efficientnet_lite0+tiles+stages/bundled")
    assert spec.name == "efficientnet_lite0+stages+tiles/bundled" and spec.tiling == "tiles"
    assert canonical("efficientnet_lite0+tiles+stages/bundled") == spec.name
    assert (
        parse("ViT-B-32-quickgelu+tiles-max/openai").name == "ViT-B-32-quickgelu+tiles-max/openai"
    )
    both = parse("efficientnet_lite0+tiles/bundled+efficientnet_lite0+stages/bundled")
    assert [part.tiling for part in both.parts] == [None, "tiles"], "beside the whole picture"
    for name, sentence in (
        ("efficientnet_lite0+whole+tiles/bundled", "sees tiles only"),
        ("efficientnet_lite0+tiles+tiles-max/bundled", "two ways"),
        ("efficientnet_lite0+tiles-best/bundled", "no block"),
        ("efficientnet_lite0/bundled+tiles", "before it"),
    ):
        with pytest.raises(Invalid) as raised:
            parse(name)
        assert sentence in str(raised.value)
