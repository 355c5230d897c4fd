"""Possible label errors: slips put in on purpose are found, and nothing else is accused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from tastemaker.learning.label_issues import FEWEST, label_issues
from tastemaker.learning.posterior import project
from tastemaker.learning.ridge import fit_ridge


def judged(x: np.ndarray, y: np.ndarray, groups: np.ndarray):  # type: ignore[no-untyped-def]
    return label_issues(project(x).features, y, groups, fit_ridge(x, y, groups, link="identity"))


def linear(n: int, slips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 12)).astype(np.float32)
    y = np.clip(0.5 + x[:, :3].sum(1) / 8 + random.normal(0, 0.03, n), 0, 1)
    slipped = np.zeros(n, bool)
    slipped[random.permutation(n)[:slips]] = True
    y[slipped] = np.where(y[slipped] < 0.5, y[slipped] + 0.5, y[slipped] - 0.5)
    return x, y, slipped


def test_slips_come_first_and_honest_labels_are_left_alone() -> None:
    x, y, slipped = linear(400, 20)
    found = judged(x, y, np.arange(400))
    worst = found.worst(200)
    assert set(np.flatnonzero(slipped)) <= set(worst.tolist())
    assert len(worst) < 20 + 0.1 * 380, "a few honest labels look odd"
    assert slipped[worst[:15]].all()
    assert (np.diff(found.quality[worst]) >= 0).all()
    assert np.abs(found.expected[slipped] - y[slipped]).min() > 0.3
    assert len(found.worst(5)) == 5


def test_what_no_straight_line_explains_is_learned_from_the_nearest_images() -> None:
    data = load_digits()
    x, y = (data.data / 16).astype(np.float32)[:900], data.target[:900] / 9
    random = np.random.default_rng(2)
    slipped = np.zeros(900, bool)
    slipped[random.permutation(900)[:90]] = True
    y = np.where(slipped, (np.round(9 * y) + random.integers(1, 10, 900)) % 10 / 9, y)
    ridge = fit_ridge(x, y, link="identity")
    found = label_issues(project(x).features, y, np.arange(900), ridge)
    plain = average_precision_score(slipped, np.abs(ridge.out_of_group - y))
    assert average_precision_score(slipped, -found.quality) > plain + 0.1


def test_a_label_is_not_excused_by_its_own_relatives() -> None:
    """Ten copies of one picture with the same wrong score vouch for each other; left out together
    they do not."""
    x, y, _ = linear(300, 0)
    x[:10] = x[0]
    y[:10] = 0.0 if y[0] > 0.5 else 1.0
    groups = np.arange(300)
    groups[:10] = 0
    together = judged(x, y, groups).quality[:10]
    apart = judged(x, y, np.arange(300)).quality[:10]
    assert together.max() < apart.min()


@pytest.mark.parametrize("n", [2, FEWEST - 1])
def test_few_labels_are_never_doubted(n: int) -> None:
    x, y, _ = linear(n, 0)
    assert len(judged(x, y, np.arange(n)).worst(10)) == 0


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 10), min_size=2, max_size=60),
    st.integers(1, 6),
    st.integers(0, 2**20),
)
def test_any_labels_give_finite_qualities_between_0_and_1(
    values: list[int], sources: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    n = len(values)
    x = random.normal(size=(n, 8)).astype(np.float32)
    if seed % 2:
        x[n // 2 :] = x[0]  # copies
    y, groups = np.array(values) / 10, random.integers(0, sources + n // 3, n)
    if np.ptp(y) == 0 or len(np.unique(groups)) < 2:
        return
    found = judged(x, y, groups)
    assert np.isfinite(found.quality).all() and np.isfinite(found.expected).all()
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert ((found.expected >= -1e-6) & (found.expected <= 1 + 1e-6)).all()
