"""The learning curves of a replay as an SVG document."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from tastemaker.files.percentages import percent

WIDTH, HEIGHT, LEFT, TOP = 360, 220, 56, 44  # of a panel and of what surrounds it, in pixels
PER_ROW = 4  # names in a row of the legend
# Okabe & Ito 2008: told apart by every kind of colour vision, on white and on black.
COLOURS = ("#0072b2", "#8a8a8a", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a3d9a")


def chart(report: dict[str, Any]) -> str:
    """The two curves of every strategy side by side, with bands for their intervals. A document
    of its own: it carries its colours, and follows a dark theme."""
    strategies = report["strategies"]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(strategies)}
    width = 2 * (LEFT + WIDTH) + 24
    height = TOP + HEIGHT + 44 + 20 * -(-len(strategies) // PER_ROW)
    panels = "".join(
        f'<g transform="translate({LEFT + i * (LEFT + WIDTH)} {TOP})">'
        f"{_panel(strategies, key, title, colour)}</g>"
        for i, (key, title) in enumerate(
            (
                ("error_at_threshold", "Share misclassified at the threshold, by labels"),
                ("mae", "Mean absolute error in points, by labels"),
            )
        )
    )
    legend = "".join(
        f'<g transform="translate({LEFT + (width - LEFT) // PER_ROW * (i % PER_ROW)} '
        f'{TOP + HEIGHT + 52 + 20 * (i // PER_ROW)})">'
        f'<path d="M0 -4H20" stroke="{colour[name]}" stroke-width="2.5"/>'
        f'<text x="28">{escape(name)}</text></g>'
        for i, name in enumerate(strategies)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="12"><title>{escape(_summary(report))}</title><style>'
        "text{fill:#444}.axis{stroke:#ddd}.ground{fill:#fff}"
        "@media(prefers-color-scheme:dark)"
        "{text{fill:#bbb}.axis{stroke:#3a3a3a}.ground{fill:#181818}}"
        f'</style><rect class="ground" width="{width}" height="{height}"/>{panels}{legend}</svg>\n'
    )


def _panel(strategies: dict[str, Any], key: str, title: str, colour: dict[str, str]) -> str:
    """One diagram, its upper left corner at the origin."""
    labels: list[int] = [count for own in strategies.values() for count in own["labels"]]
    values: list[float] = [
        value
        for own in strategies.values()
        for name in (key, f"{key}_low", f"{key}_high")
        for value in own[name]
        if value is not None
    ]
    first, last, low, high = min(labels), max(labels), min(values), max(values)
    low, high = (low, high) if high > low else (low - 0.05, high + 0.05)

    def x(count: float) -> float:
        return WIDTH * (count - first) / max(last - first, 1)

    def y(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    def points(counts: Sequence[float], along: Sequence[float]) -> str:
        return " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(counts, along, strict=True))

    parts = [f'<text y="-18" font-weight="600">{escape(title)}</text>']
    for value in ticks(low, high):
        number = f"{100 * value:g} %" if key == "error_at_threshold" else f"{value:g}"
        parts.append(
            f'<path class="axis" d="M0 {y(value):.1f}h{WIDTH}"/>'
            f'<text x="-8" y="{y(value) + 4:.1f}" text-anchor="end">{number}</text>'
        )
    for count in ticks(first, last):
        parts.append(
            f'<text x="{x(count):.1f}" y="{HEIGHT + 20}" text-anchor="middle">{count:g}</text>'
        )
    for name, own in strategies.items():
        if None not in own[f"{key}_low"]:
            there = points(own["labels"], own[f"{key}_high"])
            back = points(own["labels"][::-1], own[f"{key}_low"][::-1])
            parts.append(f'<polygon points="{there} {back}" fill="{colour[name]}" opacity="0.13"/>')
    for name, own in strategies.items():
        parts.append(
            f'<polyline points="{points(own["labels"], own[key])}" fill="none" '
            f'stroke="{colour[name]}" stroke-width="2" stroke-linejoin="round"/>'
        )
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers in [low, high]."""
    power = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 3))
    step = next(m * power for m in (5, 2, 1) if m * power <= (high - low) / 3 * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 9) for n in range(first, last + 1)]


def _summary(report: dict[str, Any]) -> str:
    ends = "; ".join(
        f"{name} {percent(own['error_at_threshold'][-1], 1)} and {own['mae'][-1]:.2f} points"
        for name, own in report["strategies"].items()
    )
    return f"Error at the threshold and mean error after {report['budget']} labels: {ends}."
