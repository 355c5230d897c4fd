"""Charts: well-formed SVG without inline style, titled, and true to their numbers."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.web import charts

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
