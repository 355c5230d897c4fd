"""Small charts drawn on the server as SVG: histogram, distribution, loss curve, interval.

Each says in its title, for a screen reader, what it shows. Colours come from the stylesheet by
class (`r0`…`r10` is the score ramp), so there is no inline style for the CSP to forbid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from tastemaker.evaluation.audit_reports import at_least, at_most
from tastemaker.files.percentages import percent

SCORES = 11
CURVE_LEFT = 64  # room for a number like 0.00083 before the axis of what goes over the steps


def histogram(counts: Sequence[int], title: str = "Scores given") -> Markup:
    """How often each score 0–10 was given: one bar a score, in the colours of the scale."""
    width, height, gap = 22, 56, 4
    most = max([*counts, 1])
    parts = []
    for score, number in enumerate(counts):
        x = score * width
        tall = max(2.0, height * number / most) if number else 0.0
        parts.append(
            f'<rect class="bar r{score}" x="{x}" y="{height - tall:.1f}" '
            f'width="{width - gap}" height="{tall:.1f}" rx="2"/>'
            f'<text class="tick" x="{x + (width - gap) / 2:g}" y="{height + 14}" '
            f'text-anchor="middle">{score}</text>'
        )
    summary = ", ".join(f"{n} × {score}" for score, n in enumerate(counts) if n) or "none yet"
    base = f'<path class="axis" d="M0 {height + 0.5}H{SCORES * width - gap}"/>'
    return svg(SCORES * width - gap, height + 18, f"{title}: {summary}.", base + "".join(parts))


def distribution(counts: Sequence[int], threshold: float, title: str = "Predictions") -> Markup:
    """How the predictions of a version spread over 0–10 points, with the threshold as a line."""
    n, height = max(len(counts), 1), 56
    wide = 240 / n
    most = max([*counts, 1])
    bars = "".join(
        f'<rect class="bar r{min(10, round((i + 0.5) * 10 / n))}" x="{i * wide:g}" '
        f'y="{height - max(1.0, height * c / most):.1f}" width="{wide - 2:g}" '
        f'height="{max(1.0, height * c / most):.1f}" rx="1"/>'
        for i, c in enumerate(counts)
        if c
    )
    x = 240 * threshold
    lines = (
        f'<path class="axis" d="M0 {height + 0.5}H240"/>'
        f'<path class="threshold" d="M{x:g} 0V{height}"/>'
        + share_ticks(240, height + 14, threshold)
    )
    above = sum(c for i, c in enumerate(counts) if (i + 0.5) / n >= threshold)
    summary = f"{title}: {above} of {sum(counts)} images at or above {10 * threshold:g}."
    return svg(240, height + 18, summary, bars + lines)


def share_ticks(width: float, y: float, threshold: float) -> str:
    """Under an axis from 0 to 10 points: its ends and the threshold, which matters more than an end
    that its label would run into."""
    name, end = 12, 18  # half of “5.5”, and all of “10”, in pixels
    x = min(max(width * threshold, name), width - name)
    ticks = f'<text class="tick" x="{x:g}" y="{y:g}" text-anchor="middle">{10 * threshold:g}</text>'
    if x - name > 16:
        ticks += f'<text class="tick" x="0" y="{y:g}">0</text>'
    if x + name < width - end:
        ticks += f'<text class="tick" x="{width:g}" y="{y:g}" text-anchor="end">10</text>'
    return ticks


def loss_curve(curve: Mapping[str, Any], title: str = "Loss while training") -> Markup:
    """Training and validation loss (mean absolute error, 0–1) over the steps; empty without."""
    series = {name: _points(curve, name) for name in ("train", "validation")}
    drawn = [point for points in series.values() for point in points]
    if len(drawn) < 2:
        return Markup("")
    width, height, left = 320, 96, CURVE_LEFT
    low, high = min(y for _, y in drawn), max(y for _, y in drawn)
    first, last = min(x for x, _ in drawn), max(x for x, _ in drawn)
    span, steps = (high - low) or 1e-9, (last - first) or 1

    def place(point: tuple[float, float]) -> str:
        x = left + (width - left - 4) * (point[0] - first) / steps
        return f"{x:.1f},{4 + (height - 8) * (high - point[1]) / span:.1f}"

    lines = "".join(
        f'<polyline class="line {name}" points="{" ".join(map(place, points))}"/>'
        for name, points in series.items()
        if points
    )
    frame = (
        f'<path class="axis" d="M{left - 4} 4V{height - 4}H{width}"/>'
        f'<text class="tick" x="{left - 8}" y="13" text-anchor="end">{high:.3f}</text>'
        f'<text class="tick" x="{left - 8}" y="{height - 4}" text-anchor="end">{low:.3f}</text>'
        f'<text class="tick" x="{left}" y="{height + 12}">{first:g}</text>'
        f'<text class="tick" x="{width}" y="{height + 12}" text-anchor="end">{last:g} steps</text>'
    )
    summary = "; ".join(
        f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}"
        for name, points in series.items()
        if points
    )
    return svg(width, height + 16, f"{title}: {summary}.", frame + lines)


def interval(value: float, low: float, high: float, limit: float = 4.0) -> Markup:
    """A mean error and its interval on a scale from 0 to `limit` points."""
    width = 120

    def x(number: float) -> float:
        return 2 + (width - 4) * min(max(number, 0.0), limit) / limit

    summary = f"{value:.2f} points, 95 % interval {low:.2f} to {high:.2f}."
    shapes = (
        f'<path class="axis" d="M2 8H{width - 2}"/>'
        f'<path class="whisker" d="M{x(low):.1f} 4V12M{x(low):.1f} 8H{x(high):.1f}'
        f'M{x(high):.1f} 4V12"/><circle class="dot" cx="{x(value):.1f}" cy="8" r="3"/>'
    )
    return svg(width, 16, summary, shapes)


Bounded = tuple[str, float | None, float | None, float | None]  # name, value, low, high in 0–1


def shares(rows: Sequence[Bounded], goal: float) -> Markup:
    """Shares of 0–100 % with what bounds them, one below the other; the first has a goal. A share
    without a lower bound may be as low as 0."""
    left, width, tall = 104, 400, 28
    drawn, told = [], []

    def x(share: float) -> float:
        return left + (width - left - 6) * min(max(share, 0.0), 1.0)

    for number, (name, value, low, high) in enumerate(rows):
        y = 14 + tall * number
        drawn.append(
            f'<text class="tick" x="0" y="{y + 5}">{escape(name)}</text>'
            f'<path class="axis" d="M{left} {y}H{x(1):.1f}"/>'
        )
        if value is None or high is None:
            continue
        ends = f"M{x(low or 0):.1f} {y}H{x(high):.1f}M{x(high):.1f} {y - 5}V{y + 5}"
        ends += "" if low is None else f"M{x(low):.1f} {y - 5}V{y + 5}"
        drawn.append(
            f'<path class="whisker" d="{ends}"/>'
            f'<circle class="dot" cx="{x(value):.1f}" cy="{y}" r="4"/>'
        )
        least = "" if low is None else f"at least {at_least(low)}, "
        told.append(f"{name}: {percent(value)}, {least}at most {at_most(high)}")
    below = 14 + tall * len(rows)
    line = f'<path class="threshold" d="M{x(goal):.1f} 2V26"/>'
    ticks = (
        f'<text class="tick" x="{left}" y="{below + 4}">0</text>'
        f'<text class="tick" x="{x(1):.1f}" y="{below + 4}" text-anchor="end">100 %</text>'
    )
    summary = f"{'; '.join(told)}. The goal is {100 * goal:g} %."
    return svg(width, below + 8, summary, line + "".join(drawn) + ticks)


def marker(score: float, threshold: float, spread: float | None = None) -> Markup:
    """Where a score in [0, 1] stands on the scale, with the threshold; `spread` is its standard
    deviation."""
    width, top, tall = 320, 12, 16

    def x(share: float) -> float:
        return width * min(max(share, 0.0), 1.0)

    cells = "".join(
        f'<rect class="bar r{i}" x="{x(i / SCORES):.2f}" y="{top}" '
        f'width="{width / SCORES + 0.2:.2f}" height="{tall}"/>'
        for i in range(SCORES)
    )
    reach = ""
    if spread is not None:
        low, high = x(score - spread), x(score + spread)
        reach = f'<path class="whisker" d="M{low:.1f} 6H{high:.1f}M{low:.1f} 3V9M{high:.1f} 3V9"/>'
    shapes = (
        f"{cells}{reach}"
        f'<path class="threshold" d="M{x(threshold):.1f} {top - 4}V{top + tall + 4}"/>'
        f'<circle class="dot" cx="{x(score):.1f}" cy="6" r="5"/>'
        f'<path class="needle" d="M{x(score):.1f} 6V{top + tall}"/>'
    )
    side = "at or above" if score >= threshold else "below"
    summary = f"{10 * score:.1f}, {side} the threshold of {10 * threshold:g}."
    return svg(width, top + tall + 5, summary, shapes)


def _points(curve: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    pairs = zip(curve.get("step", []), curve.get(name, []), strict=False)
    return [(float(x), float(y)) for x, y in pairs if y is not None]


def svg(width: float, height: float, title: str, inside: str) -> Markup:
    """A drawing with its title, which is what a screen reader says of it."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>{escape(title)}</title>{inside}</svg>'
    )
