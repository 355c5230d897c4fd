"""What was measured of a version, as the blocks of its card: the loss curve, the metrics with
their intervals, the regression to the mean; and how such numbers are written."""

from collections.abc import Sequence

from tastemaker.database.tables import Version
from tastemaker.files.percentages import percent, percent_range
from tastemaker.learning.version_metrics import Estimate, LabelMetrics, VersusVersion
from tastemaker.publishing.card_blocks import Block, Table, Verbatim, Words, sparkline
from tastemaker.versions.version_report import RESTS_ON, scores_within


def loss_curve(version: Version) -> tuple[Block, ...]:
    steps = version.curve.get("step", [])
    if version.major == 0 or len(steps) < 2:
        why = "It was made elsewhere" if version.major == 0 else "It was solved in closed form"
        return (Words(f"{why}: there is no curve to draw.", quiet=True),)
    chosen = sorted({round(i * (len(steps) - 1) / 11) for i in range(12)})
    curve = version.curve
    series = {
        "train": curve.get("train", []),
        "validation": curve.get("validation", []),
        "lr": curve.get("lr", []),
    }
    lines = []
    for name, values in series.items():
        known = [value for value in values if value is not None]
        if len(known) == len(steps):
            lines.append(f"{name:10} {sparkline([known[i] for i in chosen])}")
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
    ("error_at_threshold", "misclassified at the threshold", False),
)


def metrics_of(version: Version) -> tuple[Block, ...]:
    blocks: list[Block] = []
    m = version.metrics
    for measured, title in (
        (m.holdout.findings, "Held-out images"),
        (m.random_sample.findings, "Images drawn at random or scored in files, each predicted by a "
         "head that never saw it"),
        (m.out_of_fold.findings, "Training images, out-of-fold"),
        (m.all_labels.findings, "All scored images, none of which it saw"),
    ):  # fmt: skip
        if measured.mae.value is None:
            continue
        estimates = [
            (name, getattr(measured, key), points)
            for key, name, points in MEASURES
            if key in measured.model_fields_set
        ]
        rows = tuple(
            (name, with_interval(estimate, points=points), str(estimate.n))
            for name, estimate, points in estimates
        )
        blocks += [Words(f"{title} (95 % intervals):"), Table(("measure", "value", "n"), rows)]
    measured, on = m.measured, m.measured_on
    brackets = tuple(
        (scores_within(b), with_interval(b.mae, points=True), _signed(b.bias), str(b.mae.n))
        for b in measured.brackets
        if b.mae.n and b.bias is not None
    )
    if brackets and on:
        blocks += [
            Words(f"By the score given ({measured.n} {RESTS_ON[on]}):"),
            Table(("scored", "mean error", "prediction − score", "n"), brackets),
        ]
    if m.versus_parent is not None:
        blocks.append(Words(_compared(m.versus_parent)))
    return tuple(blocks) or (Words("Nothing was measured: too few labels.", quiet=True),)


def _compared(versus: VersusVersion) -> str:
    error = versus.difference
    if error.value is None:
        return f"Against {versus.version or 'the version before'}: {versus.verdict}."
    numbers = f"{_signed(error.value)} points of error"
    if error.low is not None and error.high is not None:
        numbers += f", {_signed(error.low)} to {_signed(error.high)}"
    if error.n:
        numbers += f", {error.n} images"
    return f"Against {versus.version or 'the version before'}: {versus.verdict} ({numbers})."


def regression_to_the_mean(measured: LabelMetrics) -> list[str]:
    """Regression to the mean: the lowest and highest brackets with enough labels, where their
    predictions lie a point or more towards the middle."""
    biases = [
        (scores_within(b), b.bias) for b in measured.brackets if b.mae.n >= 5 and b.bias is not None
    ]
    if len(biases) < 2:
        return []
    (lowest, rise), (highest, fall) = biases[0], biases[-1]
    parts = []
    if rise >= 1:
        parts.append(f"those scored {lowest} come out {rise:.1f} points too high")
    if fall <= -1:
        parts.append(f"those scored {highest} come out {-fall:.1f} points too low")
    return [f"Pulls the ends towards the middle: {' and '.join(parts)} on average."] * bool(parts)


# --- how numbers are written -------------------------------------------------------------------


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def with_interval(estimate: Estimate, *, points: bool) -> str:
    """A number in points or as a share, with its interval if known."""
    if estimate.value is None:
        return "–"
    told = f"{estimate.value:.2f}" if points else percent(estimate.value)
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return told
    return f"{told} ({f'{low:.2f} to {high:.2f}' if points else percent_range(low, high)})"
