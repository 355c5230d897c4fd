"""The live classifier: how often right, which slips it finds, which class is missing, its cost.

    python -m bench classes [--draws N]

Media are photographs, prints and paintings of the sample library and stamps; kinds of stamps are
the folders of Debian's `tuxpaint-stamps-default`; digits are scikit-learn's. Half of the sources
are drawn to be labelled from, the others measure. The trained head is that of a version.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import t
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from bench.labelled import CACHE, STAMPS
from tastemaker.database.tables import Project, ProjectClass
from tastemaker.encoding.encoder_specs import BUNDLED, parse
from tastemaker.encoding.encoders import load as load_encoder
from tastemaker.learning.class_ridge import ClassRidge, fit_class_ridge
from tastemaker.learning.classifier import ClassData, train
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Head
from tastemaker.learning.label_issues import class_issues
from tastemaker.learning.recipes import recipe_named
from tastemaker.live import class_candidates, class_fit
from tastemaker.live.candidates import FittedModel
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.live_model import PickLists
from tastemaker.sample.samples import make_sample_library
from tastemaker.scores.classes import ClassList

Set = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, x (n, D), kind (n,), source (n,)
FEW = (10, 20, 40, 80)  # labels
SLIPS = 0.05
FIRST = 20  # of the images that no class fits


def main() -> str:
    options = argparse.ArgumentParser(prog="python -m bench classes")
    options.add_argument("--draws", type=int, default=10)
    draws = options.parse_args().draws
    if not STAMPS.is_dir():
        return f"{STAMPS} is not there: apt-get install tuxpaint-stamps-default"
    made = list(sets())
    tables = (accuracies(made, draws), slips(made, draws), missing(made, draws), costs())
    return "\n\n".join("\n".join(table) for table in tables)


# --- the sets ------------------------------------------------------------------------------------


def sets() -> Iterator[Set]:
    kept = CACHE / "media.npz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            listed = list(pictures(Path(folder)))
            x = embedded([path for path, _, _ in listed])
        names, sources = ([each[k] for each in listed] for k in (1, 2))
        np.savez(kept, x=x, kind=np.array(names), source=np.array(sources))
    with np.load(kept) as file:
        x, names = file["x"].astype(np.float32), file["kind"]
        source = np.unique(file["source"], return_inverse=True)[1]
    stamp = np.char.startswith(names, "stamp")
    media = np.where(stamp, "stamp", names)
    yield "media", x, np.unique(media, return_inverse=True)[1], source
    yield "stamps", x[stamp], np.unique(names[stamp], return_inverse=True)[1], source[stamp]
    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    yield "digits", x, digits.target, np.arange(len(x))


def pictures(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, what it is, which are versions of one picture)."""
    for sample in make_sample_library(folder):
        yield sample.path, sample.medium, sample.source
    for path in sorted(STAMPS.rglob("*.png")):
        if not path.stem.endswith(("_mirror", "_flip")):
            yield path, f"stamp {path.relative_to(STAMPS).parts[0]}", str(path)


def embedded(paths: list[Path]) -> np.ndarray:
    encoder = load_encoder(parse(BUNDLED))
    x = []
    for start in range(0, len(paths), 16):
        batch = []
        for path in paths[start : start + 16]:
            with Image.open(path) as file:
                picture = file.convert("RGBA")
            ground = Image.new("RGBA", picture.size, "white")
            batch.append(encoder.preprocess(Image.alpha_composite(ground, picture).convert("RGB")))
        x.append(encoder.encode(np.stack(batch)))
    return np.concatenate(x).astype(np.float16)


def halves(source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) whether an image may be labelled; the others measure."""
    names = rng.permutation(np.unique(source))
    return np.isin(source, names[: len(names) // 2])


def one_hot(kind: np.ndarray, count: int) -> np.ndarray:
    truth: np.ndarray = np.eye(count, dtype=bool)[kind]
    return truth


def probabilities(ridge: ClassRidge, x: np.ndarray) -> np.ndarray:
    """(N, K) of all classes, 0 for those it did not learn."""
    p = np.zeros((len(x), len(ridge.kept)), np.float32)
    p[:, ridge.kept] = np.concatenate([part for _, part in ridge.predict(x)])
    return p


def interval(values: Any, unit: str = " %", times: float = 100) -> str:
    """Mean and half of its 95 % interval over draws, by Student's t."""
    values = times * np.asarray(values, float)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.1f} ± {half:.1f}{unit}"


# --- what is measured ----------------------------------------------------------------------------


def accuracies(made: list[Set], draws: int) -> list[str]:
    lines = [
        f"How many of the other images are given their class, {draws} draws:", "",
        "| set | classes | labels | live | trained head | live − trained | always the commonest |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name, x, kind, source in made:
        count = int(kind.max()) + 1
        for labels in FEW:
            found = []
            for seed in range(draws):
                rng = np.random.default_rng(seed)
                free = halves(source, rng)
                rows = rng.permutation(np.flatnonzero(free))[:labels]
                others, truth = np.flatnonzero(~free), one_hot(kind[rows], count)
                commonest = np.full(len(others), np.bincount(kind[rows]).argmax())
                live = trained = commonest  # where all labels are of one class
                if len(np.unique(kind[rows])) > 1:
                    ridge = fit_class_ridge(x[rows], truth, source[rows], several=False)
                    live = probabilities(ridge, x[others]).argmax(axis=1)
                    trained = trained_on(x[rows], truth, source[rows], x[others], seed)
                found.append([(said == kind[others]).mean() for said in (live, trained, commonest)])
            live_, head, largest = np.array(found).T
            lines.append(
                f"| {name} | {count} | {labels} | {interval(live_)} | {interval(head)} "
                f"| {interval(live_ - head, ' points')} | {100 * largest.mean():.0f} % |"
            )
    return lines


def trained_on(
    x: np.ndarray, truth: np.ndarray, groups: np.ndarray, others: np.ndarray, seed: int
) -> np.ndarray:
    """(m,) the class that a version trained on these labels gives each of the others."""
    n, count = truth.shape
    rows = TrainingSet(np.arange(n), x, np.zeros(n, np.float32), groups, np.zeros(n, bool))
    names = tuple(map(str, range(count)))
    data = ClassData(rows, truth, tuple(range(count)), names, (1.0,) * count)
    trained = train(data, recipe_named("ridge", seed=seed))
    given = Head(trained.tensors)(others).argmax(axis=1)
    numbers: np.ndarray = np.array(trained.data.numbers)[given]
    return numbers


def slips(made: list[Set], draws: int) -> list[str]:
    lines = [
        "One label in twenty is wrong. Of the list of possible label errors, as many from its head "
        "as there are wrong ones (a random order has 5 % there), all of it, and the average "
        f"precision of its order; {draws} draws:", "",
        "| set | labels | right at the head | listed | of them wrong | of the wrong ones listed "
        "| average precision |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name, x, kind, source in made:
        count = int(kind.max()) + 1
        for labels in (100, 300):
            found = []
            for seed in range(draws):
                rng = np.random.default_rng(seed)
                rows = rng.permutation(len(kind))[:labels]
                said, wrong = kind[rows].copy(), np.zeros(labels, bool)
                wrong[rng.permutation(labels)[: round(SLIPS * labels)]] = True
                said[wrong] = (said[wrong] + rng.integers(1, count, wrong.sum())) % count
                truth = one_hot(said, count)
                live = fit_class_ridge(x[rows], truth, source[rows], several=False)
                issues = class_issues(live.out_of_group, truth[:, live.kept], several=False)
                listed = issues.worst(labels)
                found.append(
                    (
                        wrong[listed[: wrong.sum()]].sum() / wrong.sum(), len(listed),
                        wrong[listed].mean() if len(listed) else 0,
                        wrong[listed].sum() / wrong.sum(),
                        average_precision_score(wrong, -issues.quality),
                    )
                )  # fmt: skip
            head, length, precise, recalled, ranked = np.array(found).T
            lines.append(
                f"| {name} | {labels} | {interval(head)} | {length.mean():.0f} "
                f"| {interval(precise)} | {interval(recalled)} | {ranked.mean():.2f} |"
            )
    return lines


def missing(made: list[Set], draws: int) -> list[str]:
    lines = [
        "120 labels, and a class that none of them is of. Of the images without a label, how many "
        f"are of that class, and how many of the first {FIRST} that no class is likely for; over "
        f"classes left out, {max(2, draws // 4)} draws each:", "",
        "| set | of all | of the first |", "|---|--:|--:|",
    ]  # fmt: skip
    for name, x, kind, source in made:
        count = int(kind.max()) + 1
        found = []
        for left_out in range(count):
            if (kind == left_out).sum() < FIRST:
                continue
            for seed in range(max(2, draws // 4)):
                rng = np.random.default_rng(seed)
                rows = rng.permutation(np.flatnonzero(kind != left_out))[:120]
                rest = np.setdiff1d(np.arange(len(kind)), rows)
                truth = one_hot(kind[rows], count)
                live = fit_class_ridge(x[rows], truth, source[rows], several=False)
                order = np.argsort(probabilities(live, x[rest]).max(axis=1), kind="stable")
                strange = kind[rest] == left_out
                found.append((strange.mean(), strange[order[:FIRST]].mean()))
        base, first = np.array(found).T
        lines.append(f"| {name} | {100 * base.mean():.0f} % | {interval(first)} |")
    return lines


def costs(images: int = 5000, features: int = 1280) -> list[str]:
    """Processor time of what follows a key, the best of three."""
    lines = [
        f"Processor time after a key, {images:,} images × {features:,} features:", "",
        "| classes | labels | fit and predictions | lists | search |", "|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for count in (3, 16, 200):
        rng = np.random.default_rng(0)
        kind = rng.integers(0, count, images)
        centres = 0.5 * rng.normal(size=(count, features))
        x = (centres[kind] + rng.normal(size=(images, features))).astype(np.float16)
        nothing, everything = np.zeros(images, bool), np.ones(images, bool)
        ids = np.arange(images)
        matrix = EmbeddingMatrix((1,), ids, x, ids, nothing, everything)
        known = ClassList(
            "classes",
            tuple(
                ProjectClass(project_id=1, number=n, name=f"{n}", gone=False) for n in range(count)
            ),
        )
        assert matrix.projection.features.shape[0] == images  # once for a library
        for labels in (80, 1000, 3000):
            rows = np.sort(rng.permutation(images)[:labels])
            values = np.full(images, np.nan)
            values[rows] = kind[rows]
            took = []
            for _ in range(3):
                start = time.process_time()
                fit, live = class_fit.fit(matrix, known, values, rows)
                fitted_at = time.process_time()
                model = FittedModel(
                    Project(name="bench", labelling="classes"), matrix, None, live, values, rows,
                    np.isnan(values), nothing, 0,
                )  # fmt: skip
                class_candidates.fast_lists(PickLists(), model, fit)
                listed_at = time.process_time()
                class_candidates.slow_lists(PickLists(), model, fit)
                end = time.process_time()
                took.append((fitted_at - start, listed_at - fitted_at, end - listed_at))
            told = " | ".join(f"{1000 * part:.0f} ms" for part in np.min(took, axis=0))
            lines.append(f"| {count} | {labels:,} | {told} |")
    return lines


if __name__ == "__main__":
    with threadpool_limits(1):
        print(main())
