"""Pictures that a program paints: seas, hills, towns, woods, flowers, bowls, clouds, weaves.

They come beside the photographs because a few dozen photographs are too few to learn a taste from.
Every one is drawn from its own random numbers, in a light of its own, and shares nothing with
another but the motif.
"""

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

LONG_SIDE = 448  # pixels of a finished painting
DRAWN_AT = 1.5  # times as large, so that its edges are smooth
SHAPES = ((4, 3), (3, 4), (1, 1), (3, 2))

Colour = tuple[int, int, int]
Pixels = NDArray[np.float64]


class Palette:
    """The colours of one painting. `light` is 0 (the cold of a winter night) to 1 (an evening sun);
    `full` 0 (nearly grey) to 1."""

    def __init__(self, light: float, full: float, random: np.random.Generator) -> None:
        self.light, self.full, self.random = light, full, random

    def colour(self, bright: float, stray: float = 0.04) -> Colour:
        """Some colour of that light and brightness (0-1), strayed from it by so much."""
        light = float(np.clip(self.light + self.random.normal(0, 3 * stray), 0, 1))
        # From blue over a pale noon to orange and red, never through green.
        hue = 0.60 - 0.06 * light if light < 0.5 else 0.13 - 0.2 * (light - 0.5)
        full = self.full * (0.25 + 1.5 * abs(light - 0.5))
        hue += self.random.normal(0, stray / 2)
        red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(full, 1), min(max(bright, 0), 1))
        return round(255 * red), round(255 * green), round(255 * blue)

    def leaf(self, bright: float) -> Colour:
        """A green, tinted by the light."""
        hue = 0.42 - 0.2 * self.light + self.random.normal(0, 0.02)
        red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(0.3 + 0.4 * self.full, 1), bright)
        return round(255 * red), round(255 * green), round(255 * blue)


Painter = Callable[[tuple[int, int], Palette, np.random.Generator], Image.Image]


def paint(motif: str, light: float, random: np.random.Generator) -> Image.Image:
    """A painting of that motif (see MOTIFS) in that light (0 cold to 1 warm)."""
    across, down = SHAPES[random.integers(len(SHAPES))]
    scale = LONG_SIDE * DRAWN_AT / max(across, down)
    size = round(across * scale), round(down * scale)
    palette = Palette(light, random.uniform(0.5, 1.0), random)
    picture = MOTIFS[motif](size, palette, random)
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return picture


# --- parts ---------------------------------------------------------------------------------------


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0, 1, size[1])[:, None, None]
    column = (1 - share) * np.array(top, float) + share * np.array(bottom, float)
    return Image.fromarray(column.round().astype(np.uint8).repeat(size[0], 1))


def _noise(size: tuple[int, int], cells: int, random: np.random.Generator) -> Pixels:
    """(height, width) smooth noise in 0-1 of several sizes, the largest `cells` across."""
    total, weight = np.zeros((size[1], size[0])), 1.0
    for octave in range(5):
        n = cells * 2**octave
        coarse = Image.fromarray(random.uniform(0, 255, (n, n)).astype(np.uint8))
        total += weight * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float)
        weight /= 2
    total -= total.min()
    smooth: Pixels = total / max(float(total.max()), 1e-9)
    return smooth


def _ridge(
    size: tuple[int, int], base: float, height: float, rough: float, random: np.random.Generator
) -> list[tuple[float, float]]:
    """The outline of a range of hills, from the left edge to the right and along the bottom."""
    x = np.linspace(0, 1, 60)
    y = np.zeros_like(x)
    for wave in range(1, 7):
        y += np.sin(2 * np.pi * (wave * x * random.uniform(0.5, 1.4) + random.uniform())) / (
            wave ** (2 - rough)
        )
    y = base - height * (y - y.min()) / max(float(np.ptp(y)), 1e-9)
    points = [(float(a * size[0]), float(b * size[1])) for a, b in zip(x, y, strict=True)]
    return [*points, (size[0], size[1]), (0, size[1])]


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _glow(picture: Image.Image, x: float, y: float, radius: float, colour: Colour) -> Image.Image:
    """Light around a point, as of a low sun in haze."""
    columns, rows = np.arange(picture.width), np.arange(picture.height)[:, None]
    far = np.hypot(columns - x, rows - y)
    far /= radius
    far *= -1.2
    share = np.exp(far, out=far)
    share *= 0.8
    lit = np.asarray(picture, float)
    for channel, light in enumerate(colour):  # one at a time, and nothing copied: a third faster
        lit[..., channel] *= 1 - share
        lit[..., channel] += share * light
    np.rint(lit, out=lit)
    return Image.fromarray(np.clip(lit, 0, 255, out=lit).astype(np.uint8))


def _sky(
    size: tuple[int, int], palette: Palette, random: np.random.Generator, horizon: float
) -> Image.Image:
    """A sky with a sun or a moon, clouds on some."""
    dark = random.uniform(0.25, 0.85)
    sky = _gradient(size, palette.colour(dark), palette.colour(min(1, dark + 0.25)))
    if random.uniform() < 0.5:
        share = np.clip(1.6 * _noise(size, 3, random) - 0.8, 0, 1)[..., None]
        cloud = np.array(palette.colour(min(1.0, dark + 0.35)), float)
        mixed = (1 - share) * np.asarray(sky, float) + share * cloud
        sky = Image.fromarray(mixed.round().astype(np.uint8))
    x, y = random.uniform(0.15, 0.85) * size[0], random.uniform(0.15, horizon) * size[1]
    radius = random.uniform(0.03, 0.09) * max(size)
    sky = _glow(sky, x, y, 5 * radius, palette.colour(1.0))
    _disc(ImageDraw.Draw(sky), x, y, radius, palette.colour(1.0, 0.01))
    return sky


# --- motifs --------------------------------------------------------------------------------------


def _sea(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    horizon = random.uniform(0.4, 0.7)
    picture = _sky(size, palette, random, horizon)
    line = round(horizon * size[1])
    above = (0, max(0, 2 * line - size[1]), size[0], line)
    mirrored = picture.crop(above).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    water = Image.new("RGB", (size[0], size[1] - line), palette.colour(random.uniform(0.2, 0.6)))
    picture.paste(Image.blend(water, mirrored.resize(water.size), 0.5), (0, line))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.integers(40, 160)):
        down = random.uniform() ** 2
        y, wide = line + down * (size[1] - line), (0.03 + 0.12 * down) * size[0]
        x = random.uniform(0, size[0])
        pen.line((x, y, x + wide, y), palette.colour(random.uniform(0.3, 0.95)), 1 + int(3 * down))
    for _ in range(random.integers(0, 4)):
        x, y = random.uniform(0.1, 0.9) * size[0], line + random.uniform(0, 0.06) * size[1]
        long = random.uniform(0.02, 0.08) * size[0]
        dark = palette.colour(0.15)
        pen.polygon([(x - long, y), (x + long, y), (x + 0.6 * long, y + long / 3),
                     (x - 0.6 * long, y + long / 3)], dark)  # fmt: skip
        pen.polygon([(x, y), (x, y - 2 * long), (x + 0.9 * long, y)], palette.colour(0.95))
    return picture


def _hills(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    picture = _sky(size, palette, random, 0.5)
    pen, ranges = ImageDraw.Draw(picture), int(random.integers(2, 7))
    rough, near = random.uniform(0.2, 1.3), random.uniform(0.05, 0.35)
    for number in range(ranges):
        share = number / max(1, ranges - 1)
        base, height = 0.55 + 0.4 * share, random.uniform(0.1, 0.35)
        bright = 0.75 * (1 - share) + near * share
        pen.polygon(_ridge(size, base, height, rough, random), palette.colour(bright))
    return picture


def _town(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    picture = _sky(size, palette, random, 0.6)
    pen = ImageDraw.Draw(picture)
    for share in (0.0, 0.5, 1.0):
        x = -0.05 * size[0]
        bright = 0.55 * (1 - share) + 0.12
        while x < size[0]:
            wide = random.uniform(0.05, 0.16) * size[0]
            top = (random.uniform(0.3, 0.75) + 0.15 * share) * size[1]
            pen.rectangle((x, top, x + wide, size[1]), palette.colour(bright))
            if random.uniform() < 0.3:
                pen.polygon([(x, top), (x + wide, top), (x + wide / 2, top - wide / 2)],
                            palette.colour(bright * 0.8))  # fmt: skip
            lit, step = palette.colour(0.95, 0.02), 0.028 * max(size)
            for row in np.arange(top + step, size[1], 1.6 * step):
                for column in np.arange(x + step / 2, x + wide - step / 2, step):
                    if share and random.uniform() < 0.35:
                        pen.rectangle((column, row, column + step / 2, row + step * 0.8), lit)
            x += wide * random.uniform(1.0, 1.3)
    return picture


def _wood(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    picture = _sky(size, palette, random, 0.4)
    pen, firs = ImageDraw.Draw(picture), random.uniform() < 0.5
    pen.polygon(_ridge(size, 0.85, 0.1, 0.2, random), palette.leaf(random.uniform(0.25, 0.6)))
    for share in np.sort(random.uniform(0, 1, random.integers(4, 26))):
        x, foot = random.uniform(0, 1) * size[0], (0.75 + 0.23 * share) * size[1]
        tall = (0.25 + 0.35 * share) * size[1] * random.uniform(0.7, 1.2)
        green = palette.leaf(0.6 - 0.4 * share)
        trunk = tall * 0.03
        pen.rectangle((x - trunk, foot - tall / 2, x + trunk, foot), palette.colour(0.25))
        if firs:
            for level in range(5):
                low, wide = foot - tall * (0.12 + 0.17 * level), tall * 0.24 * (1 - level / 6)
                pen.polygon([(x - wide, low), (x + wide, low), (x, low - tall * 0.32)], green)
        else:
            crown = palette.colour(0.8, 0.06) if random.uniform() < 0.6 else green
            for _ in range(14):
                angle, far = random.uniform(0, 2 * np.pi), tall * 0.2 * math.sqrt(random.uniform())
                place = x + far * math.cos(angle), foot - 0.72 * tall + far * math.sin(angle)
                _disc(pen, *place, tall * random.uniform(0.07, 0.13), crown)
    return picture


def _flowers(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    picture = _gradient(size, palette.leaf(0.3), palette.leaf(random.uniform(0.3, 0.6)))
    if random.uniform() < 0.4:
        picture = _gradient(size, palette.colour(0.9), palette.colour(0.5))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.integers(3, 40)):
        x, y = random.uniform(0, 1) * size[0], random.uniform(0, 1) * size[1]
        far, petals = random.uniform(0.04, 0.14) * max(size), random.integers(5, 12)
        pen.line((x, y, x + random.uniform(-0.1, 0.1) * size[0], size[1]), palette.leaf(0.4), 5)
        turn, petal = random.uniform(0, 2), palette.colour(random.uniform(0.7, 1.0), 0.05)
        for number in range(petals):
            angle = turn + 2 * np.pi * number / petals
            place = x + 0.62 * far * math.cos(angle), y + 0.62 * far * math.sin(angle)
            _disc(pen, *place, 1.6 * far / petals + 0.12 * far, petal)
        _disc(pen, x, y, 0.28 * far, palette.colour(0.45))
    return picture


def _bowl(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    """Round fruit on a table, lit from one side."""
    edge = round(random.uniform(0.45, 0.7) * size[1])
    picture = _gradient(size, palette.colour(0.35), palette.colour(random.uniform(0.4, 0.8)))
    table = _gradient((size[0], size[1] - edge), palette.colour(0.75), palette.colour(0.4))
    picture.paste(table, (0, edge))
    whole = np.asarray(picture, float).copy()
    for _ in range(random.integers(1, 9)):
        radius = random.uniform(0.07, 0.2) * max(size)
        x, y = random.uniform(0.1, 0.9) * size[0], edge + random.uniform(-0.3, 0.7) * radius
        # Of the picture only what the fruit and its shadow can cover.
        left, top = max(0, int(x - radius)), max(0, int(y - radius))
        pixels = whole[top : int(y + 1.2 * radius) + 2, left : int(x + 1.7 * radius) + 2]
        rows = np.arange(top, top + pixels.shape[0])[:, None]
        columns = np.arange(left, left + pixels.shape[1])
        shadow = ((columns - x - radius / 2) / (1.2 * radius)) ** 2 + (
            (rows - y - 0.9 * radius) / (0.3 * radius)
        ) ** 2
        pixels[shadow < 1] *= 0.6
        inside = np.hypot(columns - x, rows - y) < radius
        shine = np.hypot(columns - x + radius / 3, rows - y + radius / 3) / (1.5 * radius)
        fruit = palette.leaf(0.8) if random.uniform() < 0.2 else palette.colour(0.95, 0.06)
        shaded = (1.25 - shine)[..., None] * np.array(fruit, float)
        pixels[inside] = shaded[inside]
    return Image.fromarray(whole.round().clip(0, 255).astype(np.uint8))


def _clouds(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    share = _noise(size, int(random.integers(2, 6)), random)[..., None]
    low = np.array(palette.colour(random.uniform(0.1, 0.5)), float)
    high = np.array(palette.colour(random.uniform(0.75, 1.0)), float)
    share = np.clip((share - 0.5) * random.uniform(1, 2.5) + 0.5, 0, 1)
    picture = Image.fromarray(((1 - share) * low + share * high).round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(random.integers(0, 160) if low.mean() < 80 else 0):
        place = random.uniform(0, size[0]), random.uniform(0, size[1])
        _disc(pen, *place, random.uniform(1, 4), palette.colour(1.0))
    return picture


def _weave(size: tuple[int, int], palette: Palette, random: np.random.Generator) -> Image.Image:
    """Stripes one way or both, as of a cloth."""
    picture = Image.new("RGB", size, palette.colour(random.uniform(0.3, 0.9)))
    for across in (True, False)[: random.integers(1, 3)]:
        layer = picture.copy()
        pen, at, end = ImageDraw.Draw(layer), 0.0, size[0] if across else size[1]
        while at < end:
            wide = random.uniform(0.01, 0.12) * end
            box = (at, 0, at + wide, size[1]) if across else (0, at, size[0], at + wide)
            pen.rectangle(box, palette.colour(random.uniform(0.15, 1.0), 0.07))
            at += wide * random.uniform(1.0, 1.8)
        picture = Image.blend(picture, layer, 0.6)
    grain = random.normal(0, 10, (size[1] // 2 + 1, size[0] // 2 + 1)).repeat(2, 0).repeat(2, 1)
    pixels = np.asarray(picture, float) + grain[: size[1], : size[0], None]
    cloth = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return cloth.filter(ImageFilter.GaussianBlur(random.uniform(0, 3)))


MOTIFS: dict[str, Painter] = {
    "sea": _sea,
    "hills": _hills,
    "town": _town,
    "wood": _wood,
    "flowers": _flowers,
    "bowl": _bowl,
    "clouds": _clouds,
    "weave": _weave,
}
