"""What an audit promises holds, whenever one stops; and a model that is worth nothing is told."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.learning import audits
from tastemaker.learning.audits import Findings, Side, findings
from tastemaker.learning.sequential_bounds import (
    GRID,
    allowed,
    draws_until_shown,
    is_shown,
    lower_bound,
    upper_bound,
)


def first_shown(share: float, draws: np.ndarray, size: int, error: float) -> np.ndarray:
    """(runs,) after how many draws each row of (runs, n) shows the share; far out where none."""
    bad = np.cumsum(~draws, axis=1)
    shown = bad <= allowed(size, error, (share,), draws.shape[1])[0, 1:]
    return np.where(shown.any(1), shown.argmax(1) + 1, 10**6)


# --- the bounds ----------------------------------------------------------------------------------


def test_the_chance_of_a_wrong_bound_is_exact_over_every_order_of_a_small_population() -> None:
    size, good, error = 10, 7, 0.2
    orders = np.zeros((math.comb(size, good), size), bool)
    for row, places in enumerate(itertools.combinations(range(size), good)):
        orders[row, list(places)] = True
    wrong = [
        max(lower_bound(order[:n], size, error) for n in range(1, size)) > good / size
        for order in orders
    ]
    assert 0 < np.mean(wrong) <= error


@pytest.mark.parametrize("size", [60, 31_204])
def test_looked_at_after_every_draw_a_promise_fails_in_no_more_than_it_may(size: int) -> None:
    """At the share that is just too low, where it is hardest; not far below, so little is lost."""
    random, good = np.random.default_rng(0), math.ceil(0.9 * size) - 1
    n = min(size, 400)
    draws = np.array([random.permutation(size)[:n] < good for _ in range(1000)])
    wrong = (first_shown(0.9, draws, size, 0.05) < n).mean()
    assert 0.02 < wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_fixed_interval_looked_at_after_every_draw_would_not_do() -> None:
    """The test that the one above can fail."""
    draws = np.random.default_rng(0).random((2000, 400)) < 0.9
    n = np.arange(1, 401)
    mean = draws.cumsum(1) / n
    low = mean - 1.645 * np.sqrt(np.maximum(mean * (1 - mean), 0.25 / n) / n)
    assert (low[:, 20:] > 0.9).any(1).mean() > 0.1


def test_a_promise_of_ninety_percent_takes_few_draws_where_it_is_deserved() -> None:
    random = np.random.default_rng(1)
    for share, draws in ((0.95, 125), (0.97, 90), (0.99, 50)):
        taken = first_shown(0.9, random.random((1000, 400)) < share, 31_204, 0.05)
        assert np.median(taken) <= draws


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(60, 5000), st.booleans())
def test_a_bound_never_gets_worse_and_a_good_draw_never_hurts(
    draws: list[bool], size: int, last: bool
) -> None:
    good = np.array(draws, bool)
    low = lower_bound(good, size, 0.05)
    assert lower_bound(np.append(good, last)[:size], size, 0.05) >= low
    assert lower_bound(np.append(good, True)[:size], size, 0.05) >= lower_bound(
        np.append(good, False)[:size], size, 0.05
    )
    assert low <= 1 - lower_bound(~good, size, 0.05) + 1e-12


def test_who_has_seen_all_of_them_knows() -> None:
    seen = np.array([True, False] * 20)
    assert lower_bound(seen, 40, 0.05) == upper_bound(seen, 40, 0.05) == 0.5
    assert is_shown(0.5, seen, 40, 0.05)
    assert not is_shown(0.51, seen, 40, 0.05)
    assert lower_bound(np.array([], bool), 40, 0.05) == 0.0


def test_what_is_shown_agrees_with_the_bound() -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        draws = random.random(random.integers(1, 200)) < random.random()
        low = lower_bound(draws, 5000, 0.05)
        assert all(is_shown(share, draws, 5000, 0.05) for share in GRID if share <= low - 1e-9)


def test_a_forecast_is_where_the_expected_path_gets_there() -> None:
    more = draws_until_shown(0.9, 31_204, 0.05, 40, 2, 0.97)
    assert more is not None
    path = np.ones(40 + more, bool)
    path[:2] = False
    path[40 : 40 + math.floor(0.03 * more + 0.5)] = False
    assert is_shown(0.9, path, 31_204, 0.05)
    assert draws_until_shown(0.9, 31_204, 0.05, 40, 8, 0.88) is None


# --- audits --------------------------------------------------------------------------------------


def audit(
    scores: np.ndarray, good: np.ndarray, keys: int, *, cut: float = 0.6, goal: float = 0.9,
    seed: int = 0,
) -> Findings:  # fmt: skip
    """What the first so many keys of an audit say; `good` (n,) is the truth."""
    rows = audits.draw(scores, cut, seed, 0.2)[:keys]
    expected = audits.chance_of(scores, np.full(len(scores), 0.1), 6)

    def side(inside: np.ndarray) -> Side:
        mine = [row for row in rows if inside[row]]
        return Side(int(inside.sum()), scores[mine], expected[mine], good[mine].astype(np.int8))

    kept = scores >= cut
    cuts = audits.stricter_cuts(scores[kept], cut)
    return findings(side(kept), side(~kept), cuts, goal=goal, confidence=0.95, share_below=0.2)


def world(sharpness: float, seed: int = 0, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of images, and which of them a person finds good (0.6 and more)."""
    random = np.random.default_rng(seed)
    taste = random.beta(2, 2, n)
    return np.clip(taste + random.normal(0, sharpness, n), 0, 1), taste >= 0.6


def test_every_promise_of_an_audit_holds_in_at_least_so_many_as_it_says() -> None:
    """Simulated filters, good and bad, stopped where they look best; the long run is
    `python -m bench promise`."""
    wrong = {"precision": 0, "omitted": 0, "lost": 0, "cut": 0}
    runs = 120
    for seed in range(runs):
        scores, good = world(0.02 + 0.002 * seed, seed, 800)
        cut = float(np.sort(scores)[-280])
        kept = scores >= cut
        said = [audit(scores, good, keys, cut=cut, seed=seed) for keys in (40, 80, 150)]
        wrong["precision"] += any(one.precision_low > good[kept].mean() for one in said)
        wrong["omitted"] += any(one.omitted_high < good[~kept].mean() - 1e-9 for one in said)
        lost = good[~kept].sum() / good.sum()
        wrong["lost"] += any(one.lost_high < lost - 1e-9 for one in said)
        cuts = [one.found_cut for one in said if one.found_cut]
        wrong["cut"] += any(good[scores >= found.cut].mean() < 0.9 for found in cuts)
    assert all(times <= 0.05 * runs + 3 for times in wrong.values()), wrong


def test_a_good_filter_is_promised_and_its_forecast_leads_there() -> None:
    scores, good = world(0.0)
    first = audit(scores, good, 10)
    assert not first.holds
    assert first.more_keys[90] is not None
    there = audit(scores, good, 10 + first.more_keys[90])
    assert there.holds
    assert (there.doubt, there.more_keys[90]) == ("", 0)
    assert there.found_cut is not None
    assert there.found_cut.cut == pytest.approx(0.6, abs=0.01)


def test_a_reversed_and_a_shuffled_model_are_told() -> None:
    scores, good = world(0.0)
    random = np.random.default_rng(5)
    assert audit(1 - scores, good, 100).doubt == "reversed"
    said = audit(random.permutation(scores), good, 100)
    assert said.doubt in ("chance", "unlike")
    assert not said.holds
    assert said.precision_high < 0.9


def test_images_on_which_the_model_is_far_worse_than_it_expects_are_told_as_unlike() -> None:
    scores, good = world(0.0)
    random = np.random.default_rng(6)
    said = audit(scores, good & (random.random(len(good)) < 0.5), 150)
    assert (said.doubt, said.holds) == ("unlike", False)


def test_stricter_cuts_are_round_and_end_with_the_audits_own() -> None:
    kept = np.arange(600, 1001) / 1000
    assert audits.stricter_cuts(kept, 0.6) == (
        (0.84, 161), (0.8, 201), (0.74, 261), (0.68, 321), (0.6, 401),
    )  # fmt: skip
    assert audits.stricter_cuts(np.full(40, 0.7), 0.65) == ((0.65, 40),)
    assert audits.stricter_cuts(np.array([0.70001]), 0.5) == ((0.5, 1),)


def test_where_the_whole_does_not_hold_a_stricter_cut_is_found() -> None:
    scores, good = world(0.0)
    said = audit(scores, good, 300, cut=0.55)
    assert said.precision_low < 0.9
    assert said.found_cut is not None
    assert said.found_cut.cut > 0.57
    assert good[scores >= said.found_cut.cut].mean() >= 0.9


def test_a_search_begins_a_little_below_the_goal_and_ends_at_a_cut_that_holds_it() -> None:
    scores, _ = world(0.0)
    good = scores >= 0.55  # what rounds to 6 points
    expected = audits.chance_of(scores, np.full(len(scores), 0.03), 6)
    begin = audits.cut_to_search_from(scores, expected, 0.9)
    assert 0.8 < good[scores >= begin].mean() < 0.95
    said = audit(scores, good, 250, cut=begin)
    assert said.found_cut is not None
    assert said.found_cut.cut >= begin
    assert good[scores >= said.found_cut.cut].mean() >= 0.9
    nowhere = audits.cut_to_search_from(scores, expected * 0.1, 0.9)
    assert 2 * audits.FEWEST_KEPT <= (scores >= nowhere).sum() < 80


def test_a_skipped_image_counts_as_the_worst_in_every_bound() -> None:
    answers = np.ones(60, np.int8)
    sure = Side(1000, np.full(60, 0.8), np.full(60, 0.9), answers)
    skipped = answers.copy()
    skipped[:6] = audits.NO_ANSWER
    with_skips = Side(1000, sure.scores, sure.expected, skipped)
    assert with_skips.at_least(0.05) < sure.at_least(0.05)
    assert with_skips.at_most(0.05) == sure.at_most(0.05)
    assert (with_skips.rate, with_skips.answered) == (1.0, 54)


def test_both_sides_are_drawn_at_random_and_mixed() -> None:
    scores = np.linspace(0, 1, 5000)
    rows = audits.draw(scores, 0.7, 3, 0.2)
    assert len(set(rows)) == len(rows) == audits.DRAWN
    below = scores[rows] < 0.7
    assert all(below[i : i + 5].sum() == 1 for i in range(0, 600, 5))
    assert abs(np.mean(scores[rows][~below]) - 0.85) < 0.02
    assert rows == audits.draw(scores, 0.7, 3, 0.2) != audits.draw(scores, 0.7, 4, 0.2)
    assert sorted(audits.draw(scores[:40], 2.0, 0, 0.5)) == list(range(40))  # one side is empty


def test_images_of_another_kind_lie_far_from_the_training_set() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 32))
    same = np.concatenate([c + random.normal(0, 0.3, (60, 32)) for c in centres])
    random.shuffle(same)
    assert audits.share_unlike(same[:80], same[80:]) < 0.1
    assert audits.share_unlike(random.normal(size=(80, 32)), same[80:]) > audits.UNLIKE_SHARE
