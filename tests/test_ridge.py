"""The live ridge against really refitting, and against the exact posterior."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge as Peer

from tastemaker.errors import NotTrainable
from tastemaker.learning import posterior
from tastemaker.learning.half_precision import in_float32
from tastemaker.learning.posterior import posterior_sd, project
from tastemaker.learning.prior import Prior
from tastemaker.learning.ridge import (
    CLIP,
    Ridge,
    edge_among,
    fit_ridge,
    from_link,
    half_scale,
    to_link,
)


def data(n, features, seed=0, noise=0.3):
    """Features with a decaying spectrum and scores that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)) * np.linspace(2, 0.1, features) + rng.normal(size=features)
    y = from_link(
        x @ rng.normal(size=features) / features**0.5 + noise * rng.normal(size=n), "logit"
    )
    return x.astype(np.float32), np.round(10 * y) / 10


def peer_prediction(x, y, row, ridge: Ridge):
    """scikit-learn's ridge in float64 on the same axes, at the same penalty; scores are held as far
    from both ends as among the labels of `ridge`."""
    edge = edge_among(len(ridge.out_of_group))
    peer = Peer(alpha=ridge.penalty, solver="cholesky")
    peer.fit(x.astype(np.float64) / ridge.scale, to_link(y, ridge.link, edge))
    return from_link(peer.predict(row.astype(np.float64) / ridge.scale), ridge.link)


shapes = st.tuples(st.integers(4, 40), st.integers(1, 50))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, groups=st.integers(2, 12), link=st.sampled_from(["logit", "identity"]),
       seed=st.integers(0, 999))  # fmt: skip
def test_out_of_group_predictions_equal_a_refit_without_the_group(shape, groups, link, seed):
    x, y = data(*shape, seed)
    y[:2] = 0.1, 0.9
    group = np.random.default_rng(seed).integers(0, groups, len(y))
    group[:2] = 0, 1
    ridge = fit_ridge(x, y, group, link=link)
    for g in np.unique(group):
        without, inside = group != g, group == g
        refit = peer_prediction(x[without], y[without], x[inside], ridge)
        assert ridge.out_of_group[inside] == pytest.approx(refit, abs=2e-3)


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)], ids=["primal", "dual"])
@pytest.mark.parametrize("link", ["logit", "identity"])
def test_predictions_equal_another_implementation(shape, link):
    x, y = data(*shape)
    unseen, _ = data(shape[0], shape[1], seed=1)
    ridge = fit_ridge(x, y, link=link)
    assert ridge.predict(unseen) == pytest.approx(peer_prediction(x, y, unseen, ridge), abs=1e-4)
    weights, bias = ridge.raw()
    assert from_link(unseen @ weights + bias, link) == pytest.approx(
        ridge.predict(unseen), abs=1e-5
    )


def test_among_five_scores_a_zero_does_not_rule_the_level():
    rng = np.random.default_rng(8)
    heads, means = [], []
    for _ in range(100):  # people who use both ends, whatever a picture shows
        y = rng.choice([0, 0.5, 1], 140)
        if np.ptp(y[:5]):
            x = rng.normal(size=(140, 8)).astype(np.float32)
            said = fit_ridge(x[:5], y[:5], penalties=[1e4]).predict(x[5:])
            heads.append(np.abs(said - y[5:]).mean())
            means.append(np.abs(y[:5].mean() - y[5:]).mean())
    assert np.mean(heads) < np.mean(means)


def test_from_twenty_three_labels_on_scores_are_held_as_far_from_both_ends_as_ever():
    assert [edge_among(n) > CLIP for n in (5, 22, 23, 600)] == [True, True, False, False]


@pytest.mark.parametrize("shape", [(300, 40), (80, 120)], ids=["primal", "dual"])
def test_the_chosen_penalty_has_the_smallest_out_of_group_error(shape):
    x, y = data(*shape, noise=0.05)
    grid = np.geomspace(1e-3, 1e3, 13)
    alone = [fit_ridge(x, y, penalties=[penalty]) for penalty in grid]
    chosen = fit_ridge(x, y, penalties=grid)
    errors = [np.abs(ridge.out_of_group - y).mean() for ridge in alone]
    error = np.abs(chosen.out_of_group - y).mean()
    assert min(errors) * 0.999 <= error <= min(errors) * 1.002
    assert error < 0.97 * max(errors)
    assert chosen.noise == pytest.approx(np.sqrt(np.mean((chosen.out_of_group - y) ** 2)), rel=1e-3)


def test_leaving_out_near_duplicates_together_hides_the_memorised_answer():
    x, _ = data(60, 200)
    y = np.random.default_rng(3).integers(0, 11, 60) / 10  # nothing to learn but by heart
    twins_x = np.concatenate([x, x + np.float32(1e-3)])
    twins_y, source = np.tile(y, 2), np.tile(np.arange(60), 2)
    by_image = fit_ridge(twins_x, twins_y)
    by_source = fit_ridge(twins_x, twins_y, source)
    assert by_image.noise < 0.05
    assert by_source.noise > 0.25
    assert by_source.noise == pytest.approx(np.std(y), rel=0.2)


def test_float32_is_enough():
    digits = load_digits()
    x, y = digits.data.astype(np.float32) + 100, digits.target / 9
    ridge = fit_ridge(x, y, link="identity")
    rows = (x.astype(np.float64) - x.mean(0)) / ridge.scale
    hat = 1 / len(y) + rows @ np.linalg.solve(rows.T @ rows + ridge.penalty * np.eye(64), rows.T)
    left_out = y - (y - hat @ y) / (1 - np.diag(hat))
    assert ridge.out_of_group == pytest.approx(np.clip(left_out, 0, 1), abs=1e-3)


def test_scores_of_digits_are_learned_from_a_few_hundred():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = digits.data[order], digits.target[order] / 9
    for link in ("logit", "identity"):
        ridge = fit_ridge(x[:600], y[:600], link=link)
        error = np.abs(ridge.predict(x[600:]) - y[600:]).mean()
        assert error < 0.75 * np.abs(y[600:] - 0.5).mean()
        # and what the fit says of itself is what happens on images that it never saw
        assert np.abs(ridge.out_of_group - y[:600]).mean() == pytest.approx(error, rel=0.1)


def test_predictions_do_not_depend_on_the_storage_of_the_matrix(tmp_path):
    x, y = data(50, 30)
    ridge = fit_ridge(x, y)
    library = np.tile(x.astype(np.float16), (200, 1))  # more than one chunk
    np.save(tmp_path / "library.npy", library)
    mapped = np.load(tmp_path / "library.npy", mmap_mode="r")
    predicted = ridge.predict(mapped)
    assert predicted.shape == (10_000,) and predicted.dtype == np.float32
    assert (predicted >= 0).all() and (predicted <= 1).all()
    assert predicted[:50] == pytest.approx(ridge.predict(library[:50].astype(np.float32)), abs=1e-6)
    assert predicted[9_950:] == pytest.approx(predicted[:50], abs=1e-6)


@pytest.mark.parametrize("link", ["logit", "identity"])
def test_two_labels_are_enough(link):
    x, _ = data(2, 64)
    # Each is foretold by the other one alone. As logits, two labels are held a quarter from 0 and
    # 1: 0.3 and 0.7 come back as they were given, where 0.1 and 0.9 would as 0.25 and 0.75.
    ridge = fit_ridge(x, [0.3, 0.7], link=link)
    low, high = ridge.predict(x)
    assert low <= high
    assert ridge.out_of_group == pytest.approx([0.7, 0.3], abs=1e-3)


@pytest.mark.parametrize("n", [20, 200])
def test_constant_features_weigh_nothing(n):
    x, y = data(n, 30)
    x[:, 3] = 7
    ridge = fit_ridge(x, y)
    changed = x.copy()
    changed[:, 3] = 7.5
    assert np.isfinite(ridge.weights).all()
    assert ridge.predict(changed) == pytest.approx(ridge.predict(x), abs=1e-3)
    flat = fit_ridge(np.ones((n, 5)), y)
    assert np.ptp(flat.predict(np.ones((4, 5)))) == 0


@pytest.mark.parametrize(
    ("y", "groups", "says"),
    [
        ([], None, "no scored images"),
        ([0.5], None, "1 scored image"),
        ([0.3, 0.3, 0.3], None, "All scores are the same"),
        ([0.1, float("nan"), 0.9], None, "not numbers"),
        ([0.1, 0.5, 0.9], [4, 4, 4], "versions of one picture"),
    ],
)
def test_labels_that_teach_nothing_are_refused_in_a_sentence(y, groups, says):
    with pytest.raises(NotTrainable, match=says) as caught:
        fit_ridge(np.eye(3)[: len(y)], y, groups)
    assert caught.value.hint


def test_a_broken_embedding_is_refused():
    x, y = data(10, 5)
    x[4, 2] = np.inf
    with pytest.raises(NotTrainable, match="not numbers"):
        fit_ridge(x, y)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_units_and_origin_of_the_features_do_not_matter(factor, shift):
    x, y = data(40, 12)
    there = fit_ridge(x, y)
    back = fit_ridge((x + np.float32(shift)) * np.float32(factor), y)
    assert back.out_of_group == pytest.approx(there.out_of_group, abs=2e-3)
    rows = (x - x.mean(0)) / half_scale(x)
    assert np.mean(np.sum(rows**2, 1)) == pytest.approx(1, abs=0.01)


def test_every_finite_float16_becomes_the_same_number_in_float32():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 16)
    made = np.concatenate([rows.copy() for _, rows in in_float32(np.tile(finite, (8, 1)))])
    assert np.array_equal(made, np.tile(finite, (8, 1)).astype(np.float32))
    assert np.array_equal(np.signbit(made[: len(finite)]), np.signbit(finite))
    striped = finite[:, ::2]
    assert np.array_equal(np.concatenate([r.copy() for _, r in in_float32(striped)]), striped)


def test_a_fit_on_axes_is_the_fit_of_the_coordinates():
    x, y = data(80, 30)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 6)))[0].astype(np.float32)
    scale = half_scale(x)
    ridge = fit_ridge(x, y, scale=scale, span=axes)
    inside = fit_ridge(x / scale @ axes, y, scale=np.ones(6))
    assert ridge.penalty == inside.penalty
    assert ridge.out_of_group == pytest.approx(inside.out_of_group, abs=1e-5)
    assert ridge.predict(x) == pytest.approx(inside.predict(x / scale @ axes), abs=1e-4)
    prior = Prior(np.random.default_rng(1).normal(size=30).astype(np.float32) / 4, 0.0)
    said = expit(prior.values(x, "logit"))
    started = fit_ridge(x, said, scale=scale, span=axes, priors=(prior,))
    alone = fit_ridge(x, said, scale=scale, span=axes)
    missed, without = (np.abs(ridge.predict(x) - said).mean() for ridge in (started, alone))
    assert missed < 0.5 * without, "the line of a prior may leave the axes"


def test_only_many_labels_of_wide_vectors_are_fitted_on_leading_axes(monkeypatch):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 20))  # as in embeddings, a few axes carry most of it
    x = (hidden @ rng.normal(size=(20, 60)) + 0.3 * rng.normal(size=(400, 60))).astype(np.float32)
    y = expit(hidden[:, 0] + 0.3 * rng.normal(size=400))
    assert project(x, 10).shortcut(400) == {}
    monkeypatch.setattr(posterior, "EXACT", 50)
    monkeypatch.setattr(posterior, "WIDE", 40)
    projection = project(x.astype(np.float16), 10)
    assert projection.shortcut(50) == {}
    quick = fit_ridge(x[:300], y[:300], **projection.shortcut(300))
    exact = fit_ridge(x[:300], y[:300])
    assert projection.axes.shape == (60, 40)
    error, least = (np.abs(r.predict(x[300:]) - y[300:]).mean() for r in (quick, exact))
    assert error < 1.1 * least
    monkeypatch.setattr(posterior, "EXACT", 1280)
    assert np.square(projection.features).sum(1) == pytest.approx(
        np.square(project(x, 10).features).sum(1), rel=0.02
    )


# --------------------------------------------------------------------------- uncertainty


def exact_h(x, labelled, ridge):
    """1 + h of the posterior with all features, in float64."""
    rows = (x.astype(np.float64) - x[labelled].mean(0)) / half_scale(x)
    known = rows[labelled]
    inverse = np.linalg.inv(known.T @ known + ridge.penalty * np.eye(x.shape[1]))
    return 1 + 1 / len(labelled) + np.einsum("ij,jk,ik->i", rows, inverse, rows)


@pytest.mark.parametrize("labels", [20, 300])
@pytest.mark.parametrize(("k", "agreement"), [(40, 0.9), (120, 0.999)])
def test_the_projected_posterior_ranks_like_the_exact_one(labels, k, agreement):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2000, 30))  # as in embeddings, a few axes carry most of it
    x = (hidden @ rng.normal(size=(30, 120)) + rng.normal(size=(2000, 120))).astype(np.float32)
    y = expit(hidden[:, 0])
    labelled = rng.choice(2000, labels, replace=False)
    ridge = fit_ridge(x[labelled], y[labelled])
    sd = posterior_sd(project(x, k), labelled, ridge, np.full(2000, 0.5))
    exact = np.sqrt(exact_h(x, labelled, ridge))
    assert spearmanr(sd, exact).statistic > agreement
    if k == 120:  # no axis left out: proportional
        assert sd / exact == pytest.approx(np.full(2000, np.mean(sd / exact)), rel=0.01)


def test_uncertainty_is_calibrated_on_images_that_were_never_seen():
    digits = load_digits()
    x, y = digits.data.astype(np.float32), digits.target / 9
    order = np.random.default_rng(0).permutation(len(x))
    known, unseen = order[:300], order[300:]
    ridge = fit_ridge(x[known], y[known], link="identity")
    scores = ridge.predict(x)
    sd = posterior_sd(project(x), known, ridge, scores)
    error = np.abs(scores - y)
    assert 0.85 < np.sqrt(np.mean((error / sd)[unseen] ** 2)) < 1.15
    sure, unsure = np.array_split(unseen[np.argsort(sd[unseen])], 2)
    assert error[unsure].mean() > 1.1 * error[sure].mean()


@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=st.integers(0, 999))
def test_uncertainty_is_positive_and_finite_everywhere(shape, seed):
    x, y = data(*shape, seed)
    y[:2] = 0.1, 0.9
    labelled = np.arange(max(2, len(x) // 2))
    ridge = fit_ridge(x[labelled], y[labelled])
    sd = posterior_sd(project(x, 8), labelled, ridge, ridge.predict(x))
    assert sd.shape == (len(x),) and np.isfinite(sd).all() and (sd > 0).all()


def test_a_projection_is_the_same_every_time():
    x, _ = data(500, 40)
    one, two = project(x.astype(np.float16), 10), project(x.astype(np.float16), 10)
    assert np.array_equal(one.features, two.features)
    whole = np.square((x - x.mean(0)) / half_scale(x)).sum(1)
    assert np.square(one.features).sum(1) + one.rest == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(("rows", "axes"), [(40, 10), (300, 40), (1, 0), (2, 1)])
def test_a_library_of_fewer_rows_than_dimensions_loses_no_length_on_its_axes(rows: int, axes: int):
    x, _ = data(max(rows, 2), 400)
    x = x[:rows].astype(np.float16)
    projection = project(x, 40)
    assert projection.features.shape == (rows, min(40, rows - 1))
    whole = np.square((x - x.mean(0, dtype=np.float32)) / half_scale(x)).sum(1)
    length = np.square(projection.features).sum(1)
    assert length + projection.rest == pytest.approx(whole, rel=0.02, abs=1e-6)
    few = project(x, axes).features
    assert np.abs(few) == pytest.approx(np.abs(projection.features[:, -axes or rows :]), abs=1e-4)
