"""Contact sheets: small pictures in rows, each with a line below it."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE = 160  # pixels of a tile
GROUND, INK, FAINT = (30, 30, 30), (235, 235, 235), (165, 165, 165)

Tile = tuple[Image.Image | None, str]  # what is shown, and the line below it


def draw(tiles: Sequence[Tile], title: str, columns: int = 10) -> bytes:
    """A PNG of the tiles in rows of `columns`; one without a picture is an empty frame.
    Larger pictures are made small in place."""
    side, gap, foot, head = SIDE, 8, 24, 40
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    size = (gap + columns * (side + gap), head + rows * (side + foot + gap))
    sheet = Image.new("RGB", size, GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pen.text((gap, head / 2), _printable(title), INK, font, anchor="lm")
    for at, (picture, line) in enumerate(tiles):
        left = gap + at % columns * (side + gap)
        top = head + at // columns * (side + foot + gap)
        if picture is not None:
            picture.thumbnail((side, side))
            middle = ((side - picture.width) // 2, (side - picture.height) // 2)
            sheet.paste(picture, (left + middle[0], top + middle[1]))
        else:
            pen.rectangle((left, top, left + side - 1, top + side - 1), outline=FAINT)
        pen.text((left + side / 2, top + side + foot / 2), _printable(line), INK, font, anchor="mm")
    content = io.BytesIO()
    sheet.save(content, "PNG", compress_level=3)
    return content.getvalue()


def _printable(text: str) -> str:
    """The font that comes with Pillow has Latin letters only."""
    return text.encode("latin-1", "replace").decode("latin-1")
