"""Any mode and profile of a picture → RGB in sRGB; and what lies under transparent parts."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SQUARES = 48  # of the checkerboard under transparent pictures, along their long side


def srgb_pixels(image: Image.Image) -> Image.Image:
    """Any mode → RGB in sRGB, or RGBA where parts are transparent."""
    if image.mode == "F":
        image = _measured(image)
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode == "La":  # grey times its opacity, which Pillow turns into nothing else
        image = image.convert("LA")
    if image.mode in ("P", "1") or image.has_transparency_data:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "RGBA":
        opacity = image.getchannel("A")
        colours = _srgb(image.convert("RGB"), image.info.get("icc_profile"))
        if opacity.getextrema() != (255, 255):
            colours.putalpha(opacity)
        return colours
    return _srgb(image, image.info.get("icc_profile"))


def on_white(picture: Image.Image) -> Image.Image:
    """Mode RGBA → RGB, as encoders see it. Transparent parts become white: stamps, logos and
    clip-art are drawn for paper; what is stored under transparency was never meant to be seen."""
    if picture.mode != "RGBA":
        return picture
    return _laid_on(Image.new("RGB", picture.size, "white"), picture)


def on_checkerboard(picture: Image.Image) -> Image.Image:
    """Mode RGBA → RGB, as people see it: what is transparent shows squares of two light greys, so
    that white is white and nothing is nothing. A long side has `SQUARES` of them at every size."""
    if picture.mode != "RGBA":
        return picture
    side = max(1, round(max(picture.size) / SQUARES))
    columns, rows = (-(-length // side) for length in picture.size)
    odd = np.add.outer(np.arange(rows), np.arange(columns)) % 2
    squares = Image.fromarray(np.where(odd, 222, 255).astype(np.uint8))
    board = squares.resize((columns * side, rows * side), Image.Resampling.NEAREST)
    return _laid_on(board.crop((0, 0, *picture.size)).convert("RGB"), picture)


def _laid_on(ground: Image.Image, picture: Image.Image) -> Image.Image:
    return Image.composite(picture.convert("RGB"), ground, picture.getchannel("A"))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey → eight bits by division; Pillow's own conversion clips at 255. The mode I
    does not say how many bits its values have: those up to 255 are eight-bit ones."""
    deep = np.asarray(image).clip(0, 65535).astype(np.uint32)
    if image.mode != "I" or deep.max() > 255:
        deep = (deep + 128) // 257
    grey = Image.fromarray(deep.astype(np.uint8))
    grey.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    return grey


def _measured(image: Image.Image) -> Image.Image:
    """Grey of any range, as TIFF holds measurements: from 0 to 1, or to 255, or else to the largest
    value there is."""
    grey = np.nan_to_num(np.asarray(image), posinf=0, neginf=0)
    highest = float(grey.max(initial=0))
    top = next((top for top in (1.0, 255.0) if highest <= top), highest)
    return Image.fromarray((grey.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours as the embedded profile means them; a broken or unfitting profile is ignored."""
    if profile:
        try:
            transform = _to_srgb(profile, image.mode)
            if transform is not None:
                converted = ImageCms.applyTransform(image, transform)
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The transform from an ICC profile to sRGB, None where it is sRGB already."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(opened).lower():
        return None
    return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
