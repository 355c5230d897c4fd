"""Larger charts with two axes, drawn on the server as SVG: calibration, scatter, learning curve
and its forecast, bias by bracket, two histograms over each other, learning rate.

As in `charts`, colours come from the stylesheet by class and every chart says in its title, for a
screen reader, what it shows; the page has the same numbers as a table where they are few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tastemaker.evaluation.comparison import Moved
from tastemaker.learning.version_metrics import (
    BracketErrors,
    CalibrationPoint,
    LearningCurve,
    LossCurve,
    VersionMetrics,
)
from tastemaker.pages import formats
from tastemaker.pages.charts import CURVE_LEFT, share_ticks, svg
from tastemaker.versions.version_report import scores_within

SIDE = 240  # of a square plot, in pixels
LEFT, BELOW = 40, 36  # room for its labels


def calibration(curve: Sequence[CalibrationPoint], threshold: float) -> Markup:
    """Mean label over mean prediction (both 0–1), a dot for each group of images, its area by how
    many they are. On the diagonal, predictions mean what they say."""
    known = [
        (point.predicted, point.labelled, point.n)
        for point in curve
        if point.n and point.predicted is not None and point.labelled is not None
    ]
    if not known:
        return Markup("")
    most = max(n for _, _, n in known)
    dots = "".join(
        f'<circle class="mark" cx="{_x(predicted)}" cy="{_y(labelled)}" '
        f'r="{3 + 6 * math.sqrt(n / most):.1f}"/>'
        for predicted, labelled, n in known
    )
    line = " ".join(f"{_x(predicted)},{_y(labelled)}" for predicted, labelled, _ in known)
    shapes = (
        _square("predicted", "labelled", threshold)
        + f'<path class="diagonal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>'
        + f'<polyline class="line train" points="{line}"/>'
        + dots
    )
    summary = "; ".join(
        f"predicted {formats.predicted(predicted)}, labelled {formats.predicted(labelled)}, "
        f"{n} images"
        for predicted, labelled, n in known
    )
    return svg(LEFT + SIDE + 12, SIDE + BELOW + 8, f"Calibration: {summary}.", shapes)


def scatter(how: Moved, threshold: float, a: str, b: str) -> Markup:
    """Old prediction against new, of the same images: every one a dot while they are few, else
    cells as dark as they are full, with a fixed sample of dots over them."""
    if not how.images:
        return Markup("")
    cells, dots = "", ""
    if how.images > len(how.points):
        grid = how.cells
        step, most = SIDE / len(grid), math.log1p(max(max(row) for row in grid))
        cells = "".join(
            f'<rect class="cell" x="{LEFT + i * step:g}" y="{4 + SIDE - (j + 1) * step:g}" '
            f'width="{step:g}" height="{step:g}" '
            f'fill-opacity="{0.08 + 0.62 * math.log1p(count) / most:.2f}"/>'
            for i, row in enumerate(grid)
            for j, count in enumerate(row)
            if count
        )
    small = len(how.points) > 500
    sides: dict[str, list[str]] = {"stays": [], "up": [], "down": []}
    for old, new in how.points:
        side = "stays"
        if (old >= threshold) != (new >= threshold):
            side = "up" if new > old else "down"
        sides[side].append(f"M{_x(old)} {_y(new)}h0")
    for side, moves in sides.items():
        if moves:  # round caps make dots of lines without length: one element for thousands
            width = 3 if small else 5
            dots += f'<path class="dots {side}" stroke-width="{width}" d="{"".join(moves)}"/>'
    shapes = (
        cells
        + _square(f"said by {a}", f"said by {b}", threshold)
        + f'<path class="threshold" d="M{LEFT} {_y(threshold)}H{LEFT + SIDE}"/>'
        + f'<path class="diagonal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>'
        + dots
    )
    change = how.mean_change or 0.0
    summary = (
        f"Predictions of {how.images} images by {a} (across) and {b} (up); "
        f"on average they moved by {10 * change:+.2f} points."
    )
    return svg(LEFT + SIDE + 12, SIDE + BELOW + 8, summary, shapes)


def shift(old: Sequence[int], new: Sequence[int], threshold: float, a: str, b: str) -> Markup:
    """Two histograms of predictions over the same images: the older as a line, the newer as
    bars."""
    n, width, height = len(new), 320, 120
    most, step = max([*old, *new, 1]), 320 / max(len(new), 1)

    def y(count: int) -> str:
        return f"{4 + height - height * count / most:.1f}"

    bars = "".join(
        f'<rect class="bar r{min(10, round((i + 0.5) * 10 / n))}" x="{i * step + 0.5:g}" '
        f'y="{y(count)}" width="{step - 1:g}" height="{height * count / most:.1f}"/>'
        for i, count in enumerate(new)
        if count
    )
    outline = f"M0 {4 + height}" + "".join(
        f"V{y(count)}H{(i + 1) * step:g}" for i, count in enumerate(old)
    )
    cut = width * threshold
    frame = (
        f'<path class="axis" d="M0 {height + 4.5}H{width}"/>'
        f'<path class="threshold" d="M{cut:g} 0V{height + 4}"/>'
        + share_ticks(width, height + 20, threshold)
    )
    passes = [sum(c for i, c in enumerate(bars) if (i + 0.5) / n >= threshold) for bars in
              (old, new)]  # fmt: skip
    summary = (
        f"Predictions of the same {sum(new)} images: {passes[0]} at or above "
        f"{formats.predicted(threshold)} by {a}, {passes[1]} by {b}."
    )
    return svg(
        width,
        height + 24,
        summary,
        bars + f'<path class="outline" d="{outline}V{height + 4}"/>' + frame,
    )


def bias(brackets: Sequence[BracketErrors]) -> Markup:
    """Mean error by the score an image was given: below the line predictions are too low. Points of
    0–10, one bar for each bracket that holds labels."""
    known = [(row, row.bias) for row in brackets if row.bias is not None]
    if not known:
        return Markup("")
    limit = max(1.0, math.ceil(max(abs(points) for _, points in known)))
    step, height, left = 48, 120, 32
    width = left + step * len(brackets)
    zero = 4 + height / 2
    parts = []
    for at, row in enumerate(brackets):
        x = left + at * step
        parts.append(
            f'<text class="tick" x="{x + step / 2:g}" y="{height + 20}" text-anchor="middle">'
            f"{scores_within(row)}</text>"
        )
        if row.bias is None:
            continue
        tall = height / 2 * abs(row.bias) / limit
        top = zero - tall if row.bias > 0 else zero
        shade = min(10, round(10 * (row.low + row.high) / 2))
        parts.append(
            f'<rect class="bar r{shade}" x="{x + 6}" y="{top:.1f}" width="{step - 12}" '
            f'height="{max(tall, 1):.1f}" rx="1"/>'
        )
    frame = (
        f'<path class="axis" d="M{left} {zero}H{width}"/>'
        f'<text class="tick" x="{left - 6}" y="14" text-anchor="end">+{limit:g}</text>'
        f'<text class="tick" x="{left - 6}" y="{height + 4}" text-anchor="end">−{limit:g}</text>'
        f'<text class="tick" x="{left - 6}" y="{zero + 5}" text-anchor="end">0</text>'
    )
    summary = "; ".join(f"scored {scores_within(row)}: {points:+.2f}" for row, points in known)
    return svg(width, height + 24, f"Bias by label, in points of 0–10: {summary}.",
               frame + "".join(parts))  # fmt: skip


@dataclass(frozen=True)
class _LabelsAndError:
    """The axes of a learning curve: labels from `first` to `last`, errors up to `top` points."""

    first: float
    last: float
    top: float
    width: int = 400
    height: int = 168
    left: int = 40

    def x(self, labels: float) -> float:
        wide = self.width - self.left - 8
        return self.left + wide * (labels - self.first) / ((self.last - self.first) or 1)

    def y(self, error: float) -> float:
        return 4 + self.height - self.height * max(0.0, error) / self.top

    def path(self, labels: Sequence[float], errors: Sequence[float]) -> str:
        return " ".join(
            f"{self.x(n):.1f},{self.y(e):.1f}" for n, e in zip(labels, errors, strict=True)
        )

    def band(self, labels: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
        back = self.path(labels[::-1], low[::-1])
        return f'<polygon class="band" points="{self.path(labels, high)} {back}"/>'

    def marks(self, labels: Sequence[float], errors: Sequence[float]) -> str:
        return "".join(
            f'<circle class="mark" cx="{self.x(n):.1f}" cy="{self.y(e):.1f}" r="3"/>'
            for n, e in zip(labels, errors, strict=True)
        )

    def frame(self) -> str:
        left, height = self.left, self.height
        return (
            f'<path class="axis" d="M{left} 4V{height + 4}H{self.width}"/>'
            + "".join(
                f'<text class="tick" x="{left - 6}" y="{self.y(v) + 5:.1f}" text-anchor="end">'
                f"{v:g}</text>"
                for v in _steps(self.top)
            )
            + f'<text class="tick" x="{left}" y="{height + 20}">{self.first:g}</text>'
            f'<text class="tick" x="{self.width}" y="{height + 20}" text-anchor="end">'
            f"{self.last:g} labels</text>"
        )

    def drawn(self, shapes: str, summary: str, noise: float | None) -> Markup:
        """The picture, with the person's own noise where it is known."""
        if noise:
            shapes += self.floor(noise)
            summary += f" The noise of the scores themselves is {noise:.2f}."
        return svg(self.width, self.height + 24, summary, shapes)

    def floor(self, error: float) -> str:
        """The person's own noise, a line that no error goes below."""
        # Below its line, for the curve is above; but not on the numbers of the axis.
        at = self.y(error) + 16 if self.y(error) + 16 < self.height else self.y(error) - 5
        return (
            f'<path class="threshold" d="M{self.left} {self.y(error):.1f}H{self.width}"/>'
            f'<text class="tick" x="{self.width}" y="{at:.1f}" text-anchor="end">'
            f"your test–retest noise</text>"
        )


def learning_curve(curve: LearningCurve | None) -> Markup:
    """Mean error on the hold-out over the number of labels, with its interval, and the person's
    own noise as the floor it cannot go below."""
    points = [
        (point.labels, point.mae, point.mae.value)
        for point in (curve.points if curve else ())
        if point.mae.value is not None
    ]
    if curve is None or len(points) < 2:
        return Markup("")
    labels, errors = [n for n, _, _ in points], [error for _, _, error in points]
    low = [error if mae.low is None else mae.low for _, mae, error in points]
    high = [error if mae.high is None else mae.high for _, mae, error in points]
    floor = curve.noise_floor
    axes = _LabelsAndError(min(labels), max(labels), max(*high, floor or 0.0) * 1.08 or 1.0)
    shapes = (
        axes.band(labels, low, high)
        + axes.frame()
        + f'<polyline class="line validation" points="{axes.path(labels, errors)}"/>'
        + axes.marks(labels, errors)
    )
    summary = (
        f"Mean error from {errors[0]:.2f} at {labels[0]:g} labels to {errors[-1]:.2f} at "
        f"{labels[-1]:g}."
    )
    return axes.drawn(shapes, summary, curve.noise_floor)


def forecast_curve(curve: LearningCurve | None) -> Markup:
    """The errors measured on fewer labels, and those expected of more, with their 80 % interval;
    the person's own noise below them. Empty without a forecast."""
    forecast = curve.forecast if curve else None
    if curve is None or forecast is None or not forecast.gains or forecast.error is None:
        return Markup("")
    now, error = forecast.labels, forecast.error
    ahead = [now, *(now + gain.more for gain in forecast.gains)]
    expected = [error, *(error - gain.value for gain in forecast.gains)]
    low = [error, *(error - gain.high for gain in forecast.gains)]
    high = [error, *(error - gain.low for gain in forecast.gains)]
    sizes = [each.labels for each in forecast.measured]
    known = [each.mae for each in forecast.measured]
    floor = curve.noise_floor
    axes = _LabelsAndError(min(sizes), ahead[-1], max(*known, *high, floor or 0.0) * 1.08)
    behind = axes.path([*sizes, now], [*known, error])
    shapes = (
        axes.band(ahead, low, high)
        + axes.frame()
        + f'<polyline class="line validation" points="{behind}"/>'
        + f'<polyline class="line validation ahead" points="{axes.path(ahead, expected)}"/>'
        + axes.marks(sizes, known)
        + f'<path class="threshold" d="M{axes.x(now):.1f} 4V{axes.height + 4}"/>'
        + f'<text class="tick" x="{axes.x(now) + 5:.1f}" y="16">now: {now}</text>'
    )
    summary = (
        f"Mean error from {known[0]:.2f} at {sizes[0]:g} labels to {error:.2f} at {now}; expected "
        f"at {ahead[-1]}: {expected[-1]:.2f}, from {low[-1]:.2f} to {high[-1]:.2f}."
    )
    return axes.drawn(shapes, summary, curve.noise_floor)


MOST_VERSIONS = 12  # on one line


def error_by_version(versions: Sequence[tuple[str, VersionMetrics]]) -> Markup:
    """The error in front of each version, oldest first, with its interval, and as a stroke the
    baseline of the same images; a ring where it was cross-validated, a dot on the hold-out. Empty
    below two versions."""
    known = [(number, m) for number, m in versions if m.measured.mae.value is not None]
    known = known[-MOST_VERSIONS:]
    if len(known) < 2:
        return Markup("")
    marks = [(number, m.measured.mae, m.baseline_mae, m.measured_on) for number, m in known]
    top = max(max(e.high or e.value or 0.0, base or 0.0) for _, e, base, _ in marks) * 1.08 or 1.0
    step, height, left = 64, 112, 32
    width = left + step * len(marks)

    def y(error: float) -> float:
        return 4 + height - height * max(0.0, error) / top

    parts = [f'<path class="axis" d="M{left} 4V{height + 4}H{width}"/>']
    parts += [
        f'<text class="tick" x="{left - 6}" y="{y(v) + 5:.1f}" text-anchor="end">{v:g}</text>'
        for v in _steps(top)
    ]
    told = []
    for at, (number, error, base, on) in enumerate(marks):
        x, value = left + step * (at + 0.5), error.value or 0.0
        if base is not None:
            parts.append(f'<path class="threshold" d="M{x - 16:g} {y(base):.1f}h32"/>')
        if error.low is not None and error.high is not None:
            parts.append(
                f'<path class="whisker" d="M{x:g} {y(error.low):.1f}V{y(error.high):.1f}'
                f'M{x - 4:g} {y(error.low):.1f}h8M{x - 4:g} {y(error.high):.1f}h8"/>'
            )
        ring = " ring" if on != "holdout" else ""
        parts.append(f'<circle class="dot{ring}" cx="{x:g}" cy="{y(value):.1f}" r="4"/>')
        parts.append(
            f'<text class="tick" x="{x:g}" y="{height + 20}" text-anchor="middle">{number}</text>'
        )
        told.append(f"{number} {value:.2f}")
    return svg(width, height + 24, f"Mean error by version: {', '.join(told)}.", "".join(parts))


def learning_rate(curve: LossCurve) -> Markup:
    """The learning rate over the steps of the training."""
    columns = zip(curve.get("step", []), curve.get("lr", []), strict=False)
    rates = [(step, rate) for step, rate in columns if rate is not None]
    if len(rates) < 2:
        return Markup("")
    width, height, left = 320, 48, CURVE_LEFT
    most = max(rate for _, rate in rates) or 1.0
    first, last = rates[0][0], rates[-1][0]
    line = " ".join(
        f"{left + (width - left - 4) * (s - first) / ((last - first) or 1):.1f},"
        f"{4 + (height - 8) * (1 - rate / most):.1f}"
        for s, rate in rates
    )
    shapes = (
        f'<path class="axis" d="M{left - 4} 4V{height - 4}H{width}"/>'
        f'<text class="tick" x="{left - 8}" y="13" text-anchor="end">{most:.2g}</text>'
        f'<polyline class="line train" points="{line}"/>'
    )
    summary = f"Learning rate, at most {most:.2g}, {rates[-1][1]:.2g} at the end."
    return svg(width, height, summary, shapes)


# --- small print ---------------------------------------------------------------------------------


def _x(share: float) -> str:
    return f"{LEFT + SIDE * min(max(share, 0.0), 1.0):.1f}"


def _y(share: float) -> str:
    return f"{4 + SIDE * (1 - min(max(share, 0.0), 1.0)):.1f}"


def _square(across: str, up: str, threshold: float) -> str:
    """The frame of a plot of two shares, with the threshold across."""
    return (
        f'<path class="axis" d="M{LEFT} 4V{SIDE + 4}H{LEFT + SIDE}"/>'
        f'<path class="threshold" d="M{_x(threshold)} 4V{SIDE + 4}"/>'
        f'<text class="tick" x="{LEFT}" y="{SIDE + 20}">0</text>'
        f'<text class="tick" x="{LEFT + SIDE / 2}" y="{SIDE + 36}" text-anchor="middle">{across}'
        f"</text>"
        f'<text class="tick" x="{LEFT + SIDE}" y="{SIDE + 20}" text-anchor="end">10</text>'
        f'<text class="tick" x="{LEFT - 6}" y="16" text-anchor="end">10</text>'
        f'<text class="tick" x="{LEFT - 6}" y="{SIDE + 4}" text-anchor="end">0</text>'
        f'<text class="tick" text-anchor="middle" transform="translate(14 {4 + SIDE / 2}) '
        f'rotate(-90)">{up}</text>'
    )


def _steps(top: float) -> list[float]:
    """A few round numbers from 0 to `top`."""
    step = next(s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if top / s <= 5)
    return [round(step * i, 2) for i in range(int(top / step) + 1)]
