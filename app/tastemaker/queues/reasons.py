"""Why an image is shown, in words for the person who scores it."""

from datetime import datetime
from typing import Any

CONTROL = "random control"
RE_ASKED = "asked again, to learn how steady scores are"


def describe(pick: dict[str, Any]) -> str:
    """A pick's reason in words. `pick` holds `why`, and for some reasons the prediction, its
    uncertainty, the label, and the nearest labelled neighbour with its score."""
    why, percent = pick["why"], round(100 * pick.get("score", 0.0))
    if why == "control":
        return CONTROL
    if why == "threshold":
        return f"close to your threshold: {percent} % ± {round(100 * pick['uncertainty'])}"
    if why == "teaching":
        sure = f"{percent} % ± {round(100 * pick['uncertainty'])}"
        return f"a score of it settles most about what passes: {sure}"
    if why == "diverse":
        return "unlike what you have scored so far"
    if why == "cold_start":
        return "typical of a part of your images"
    if why in ("suspected_fp", "suspected_fn"):
        if pick.get("neighbour_label") is not None:
            return f"you scored a near-twin {pick['neighbour_label']:g}"
        return f"may well {'fail' if why == 'suspected_fp' else 'pass'}, going by what you scored"
    if why == "mistake":
        return mistaken(pick["score"], pick["label"])
    if why == "doubtful":
        return f"you said {pick['label']:g}, but what resembles it points to {percent} %"
    if why == "contradiction":
        return f"you said {pick['label']:g}, and {pick['twin_label']:g} for its near-twin"
    return str(why)


def mistaken(predicted: float, label: float) -> str:
    """A prediction in [0, 1] against a label in 0–10."""
    return f"predicted {round(100 * predicted)} %, you said {label:g}"


def flagged(by: str, note: str) -> str:
    return f"flagged by {by}: {note}" if note else f"flagged by {by}"


def skipped(at: datetime) -> str:
    return f"you skipped it on {day(at)}"


def asked_again(earlier: int | None, at: datetime) -> str:
    """After the answer, when the first score may be seen."""
    return f"asked again: you said {earlier} on {day(at)}"


def day(at: datetime) -> str:
    """A day as people say it: 3 March 2026."""
    return f"{at.day} {at:%B %Y}"
