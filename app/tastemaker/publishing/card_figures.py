"""What was measured of a version, as the blocks of its card: the loss curve, the metrics with
their intervals, the pull to the middle; and how such numbers are written."""

from collections.abc import Sequence
from typing import Any

from tastemaker.database.tables import Version
from tastemaker.publishing.card_blocks import Block, Table, Verbatim, Words, sparkline
from tastemaker.versions.version_report import scores_within


def loss_curve(version: Version) -> tuple[Block, ...]:
    steps = version.curve.get("step") or []
    if version.major == 0 or len(steps) < 2:
        why = "It was made elsewhere" if version.major == 0 else "It was solved in closed form"
        return (Words(f"{why}: there is no curve to draw.", quiet=True),)
    chosen = sorted({round(i * (len(steps) - 1) / 11) for i in range(12)})
    series = {name: version.curve.get(name) or [] for name in ("train", "validation", "lr")}
    lines = [
        f"{name:10} {sparkline([values[i] for i in chosen])}"
        for name, values in series.items()
        if len(values) == len(steps) and None not in values
    ]
    rows = tuple(
        (f"{steps[i]:g}", *(_number(values, i, name) for name, values in series.items()))
        for i in chosen
    )
    return (
        Verbatim("\n".join(lines)),
        Table(("step", "training loss", "validation loss", "learning rate"), rows),
    )


def _number(values: Sequence[float | None], i: int, name: str) -> str:
    value = values[i] if i < len(values) else None
    return "–" if value is None else f"{value:.2e}" if name == "lr" else f"{value:.4f}"


MEASURES = (
    ("mae", "mean error, points of 0–10", True),
    ("spearman", "rank correlation", True),
    ("auc", "chance that a pass ranks above a fail", False),
    ("fp_rate", "false positives of predicted passes", False),
    ("fn_rate", "false negatives of labelled passes", False),
    ("error_at_threshold", "on the wrong side of the threshold", False),
)


def metrics_of(version: Version) -> tuple[Block, ...]:
    blocks: list[Block] = []
    told = {"holdout": "Held-out images", "out_of_fold": "Training images, out-of-fold"}
    for where, title in (*told.items(), ("all_labels", "All scored images, none of which it saw")):
        measured = version.metrics.get(where) or {}
        if measured.get("mae") is None:
            continue
        rows = tuple(
            (
                name,
                with_interval(measured, key, points=points, n=False),
                str(measured.get(f"{key}_n", measured.get("n", "–"))),
            )
            for key, name, points in MEASURES
            if key in measured
        )
        blocks += [Words(f"{title} (95 % intervals):"), Table(("measure", "value", "n"), rows)]
    measured, on = best_measured(version)
    brackets = tuple(
        (scores_within(b), _estimate(b["mae"]), _signed(b["bias"]), str(_n(b)))
        for b in measured.get("brackets", [])
        if _n(b)
    )
    if brackets:
        blocks += [
            Words(f"By the score given ({on}):"),
            Table(("scored", "mean error", "prediction − score", "n"), brackets),
        ]
    versus = version.metrics.get("versus_parent")
    if versus:
        blocks.append(Words(_compared(versus)))
    return tuple(blocks) or (Words("Nothing was measured: too few labels.", quiet=True),)


def _compared(versus: dict[str, Any]) -> str:
    told = f"{_signed(versus['difference'])} points of error"
    if versus.get("low") is not None:
        told += f", {_signed(versus['low'])} to {_signed(versus['high'])}"
    if versus.get("n"):
        told += f", {versus['n']} images"
    return f"Against {versus.get('version', 'the version before')}: {versus['verdict']} ({told})."


def best_measured(version: Version) -> tuple[dict[str, Any], str]:
    """The most honest measurement there is, and what it was made on."""
    names = {"holdout": "hold-out", "out_of_fold": "out-of-fold", "all_labels": "measured"}
    for where, name in names.items():
        measured = version.metrics.get(where) or {}
        if measured.get("mae") is not None:
            return measured, name
    return {}, ""


def regression_to_the_mean(measured: dict[str, Any]) -> list[str]:
    """Regression to the mean: the lowest and highest brackets with enough labels, where their
    predictions lie a point or more towards the middle."""
    told = [b for b in measured.get("brackets", []) if _n(b) >= 5 and b.get("bias") is not None]
    if len(told) < 2:
        return []
    low, high = told[0], told[-1]
    parts = []
    if low["bias"] >= 1:
        parts.append(
            f"those scored {scores_within(low)} come out {low['bias']:.1f} points too high"
        )
    if high["bias"] <= -1:
        parts.append(
            f"those scored {scores_within(high)} come out {-high['bias']:.1f} points too low"
        )
    return [f"Pulls the ends towards the middle: {' and '.join(parts)} on average."] * bool(parts)


# --- how numbers are written -------------------------------------------------------------------


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _n(bracket: dict[str, Any]) -> int:
    return int(bracket["mae"].get("n") or 0)


def _estimate(estimate: dict[str, Any]) -> str:
    if estimate.get("value") is None:
        return "–"
    if estimate.get("low") is None:
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def with_interval(measured: dict[str, Any], key: str, *, points: bool, n: bool = True) -> str:
    """A number, its interval if known, and (`n`) what it was measured on."""
    value, low, high = (measured.get(f"{key}{part}") for part in ("", "_low", "_high"))
    if value is None:
        return "–"
    form = (lambda x: f"{x:.2f}") if points else percent
    told = form(value)
    if low is not None and high is not None:
        told += f" ({form(low)} to {form(high)})"
    return f"{told} on {measured.get('n', 0)} images" if n else told
