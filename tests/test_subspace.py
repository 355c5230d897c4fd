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
    rows = rows_in(n, features, dimensions)
    space = subspace_of(rows, seed=0)
    assert space.axes.shape == (features, dimensions)
    assert np.allclose(space.axes.T @ space.axes, np.eye(dimensions), atol=1e-5)
    back = space.unit * space.coordinates(rows) @ space.axes.T
    assert np.allclose(back, rows, atol=1e-4)


def test_twins_and_rows_of_nothing_add_no_dimension():
    rows = rows_in(10, 40, 10)
    more = np.vstack([rows, rows[:4], np.zeros((2, 40), np.float32)])
    assert subspace_of(more, seed=0).axes.shape == (40, 10)


def test_more_labels_than_features_leave_the_features_as_they_are():
    rows = rows_in(50, 8, 8)
    space = subspace_of(rows, seed=0)
    assert space == Subspace(None)
    assert space.coordinates(rows) is rows


@pytest.mark.parametrize("n, features", [(90, 200), (200, 90)])
def test_of_many_dimensions_those_that_hold_most_are_kept(n, features):
    rows = rows_in(n, features, 60)
    space = subspace_of(rows, seed=0, most=20)
    held = np.square(rows @ space.axes).sum()
    largest = np.square(np.linalg.svd(rows, compute_uv=False)[:20]).sum()
    assert held == pytest.approx(largest, rel=1e-4)


def test_all_coordinates_vary_alike_and_by_about_one():
    rows = rows_in(200, 500, 200)
    rows /= rows.std()
    spread = subspace_of(rows, seed=0).coordinates(rows).std(axis=0)
    assert spread.min() > 0.5
    assert spread.max() < 1.6
    assert np.square(spread).mean() == pytest.approx(1, rel=0.05)


def test_the_same_seed_gives_the_same_axes():
    rows = rows_in(30, 60, 30)
    assert np.array_equal(subspace_of(rows, 1).axes, subspace_of(rows, 1).axes)
    assert not np.allclose(subspace_of(rows, 1).axes, subspace_of(rows, 2).axes)


def test_a_head_on_the_features_is_the_head_on_the_coordinates():
    rows = rows_in(20, 300, 20)
    space = subspace_of(rows, seed=0)
    seen = space.coordinates(rows)
    torch.manual_seed(0)
    network = NETWORKS["city96"]
    weights = network.begin(recipe_named("city96"), seen.shape[1], None)
    head = network.export({name: value.numpy() for name, value in weights.items()})
    assert np.abs(Head(space.unfold(head))(rows) - Head(head)(seen)).max() < 1e-5
