"""The live classifier: exact without an image's own group, as good as the trained head where labels
are few, and slips among its labels found again."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from tastemaker.errors import NotTrainable
from tastemaker.learning import class_ridge, classifier
from tastemaker.learning.class_metrics import said
from tastemaker.learning.class_ridge import ClassRidge, fit_class_ridge
from tastemaker.learning.label_issues import class_issues
from tests.test_classifier import RECIPE, some


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (n, 24), truth (n, classes) and groups of two images each."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, classes, n)
    x = random.normal(size=(classes, 24))[kind] + random.normal(size=(n, 24))
    return x.astype(np.float32), np.eye(classes, dtype=bool)[kind], np.arange(n) // 2


def probabilities(ridge: ClassRidge, x: np.ndarray) -> np.ndarray:
    return np.concatenate([p for _, p in ridge.predict(x)])


@pytest.mark.parametrize("several", [False, True])
def test_out_of_group_is_what_a_fit_without_the_group_predicts(several, monkeypatch) -> None:
    x, truth, groups = drawn(40, 3)
    if several:
        truth = truth | np.roll(truth, 1, axis=0)
    ridge = fit_class_ridge(x, truth, groups, several=several)
    monkeypatch.setattr(class_ridge, "PENALTIES", np.array([ridge.penalty]))
    monkeypatch.setattr(class_ridge, "SHARPNESS", np.array([ridge.sharpness]))
    for group in (0, 7, 19):
        own = groups == group
        without = fit_class_ridge(
            x[~own], truth[~own], groups[~own], several=several, scale=ridge.scale
        )
        assert probabilities(without, x[own]) == pytest.approx(ridge.out_of_group[own], abs=2e-3)


def test_probabilities_are_some_and_read_float16_as_it_is_stored() -> None:
    x, truth, groups = drawn(60, 3)
    ridge = fit_class_ridge(x, truth, groups, several=False)
    p = probabilities(ridge, x.astype(np.float16))
    assert p.shape == (60, 3) and p.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert p == pytest.approx(probabilities(ridge, x), abs=5e-3)
    assert (p.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.9
    # as sure as it is right
    sure = ridge.out_of_group.max(axis=1).mean()
    right = (ridge.out_of_group.argmax(axis=1) == truth.argmax(axis=1)).mean()
    assert abs(sure - right) < 0.1


def test_a_class_without_a_label_is_left_out_and_one_alone_is_refused() -> None:
    x, truth, groups = drawn(30, 3)
    missing = truth[:, [0, 1, 1, 2]].copy()
    missing[:, 1] = False
    ridge = fit_class_ridge(x, missing, groups, several=False)
    assert ridge.kept.tolist() == [True, False, True, True] and ridge.out_of_group.shape == (30, 3)
    everywhere = np.column_stack([truth, np.ones(30, bool)])
    assert fit_class_ridge(x, everywhere, groups, several=True).kept.tolist() == [True] * 3 + [
        False
    ]
    one = np.zeros((30, 3), bool)
    one[:, 1] = True
    for wrong, which, sentence in (
        (one, groups, "of one class"),
        (truth[:0], groups[:0], "No image is labelled"),
        (truth, np.zeros(30, int), "versions of one picture"),
    ):
        with pytest.raises(NotTrainable, match=sentence):
            fit_class_ridge(x[: len(wrong)], wrong, which, several=False)


def test_two_hundred_classes_of_one_image_each_are_fitted() -> None:
    x = np.random.default_rng(1).normal(size=(200, 24)).astype(np.float32)
    ridge = fit_class_ridge(x, np.eye(200, dtype=bool), np.arange(200), several=False)
    assert np.isfinite(ridge.out_of_group).all() and ridge.weights.shape == (200, 24)


@pytest.mark.parametrize("several", [False, True])
def test_a_class_whose_labels_weigh_more_has_its_odds_multiplied(several) -> None:
    x, truth, groups = drawn(120, 3)
    x += 2 * np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    plain = fit_class_ridge(x, truth, groups, several=several)
    weights = np.array([8.0, 1.0, 0.5])
    heavy = fit_class_ridge(x, truth, groups, several=several, label_weights=weights)
    for before, after in (
        (plain.out_of_group, heavy.out_of_group), (probabilities(plain, x), probabilities(heavy, x))
    ):  # fmt: skip
        against = (1 - before, 1 - after) if several else (before[:, 1:2], after[:, 1:2])
        odds = (after / against[1]) / (before / against[0])
        assert odds == pytest.approx(np.tile(weights, (len(x), 1)), rel=1e-2)
        assert (after[:, 0] > before[:, 0]).all()
    assert heavy.penalty == plain.penalty


@pytest.mark.parametrize("seed", [8, 9])
def test_with_a_weight_it_says_more_of_what_a_head_trained_with_that_weight_says(seed) -> None:
    data = some(n=300, noise=6.0, seed=seed, holdout=0.0, weights=[8.0, 1, 1])
    head = said(classifier.train(data, RECIPE).oof, several=False)
    agree, found = {}, {}
    for weight in (1.0, 8.0):
        live = fit_class_ridge(
            data.rows.x, data.truth, data.rows.groups, several=False,
            label_weights=np.array([weight, 1, 1]),
        )  # fmt: skip
        told = said(live.out_of_group, several=False)
        agree[weight], found[weight] = (told == head).all(axis=1).mean(), told[:, 0].mean()
    assert agree[8.0] > max(agree[1.0] + 0.05, 0.8)
    assert abs(found[8.0] - head[:, 0].mean()) < abs(found[1.0] - head[:, 0].mean())


# --- possible label errors -----------------------------------------------------------------------


def slipped(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits with one label in twenty wrong: x, truth, and which are wrong."""
    random = np.random.default_rng(seed)
    data = load_digits()
    rows = random.permutation(len(data.target))[:n]
    kind = data.target[rows].copy()
    wrong = np.zeros(n, bool)
    wrong[random.permutation(n)[: n // 20]] = True
    kind[wrong] = (kind[wrong] + random.integers(1, 10, wrong.sum())) % 10
    return (data.data[rows] / 16).astype(np.float32), np.eye(10, dtype=bool)[kind], wrong


def test_most_planted_errors_stand_at_the_head_of_the_list() -> None:
    """One label in twenty is wrong, so a list in random order has one in twenty."""
    first, found, precision = [], [], []
    for seed in range(4):
        x, truth, wrong = slipped(seed)
        ridge = fit_class_ridge(x, truth, np.arange(len(x)), several=False)
        issues = class_issues(ridge.out_of_group, truth, several=False)
        listed = issues.worst(200)
        first.append(wrong[listed[: wrong.sum()]].mean())
        found.append(wrong[listed].sum() / wrong.sum())
        precision.append(average_precision_score(wrong, -issues.quality))
        assert (issues.suspect[listed] != truth[listed].argmax(axis=1)).all()
    assert np.mean(first) > 0.6 and np.mean(found) > 0.7 and np.mean(precision) > 0.8


def test_of_tags_the_one_that_is_wrong_is_named() -> None:
    x, truth, _ = drawn(120, 3, seed=4)
    told = truth | np.roll(truth, 1, axis=1)  # two tags each
    wrong = told.copy()
    wrong[:4, 0] ^= True
    ridge = fit_class_ridge(x, wrong, np.arange(120), several=True)
    issues = class_issues(ridge.out_of_group, wrong, several=True)
    listed = issues.worst(200)
    planted = [at for at in listed.tolist() if at < 4]
    assert len(planted) >= 3 and all(issues.suspect[at] == 0 for at in planted)
    assert set(listed[:3].tolist()) <= {0, 1, 2, 3}


def test_few_labels_or_a_class_of_few_accuse_nobody() -> None:
    p = np.tile([0.02, 0.98], (19, 1))
    truth = np.zeros((19, 2), bool)
    truth[:10, 0] = truth[10:, 1] = True
    assert len(class_issues(p, truth, several=False).worst(9)) == 0, "19 labels"
    more, labels = np.tile([0.02, 0.98], (40, 1)), np.zeros((40, 2), bool)
    labels[:36, 0] = labels[36:, 1] = True
    assert len(class_issues(more, labels, several=False).worst(99)) == 0, "four of the other"
    labels[35] = [False, True]
    assert len(class_issues(more, labels, several=False).worst(99)) == 35
