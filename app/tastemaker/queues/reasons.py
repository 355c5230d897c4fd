"""Why an image is shown, in words for the person who scores it."""

from datetime import datetime
from typing import assert_never

from tastemaker.files.percentages import probability
from tastemaker.live.live_model import Pick
from tastemaker.scores.classes import ClassList

SURE = 0.75  # nobody would call that near a boundary
CONTROL = "random sample (for evaluation)"
CLOSE, INFORMATIVE = "close to your threshold", "most informative near the threshold"
BOUNDARY, LEAST_CERTAIN = "near a boundary", "the least certain of those left"
KINDS = ("class", "tag")
UNFITTING, LIKELIEST = "no {} fits", "; likeliest: "
AUDIT = "drawn at random for an audit"
RE_ASKED = "asked again, to learn how steady scores are"


def describe(pick: Pick, known: ClassList | None = None) -> str:
    """The reason of a pick in words; `known` are the classes of a project that has some."""
    if known is not None and pick.likely:
        return _of_classes(pick, known)
    predicted = _predicted(pick.score)
    match pick.why:
        case "control":
            return CONTROL
        case "threshold":
            return CLOSE
        case "teaching":
            return INFORMATIVE
        case "diverse":
            return f"unlike what you have {'labelled' if known else 'scored'} so far"
        case "cold_start":
            return "typical of a part of your images"
        case "suspected_fp" | "suspected_fn" if pick.twin_label is not None:
            return f"you scored a near-twin {pick.twin_label:g}"
        case "suspected_fp":
            return "likely below your threshold"
        case "suspected_fn":
            return "likely above your threshold"
        case "mistake":
            return mistaken(pick.score, pick.label)
        case "doubtful":
            return f"you said {_points(pick.label)}, but what resembles it points to {predicted}"
        case "contradiction":
            label, twin = _label(pick.label, known), _label(pick.twin_label, known)
            return f"you said {label}, and {twin} for its near-twin"
        case "boundary" | "no_class":  # the classes that it speaks of are gone
            return "the model could not decide"
        case _:
            assert_never(pick.why)


def _of_classes(pick: Pick, known: ClassList) -> str:
    now = [(known.current_number(number), share) for number, share in pick.likely]
    shares = [(known.by_number[n].name, share) for n, share in now if n is not None]
    if not shares:
        return "the model could not decide"
    (name, share), told = shares[0], _shares(shares)
    if pick.why == "no_class":
        what = KINDS[known.several]
        return f"{UNFITTING.format(what)}{LIKELIEST}{told}"
    if pick.why != "doubtful":
        return undecided(shares)
    if not known.several:
        label = known.words(pick.label)
        return f"you said {label}, but what resembles it points to {told}"
    has = pick.label is not None and int(pick.label) >> (now[0][0] or 0) & 1
    said = f"you said {name}" if has else f"you did not say {name}"
    return f"{said}; going by what resembles it that is {probability(share)} likely"


def mistaken(predicted: float | None, label: float | None) -> str:
    """A prediction in [0, 1] against a label in 0–10."""
    return f"predicted {_predicted(predicted)}, you said {_points(label)}"


def undecided(leading: list[tuple[str, float]]) -> str:
    """Between which classes a version cannot decide."""
    told = _shares(leading)
    near = max(max(share, 1 - share) if len(leading) == 1 else share for _, share in leading) < SURE
    return f"{BOUNDARY if near else LEAST_CERTAIN}: {told}"


def without_figures(reason: str) -> str:
    """The reason of an earlier moment without what was predicted at that moment, to stand beside
    what is predicted now."""
    head = reason.partition(LIKELIEST)[0].partition(": ")[0]
    if head in (CLOSE, INFORMATIVE, BOUNDARY, LEAST_CERTAIN, *map(UNFITTING.format, KINDS)):
        return head
    predicted, _, label = reason.rpartition(", you said ")
    return f"you said {label}" if predicted.startswith("predicted ") else reason


def _shares(leading: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {probability(share)}" for name, share in leading)


def told_apart(predicted: str, label: str) -> str:
    """What a version says of a label it never saw."""
    return f"predicted {predicted}, you said {label}"


def flagged(by: str, note: str) -> str:
    return f"flagged by {by}: {note}" if note else f"flagged by {by}"


def skipped(at: datetime) -> str:
    return f"you skipped it on {day(at)}"


def asked_again(earlier: int | str | None, at: datetime) -> str:
    """After the answer, when the first score may be seen."""
    return f"asked again: you said {earlier} on {day(at)}"


def day(at: datetime) -> str:
    """A day as people say it: 3 March 2026."""
    return f"{at.day} {at:%B %Y}"


def _predicted(score: float | None) -> str:
    """A score in [0, 1] on the scale people score on."""
    return f"{10 * (score or 0.0):.1f}"


def _label(label: float | None, known: ClassList | None) -> str:
    return known.words(label) if known is not None else _points(label)


def _points(label: float | None) -> str:
    return "nothing" if label is None else f"{label:g}"
