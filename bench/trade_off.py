"""What a rule of asking gains at the threshold, against what it costs in the scores at large.

Of every rule, beside random labelling under the same seeds: the error at the threshold and the MAE,
each averaged over the learning curve and divided by random's, and after how many labels the error
at the threshold is as low as random's last one. Means over sets; intervals resample seeds. A rule
is on the Pareto front if no other is better in one of the two errors and no worse in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from tastemaker.replay.chart import ticks
from tastemaker.replay.runs import Run

RESAMPLES = 1000


@dataclass(frozen=True)
class Known:
    """A number with the ends of its 95 % interval; `value` is inf where a mark is never reached."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A rule, averaged over sets: MAE area and error area ÷ random's, labels to reach random's
    last error, and whether it is on the front."""

    rule: str
    mae: Known
    error: Known
    reached: Known
    best: bool


def points(runs: dict[str, Sequence[Run]]) -> list[Point]:
    """Every rule but random, by the runs of each set, beside random under the rule's own seeds.
    Empty without sets."""
    if not runs:
        return []
    every = [run for own in runs.values() for run in own]
    labels = every[0].labels

    def seeds(rule: str) -> list[int]:
        return sorted({run.seed for run in every if run.strategy == rule})

    def curves(rule: str, what: str, those: list[int]) -> NDArray[np.float64]:
        """(sets, seeds, labels)"""
        by = {(name, r.seed): getattr(r, what) for name in runs for r in runs[name]
              if r.strategy == rule}  # fmt: skip
        return np.array([[by[name, seed] for seed in those] for name in runs])

    def known(count: int, statistic: Callable[[NDArray[np.intp]], float]) -> Known:
        draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
        ends = np.quantile([statistic(drawn) for drawn in draws], (0.025, 0.975), method="nearest")
        return Known(statistic(np.arange(count)), float(ends[0]), float(ends[1]))

    def area(own: NDArray[np.float64], theirs: NDArray[np.float64]) -> Known:
        own, theirs = own.mean(2), theirs.mean(2)
        return known(
            own.shape[1],
            lambda drawn: float(np.mean(own[:, drawn].mean(1) / theirs[:, drawn].mean(1))),
        )

    def reached(own: NDArray[np.float64], theirs: NDArray[np.float64]) -> Known:
        def first(drawn: NDArray[np.intp]) -> float:
            level = own[:, drawn].mean(1) / theirs[:, drawn, -1].mean(1)[:, None]
            enough = level.mean(0) <= 1 + 1e-12
            return float(labels[np.argmax(enough)]) if enough.any() else np.inf

        return known(own.shape[1], first)

    rules = [rule for rule in dict.fromkeys(run.strategy for run in every) if rule != "random"]
    made = []
    for rule in rules:
        those = seeds(rule)
        mae, error = (area(curves(rule, what, those), curves("random", what, those))
                      for what in ("mae", "error"))  # fmt: skip
        to_go = reached(curves(rule, "error", those), curves("random", "error", those))
        made.append((rule, mae, error, to_go))
    at = [(m.value, e.value) for _, m, e, _ in made] + [(1.0, 1.0)]  # random is a rule too
    return [
        Point(*one, best=not any(a <= x and b <= y and (a, b) != (x, y) for a, b in at))
        for one, (x, y) in zip(made, at, strict=False)
    ]


def table(points: dict[str, list[Point]], budget: int) -> str:
    """The points as Markdown, those on the front in bold."""
    lines = [
        "| sets | rule | MAE area ÷ random's | error area ÷ random's | "
        "labels to reach random's last error |",
        "|---|---|--:|--:|--:|",
    ]
    for kind, own in points.items():
        for point in own:
            rule = f"**{point.rule}**" if point.best else point.rule
            reached = point.reached
            count, low, high = (
                f"over {budget}" if end == np.inf else f"{end:.0f}"
                for end in (reached.value, reached.low, reached.high)
            )
            lines.append(
                f"| {kind} | {rule} | {_ratio(point.mae)} | {_ratio(point.error)} | "
                f"{count} [{low}, {high}] |"
            )
    return "\n".join(lines)


def _ratio(known: Known) -> str:
    return f"{known.value:.3f} [{known.low:.3f}, {known.high:.3f}]"


# --- SVG ---------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP = 380, 300, 62, 56  # of a panel and of what surrounds it, in pixels
PER_COLUMN = 5  # rules in a column of the legend
OUTLIERS = ("highest", "threshold-greedy")  # far to the right: named in words


def chart(points: dict[str, list[Point]]) -> str:
    """A panel for each kind of sets: every rule a number, its interval a cross, the front a line.
    A document of its own: it carries its colours, and follows a dark theme."""
    rules = [p.rule for p in next((own for own in points.values() if own), [])]
    rules = [rule for rule in rules if rule not in OUTLIERS]
    drawn = {kind: [p for p in own if p.rule in rules] for kind, own in points.items()}
    every = [point for own in drawn.values() for point in own]
    across = _range([p.mae for p in every])
    up = _range([p.error for p in every])
    columns = -(-len(rules) // PER_COLUMN)
    width = len(points) * (LEFT + WIDTH) + 24
    height = TOP + HEIGHT + 98 + 20 * min(PER_COLUMN, len(rules))
    panels = "".join(
        f'<g transform="translate({LEFT + i * (LEFT + WIDTH)} {TOP})">'
        f"{_panel(TITLES.get(kind, kind), own, rules, across, up)}"
        f'<text y="{height - TOP - 16}">{escape(_far_off(points[kind]))}</text></g>'
        for i, (kind, own) in enumerate(drawn.items())
    )
    legend = "".join(
        f'<text x="{LEFT + (width - LEFT) // columns * (i // PER_COLUMN)}" '
        f'y="{TOP + HEIGHT + 70 + 20 * (i % PER_COLUMN)}"><tspan font-weight="600">{i + 1}</tspan>'
        f'<tspan dx="8">{escape(rule)}</tspan></text>'
        for i, rule in enumerate(rules)
    )
    fronts = "; ".join(
        f"{kind}: {', '.join(p.rule for p in own if p.best) or 'none'}"
        for kind, own in drawn.items()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="12"><title>{escape("Rules on the Pareto front. " + fronts)}</title><style>'
        "text{fill:#444}.axis{stroke:#ddd}.even{stroke:#999}.ground{fill:#fff}"
        ".rule{fill:#767676}.best{fill:#0072b2}.rule text{fill:#fff}"
        ".reach{stroke:#767676;opacity:.35}.front{stroke:#0072b2;fill:none}"
        "@media(prefers-color-scheme:dark){text{fill:#bbb}.axis{stroke:#3a3a3a}"
        ".ground{fill:#181818}.front{stroke:#4aa3dc}.best{fill:#1f7fbf}}"
        f'</style><rect class="ground" width="{width}" height="{height}"/>{panels}{legend}</svg>\n'
    )


def _far_off(own: list[Point]) -> str:
    far = [f"{p.rule} {p.mae.value:.3f}, {p.error.value:.3f}" for p in own if p.rule in OUTLIERS]
    return f"Farther right: {'; '.join(far)}" if far else ""


TITLES = {"chosen by": "Sets the queue was chosen by", "fresh": "Sets nothing was chosen by"}


def _range(known: list[Known]) -> tuple[float, float]:
    """From the lowest to the highest end, and always with 1 in it."""
    low, high = min([1.0, *(k.low for k in known)]), max([1.0, *(k.high for k in known)])
    return low - 0.004, high + 0.004


def _panel(
    title: str,
    own: list[Point],
    rules: list[str],
    across: tuple[float, float],
    up: tuple[float, float],
) -> str:
    """One diagram, its upper left corner at the origin."""

    def x(value: float) -> float:
        return WIDTH * (value - across[0]) / (across[1] - across[0])

    def y(value: float) -> float:
        return HEIGHT * (up[1] - value) / (up[1] - up[0])

    parts = [f'<text y="-34" font-weight="600">{escape(title)}</text>',
             '<text y="-14">Error at the threshold ÷ random’s, over the curve</text>',
             f'<text x="{WIDTH}" y="{HEIGHT + 38}" text-anchor="end">MAE ÷ random’s, over the '
             "curve</text>"]  # fmt: skip
    for value in ticks(*up):
        kind = "even" if value == 1 else "axis"
        parts.append(
            f'<path class="{kind}" d="M0 {y(value):.1f}h{WIDTH}"/>'
            f'<text x="-8" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(*across):
        kind = "even" if value == 1 else "axis"
        parts.append(
            f'<path class="{kind}" d="M{x(value):.1f} 0v{HEIGHT}"/>'
            f'<text x="{x(value):.1f}" y="{HEIGHT + 18}" text-anchor="middle">{value:g}</text>'
        )
    front = sorted((p.mae.value, p.error.value) for p in own if p.best)
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in front)
    parts.append(f'<polyline class="front" points="{line}" stroke-width="1.5"/>')
    for p in own:
        parts.append(
            f'<path class="reach" d="M{x(p.mae.low):.1f} {y(p.error.value):.1f}'
            f"H{x(p.mae.high):.1f}M{x(p.mae.value):.1f} {y(p.error.low):.1f}"
            f'V{y(p.error.high):.1f}"/>'
        )
    for p in sorted(own, key=lambda p: p.best):
        kind = "best" if p.best else ""
        parts.append(
            f'<g class="rule" transform="translate({x(p.mae.value):.1f} {y(p.error.value):.1f})">'
            f'<circle class="{kind}" r="8"/><text y="4" text-anchor="middle" font-size="10">'
            f"{rules.index(p.rule) + 1}</text></g>"
        )
    return "".join(parts)
