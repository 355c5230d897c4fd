"""The recipe of a version, told as one would tell a colleague."""

import pytest

from tastemaker.database.tables import Version
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.version_metrics import VersionMetrics
from tastemaker.versions.version_report import recipe_sentence


def told(kind, name="auto", **choice):
    recipe = {"folds": 5} | {k: v for k, v in recipe_named(name).as_dict().items() if v is not None}
    metrics = VersionMetrics(kind=kind, folds=recipe["folds"])
    return recipe_sentence(Version(recipe=recipe | {"choice": choice}, metrics=metrics))


def test_a_blend_tells_its_shares():
    said = told("blend", share=0.725, why="it errs least")
    assert "network" in said
    assert "72 % is the network's and 28 % the linear head's" in said
    assert "each without one fifth of the labels" in said
    assert said.endswith("Chosen because: it errs least.")


def test_a_blend_without_a_recorded_share_says_what_it_is_all_the_same():
    assert "a linear head (ridge) beside it" in told("blend")


def test_a_network_of_several_is_told_as_such_and_an_older_version_is_not():
    assert "The original's network, as 4 narrow ones side by side" in told("city96", "city96")
    recipe = recipe_named("city96").as_dict()
    del recipe["subnetworks"]
    assert "narrow" not in recipe_sentence(
        Version(recipe=recipe, metrics=VersionMetrics(kind="city96"))
    )


def test_the_original_recipe_is_told_with_its_own_numbers():
    said = told("original", "original")
    assert "as its author did, one image at a time" in said
    assert "100 000 samples, learning rate 7e-06, L1 loss" in said
    assert "each without one half of the labels" in said
    assert "narrow" not in said


@pytest.mark.parametrize("kind", ["ridge", "city96"])
def test_one_head_alone_tells_of_no_shares(kind):
    assert "%" not in told(kind)
