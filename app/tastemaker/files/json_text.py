"""JSON as it leaves: for programs, into files, into the database. JSON knows no NaN and no
Infinity: what is no number is told as null."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def json_text(
    data: Any,
    *,
    indent: int | None = None,
    ascii_only: bool = False,
    default: Callable[[Any], Any] | None = None,
    separators: tuple[str, str] | None = None,
) -> str:
    """Valid JSON of `data`. Raises `TypeError` for what JSON cannot hold and `default` does not
    make fit."""

    def written(data: Any) -> str:
        return json.dumps(
            data, indent=indent, ensure_ascii=ascii_only, allow_nan=False, default=default,
            separators=separators,
        )  # fmt: skip

    try:
        return written(data)
    except ValueError:  # nearly always there is nothing to replace
        return written(without_nan(data))


def without_nan(data: Any) -> Any:
    """The same, with None for each float that is no number, at any depth."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return data
