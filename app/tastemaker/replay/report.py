"""The report of a replay: learning curves with their intervals, as JSON and as a table.

Every mean is over seeds, and every interval resamples seeds. A comparison with random labelling
resamples the seeds of both together, because under one seed both have the same test split and the
same first labels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.replay.runs import LabelledSet, Plan, Run, split

RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # with fewer the uncertainty of a mean is unknown

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
    result: dict[str, Any] = {"labels": labels.tolist()}
    for name, curves in (("mae", mae), ("error_at_threshold", error)):
        result[name] = _rounded(curves.mean(0))
        ends = interval(len(own), partial(_mean_curve, curves))
        for end, values in zip(("low", "high"), ends, strict=True):
            result[f"{name}_{end}"] = [None] * len(labels) if values is None else _rounded(values)
    if random is not None:
        their_mae, their_error = (
            np.array([r.mae for r in random]), np.array([r.error for r in random])
        )  # fmt: skip
        result["labels_to_reach_random"] = _reached(labels, error, their_error)
        result["mae_area_ratio"] = _ratio(mae, their_mae)
    result["runs"] = [
        {"seed": r.seed, "test": r.test.tolist(), "picks": r.picks.tolist()} for r in own
    ]
    return result


def _mean_curve(curves: Curves, drawn: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(curves[drawn].mean(0), np.float64)


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

    low, high = interval(len(mae), ratio)
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


def interval(seeds: int, statistic: Callable[[NDArray[np.intp]], Any]) -> Any:
    """Both ends of the 95 % interval of a statistic of `seeds` (or people), drawn with replacement;
    None twice for too few."""
    draws = _resampled(seeds, statistic)
    return (None, None) if draws is None else _ends(draws)


def _ends(draws: Any, method: Any = "linear") -> Any:
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(draws, (tail, 1 - tail), axis=0, method=method)


# --- text --------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """The report for a terminal: one line a strategy, and what random needs beside it."""
    lines = [
        f"{report['labelled']:,} labels on {report['images']:,} images, {report['tested']:,} test; "
        f"{report['seeds']} seed{'s' * (report['seeds'] != 1)}, "
        f"{report['start']} to {report['budget']} labels, "
        f"refitted every {report['batch']}; threshold {report['threshold']:g} %.",
        "",
        f"{'strategy':18}  {'MAE':>5}  {'error':>6}  {'MAE':>5}  {'error':>6}  "
        f"{'MAE area':>20}  labels to reach",
        f"{'':18}  {'mean of the curve':>13}  {'at the end':>13}  "
        f"{'÷ random’s':>20}  random’s last error",
    ]
    for name, own in report["strategies"].items():
        mae, error = own["mae"], own["error_at_threshold"]
        lines.append(
            f"{name:18}  {np.mean(mae):5.2f}  {np.mean(error):6.3f}  {mae[-1]:5.2f}  "
            f"{error[-1]:6.3f}  {_area(own):>20}  {_labels(own, report['budget'])}"
        )
    lines += ["", *report["notes"]] if report["notes"] else []
    return "\n".join(line.rstrip() for line in lines)


def _area(own: dict[str, Any]) -> str:
    ratio = own.get("mae_area_ratio")
    if ratio is None:
        return "–"
    ends = "" if ratio["low"] is None else f" ({ratio['low']:.3f}–{ratio['high']:.3f})"
    return f"{ratio['value']:.3f}{ends}"


def _labels(own: dict[str, Any], budget: int) -> str:
    reach = own.get("labels_to_reach_random")
    if reach is None:
        return "–"
    value = f"over {budget}" if reach["value"] is None else str(reach["value"])
    if reach["reached"] is None or not reach["reached"]:
        return value
    low = f"over {budget}" if reach["low"] is None else reach["low"]
    high = f"over {budget}" if reach["high"] is None else reach["high"]
    return f"{value} ({low}–{high})"
