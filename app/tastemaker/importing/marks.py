"""What other programs noted of how good a picture is: stars, flags, labels, a booru's points; read
in their own words (what follows from them is `mark_rules`'). It runs in children, so it imports
little.

Stars stand in XMP (beside the picture or in it), in EXIF, in a booru's JSON. What Tastemaker wrote
there itself is no opinion of anybody's and is passed over.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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
MICROSOFT_BORDERS = (13, 38, 63, 88)  # percent from which Windows shows 2, 3, 4 and 5 stars
BOORU_WORDS = {"g": "general", "s": "safe", "q": "questionable", "e": "explicit"}
SHARE = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*")  # “4/5”
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
    was. JSON comes last, and its stars are not asked where there are others. Raises `BadImage`,
    whose sentence names what cannot be believed: two sidecars that disagree, a rating out of range,
    XMP that is none."""
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
        noted: list[tuple[str, Marks]] = []
        for place in (file.path.with_suffix(".json"), Path(f"{file.path}.json")):
            try:
                noted.append((place.name, marks_of_json(place, file.limits.roots)))
            except Invalid:
                if found.stars is None:
                    raise
        found = found.over(_agreed(noted))
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
        for mine, theirs in zip(_verdicts(marks), _verdicts(found), strict=True):
            if mine and theirs and mine != theirs:
                raise Invalid(
                    f"“{by}” says {theirs}, and “{name}” says {mine}: neither was taken.",
                    "Let the program that you trust write again, or delete the other sidecar.",
                )
        found, by = found.over(marks), by or (name if any(_verdicts(marks)) else "")
    return found


def _verdicts(marks: Marks) -> list[str]:
    """What two sidecars may disagree about, each in words; empty where it is not said."""
    return [
        str(Marks(stars=marks.stars, flag=marks.flag)), str(Marks(points=marks.points)),
        str(Marks(rating=marks.rating)),
    ]  # fmt: skip


def _inside(said: Embedded, name: str) -> Marks:
    called = f"the XMP in {name}"
    found = marks_of_packet(said.packet, called) if said.packet else Marks()
    ours = _ever_ours(Packet(said.packet, called)) if said.packet else set()
    stars = None
    if said.rating is not None:
        stars = _stars(said.rating, 0, 5, "EXIF rating", name)
    elif said.percent is not None:
        stars = _of_percent(said.percent, name)
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
        stars = _of_percent(typed, name)
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


def _of_percent(typed: Any, name: str) -> float | None:
    """Stars as Windows keeps them, in percent; None for unrated, which is 0."""
    percent = _stars(typed, 0, 100, "rating in percent", name)
    return percent and 1.0 + sum(percent >= border for border in MICROSOFT_BORDERS)


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
    (points), `rating` (a number or “4/5” of stars, or how safe it is), and hydrus' `ratings`, by
    services. Anything else says nothing. Raises `Invalid` for stars that there are not."""
    if place.is_symlink() or not place.is_file():
        return Marks()
    try:
        data = json.loads(read_text(place, MOST_JSON, roots))
    except (TastemakerError, ValueError, RecursionError):
        return Marks()
    if not isinstance(data, dict):
        return Marks()
    said = data.get("rating")
    found = Marks(stars=_of_five(data.get("stars"), place.name))
    if isinstance(said, str) and said.strip().isalpha():
        rating = BOORU_WORDS.get(said.strip().lower(), said.strip().lower()[:40])
        found = replace(found, rating=rating)
    elif found.stars is None:
        found = replace(found, stars=_of_five(said, place.name))
    points = data.get("score")
    points = points.get("total") if isinstance(points, dict) else points
    by_service = data.get("ratings")
    hydrus = _of_services(by_service, place.name) if isinstance(by_service, dict) else Marks()
    return replace(found, points=_number(points)).over(hydrus)


def notes_anything(place: Path) -> bool:
    """Whether a sidecar in JSON notes something of how good a picture is, if only what cannot be
    believed."""
    try:
        return bool(marks_of_json(place))
    except Invalid:
        return True


def _of_services(ratings: Mapping[str, Any], name: str) -> Marks:
    """What hydrus' services say together: liked or not, and a number of stars. Services that say
    different things mean different things by it, and nobody can tell which of them is meant."""
    given = [value for value in ratings.values() if value is not None]
    likes = {value for value in given if isinstance(value, bool)}
    stars = {_of_five(value, name) for value in given if not isinstance(value, bool)} - {None}
    flag = (1 if likes.pop() else -1) if len(likes) == 1 else 0
    return Marks(stars=stars.pop() if len(stars) == 1 else None, flag=flag)


def _of_five(said: Any, name: str) -> float | None:
    """“4/5”, “8/10” or 4, in stars; None for what is no number, and for none, which is 0. Raises
    `Invalid` for more than there are."""
    share = SHARE.fullmatch(said) if isinstance(said, str) else None
    number = _number(said)
    if share and int(share[2]):
        number = 5 * int(share[1]) / int(share[2])
    if number is None or 0 <= number <= 5:
        return number or None
    raise Invalid(
        f"The rating in {name} is “{str(said)[:20]}”, which is not between 0 and 5; nothing was "
        "taken from it.",
        "Write it with its scale, as 8/10, or bring it in as a table with its scale.",
    )


def _number(said: Any) -> float | None:
    """None for what is no finite number."""
    try:
        number = math.nan if isinstance(said, bool) else float(str(said).replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
