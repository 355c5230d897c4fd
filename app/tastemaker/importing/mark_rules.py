"""From the marks of other programs to scores of 0–10, by a rule that one sees and can change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tastemaker.errors import Invalid
from tastemaker.importing.marks import Marks
from tastemaker.scores.scales import Scale, number_in, parse_scale


@dataclass(frozen=True)
class MarkRule:
    """Score 0–10 of each word that counts: “1” to “5” (stars), “reject”, “pick”, a label, or
    “rating:explicit”; and the scale of a booru's points, if they count."""

    scores: Mapping[str, int]
    points: Scale | None = None

    def score(self, marks: Marks) -> int | None:
        """The score that follows; None where nothing that counts is noted. Points beyond the scale
        are its end."""
        for word in marks.words():
            if word in self.scores:
                return self.scores[word]
        if self.points is None or marks.points is None:
            return None
        low, high = sorted((self.points.worst, self.points.best))
        return self.points.score(min(max(marks.points, low), high))

    def __str__(self) -> str:
        told = [f"{word}={score}" for word, score in self.scores.items()]
        return ", ".join(told + ([f"points={self.points}"] if self.points else []))


# Five stars have no zero: one star is still an image that was kept, and 0 is left to what was
# thrown out. Three stars, a little above the middle, are what those who give stars mean by them.
DEFAULT_RULE = MarkRule(MappingProxyType({"1": 2, "2": 4, "3": 6, "4": 8, "5": 10, "reject": 0}))


def parse_rule(typed: str) -> MarkRule:
    """“1=2, 2=4, reject=0, red=3, rating:explicit=0, points=0-100”; empty for the usual one. Raises
    `Invalid`."""
    if not typed.strip():
        return DEFAULT_RULE
    scores: dict[str, int] = {}
    points = None
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", typed))):
        word, equals, value = (side.strip() for side in part.rpartition("="))
        word = " ".join(word.lower().split())
        if word == "points":
            points = parse_scale(value)
            continue
        number = number_in(value)
        if not equals or not word or number is None or number not in range(11):
            raise Invalid(
                f"“{part[:60]}” is no part of a rule for stars.",
                "Write marks and their scores of 0 to 10, such as 5=10, reject=0, red=3.",
            )
        if word.isdecimal() and not 1 <= int(word) <= 5:
            raise Invalid(f"There are 1 to 5 stars, not {word[:20]}.", "Correct the rule.")
        scores[word] = int(number)
    if not scores and points is None:
        raise Invalid("The rule gives no mark a score.", f"The usual one is {DEFAULT_RULE}.")
    return MarkRule(MappingProxyType(scores), points)
