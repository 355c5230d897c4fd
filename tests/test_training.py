"""Training end to end on small sets: who trains, who judges, and that nobody peeks."""

import copy
import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tastemaker.errors import Invalid, NotTrainable
from tastemaker.learning import city96, metrics, network, training
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.learning.folds import TrainingSet, deal_folds, merge_near_duplicates, split_rows
from tastemaker.learning.heads import Head
from tastemaker.learning.network import NETWORKS, City96, Network, city96_logit
from tastemaker.learning.recipes import SUBNETWORKS, recipe_named
from tastemaker.learning.ridge import Constant, fit_linear, fit_ridge
from tastemaker.learning.sgd import (
    NOISES,
    BatchLearner,
    OneByOne,
    fit_by_sgd,
    largest_rate,
    schedule_for,
)
from tastemaker.learning.training import train

QUICK = recipe_named("city96", samples=320, batch=32, folds=2)
BRIEF = recipe_named("auto", passes=8, folds=2)  # both heads and their blend, in a few steps


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The steps here are tiny: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def narrow():
    """A layout of 320 hidden units, not 1024: nothing here depends on the width, and a step takes
    a tenth. Wide enough for the small network, and for the fast number format to be used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(city96, "HIDDEN", 320)
        yield


@pytest.fixture
def full_width(monkeypatch):
    monkeypatch.setattr(city96, "HIDDEN", 1024)


def labelled(n=80, features=6, seed=0, holdout=0.25, truth=None):
    """Random embeddings, each its own source, scored by a rule of the embedding."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, features)).astype(np.float32)
    rule = truth or (lambda v: 1 / (1 + np.exp(-v[:, 0] - 0.5 * v[:, 1])))
    return TrainingSet(
        image_ids=np.arange(n),
        x=x,
        y=np.clip(rule(x), 0, 1).astype(np.float32),
        groups=np.arange(n),
        holdout=np.arange(n) < holdout * n,
    )


# ---------------------------------------------------------------- what cannot train


def test_no_label_is_refused():
    with pytest.raises(NotTrainable, match="No image is scored"):
        train(labelled(0))


def test_one_label_is_refused():
    with pytest.raises(NotTrainable, match="Only one image"):
        train(labelled(1, holdout=0))


def test_equal_labels_are_refused():
    data = labelled()
    with pytest.raises(NotTrainable, match="same score of 7"):
        train(replace(data, y=np.full(80, 0.7, np.float32)))


def test_labels_that_differ_in_the_hold_out_only_are_refused():
    data = labelled()
    with pytest.raises(NotTrainable, match="Outside the hold-out all scores are the same"):
        train(replace(data, y=np.where(data.holdout, data.y, 0.5).astype(np.float32)))


def test_embeddings_with_nan_are_refused():
    data = labelled()
    data.x[[3, 9], 2] = np.nan
    with pytest.raises(NotTrainable, match="embeddings of 2 scored images"):
        train(data)


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_scores_out_of_range_are_refused(value):
    data = labelled()
    data.y[5] = value
    with pytest.raises(NotTrainable, match="outside their range"):
        train(data)


def test_versions_of_one_picture_are_refused():
    data = labelled(holdout=0)
    with pytest.raises(NotTrainable, match="versions of one picture"):
        train(replace(data, groups=np.zeros(80, int)))


def test_a_set_that_is_all_hold_out_is_refused():
    data = labelled()
    with pytest.raises(NotTrainable, match="only 1 may train"):
        train(replace(data, holdout=np.arange(80) > 0))


def test_parts_of_different_length_are_refused():
    data = labelled()
    with pytest.raises(Invalid, match="differ in length"):
        replace(data, y=data.y[:-1])


# ---------------------------------------------------------------- small and strange sets


@pytest.mark.parametrize("labels", [2, 10])
def test_a_handful_of_labels_trains_and_says_how_little_is_known(labels):
    trained = train(labelled(labels, features=64, holdout=0))
    assert trained.kind == "ridge"
    assert np.isfinite(trained.honest).all()
    if labels < metrics.FEWEST_GROUPS:
        assert trained.metrics.versus_baseline.verdict == "no difference shown"


@pytest.mark.parametrize("labels", [19, 20])
def test_from_twenty_labels_on_a_share_of_the_network_is_fitted(labels):
    trained = train(labelled(labels, features=64, holdout=0), BRIEF)
    choice = trained.choice
    assert (choice.blend is not None) == (labels == 20)
    assert ("below 20 the linear head is the safer one" in choice.why) == (labels == 19)
    assert np.isfinite(trained.honest).all()


def test_a_set_without_a_single_pass_trains():
    trained = train(labelled(60, truth=lambda v: 0.2 + 0.05 * np.tanh(v[:, 0])), BRIEF)
    held = trained.metrics.holdout
    assert held.auc.value is None  # there is nothing to rank above the others
    assert held.fn_rate.value is None
    assert held.mae.value < 0.5


def test_twins_with_opposite_scores_cancel_and_do_not_explode():
    data = labelled(60, holdout=0)
    x = np.vstack([data.x, data.x[:20]])
    twins = TrainingSet(
        np.arange(80), x, np.append(data.y, 1 - data.y[:20]), np.arange(80), np.zeros(80, bool)
    )
    trained = train(twins, BRIEF)
    assert np.isfinite(trained.final).all()
    united = trained.split.groups
    assert (united[60:] == united[:20]).all()  # a twin never judges its twin
    assert trained.oof[:20] == pytest.approx(trained.oof[60:], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [BRIEF, QUICK])
def test_labels_that_teach_nothing_are_told_from_those_that_do(recipe):
    random = np.random.default_rng(5)
    noise = train(labelled(90, truth=lambda v: random.random(len(v))), recipe)
    assert noise.metrics.versus_baseline.verdict != "better"
    assert noise.metrics.baseline_mae == pytest.approx(2.5, abs=0.8)
    if recipe.name == "auto":
        taught = train(labelled(90), recipe).metrics
        assert taught.versus_baseline.verdict == "better"
        assert taught.holdout.mae.value < taught.baseline_mae / 4


@pytest.mark.slow
def test_fifty_thousand_labels_fit_in_closed_form_without_a_matrix_of_their_pairs():
    """n × n numbers would be 10 GB; the primal form needs n × D."""
    random = np.random.default_rng(0)
    x = random.normal(size=(50_000, 64)).astype(np.float32)
    y = 1 / (1 + np.exp(-x[:, 0] + 0.5 * random.normal(size=len(x))))
    tracemalloc.start()
    ridge = fit_ridge(x, y, np.arange(len(x)) // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e9
    assert np.abs(ridge.out_of_group - y).mean() < 0.1


@pytest.mark.parametrize("recipe", [recipe_named("auto"), QUICK])
def test_two_labels_are_enough(recipe):
    data = labelled(2, holdout=0)
    trained = train(data, recipe)
    assert np.isfinite(trained.honest).all()
    assert trained.metrics.folds == 2
    assert trained.metrics.holdout.n == 0
    _, _, uncertainty = trained.predict(data.x, data.groups)
    assert (uncertainty >= training.UNCERTAINTY_FLOOR).all()


@pytest.mark.parametrize("labels, folds", [(40, 10), (149, 10), (150, 5)])
def test_few_labels_are_dealt_into_more_folds(labels, folds):
    trained = train(labelled(labels, holdout=0), recipe_named("ridge"))
    assert trained.metrics.folds == trained.recipe.folds == folds
    assert np.bincount(trained.split.fold).max() == -(-labels // folds)


def test_fewer_groups_than_folds_give_fewer_folds():
    data = labelled(30, holdout=0)
    trained = train(replace(data, groups=np.arange(30) % 3), recipe_named("ridge", folds=5))
    assert len(trained.members) == trained.recipe.folds == 3
    assert set(trained.fold_of_group.values()) == {0, 1, 2}


# ---------------------------------------------------------------- near-duplicates, folds


def same_partition(a, b):
    return len(np.unique(a)) == len(np.unique(b)) == len(set(zip(a, b, strict=True)))


def test_near_twins_are_united_across_chunks_and_others_are_not():
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 16)).astype(np.float32)
    x[599] = x[0] + 0.005  # three in a row, the far ends in different chunks of rows
    x[300] = x[599] + 0.005
    got = merge_near_duplicates(x, np.arange(600))
    expected = np.arange(600)
    expected[[300, 599]] = 0
    assert same_partition(got, expected)


def test_uniting_keeps_the_groups_that_were_given():
    x = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    x[7] = x[30]
    groups = np.arange(40) // 4 + 1000
    got = merge_near_duplicates(x, groups)
    assert same_partition(got, np.where(groups == groups[30], groups[7], groups))


def test_many_copies_of_everything_do_not_hide_the_twins():
    """With each image there twice the median distance between all images would be nil."""
    x = np.random.default_rng(2).normal(size=(50, 8)).astype(np.float32)
    got = merge_near_duplicates(np.vstack([x, x, x + 1e-4]), np.arange(150))
    assert same_partition(got, np.tile(np.arange(50), 3))


def test_identical_images_are_one_group():
    assert len(set(merge_near_duplicates(np.ones((700, 4), "f"), np.arange(700)))) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_uniting_does_not_depend_on_the_order(seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, 3)).astype(np.float32)
    x[15:] = x[:15] + random.normal(size=(15, 3)) * random.choice([0.01, 1.0], (15, 1))
    order = random.permutation(30)
    got = merge_near_duplicates(x, np.arange(30))
    shuffled = merge_near_duplicates(x[order], np.arange(30))
    assert same_partition(got[order], shuffled)


@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=200),
    st.integers(2, 8),
    st.integers(0, 99),
)
def test_folds_keep_groups_whole_and_are_balanced(groups, folds, seed):
    groups = np.array(groups)
    fold = deal_folds(groups, folds, seed)
    assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    load = np.bincount(fold, minlength=folds)
    assert load.max() - load.min() <= np.bincount(groups).max()
    assert np.array_equal(fold, deal_folds(groups, folds, seed))


def test_every_label_trains_or_measures_or_stands_aside():
    data = labelled()
    data.x[70] = data.x[0] + 1e-4  # a twin of a hold-out image
    split = train(data, recipe_named("ridge")).split
    assert (split.train.astype(int) + split.holdout + split.aside == 1).all()
    assert np.flatnonzero(split.aside).tolist() == [70]
    assert not set(split.groups[split.train]) & set(split.groups[split.holdout])
    assert ((split.fold >= 0) == split.train).all()


# ---------------------------------------------------------------- nobody peeks


@pytest.mark.slow
def test_the_hold_out_has_no_say_in_the_head():
    data = labelled()
    other = replace(data, y=np.where(data.holdout, 1 - data.y, data.y))
    for recipe in (recipe_named("ridge"), QUICK):
        a, b = train(data, recipe).tensors, train(other, recipe).tensors
        assert all(np.array_equal(a[name], b[name]) for name in a)


def split_of(data, folds=2):
    return split_rows(data.x, data.y, data.groups, data.holdout, folds=folds, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("name", ["ridge", "mlp", "city96"])
def test_a_fold_has_no_say_in_what_its_member_says_of_it(name, early_stop):
    """Nor in when that member stops, which every other member could tell it of."""
    data = labelled(240, holdout=0)
    split = split_of(data)
    recipe = replace(QUICK, name=name, samples=1920, early_stop=early_stop)
    fit = fit_linear if name == "ridge" else fit_by_sgd
    before = fit(data, split, recipe)
    mine = split.fold == 0
    after = fit(replace(data, y=np.where(mine, 1 - data.y, data.y)), split, recipe)
    assert np.array_equal(before.by_members[mine], after.by_members[mine])
    assert not np.allclose(before.by_members[~mine], after.by_members[~mine])


def test_ridge_is_out_of_group_exactly():
    data = replace(labelled(holdout=0), groups=np.arange(80) // 2)
    fit = fit_linear(data, split_of(data), recipe_named("ridge"))
    expected = fit_ridge(data.x, data.y, data.groups).out_of_group
    assert np.allclose(fit.oof, expected, atol=1e-6)


def test_library_images_of_a_trained_group_are_scored_by_the_member_that_never_saw_it():
    data = labelled()
    trained = train(data, recipe_named("ridge"))
    x = np.random.default_rng(9).normal(size=(3, 6)).astype(np.float32)
    known = int(data.groups[~data.holdout][0])
    held = int(data.groups[data.holdout][0])
    score, out_of_fold, _ = trained.predict(x, np.array([known, held, -1]))
    assert np.array_equal(score, Head(trained.tensors)(x))
    assert out_of_fold[0] == trained.members[trained.fold_of_group[known]](x)[0]
    assert np.isnan(out_of_fold[1:]).all()
    assert held not in trained.fold_of_group


# ---------------------------------------------------------------- what is published


@pytest.mark.slow
@pytest.mark.usefixtures("full_width")
@pytest.mark.parametrize("recipe", [recipe_named("ridge"), QUICK])
def test_the_published_numbers_are_those_of_the_exported_file(recipe, tmp_path):
    data = labelled()
    trained = train(data, recipe)
    save_checkpoint(tmp_path / "v.safetensors", trained.tensors, {})
    scores = Head(load_checkpoint(tmp_path / "v.safetensors", features=6))(data.x)
    assert np.array_equal(scores, trained.final)
    held = data.holdout
    assert trained.metrics.holdout.mae.value == metrics.mae(data.y[held], scores[held])
    assert trained.metrics.holdout.n == 20
    assert trained.metrics.images == 60
    assert np.array_equal(trained.honest[held], scores[held])
    assert np.array_equal(trained.honest[~held], trained.oof[~held])


def test_a_ridge_head_exports_without_loss():
    data = labelled(holdout=0)
    fit = fit_linear(data, split_of(data), recipe_named("ridge"))
    expected = fit_ridge(data.x, data.y, data.groups).predict(data.x)
    assert np.abs(Head(fit.tensors)(data.x) - expected).max() < 1e-5


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes_and_leaves_the_random_state_alone():
    data = labelled()
    torch.manual_seed(1)
    undisturbed = torch.rand(1)
    torch.manual_seed(1)
    first = train(data, QUICK)
    assert torch.equal(torch.rand(1), undisturbed)
    second, other = train(data, QUICK), train(data, replace(QUICK, seed=5))
    assert all(np.array_equal(first.tensors[k], second.tensors[k]) for k in first.tensors)
    assert np.array_equal(first.oof, second.oof, equal_nan=True)
    assert first.metrics == second.metrics
    assert not np.array_equal(first.tensors["up.0.weight"], other.tensors["up.0.weight"])


# ---------------------------------------------------------------- which recipe


def test_auto_takes_ridge_below_20_labels_without_trying_the_other():
    trained = train(labelled(26), recipe_named("auto"))  # of which 19 train
    assert trained.kind == trained.recipe.name == "ridge"
    assert trained.choice.asked == "auto"
    assert "19 labels" in trained.choice.why
    assert trained.loss_curve == []


@pytest.mark.slow
def test_auto_leans_on_the_network_where_taste_is_not_a_straight_line():
    data = labelled(400, truth=lambda v: np.abs(v[:, 0]) / 2, holdout=0.2)
    trained = train(data, recipe_named("auto", samples=4096, passes=60, batch=64, folds=2))
    choice = trained.choice
    assert trained.kind in ("blend", "city96")
    assert choice.blend.share > 0.7
    duel = choice.blend.versus_line
    assert duel.verdict == "better"
    assert duel.difference.high < 0
    assert duel.difference.n == 320
    assert "errs less than ridge alone" in choice.why
    linear = train(data, recipe_named("ridge")).metrics.holdout.mae
    assert trained.metrics.holdout.mae.high < linear.low


def test_auto_leans_on_the_line_where_the_network_is_not_better():
    data = labelled(400)
    trained = train(data, recipe_named("auto", samples=640, batch=64, folds=2))
    choice = trained.choice
    assert trained.kind in ("blend", "ridge")
    assert choice.blend.share < 0.5
    assert choice.blend.versus_line.verdict != "worse"


@pytest.mark.slow
def test_a_blend_is_published_with_its_shares_and_the_curve_of_its_network():
    """Where both see the same of a noisy taste, both get a share."""
    random = np.random.default_rng(4)
    rule = lambda v: 0.5 + 0.1 * np.tanh(v[:, 0]) + 0.1 * np.abs(v[:, 1]) - 0.1  # noqa: E731
    data = labelled(300, truth=lambda v: rule(v) + 0.1 * random.normal(size=len(v)))
    recipe = recipe_named("auto", samples=1600, batch=64, folds=2)
    trained = train(data, recipe)
    assert trained.kind == "blend"
    used = replace(recipe, samples=trained.recipe.samples, batch=56, lr=3.742e-3)
    assert trained.recipe == used, "what counted: small batches take smaller steps"
    share = trained.choice.blend.share
    assert 0 < share < 1
    assert f"{round(100 * share)} % for the network" in trained.choice.why
    assert len(trained.loss_curve) > 1
    assert len(trained.members) == 2
    mine = trained.split.fold == 0
    said = trained.members[0](data.x[mine])
    if not trained.metrics.calibration["kept"]:
        assert np.array_equal(trained.oof[mine], said)
    line = train(data, replace(recipe, name="ridge")).final
    network = train(data, replace(recipe, name="city96")).final
    between = np.minimum(line, network) - 1e-5, np.maximum(line, network) + 1e-5
    assert ((between[0] <= trained.final) & (trained.final <= between[1])).all()


# ---------------------------------------------------------------- the original's own recipe


def test_the_original_recipe_is_the_loop_that_its_author_describes(monkeypatch):
    """Its arithmetic, beside torch's own module, optimiser and schedule; without the dropout, whose
    draws are nobody's."""
    monkeypatch.setattr(network, "DROPOUT", 0.0)
    data, recipe = labelled(holdout=0), recipe_named("original", samples=12)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    ours = OneByOne(recipe, x, y, np.arange(40), np.arange(40, 80), seed=3)
    theirs = copy.deepcopy(ours.module)
    shown = [next(ours.order) for _ in range(12)]
    ours.order = iter(shown)
    for step in range(12):
        ours.step(step)

    optimiser = torch.optim.AdamW(theirs.parameters(), lr=7e-6)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 12)
    for step, row in enumerate(shown):
        assert ours.rate(step) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)
        z = theirs(x[row])[:, 0]
        F.l1_loss((torch.tanh(z) + 1) / 2, y[row]).backward()
        optimiser.step()
        optimiser.zero_grad()
        cosine.step()
    ours.keep()
    expected = network.tensors_of(theirs)
    assert all(np.abs(ours.kept[name] - expected[name]).max() < 1e-7 for name in expected)
    assert len({int(row) for row in shown}) == 12
    error = np.abs(Head(ours.kept)(data.x) - data.y)[40:].mean()
    assert ours.error_on(ours.left_out) == pytest.approx(error)


@pytest.mark.slow
def test_the_original_recipe_publishes_like_any_other():
    data, recipe = labelled(), recipe_named("original", samples=12)
    seen: list[tuple[int, int]] = []
    trained = train(data, recipe, progress=lambda done, total, *_: seen.append((done, total)))
    assert trained.kind == trained.recipe.name == "original"
    assert (trained.recipe.batch, trained.recipe.lr, trained.recipe.samples) == (1, 7e-6, 12)
    assert len(trained.members) == 2
    assert [done for done, _ in seen[1:]] == sorted(done for done, _ in seen[1:])
    assert seen[-1] == (36, 36)
    again = train(data, recipe)
    assert all(np.array_equal(trained.tensors[k], again.tensors[k]) for k in trained.tensors)
    flipped = replace(data, y=np.where(trained.split.fold == 0, 1 - data.y, data.y))
    other = train(flipped, recipe)
    mine = trained.split.fold == 0
    assert np.array_equal(trained.members[0](data.x[mine]), other.members[0](data.x[mine]))


def test_the_original_recipe_can_be_stopped_at_any_step():
    class Stop(Exception):
        pass

    def stop(done, total, message, curve=None):
        if "one image at a time" in message:
            raise Stop

    with pytest.raises(Stop):
        train(labelled(), recipe_named("original", samples=100_000), progress=stop)


def test_recipes_have_names_and_sensible_settings():
    with pytest.raises(Invalid, match="forest"):
        recipe_named("forest")
    with pytest.raises(Invalid, match="'depth'"):
        recipe_named("ridge", depth=3)
    for few in (-1, 0, 1):
        with pytest.raises(Invalid, match="two folds or more"):
            recipe_named("ridge", folds=few)
    for whole in ("mlp", "original"):
        with pytest.raises(Invalid, match="cannot be divided"):
            recipe_named(whole, subnetworks=4)
    with pytest.raises(Invalid, match="0 or more"):
        recipe_named("city96", noise=-0.1)
    for wrong in (0, 3, 32):
        with pytest.raises(Invalid, match="1, 2, 4, 8 or 16"):
            recipe_named("city96", subnetworks=wrong)


# ---------------------------------------------------------------- on the way


@pytest.mark.parametrize("recipe", [recipe_named("ridge"), QUICK])
def test_progress_only_rises_and_arrives(recipe):
    seen = []
    train(labelled(), recipe, progress=lambda done, total, *_: seen.append((done, total)))
    body = seen[1:]  # the first one says that near-duplicates are being looked for
    assert [done for done, _ in body] == sorted(done for done, _ in body)
    assert len({total for _, total in body}) == 1
    assert body[-1][0] == body[-1][1]


def test_raising_in_the_progress_callback_stops_the_training():
    class Stop(Exception):
        pass

    def stop(done, total, message, curve=None):
        if "city96" in message:
            raise Stop

    with pytest.raises(Stop):
        train(labelled(), QUICK, progress=stop)


def test_the_loss_curve_is_shown_as_it_grows():
    shown = []

    def draw(done, total, message, curve=None):
        if curve is not None:
            shown.append((done / total, curve))

    trained = train(labelled(), QUICK, progress=draw)
    assert [len(curve) for _, curve in shown] == list(range(1, len(trained.loss_curve) + 1))
    assert all(curve == trained.loss_curve[: len(curve)] for _, curve in shown)
    steps = trained.loss_curve[-1]["step"]
    assert [done for done, _ in shown] == [curve[-1]["step"] / steps for _, curve in shown]


def test_the_loss_curve_falls_and_the_rate_ends_near_nothing():
    recipe = recipe_named("city96", samples=1920, passes=60, batch=32, folds=2, early_stop=False)
    trained = train(labelled(90), recipe)
    curve = trained.loss_curve
    assert 10 <= len(curve) <= 200
    assert [point["step"] for point in curve] == sorted({point["step"] for point in curve})
    assert curve[-1]["step"] <= 60
    assert curve[-1]["train"] < curve[0]["train"] / 2
    assert curve[-1]["inner"] < curve[0]["inner"]
    assert curve[-1]["lr"] < 1e-5 < max(point["lr"] for point in curve)


def test_small_sets_see_fewer_samples():
    recipe = recipe_named("city96", samples=100_000, passes=20, batch=500)
    assert schedule_for(recipe, 1000) == (250, 80)
    assert schedule_for(recipe, 10_000) == (500, 200)
    assert schedule_for(recipe, 50_000) == (500, 300)  # three passes through a set so large
    assert schedule_for(recipe, 60) == (32, 38)


def test_uncertainty_is_the_members_disagreement_and_the_noise():
    trained = train(labelled(), recipe_named("ridge"))
    x = np.zeros((3, 6), np.float32)
    split = (Constant(0.2), Constant(0.6))
    doubtful = replace(trained, members=split, noise=0.3)
    strangers = np.full(3, -1)
    assert doubtful.predict(x, strangers)[2] == pytest.approx(np.sqrt(0.2**2 + 0.3**2))
    sure = replace(trained, members=split[:1], noise=0.0)
    assert sure.predict(x, strangers)[2] == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("early_stop", [False, True])
def test_the_final_head_is_kept_at_the_moment_that_its_members_liked_best(early_stop, monkeypatch):
    """Labels are noise: more training can only make the members worse. Yet what is kept has
    learned: the rate has risen, and the average of the weights has left the beginning behind."""
    random = np.random.default_rng(1)
    data = labelled(80, truth=lambda v: random.random(len(v)), holdout=0)
    kept = []
    keep = BatchLearner.keep
    monkeypatch.setattr(BatchLearner, "keep", lambda self: (kept.append(self), keep(self)))
    recipe = replace(QUICK, samples=100_000, passes=100, early_stop=early_stop)
    fit = fit_by_sgd(data, split_of(data), recipe)
    inner = [point["inner"] for point in fit.loss_curve]
    *moments, first, second = kept
    assert [len(learner.left_out) for learner in (first, second)] == [40, 40]
    assert {len(learner.left_out) for learner in moments} == {0}, "the final head sees everything"
    assert 10 * np.abs(fit.oof - data.y).mean() == pytest.approx(inner[-1], abs=0.3)
    last = fit.loss_curve[-1]["step"]
    inner = [point["inner"] for point in fit.loss_curve if point["step"] >= 0.15 * last]
    assert 15 < len(inner) < len(fit.loss_curve)
    best = [i for i in range(len(inner)) if inner[i] <= min(inner[: i + 1])]
    assert len(moments) == (len(best) if early_stop else len(inner))
    assert len(best) < len(inner)


@pytest.mark.parametrize("batch, share", [(1024, 1), (256, 1), (64, 0.5), (32, 0.125**0.5)])
@pytest.mark.parametrize("subnetworks", [1, 4])
def test_small_batches_take_smaller_steps_and_narrow_networks_larger_ones(
    batch, share, subnetworks
):
    recipe = recipe_named("city96", subnetworks=subnetworks)
    assert largest_rate(recipe, batch) == pytest.approx(subnetworks * share * recipe.lr)


def test_every_image_is_seen_with_other_noise_each_time():
    seen = []

    def logit(weights, x, noise):
        if noise is not None:
            seen.append(x.clone())
        return (x.float() @ weights["line.weight"]).unsqueeze(0)

    def begin(recipe, features, start):
        return {"line.weight": torch.zeros(features)}

    x = torch.zeros(8, 6)
    noises = torch.randn(NOISES + 8 * 6)
    weights = begin(QUICK, 6, None)
    learner = BatchLearner(
        Network(begin, logit, dict), weights, replace(QUICK, noise=0.5), 3, 8, x,
        torch.full((8,), 0.5), noises, np.arange(8), np.arange(0), 0,
    )  # fmt: skip
    for step in range(3):
        learner.step(step)
    assert len(seen) == 3
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert (x == 0).all()


@pytest.mark.parametrize("usual", [0.06, 0.9])
def test_a_network_gives_an_image_unlike_all_others_the_usual_score(usual):
    """Not the half that it would have begun with, which ruins few labels of a strict person."""
    random = np.random.default_rng(0)
    data = labelled(30, features=400, holdout=0, seed=0)
    data = replace(data, y=np.clip(usual + 0.05 * random.normal(size=30), 0, 1).astype(np.float32))
    fit = fit_by_sgd(data, split_of(data), recipe_named("city96", passes=30))
    strangers = Head(fit.tensors)(random.normal(size=(50, 400)).astype(np.float32))
    assert strangers.mean() == pytest.approx(data.y.mean(), abs=0.03)
    assert fit.by_members.mean() == pytest.approx(data.y.mean(), abs=0.03)


@pytest.mark.parametrize(
    "scores, begins_at",
    [
        ([0.1, 0.1, 0.1] * 9 + [0.11], special.logit(0.1)),  # one who likes nothing
        ([0.1, 0.1, 0.5] * 10, special.logit(0.1) / 2),  # it errs half as much as 5
        ([0.1, 0.1, 0.9] * 10, special.logit(0.1) / 3),
        ([0.1, 0.9] * 15, 0.0),
        ([0.1, 0.9] * 20, 0.0),  # where chance would have it half a logit lower
        ([0.1, 0.1, 0.5] * 40, special.logit(0.1) / 2 / 3),  # three times forty labels
    ],
)
def test_a_network_begins_at_the_usual_score_as_far_as_that_errs_less_than_five(scores, begins_at):
    """It moves there by itself, and would end beyond it where scores differ."""
    data = labelled(len(scores), features=400, holdout=0, truth=lambda v: np.array(scores))
    recipe = recipe_named("city96", passes=1, lr=1e-12)
    fit = fit_by_sgd(data, split_of(data), recipe)
    centre = Head(fit.tensors)(data.x.mean(axis=0, keepdims=True))
    assert special.logit(centre[0]) == pytest.approx(begins_at, abs=0.02)


def test_an_image_thrown_to_where_the_sigmoid_is_flat_comes_back():
    def begin(recipe, features, start):
        return {"line.weight": torch.full((features,), 500.0)}

    def logit(weights, x, noise):
        return (x.float() @ weights["line.weight"]).unsqueeze(0)

    x = torch.eye(2)
    recipe = replace(QUICK, lr=100.0, subnetworks=1, noise=0.0, ema=0.0)
    learner = BatchLearner(
        Network(begin, logit, dict), begin(recipe, 2, None), recipe, 200, 2, x,
        torch.tensor([0.2, 1.0]), torch.randn(NOISES + 4), np.arange(2), np.arange(0), 0,
    )  # fmt: skip
    for step in range(200):
        learner.step(step)
    wrong, right = learner.master["line.weight"].tolist()
    assert torch.sigmoid(torch.tensor(wrong)).item() == pytest.approx(0.2, abs=0.05)
    assert 4 < right < 12


@pytest.mark.parametrize("name, parts", [("mlp", 1), *(("city96", n) for n in SUBNETWORKS)])
def test_what_is_exported_is_what_was_trained(name, parts):
    """One file, whose logit is the mean over the subnetworks."""
    architecture = NETWORKS[name]
    torch.manual_seed(0)
    weights = architecture.begin(recipe_named(name, subnetworks=parts), 6, None)
    x = torch.randn(50, 6)
    logit = architecture.logit(weights, x, None)
    assert logit.shape == (parts, 50)
    said = torch.sigmoid(logit.mean(dim=0)).numpy()
    exported = architecture.export({k: v.numpy() for k, v in weights.items()})
    assert np.abs(Head(exported)(x.numpy()) - said).max() < 1e-5


@pytest.mark.slow
def test_subnetworks_never_meet_and_leave_the_lane_silent_after_training():
    """So that the file is an ensemble, and a linear head has room beside it."""
    data = labelled(60)
    tensors = train(data, QUICK).tensors
    for name in ("up.1.long.0", "up.1.long.2", "up.1.long.4", "down.0", "down.1", "down.4"):
        weight = tensors[f"{name}.weight"]
        rows, columns = np.indices(weight.shape)
        own = 4 * rows // weight.shape[0] == 4 * columns // weight.shape[1]
        assert not weight[~own].any()
        assert np.mean(weight[own] == 0) < 0.5
    together = city96.side_by_side(tensors, train(data, recipe_named("ridge")).tensors)
    assert city96.check_layout(together) == (data.x.shape[1], 1)


def test_the_city96_logit_is_that_of_the_module():
    torch.manual_seed(0)
    module = City96(6).eval()
    x = torch.randn(20, 6)
    with torch.no_grad():
        ours = city96_logit(module.state_dict(), x, None)
        assert torch.allclose(ours, 2 * module(x)[:, 0], atol=1e-6)
