"""An order of the library, and a place in it: where a page ended and the next one begins."""

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import literal, tuple_
from sqlmodel import and_

from tastemaker.errors import Invalid

SORTS = {
    "added": "Date added",
    "predicted": "Prediction",
    "label": "Score",
    "disagreement": "Disagreement",
    "name": "File name",
}


@dataclass(frozen=True)
class Order:
    by: str = "added"
    descending: bool = True


@dataclass(frozen=True)
class Page:
    """Image ids in order; `after` is where the next stretch begins, empty at the end. `short`:
    the walk ended before the page was full, and there may be more."""

    ids: list[int]
    after: str = ""
    short: bool = False


# --- as SQL --------------------------------------------------------------------------------------


def in_order(order: Order, *columns: Any) -> list[Any]:
    if len(columns) == 2 and order.by == "added":
        columns = columns[:1]  # the key is the id
    return [column.desc() if order.descending else column.asc() for column in columns]


def after_cursor(order: Order, key: Any, image_id: Any, cursor: tuple[Any, int]) -> Any:
    """Behind the cursor. The key alone is compared too: that is what every index understands."""
    if order.by == "added":
        return key < cursor[1] if order.descending else key > cursor[1]
    pair, there = tuple_(key, image_id), tuple_(literal(cursor[0]), literal(cursor[1]))
    if order.descending:
        return and_(key <= cursor[0], pair < there)
    return and_(key >= cursor[0], pair > there)


def before_cursor(order: Order, key: Any, image_id: Any, end: tuple[Any, int]) -> Any:
    if order.by == "added":
        return key >= end[1] if order.descending else key <= end[1]
    pair, there = tuple_(key, image_id), tuple_(literal(end[0]), literal(end[1]))
    if order.descending:
        return and_(key >= end[0], pair >= there)
    return and_(key <= end[0], pair <= there)


# --- cursors -------------------------------------------------------------------------------------


def cursor_of(order: Order, key: Any, image_id: int) -> str:
    """Where a page ended: the id alone, or `key~id`."""
    return str(image_id) if order.by == "added" else f"{key}~{image_id}"


def parse_cursor(text: str, order: Order) -> tuple[Any, int] | None:
    if not text:
        return None
    key, _, image_id = text.rpartition("~")
    try:
        if not (image_id.isascii() and image_id.isdecimal() and len(image_id) < 19):
            raise ValueError(image_id)
        if order.by == "added":
            return 0, int(image_id)
        if order.by == "name":
            return key, int(image_id)
        number = float(key)
        if not math.isfinite(number):
            raise ValueError(key)
        return number, int(image_id)
    except ValueError:
        raise Invalid("This is not a place in the library.", "Begin from its first page.") from None
