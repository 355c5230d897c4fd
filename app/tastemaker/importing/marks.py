"""What other programs noted of how good a picture is: stars, flags, labels, a booru's points; read
in their own words (what follows from them is `mark_rules`'). It runs in children, so it imports
little.

Stars stand in XMP (beside the picture or in it), in EXIF, in a booru's JSON. What Tastemaker wrote
there itself is no opinion of anybody's and is passed over.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tastemaker.errors import BadImage, Invalid, TastemakerError
from tastemaker.files.roots import Roots, open_within
from tastemaker.files.texts import read_text
from tastemaker.files.xmp import MOST_BYTES, Packet, sidecars_beside
from tastemaker.pictures.embedded import Embedded, embedded
from tastemaker.pictures.pictures import Limits

COLOURS = {
    "darktable": ("red", "yellow", "green", "blue", "purple"),
    "digiKam": (
        "", "red", "orange", "yellow", "green", "blue", "magenta", "gray", "black", "white"
    ),
}  # fmt: skip
MICROSOFT_STARS = {1: 1, 25: 2, 50: 3, 75: 4, 99: 5}
BOORU_WORDS = {"g": "general", "s": "safe", "q": "questionable", "e": "explicit"}
MOST_JSON = 2**20


@dataclass(frozen=True)
class Marks:
    """What is noted of a picture. `stars` are 1 to 5, None where it is not rated; `flag` is 1 for
    picked, −1 for rejected; `labels` are in small letters; `points` and `rating` are a booru's."""

    stars: float | None = None
    flag: int = 0
    labels: tuple[str, ...] = ()
    points: float | None = None
    rating: str = ""

    def __bool__(self) -> bool:
        return self != Marks()

    def words(self) -> list[str]:
        """Each mark as the rule calls it, what decides most first."""
        told = ["reject"] if self.flag < 0 else []
        told += [] if self.stars is None else [f"{math.floor(self.stars + 0.5)}"]
        told += ["pick"] if self.flag > 0 else []
        told += [*self.labels, *([f"rating:{self.rating}"] if self.rating else [])]
        return told

    def __str__(self) -> str:
        """As people say it: “4 stars, picked, red”."""
        told = ["rejected"] if self.flag < 0 else []
        if self.stars is not None:
            told.append(f"{self.stars:g} star{'s' * (self.stars != 1)}")
        told += ["picked"] if self.flag > 0 else []
        told += [*self.labels, *([f"rated {self.rating}"] if self.rating else [])]
        told += [] if self.points is None else [f"{self.points:g} points"]
        return ", ".join(told)

    def over(self, other: "Marks") -> "Marks":
        """These, and of the other what these say nothing about."""
        return Marks(
            other.stars if self.stars is None else self.stars,
            self.flag or other.flag,
            self.labels or other.labels,
            other.points if self.points is None else self.points,
            self.rating or other.rating,
        )


@dataclass(frozen=True)
class MarkedFile:
    """A picture to ask: where it lies, and within which limits it is read."""

    path: Path
    limits: Limits


def marks_of_file(file: MarkedFile) -> Marks:
    """What is noted beside a picture and in it. Runs in a child that a bad file may end. Sidecars
    go before what is inside, XMP before EXIF: programs that write sidecars leave the picture as it
    was. Raises `BadImage`, whose sentence names what cannot be believed: two sidecars that
    disagree, a rating out of range, XMP that is none."""
    beside: list[tuple[str, Marks]] = []
    ours: set[str] = set()
    try:
        for place in sidecars_beside(file.path):
            if (content := _read(place, file.limits.roots)) is not None:
                beside.append((place.name, marks_of_packet(content, place.name)))
                ours |= _ever_ours(Packet(content, place.name))
        inside = _inside(embedded(file.path, file.limits), file.path.name)
        if inside.stars is not None and f"{inside.stars:g}" in ours:  # copied from the sidecar
            inside = replace(inside, stars=None)
        found = _agreed(beside).over(inside)
        for name in (f"{file.path.with_suffix('')}.json", f"{file.path}.json"):
            found = found.over(marks_of_json(Path(name), file.limits.roots))
    except BadImage:
        raise
    except TastemakerError as error:
        raise BadImage(error.message, error.hint) from None
    except OSError as error:  # a name too long for a sidecar's, a folder that cannot be entered
        reason = (error.strerror or str(error)).lower()
        raise BadImage(f"What lies beside it cannot be read: {reason}.") from None
    return found


def _ever_ours(packet: Packet) -> set[str]:
    """All stars that this program wrote into a sidecar, now or before a model learned better: any
    of them may have been copied into the picture."""
    written = {packet.get("tastemaker", "Stars"), *packet.get("tastemaker", "EverStars").split()}
    return written - {""}


def _read(place: Path, roots: Roots) -> bytes | None:
    """None for a link, which may lead anywhere."""
    if place.is_symlink():
        return None
    try:
        with open_within(place, roots) as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Invalid(f"{place.name} cannot be read: {reason}.", "Check its permissions.") from None


def _agreed(beside: Sequence[tuple[str, Marks]]) -> Marks:
    found = Marks()
    by = ""
    for name, marks in beside:
        mine, theirs = (str(one) for one in (_verdict(marks), _verdict(found)))
        if mine and theirs and mine != theirs:
            raise Invalid(
                f"“{by}” says {theirs}, and “{name}” says {mine}: neither was taken.",
                "Let the program that you trust write again, or delete the other sidecar.",
            )
        found, by = found.over(marks), by or (name if mine else "")
    return found


def _verdict(marks: Marks) -> Marks:
    return Marks(stars=marks.stars, flag=marks.flag)


def _inside(said: Embedded, name: str) -> Marks:
    called = f"the XMP in {name}"
    found = marks_of_packet(said.packet, called) if said.packet else Marks()
    ours = _ever_ours(Packet(said.packet, called)) if said.packet else set()
    stars = None
    if said.rating is not None:
        stars = _stars(said.rating, 0, 5, "EXIF rating", name)
    elif said.percent in MICROSOFT_STARS:
        stars = float(MICROSOFT_STARS[said.percent])
    if stars is not None and f"{stars:g}" in ours:  # darktable exports both
        stars = None
    return found.over(Marks(stars=stars))


def marks_of_packet(content: bytes, name: str) -> Marks:
    """What an XMP packet notes, in the fields of Adobe's programs, darktable, digiKam, ACDSee and
    Windows. Raises `Invalid` for what is no XMP, and for a rating that there is not."""
    packet = Packet(content, name)
    rating = packet.get("xmp", "Rating")
    if rating and rating == packet.get("tastemaker", "Stars"):
        rating = ""  # what this program wrote of its own accord
    stars = _stars(rating, -1, 5, "rating", name) if rating else None
    if stars is None and (typed := packet.get("acdsee", "rating")):
        stars = _stars(typed, 0, 5, "rating", name)
    typed = packet.get("MicrosoftPhoto", "Rating") or packet.get("microsoft", "Rating")
    if stars is None and typed:
        percent = _number(typed)
        stars = None if percent is None else MICROSOFT_STARS.get(int(percent))
    flag = {"1": 1, "-1": -1}.get(packet.get("xmpDM", "pick"), 0)
    flag = flag or {"1": -1, "3": 1}.get(packet.get("digiKam", "PickLabel"), 0)
    if stars is not None and stars < 0:
        stars, flag = None, -1
    return Marks(stars, flag, tuple(dict.fromkeys(_labels(packet))))


def _stars(typed: Any, lowest: int, highest: int, what: str, name: str) -> float | None:
    """None for unrated, which is 0."""
    number = _number(typed)
    if number is None or not lowest <= number <= highest:
        raise Invalid(
            f"The {what} of {name} is “{str(typed)[:20]}”, which is not between {lowest} and "
            f"{highest}; nothing was taken from it.",
            "Rate the picture again in the program that wrote it.",
        )
    return -1.0 if number < 0 else number or None


def _labels(packet: Packet) -> Iterable[str]:
    if label := packet.get("xmp", "Label"):
        yield " ".join(label.lower().split())
    for number in packet.items("darktable", "colorlabels"):
        if number.isdecimal() and int(number) < len(COLOURS["darktable"]):
            yield COLOURS["darktable"][int(number)]
    number = packet.get("digiKam", "ColorLabel")
    if number.isdecimal() and 0 < int(number) < len(COLOURS["digiKam"]):
        yield COLOURS["digiKam"][int(number)]


def marks_of_json(place: Path, roots: Roots = ()) -> Marks:
    """What a sidecar in JSON notes, as downloaders of boorus and hydrus write it: `stars`, `score`
    (points), `rating` (a number or “4/5” of stars, or how safe it is). Anything else says
    nothing."""
    if place.is_symlink() or not place.is_file():
        return Marks()
    try:
        data = json.loads(read_text(place, MOST_JSON, roots))
    except (TastemakerError, ValueError, RecursionError):
        return Marks()
    if not isinstance(data, dict):
        return Marks()
    said = data.get("rating")
    stars, rating = _of_five(data.get("stars")), ""
    if isinstance(said, str) and said.strip().isalpha():
        rating = BOORU_WORDS.get(said.strip().lower(), said.strip().lower()[:40])
    elif stars is None:
        stars = _of_five(said)
    points = data.get("score")
    points = points.get("total") if isinstance(points, dict) else points
    return Marks(stars=stars, points=_number(points), rating=rating)


def _of_five(said: Any) -> float | None:
    """“4/5”, “8/10” or 4, in stars; None for anything else, and for none."""
    share = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", said) if isinstance(said, str) else None
    number = _number(said)
    if share and int(share[2]):
        number = 5 * int(share[1]) / int(share[2])
    return number if number is not None and 0 < number <= 5 else None


def _number(said: Any) -> float | None:
    """None for what is no finite number."""
    try:
        number = math.nan if isinstance(said, bool) else float(str(said).replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
