"""Charts: well-formed SVG without inline style, titled, and true to their numbers."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tastemaker.evaluation.comparison import Moved
from tastemaker.learning.version_metrics import (
    NOTHING,
    BracketErrors,
    CalibrationPoint,
    Estimate,
    Forecast,
    Gain,
    LabelMetrics,
    LearningCurve,
    LearningPoint,
    MeasuredSize,
    VersionMetrics,
)
from tastemaker.pages import charts, plots

SVG = re.compile(r'(height|x|y|width|cx)="(-?[\d.]+)"')


@given(st.lists(st.integers(0, 10**6), min_size=11, max_size=11))
def test_a_histogram_has_one_bar_for_each_score_given(counts: list[int]) -> None:
    root = ET.fromstring(charts.histogram(counts))
    bars = root.findall("rect")
    assert len(bars) == 11
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [h > 0 for h in heights] == [c > 0 for c in counts]
    assert max(heights) <= 56
    order = sorted(range(11), key=lambda i: counts[i])
    assert all(heights[a] <= heights[b] for a, b in pairwise(order))
    assert (root.findtext("title") or "").startswith("Scores given")


@given(st.lists(st.integers(0, 10**6), min_size=20, max_size=20), st.floats(0.01, 0.99))
def test_a_distribution_stays_in_its_frame(counts: list[int], threshold: float) -> None:
    text = charts.distribution(counts, threshold)
    ET.fromstring(text)
    assert "style" not in text
    assert all(-0.01 <= float(value) <= 260 for _, value in SVG.findall(text))


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1))), min_size=0, max_size=30
    )
)
def test_a_loss_curve_takes_gaps_and_flat_lines(points: list[tuple[float, float | None]]) -> None:
    curve = {
        "step": [100 * i for i in range(len(points))],
        "train": [a for a, _ in points],
        "validation": [b for _, b in points],
    }
    text = charts.loss_curve(curve)
    if text:
        root = ET.fromstring(text)
        assert len(root.findall("polyline")) in (1, 2)
        assert "nan" not in text
    assert bool(text) == (sum(p is not None for pair in points for p in pair) >= 2)


def test_an_empty_curve_draws_nothing() -> None:
    assert charts.loss_curve({}) == ""


def test_an_interval_says_its_numbers_and_stops_at_the_frame() -> None:
    root = ET.fromstring(charts.interval(1.25, 1.0, 9.0))
    assert root.findtext("title") == "1.25 points, 95 % interval 1.00 to 9.00."
    assert "118.0" in ET.tostring(root).decode()


# --- the larger ones -----------------------------------------------------------------------------

shares = st.floats(0, 1)
groups = st.builds(
    CalibrationPoint, **{"from": shares, "to": shares}, predicted=shares,
    labelled=st.none() | shares, n=st.integers(0, 10**6),
)  # fmt: skip


def drawn(text: str) -> ET.Element:
    assert "nan" not in text and "style" not in text and "inf" not in text
    return ET.fromstring(text)


@given(st.lists(groups, max_size=12), st.floats(0.01, 0.99))
def test_a_calibration_plot_has_a_dot_for_each_group_that_is_known(
    curve: list[CalibrationPoint], threshold: float
) -> None:
    text = plots.calibration(curve, threshold)
    known = [row for row in curve if row.n and row.labelled is not None]
    assert bool(text) == bool(known)
    if text:
        assert len(drawn(text).findall("circle")) == len(known)


@given(st.lists(st.tuples(shares, shares), max_size=60), st.floats(0.01, 0.99), st.booleans())
def test_a_scatter_draws_every_point_once_and_cells_where_there_are_more(
    points: list[tuple[float, float]], threshold: float, more: bool
) -> None:
    cells = [[0, 3], [1, 0]]
    how = Moved(len(points) + 4 * more, cells, points, old=[], new=[], mean_change=0.1)
    text = plots.scatter(how, threshold, "v1.0", "v1.1")
    if not how.images:
        assert text == ""
        return
    root = drawn(text)
    dots = [p.attrib["d"].count("M") for p in root.iter("path") if "dots" in p.attrib["class"]]
    assert sum(dots) == len(points)
    assert len([r for r in root.iter("rect") if r.attrib["class"] == "cell"]) == 2 * more


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
def test_a_shift_stays_in_its_frame(counts: list[tuple[int, int]], threshold: float) -> None:
    old, new = [a for a, _ in counts], [b for _, b in counts]
    text = plots.shift(old, new, threshold, "v1.0", "v1.1")
    drawn(text)
    assert all(-0.01 <= float(value) <= 345 for _, value in SVG.findall(text))


@given(
    st.lists(
        st.builds(
            BracketErrors,
            **{"from": shares, "to": shares},
            mae=st.just(NOTHING),
            bias=st.none() | st.floats(-10, 10),
        ),
        max_size=8,
    )
)
def test_bias_has_a_bar_for_each_bracket_that_holds_labels(brackets: list[BracketErrors]) -> None:
    known = [row for row in brackets if row.bias is not None]
    text = plots.bias(brackets)
    assert bool(text) == bool(known)
    if text:
        assert len(drawn(text).findall("rect")) == len(known)


def test_a_learning_curve_shows_the_noise_it_cannot_go_below_and_takes_gaps() -> None:
    def curve(*points: tuple[int, float, float | None], floor: float | None = None) -> str:
        errors = [
            LearningPoint(labels=n, mae=Estimate(value=value, low=low, high=None, n=9))
            for n, value, low in points
        ]
        return plots.learning_curve(LearningCurve(points=tuple(errors), noise_floor=floor))

    root = drawn(curve((50, 2.0, 1.8), (100, 1.5, None), floor=0.9))
    assert "noise of the scores themselves is 0.90" in (root.findtext("title") or "")
    assert len(root.findall("circle")) == 2 and len(root.findall("polygon")) == 1
    assert plots.learning_curve(None) == curve() == curve((50, 2.0, None)) == ""
    assert plots.learning_rate({"step": [0, 1], "lr": [None, 0.1]}) == ""
    assert "at most 0.1" in plots.learning_rate({"step": [0, 1], "lr": [0.1, 0.0]})


def test_a_forecast_is_drawn_on_from_what_was_measured_and_without_one_nothing_is() -> None:
    forecast = Forecast(
        labels=100, drawn=80, error=1.8,
        measured=(MeasuredSize(labels=25, mae=2.2), MeasuredSize(labels=90, mae=1.85)),
        gains=(
            Gain(more=50, value=0.1, low=0.0, high=0.2),
            Gain(more=200, value=0.3, low=0.1, high=0.5),
        ),
    )  # fmt: skip
    root = drawn(plots.forecast_curve(LearningCurve(forecast=forecast, noise_floor=0.9)))
    title = root.findtext("title") or ""
    assert "expected at 300: 1.50, from 1.30 to 1.70" in title
    assert len(root.findall("circle")) == 2 and len(root.findall("polygon")) == 1
    ahead = [line for line in root.findall("polyline") if "ahead" in line.get("class", "")]
    assert len(ahead) == 1 and len(ahead[0].get("points", "").split()) == 3
    too_few = LearningCurve(forecast=Forecast(labels=20, drawn=9, why="from 40 training labels on"))
    assert plots.forecast_curve(too_few) == plots.forecast_curve(None) == ""


@given(st.integers(1, 99), st.sampled_from([240, 320]))
def test_the_names_under_an_axis_never_run_into_each_other(percent: int, width: int) -> None:
    """At 13 pixels a character is at most 8 wide."""
    drawn = ET.fromstring(f"<svg>{charts.share_ticks(width, 70, percent / 100)}</svg>")
    spans = []
    for name in drawn:
        text = name.text or ""
        wide = 8 * len(text)
        at = float(name.attrib["x"]) - {"middle": wide / 2, "end": wide}.get(
            name.attrib.get("text-anchor", ""), 0
        )
        spans.append((at, at + wide))
    assert len(spans) >= 2 and all(a >= -1 and b <= width + 1 for a, b in spans)
    assert all(a[1] < b[0] for a, b in pairwise(sorted(spans)))
    assert f"{percent / 10:g}" in {name.text for name in drawn}


def test_the_errors_of_the_versions_stand_on_one_line_with_what_they_rest_on() -> None:
    def version(n: int, value: float) -> VersionMetrics:
        error = Estimate(value=value, low=value - 0.2, high=value + 0.2, n=n)
        measured = LabelMetrics(n=n, mae=error)
        if n >= 50:
            return VersionMetrics(holdout=measured, baseline_mae=2.0)
        return VersionMetrics(random_sample=measured, baseline_mae=2.0)

    two = [("v1.0", version(40, 1.5)), ("v1.1", version(60, 1.25))]
    drawn = ET.fromstring(plots.error_by_version(two))
    assert drawn.findtext("title") == "Mean error by version: v1.0 1.50, v1.1 1.25."
    circles = list(drawn.iter("circle"))
    assert [circle.attrib["class"] for circle in circles] == ["dot ring", "dot"]
    assert float(circles[0].attrib["cy"]) < float(circles[1].attrib["cy"]), "less stands lower"
    assert plots.error_by_version(two[:1]) == ""
    many = [(f"v1.{n}", version(60, 1.0)) for n in range(40)]
    assert plots.error_by_version(many).count("<circle") == plots.MOST_VERSIONS
