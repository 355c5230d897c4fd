"""Training a classifier on small sets: who trains, who judges, and what the file says."""

import math

import numpy as np
import pytest
from safetensors import safe_open

from tastemaker.errors import NotTrainable
from tastemaker.learning import class_metrics, classifier
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.learning.city96 import classifier_head, layout
from tastemaker.learning.class_metrics import average_precision, measure
from tastemaker.learning.classifier import ClassData
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Head
from tastemaker.learning.recipes import recipe_named

RECIPE = recipe_named("ridge", folds=3)


def some(
    n=90, classes=3, features=8, seed=0, holdout=0.2, several=False, noise=1.0, weights=None
) -> ClassData:
    """Random embeddings about one centre for each class; of tags, each is a side of a plane."""
    random = np.random.default_rng(seed)
    centres = 3 * random.normal(size=(classes, features))
    which = np.arange(n) % classes
    x = (centres[which] + noise * random.normal(size=(n, features))).astype(np.float32)
    truth = np.zeros((n, classes), bool)
    truth[np.arange(n), which] = True
    if several:
        x = random.normal(size=(n, features)).astype(np.float32)
        truth = x @ random.normal(size=(features, classes)) > 0
    rows = TrainingSet(
        image_ids=np.arange(n), x=x, y=np.zeros(n, np.float32), groups=np.arange(n),
        holdout=np.arange(n) < holdout * n,
    )  # fmt: skip
    return ClassData(
        rows, truth, numbers=tuple(range(classes)),
        names=tuple(f"class {k}" for k in range(classes)),
        weights=tuple(weights or [1.0] * classes), several=several,
    )  # fmt: skip


def strict_forward(path, x, *, softmax):
    """The original's loader and network, written from the format alone in numpy."""
    with safe_open(path, "np") as file:
        t = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    outputs = t["down.5.weight"].shape[0]
    assert {name: value.shape for name, value in t.items()} == layout(x.shape[1], outputs)

    def linear(name, rows):
        return rows @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def leaky(rows, slope):
        return np.where(rows > 0, rows, slope * rows)

    up = linear("up.0", x.astype(np.float64))
    h = leaky(linear("up.1.long.0", up), 0.1)
    h = leaky(linear("up.1.long.2", h), 0.1)
    r = np.maximum(linear("up.1.long.4", h) + up, 0)
    z = linear("down.5", linear("down.4", leaky(linear("down.1", linear("down.0", r)), 0.01)))
    if not softmax:
        return (np.tanh(z) + 1) / 2
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("several", [False, True])
def test_the_file_passes_a_strict_loader_and_says_what_was_measured(tmp_path, several):
    data = some(several=several, seed=1)
    trained = classifier.train(data, RECIPE)
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, trained.tensors, {"read_out": "sigmoid" if several else "softmax"})
    by_numpy = strict_forward(path, data.rows.x, softmax=not several)
    assert np.abs(by_numpy - trained.final).max() < 1e-5
    assert np.abs(Head(load_checkpoint(path))(data.rows.x) - trained.final).max() < 1e-6
    if several:
        assert np.isclose(trained.final.sum(axis=1), 1).mean() < 0.1
    else:
        assert np.allclose(trained.final.sum(axis=1), 1, atol=1e-5)


def test_the_exported_lines_are_those_that_were_fitted_also_at_a_distant_mean():
    random = np.random.default_rng(2)
    weights, bias = random.normal(size=(5, 7)), random.normal(size=5)
    mean, scale = 40 + random.normal(size=7), np.full(7, 3.0)
    x = (mean + scale * random.normal(size=(50, 7))).astype(np.float32)
    tensors, rank = classifier_head(weights, bias, mean, scale, centred=True)
    logits = ((x - mean) / scale) @ weights.T + bias
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert rank == 4
    assert np.abs(Head(tensors)(x) - e / e.sum(axis=1, keepdims=True)).max() < 1e-5


def test_two_hundred_classes_are_kept_in_the_directions_that_matter():
    random = np.random.default_rng(3)
    weights = random.normal(size=(200, 64))
    _, rank = classifier_head(weights, np.zeros(200), np.zeros(64), np.ones(64), centred=True)
    assert rank == 32


def test_classes_apart_are_told_apart_and_honestly_so():
    trained = classifier.train(some(seed=4), RECIPE)
    record = trained.record
    assert record.out_of_fold.accuracy.value > 0.95 and record.holdout.n == 18
    assert record.holdout.accuracy.value > 0.9
    assert [sum(row) for row in record.out_of_fold.confusion] == [24, 24, 24]
    assert np.isnan(trained.oof[trained.split.holdout]).all()
    assert np.isfinite(trained.oof[trained.split.train]).all()


def test_labels_without_meaning_are_no_better_than_always_the_commonest():
    data = some(n=120, seed=5, noise=1.0)
    shuffled = data.truth[np.random.default_rng(6).permutation(len(data.truth))]
    record = classifier.train(ClassData(**{**vars(data), "truth": shuffled}), RECIPE).record
    assert record.out_of_fold.accuracy.low < record.out_of_fold.always_commonest + 0.1
    assert record.log_loss > math.log(3) - 0.15


def test_a_fold_is_judged_by_a_head_that_did_not_see_its_groups():
    data = some(seed=7)
    trained = classifier.train(data, RECIPE)
    _, out_of_fold = trained.predict(data.rows.x, data.rows.groups)
    train = trained.split.train
    assert np.allclose(out_of_fold[train], trained.oof[train], atol=1e-5)
    assert np.isnan(out_of_fold[~train]).all()


def test_a_weighted_class_is_found_more_often():
    plain = classifier.train(some(seed=8, noise=6.0, n=150), RECIPE).record.out_of_fold
    heavy = classifier.train(
        some(seed=8, noise=6.0, n=150, weights=[8.0, 1.0, 1.0]), RECIPE
    ).record.out_of_fold
    assert heavy.classes[0].recall.value > plain.classes[0].recall.value


def test_a_class_without_a_label_is_left_out_by_name():
    data = some(seed=9)
    without = data.truth.copy()
    without[without[:, 2]] = [True, False, False]
    trained = classifier.train(ClassData(**{**vars(data), "truth": without}), RECIPE)
    assert (trained.record.left_out, trained.record.numbers) == (("class 2",), (0, 1))
    assert trained.final.shape == (90, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: truth[:0], "No image is labelled"),
        (lambda truth: np.broadcast_to([True, False, False], truth.shape), "of one class"),
    ],
)
def test_what_teaches_nothing_is_refused_in_a_sentence(change, words):
    data = some()
    truth = np.array(change(data.truth))
    n = len(truth)
    rows = data.rows
    rows = TrainingSet(
        rows.image_ids[:n], rows.x[:n], rows.y[:n], rows.groups[:n], rows.holdout[:n]
    )
    with pytest.raises(NotTrainable, match=words):
        classifier.train(ClassData(**{**vars(data), "truth": truth, "rows": rows}), RECIPE)


def test_tags_that_every_image_has_or_none_has_are_left_out():
    data = some(seed=10, several=True)
    truth = data.truth.copy()
    truth[:, 0], truth[:, 2] = True, False
    trained = classifier.train(ClassData(**{**vars(data), "truth": truth}), RECIPE)
    assert trained.record.left_out == ("class 0", "class 2")
    truth[:, 1] = True
    with pytest.raises(NotTrainable, match="No tag is on some"):
        classifier.train(ClassData(**{**vars(data), "truth": truth}), RECIPE)


def test_the_same_data_gives_the_same_bytes():
    one, two = (classifier.train(some(seed=11), RECIPE) for _ in range(2))
    assert all(np.array_equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


# ---------------------------------------------------------------- the figures


def test_average_precision_is_that_of_the_ranking_by_hand():
    truth = np.array([True, False, True, False])
    ones = np.ones(4)
    assert average_precision(truth, ones) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(truth, np.array([1, 1, 0, 1.0])) == pytest.approx(1)
    assert math.isnan(average_precision(np.zeros(4, bool), ones))


def test_precision_recall_and_confusion_are_counted_class_by_class():
    truth = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]
    predicted = np.eye(3, dtype=bool)[[0, 0, 1, 1, 0, 2]]
    found = measure((5, 6, 9), truth, predicted * 0.8, predicted, np.arange(6), several=False)
    assert found.confusion == ((2, 1, 0), (1, 1, 0), (0, 0, 1))
    first = found.classes[0]
    assert (first.number, first.precision.value, first.precision.n) == (5, pytest.approx(2 / 3), 3)
    assert (first.recall.value, first.recall.n) == (pytest.approx(2 / 3), 3)
    assert first.f1.value == pytest.approx(2 / 3)
    assert found.accuracy.value == pytest.approx(4 / 6) and found.always_commonest == 0.5
    assert first.findings.precision.value is None, "a rate over three images is no finding"


def test_of_tags_an_image_is_right_where_all_its_tags_are():
    truth = np.array([[1, 0], [1, 1], [0, 0]], bool)
    predicted = np.array([[1, 0], [1, 0], [0, 0]], bool)
    found = measure((0, 1), truth, predicted * 0.9, predicted, np.arange(3), several=True)
    assert found.accuracy.value == pytest.approx(2 / 3) and found.confusion == ()


def test_what_a_record_rests_on_is_the_most_honest_there_is():
    many = class_metrics.ClassMetrics(n=60)
    few = class_metrics.ClassMetrics(n=12)
    record = class_metrics.ClassRecord(out_of_fold=many, holdout=few, random_sample=few)
    assert record.measured_on == "out_of_fold"
    assert record.model_copy(update={"random_sample": many}).measured_on == "random_sample"
    assert record.model_copy(update={"holdout": many}).measured_on == "holdout"
    assert class_metrics.ClassRecord().measured_on is None
