"""The dimensions that a network learns in: what is kept of the features, and folded back."""

import numpy as np
import pytest
import torch

from tastemaker.learning.heads import Head
from tastemaker.learning.network import NETWORKS
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.subspace import Subspace, subspace_of


def rows_in(n, features, dimensions, seed=0):
    random = np.random.default_rng(seed)
    inside = random.normal(size=(n, dimensions)) * np.geomspace(1, 0.02, dimensions)
    return (inside @ random.normal(size=(dimensions, features))).astype(np.float32)


@pytest.mark.parametrize("n, features, dimensions", [(12, 40, 12), (12, 40, 5), (30, 40, 9)])
def test_rows_lose_nothing_in_the_dimensions_they_lie_in(n, features, dimensions):
    rows = rows_in(n, features, dimensions) + 3
    space = subspace_of(rows, seed=0)
    lie_in = min(dimensions, n - 1)  # around their mean
    assert space.axes.shape == (features, lie_in)
    assert np.allclose(space.axes.T @ space.axes, np.eye(lie_in), atol=1e-5)
    back = space.unit * space.coordinates(rows) @ space.axes.T + space.centre
    assert np.allclose(back, rows, atol=1e-4)


def test_twins_and_rows_in_between_add_no_dimension():
    rows = rows_in(10, 40, 10)
    more = np.vstack([rows, rows[:4], 2 * [rows.mean(axis=0)]])
    assert subspace_of(more, seed=0).axes.shape == (40, 9)


def test_one_row_alone_has_all_features():
    assert subspace_of(rows_in(1, 8, 3), seed=0) == Subspace()
    assert subspace_of(np.ones((4, 8), np.float32), seed=0) == Subspace()


def test_more_labels_than_features_leave_the_features_as_they_are():
    rows = rows_in(50, 8, 8)
    space = subspace_of(rows, seed=0)
    assert space == Subspace()
    assert space.coordinates(rows) is rows


@pytest.mark.parametrize("n, features", [(90, 200), (200, 90)])
def test_of_many_dimensions_those_that_hold_most_are_kept(n, features):
    rows = rows_in(n, features, 60)
    space = subspace_of(rows, seed=0, most=20, narrow=80)
    held = np.square((rows - space.centre) @ space.axes).sum()
    largest = np.square(np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:20]).sum()
    assert held == pytest.approx(largest, rel=1e-4)


def test_of_many_labels_few_features_are_kept_as_they_are():
    """The largest 512 dimensions of 1,280 lose what tells a thousand images apart."""
    assert subspace_of(rows_in(600, 1280, 600), seed=0) == Subspace()
    assert subspace_of(rows_in(600, 1600, 600), seed=0).axes.shape == (1600, 512)
    assert subspace_of(rows_in(500, 1280, 500), seed=0).axes is not None, "few labels: their span"


def test_all_coordinates_vary_alike_and_by_about_one():
    rows = rows_in(200, 500, 200)
    rows /= rows.std()
    spread = subspace_of(rows, seed=0).coordinates(rows).std(axis=0)
    assert spread.min() > 0.5
    assert spread.max() < 1.6
    assert np.square(spread).mean() == pytest.approx(1, rel=0.05)


def test_rows_left_out_are_as_strange_as_any_other():
    """Nothing of them is in the axes or their centre."""
    rows = np.random.default_rng(0).normal(size=(80, 1500)).astype(np.float32)
    known, left_out, others = rows[:36], rows[36:40], rows[40:]
    space = subspace_of(known, seed=0)
    size = [np.linalg.norm(space.coordinates(part), axis=1).mean() for part in (left_out, others)]
    assert size[0] == pytest.approx(size[1], rel=0.15)
    assert np.linalg.norm(space.coordinates(known), axis=1).mean() > 3 * size[1]


def test_the_same_seed_gives_the_same_axes():
    rows = rows_in(30, 60, 30)
    assert np.array_equal(subspace_of(rows, 1).axes, subspace_of(rows, 1).axes)
    assert not np.allclose(subspace_of(rows, 1).axes, subspace_of(rows, 2).axes)


def test_a_head_on_the_features_is_the_head_on_the_coordinates():
    rows = rows_in(20, 300, 20) + 1
    space = subspace_of(rows, seed=0)
    seen = space.coordinates(rows)
    torch.manual_seed(0)
    network = NETWORKS["city96"]
    weights = network.begin(recipe_named("city96"), seen.shape[1], None)
    head = network.export({name: value.numpy() for name, value in weights.items()})
    assert np.abs(Head(space.unfold(head))(rows) - Head(head)(seen)).max() < 1e-5
