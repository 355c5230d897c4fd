"""What the runs of a replay say: learning curves with their intervals, as JSON, text and SVG.

Every mean is over seeds, and every interval resamples seeds. A comparison with random labelling
resamples the seeds of both together, because under one seed both have the same test split and the
same first labels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.replay.runs import LabelledSet, Plan, Run, split

RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # with fewer there is no saying how sure a mean is

Curves = NDArray[np.float64]  # (seeds, points)


def report(data: LabelledSet, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """The whole replay, ready for JSON.

    Per strategy: `labels`, and after so many the mean `mae` (points of 0–10) and
    `error_at_threshold` (share on the wrong side), each with `_low` and `_high` (null with fewer
    than three seeds); `labels_to_reach_random`: after how many labels its error is first as low as
    random's last one (null: never); `mae_area_ratio`: its MAE averaged over the curve ÷ random's;
    and the `runs` themselves, from which anyone can refit. Rows are counted from 0. `notes` says in
    sentences what the figures cannot show.
    """
    tested = [len(split(data, seed)[0]) for seed in plan.seed_numbers]
    by_name = {
        name: sorted((r for r in runs if r.strategy == name), key=lambda r: r.seed)
        for name in plan.strategies
    }
    return {
        "images": len(data.x),
        "labelled": int(np.isfinite(data.scores).sum()),
        "tested": round(float(np.mean(tested))),
        "threshold": round(100 * plan.threshold, 6),
        "seeds": plan.seeds,
        "budget": plan.budget,
        "batch": plan.batch,
        "start": plan.start,
        "notes": _notes(data, plan),
        "strategies": {
            name: _strategy(own, by_name.get("random")) for name, own in by_name.items()
        },
    }


def _notes(data: LabelledSet, plan: Plan) -> list[str]:
    labels = data.scores[np.isfinite(data.scores)]
    notes = []
    if (labels >= plan.threshold).all() or (labels < plan.threshold).all():
        notes.append(
            f"All labels are on one side of the threshold of {100 * plan.threshold:g} %, so the "
            "error at it says nothing. Scores are from 0 to 10."
        )
    spent = [len(labels) - len(split(data, seed)[0]) <= plan.budget for seed in plan.seed_numbers]
    if any(spent):
        notes.append(
            f"After {plan.budget} labels {'every' if all(spent) else 'some'} pool is spent: at the "
            "end all strategies have learned the same there. A smaller --budget tells them apart."
        )
    return notes


def _strategy(own: list[Run], random: list[Run] | None) -> dict[str, Any]:
    labels = own[0].labels
    mae, error = np.array([r.mae for r in own]), np.array([r.error for r in own])
    said: dict[str, Any] = {"labels": labels.tolist()}
    for name, curves in (("mae", mae), ("error_at_threshold", error)):
        said[name] = _rounded(curves.mean(0))
        ends = _interval(len(own), partial(_mean_curve, curves))
        for end, values in zip(("low", "high"), ends, strict=True):
            said[f"{name}_{end}"] = [None] * len(labels) if values is None else _rounded(values)
    if random is not None:
        their_mae, their_error = (
            np.array([r.mae for r in random]), np.array([r.error for r in random])
        )  # fmt: skip
        said["labels_to_reach_random"] = _reached(labels, error, their_error)
        said["mae_area_ratio"] = _ratio(mae, their_mae)
    said["runs"] = [
        {"seed": r.seed, "test": r.test.tolist(), "picks": r.picks.tolist()} for r in own
    ]
    return said


def _mean_curve(curves: Curves, drawn: NDArray[np.intp]) -> NDArray[np.float64]:
    return curves[drawn].mean(0)


def _reached(labels: NDArray[np.intp], error: Curves, theirs: Curves) -> dict[str, Any]:
    """The first number of labels at which the mean error is no higher than random's last one.

    `low` and `high` are null where there is no interval; an end that lies beyond the budget is
    null too, and `reached` says in which share of the resamples the mark was reached at all.
    """

    def first(drawn: NDArray[np.intp]) -> float:
        low_enough = error[drawn].mean(0) <= theirs[drawn].mean(0)[-1] + 1e-12
        return float(labels[np.argmax(low_enough)]) if low_enough.any() else np.inf

    value = first(np.arange(len(error)))
    draws = _resampled(len(error), first)
    low, high = (None, None) if draws is None else _ends(draws, method="nearest")
    return {
        "value": _count(value), "low": _count(low), "high": _count(high),
        "reached": None if draws is None else float(np.isfinite(draws).mean()),
    }  # fmt: skip


def _ratio(mae: Curves, theirs: Curves) -> dict[str, float | None]:
    def ratio(drawn: NDArray[np.intp]) -> float:
        return float(mae[drawn].mean() / max(theirs[drawn].mean(), 1e-12))

    low, high = _interval(len(mae), ratio)
    value = ratio(np.arange(len(mae)))
    return {
        name: None if number is None else round(float(number), 4)
        for name, number in (("value", value), ("low", low), ("high", high))
    }


def _count(value: Any) -> int | None:
    return None if value is None or not np.isfinite(value) else int(value)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def _resampled(seeds: int, statistic: Callable[[NDArray[np.intp]], Any]) -> Any:
    """(RESAMPLES, …) values of a statistic of seeds drawn with replacement; None for too few."""
    if seeds < FEWEST_SEEDS:
        return None
    draws = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    return np.array([statistic(drawn) for drawn in draws])


def _interval(seeds: int, statistic: Callable[[NDArray[np.intp]], Any]) -> Any:
    draws = _resampled(seeds, statistic)
    return (None, None) if draws is None else _ends(draws)


def _ends(draws: Any, method: Any = "linear") -> Any:
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(draws, (tail, 1 - tail), axis=0, method=method)


# --- text --------------------------------------------------------------------------------------


def table(said: dict[str, Any]) -> str:
    """The report for a terminal: one line a strategy, and what random needs beside it."""
    lines = [
        f"{said['labelled']:,} labels on {said['images']:,} images, {said['tested']:,} test; "
        f"{said['seeds']} seed{'s' * (said['seeds'] != 1)}, "
        f"{said['start']} to {said['budget']} labels, "
        f"refitted every {said['batch']}; threshold {said['threshold']:g} %.",
        "",
        f"{'strategy':18}  {'MAE':>5}  {'error':>6}  {'MAE':>5}  {'error':>6}  "
        f"{'MAE area':>20}  labels to reach",
        f"{'':18}  {'mean of the curve':>13}  {'at the end':>13}  "
        f"{'÷ random’s':>20}  random’s last error",
    ]
    for name, own in said["strategies"].items():
        mae, error = own["mae"], own["error_at_threshold"]
        lines.append(
            f"{name:18}  {np.mean(mae):5.2f}  {np.mean(error):6.3f}  {mae[-1]:5.2f}  "
            f"{error[-1]:6.3f}  {_area(own):>20}  {_labels(own, said['budget'])}"
        )
    lines += ["", *said["notes"]] if said["notes"] else []
    return "\n".join(line.rstrip() for line in lines)


def _area(own: dict[str, Any]) -> str:
    ratio = own.get("mae_area_ratio")
    if ratio is None:
        return "–"
    ends = "" if ratio["low"] is None else f" ({ratio['low']:.3f}–{ratio['high']:.3f})"
    return f"{ratio['value']:.3f}{ends}"


def _labels(own: dict[str, Any], budget: int) -> str:
    found = own.get("labels_to_reach_random")
    if found is None:
        return "–"
    value = f"over {budget}" if found["value"] is None else str(found["value"])
    if found["reached"] is None or not found["reached"]:
        return value
    low = f"over {budget}" if found["low"] is None else found["low"]
    high = f"over {budget}" if found["high"] is None else found["high"]
    return f"{value} ({low}–{high})"


# --- SVG ---------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP = 360, 220, 56, 44  # of a panel and of what surrounds it, in pixels
PER_ROW = 4  # names in a row of the legend
# Okabe & Ito 2008: told apart by every kind of colour vision, on white and on black.
COLOURS = ("#0072b2", "#8a8a8a", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a3d9a")


def chart(said: dict[str, Any]) -> str:
    """The two curves of every strategy side by side, with bands for their intervals. A document
    of its own: it carries its colours, and follows a dark theme."""
    strategies = said["strategies"]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(strategies)}
    width = 2 * (LEFT + WIDTH) + 24
    height = TOP + HEIGHT + 44 + 20 * -(-len(strategies) // PER_ROW)
    panels = "".join(
        f'<g transform="translate({LEFT + i * (LEFT + WIDTH)} {TOP})">'
        f"{_panel(strategies, key, title, colour)}</g>"
        for i, (key, title) in enumerate(
            (
                ("error_at_threshold", "Share on the wrong side of the threshold, by labels"),
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
        f'font-size="12"><title>{escape(_told(said))}</title><style>'
        "text{fill:#444}.axis{stroke:#ddd}.ground{fill:#fff}"
        "@media(prefers-color-scheme:dark)"
        "{text{fill:#bbb}.axis{stroke:#3a3a3a}.ground{fill:#181818}}"
        f'</style><rect class="ground" width="{width}" height="{height}"/>{panels}{legend}</svg>\n'
    )


def _panel(strategies: dict[str, Any], key: str, title: str, colour: dict[str, str]) -> str:
    """One diagram, its upper left corner at the origin."""
    labels = [count for own in strategies.values() for count in own["labels"]]
    values = [
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
    power = 10 ** np.floor(np.log10(max(high - low, 1e-9) / 3))
    step = next(m * power for m in (5, 2, 1) if m * power <= (high - low) / 3 * (1 + 1e-9))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [round(float(n * step), 9) for n in range(int(first), int(last) + 1)]


def _told(said: dict[str, Any]) -> str:
    ends = "; ".join(
        f"{name} {100 * own['error_at_threshold'][-1]:.1f} % and {own['mae'][-1]:.2f} points"
        for name, own in said["strategies"].items()
    )
    return f"Error at the threshold and mean error after {said['budget']} labels: {ends}."
