"""Scores on other scales than 0–10: stars, per cent, shares."""

import math
import re
from dataclasses import dataclass
from typing import Any

from tastemaker.errors import Invalid

WRITTEN = re.compile(r"\s*(-?\d+(?:[.,]\d+)?)\s*(?:-|–|\.\.|:|to)\s*(-?\d+(?:[.,]\d+)?)\s*")


@dataclass(frozen=True)
class Scale:
    """From the `worst` value, which is a 0, to the `best`, which is a 10."""

    worst: float
    best: float

    def __str__(self) -> str:
        return f"{self.worst:g}–{self.best:g}"

    def score(self, value: Any) -> int:
        """The whole score nearest to a value of this scale; from the middle between two, the one
        further from 5, so that both ends are treated alike. Raises `Invalid`."""
        number = number_in(value)
        share = math.nan if number is None else (number - self.worst) / (self.best - self.worst)
        if not 0 <= share <= 1:
            raise Invalid(f"“{str(value).strip()[:40]}” is not on the scale {self}.")
        above = round(10 * share - 5, 9)  # 0.1 + 0.2 shall be 0.3
        return 5 + int(math.copysign(math.floor(abs(above) + 0.5), above))


def parse_scale(typed: str) -> Scale:
    """“1-5”, “0–100”, “5-1” where 1 is the best. Raises `Invalid`."""
    match = WRITTEN.fullmatch(typed)
    ends = [float(end.replace(",", ".")) for end in match.groups()] if match else []
    if len(ends) != 2 or ends[0] == ends[1]:
        raise Invalid(
            f"“{typed[:40]}” is not a scale.", "Write the worst and the best value, such as 1-5."
        )
    return Scale(*ends)


def number_in(value: Any) -> float | None:
    """A number as people write it, with a decimal comma or a per cent sign; None for no number."""
    if isinstance(value, bool) or value is None:
        return None
    text = str(value).strip().removesuffix("%").strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def scale_that_fits(lowest: float, highest: float) -> str:
    """The scale that these ends are probably of, as one types it; empty for that of 0–10."""
    if lowest < 0:
        return "-1-1" if lowest >= -1 and highest <= 1 else ""
    if highest <= 1:
        return "0-1"
    if highest <= 5:
        return "0-5" if lowest < 1 else "1-5"
    if highest <= 10:
        return ""
    return "0-100" if highest <= 100 else ""
