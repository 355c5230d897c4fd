"""When to stop: what more labels would bring, and how near a version is to its person's own noise.

A figure stands here beside what it rests on, or it does not stand here.
"""

from dataclasses import dataclass
from typing import Any

from tastemaker.learning.version_metrics import Forecast, Gain, VersionMetrics

FEWEST_ASKED_AGAIN = 10  # images; the noise of a person from fewer could be anything
ASKED_FOR = 100  # labels more, of which the page speaks first
HARDLY = 0.03  # of the error: a fall that nobody would notice


@dataclass(frozen=True)
class Outlook:
    """What is expected of more labels, in sentences. `gain` is what 100 more bring, None without a
    forecast; `times_noise` the error as a multiple of the person's own, None where that is not
    known well enough, or nothing; `ask_again` where more second scores would tell."""

    gain: Gain | None
    times_noise: float | None
    forecast: str
    rests_on: str
    noise: str
    ask_again: bool

    def sentences(self) -> list[str]:
        """All of it, in the order in which one reads it."""
        return [said for said in (self.forecast, self.noise, self.rests_on) if said]

    def as_json(self) -> dict[str, Any]:
        return {"times_own_noise": self.times_noise, "in_words": self.sentences()}


def outlook(metrics: VersionMetrics) -> Outlook | None:
    """Of a version trained here; None for one of an earlier release, or made elsewhere."""
    forecast = metrics.learning_curve.forecast if metrics.learning_curve else None
    if forecast is None:
        return None
    times, noise = _noise(metrics)
    asked = metrics.noise_floor.mae.n if metrics.noise_floor else 0
    gain = next((each for each in forecast.gains if each.more == ASKED_FOR), None)
    return Outlook(
        gain=gain,
        times_noise=times,
        forecast=_forecast(forecast, metrics.measured.mae.value),
        rests_on=_rests_on(forecast) if gain else "",
        noise=noise,
        ask_again=asked < FEWEST_ASKED_AGAIN,
    )


def short(gain: Gain) -> str:
    """“−0.04 ± 0.02”: the error falls."""
    sign = "−" if gain.value >= 0.005 else "+" if gain.value <= -0.005 else ""
    return f"{sign}{abs(gain.value):.2f} ± {(gain.high - gain.low) / 2:.2f}"


def _forecast(forecast: Forecast, error: float | None) -> str:
    if not forecast.gains:
        return f"What more labels would bring is forecast {forecast.why}."
    first = next(gain for gain in forecast.gains if gain.more == ASKED_FOR)
    others = [
        f"{gain.more} more by {gain.value:.2f}" for gain in forecast.gains if gain.more != ASKED_FOR
    ]
    said = (
        f"{ASKED_FOR} more labels would lower the error by about {first.value:.2f} points "
        f"({_span(first)} with 80 % probability); {', '.join(others)}."
    )
    most = max(gain.high for gain in forecast.gains)
    if error is not None and most < HARDLY * error:
        said += f" That is hardly to be noticed: at {error:.2f} points, more labels no longer help."
    elif first.low <= 0:
        said += " It may be nothing."
    return said


def _span(gain: Gain) -> str:
    low = f"−{-gain.low:.2f}" if gain.low <= -0.005 else f"{max(gain.low, 0):.2f}"
    return f"{low} to {gain.high:.2f}"


def _rests_on(forecast: Forecast) -> str:
    sizes = [each.labels for each in forecast.measured]
    return (
        f"Forecast from linear heads on {min(sizes)} to {max(sizes)} of its {forecast.labels} "
        f"labels, measured on {forecast.drawn} images drawn at random or scored in files, and from "
        "how other tastes went on."
    )


def _noise(metrics: VersionMetrics) -> tuple[float | None, str]:
    """The error as a multiple of the person's own, and what that means, or what is missing."""
    noise, error = metrics.noise_floor, metrics.measured.mae.value
    asked = noise.mae.n if noise else 0
    if noise is None or asked < FEWEST_ASKED_AGAIN:
        so_far = {0: "there is none", 1: "there is 1"}.get(asked, f"there are {asked}")
        return None, (
            "How near it is to your own noise is known once "
            f"{FEWEST_ASKED_AGAIN} images were scored a second time; so far {so_far}."
        )
    if error is None:
        return None, ""
    if not noise.mae.value:
        return None, (
            f"Scored a second time, {asked} images got the same scores again: no noise of your own "
            "is seen in them, so there is nothing to measure its error by."
        )
    times = error / noise.mae.value
    between = ""
    if noise.mae.low and noise.mae.high:
        between = f" ({error / noise.mae.high:.1f} to {error / noise.mae.low:.1f})"
    return times, (
        f"It errs {times:.1f} × your own noise{between}, which is {noise.mae.value:.2f} points, "
        f"from {asked} images scored twice."
    )
