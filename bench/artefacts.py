"""A classifier of compression made only from synthetic pairs, on photographs it never saw.

    python -m bench artefacts [--folder FOLDER] [--encoder NAME …] [--train N] [--test N]

Photographs that are JPEGs bring artefacts of their own, so each is made smaller first, to 0.6: that
is the clean one. Half of them, whole photographs, train: each with one twin, JPEG or WebP at the
random quality of an import. The others are kept apart: clean against JPEG of quality 30. Without a
folder the photographs are those of installed packages, cut into parts that do not overlap.
"""

import argparse
import hashlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bench.labelled import PHOTOGRAPHS
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoder_specs import parse
from tastemaker.encoding.encoders import load
from tastemaker.learning.class_metrics import measure, said
from tastemaker.learning.classifier import ClassData, train
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Head
from tastemaker.learning.recipes import recipe_named
from tastemaker.pictures import damage
from tastemaker.pictures.damage import Damage
from tastemaker.pictures.pictures import decode
from tastemaker.sample.samples import installed

ENCODERS = tuple(
    f"efficientnet_lite0{blocks}/bundled"
    for blocks in ("", "+stages", "+stages+whole", "+tiles", "+stages+tiles", "+stages+tiles-max")
)
SMALLER, PART = 0.6, 256  # a clean photograph's size of the file's; pixels of a cut part
QUALITY = 30
KINDS = ("jpeg", "webp")


def main() -> str:
    options = argparse.ArgumentParser(prog="python -m bench artefacts")
    options.add_argument("--folder", type=Path)
    options.add_argument("--encoder", action="append", default=[])
    options.add_argument("--train", type=int, default=250)
    options.add_argument("--test", type=int, default=150)
    given = options.parse_args()
    clean = list(of_folder(given.folder) if given.folder else of_packages())
    names = sorted({name for name, _ in clean})
    order = np.random.default_rng(0).permutation(len(names))
    first = {names[k] for k in order[: len(names) // 2]}
    training = [one for one in clean if one[0] in first][: given.train]
    testing = [one for one in clean if one[0] not in first][: given.test]
    lines = [
        f"{len(training)} clean pictures train, each with a twin; {len(testing)} others test, of "
        f"{len({name for name, _ in testing})} photographs.",
        "",
        "| encoder | features | average precision of JPEG 30 | accuracy | pictures a second |",
        "|---|--:|---|---|--:|",
    ]
    for name in given.encoder or ENCODERS:
        lines.append(_tried(name, training, testing))
    return "\n".join(lines)


Named = tuple[str, Image.Image]  # of which photograph, the clean picture


def of_folder(folder: Path) -> Iterator[Named]:
    for path in sorted(folder.iterdir()):
        picture = decode(path)
        size = (round(SMALLER * picture.width), round(SMALLER * picture.height))
        yield path.name, picture.resize(size, Image.Resampling.LANCZOS)


def of_packages() -> Iterator[Named]:
    for _, file in PHOTOGRAPHS:
        picture = installed(file)
        if picture is None:
            continue
        if file.endswith(".jpg"):
            size = (round(SMALLER * picture.width), round(SMALLER * picture.height))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        picture = picture.convert("RGB")
        for top in range(0, picture.height - PART + 1, PART):
            for left in range(0, picture.width - PART + 1, PART):
                yield file, picture.crop((left, top, left + PART, top + PART))


def _tried(name: str, training: list[Named], testing: list[Named]) -> str:
    encoder = load(parse(name))
    of_photograph = {photo: n for n, photo in enumerate(dict(training) | dict(testing))}
    pictures, truth, groups = [], [], []
    for _, picture in training:
        drawn = damage.drawn(KINDS, hashlib.sha256(picture.tobytes()).hexdigest(), seed=0)
        pictures += [picture, _twin(picture, drawn)]
    for _, picture in testing:
        pictures += [picture, _twin(picture, Damage.of("jpeg", quality=QUALITY))]
    for photo, _ in [*training, *testing]:
        truth += [(True, False), (False, True)]
        groups += [of_photograph[photo]] * 2
    began = time.perf_counter()
    x = np.empty((len(pictures), encoder.dim), np.float32)
    for index, vector in embed_files(encoder, pictures):
        x[index] = vector
    rate = len(pictures) / (time.perf_counter() - began)
    x = x.astype(np.float16).astype(np.float32)  # as they are stored
    n, known, of = 2 * len(training), np.array(truth), np.array(groups)
    rows = TrainingSet(np.arange(n), x[:n], np.zeros(n), of[:n], np.zeros(n, bool))
    data = ClassData(rows, known[:n], (0, 1), ("clean", "compressed"), (1.0, 1.0))
    trained = train(data, recipe_named("auto", seed=0))
    p = Head(trained.tensors, several=False)(x[n:])
    found = measure((0, 1), known[n:], p, said(p, several=False), of[n:], several=False)
    ap, accuracy = found.classes[1].average_precision, found.accuracy
    return (
        f"| `{name.partition('@')[0]}` | {encoder.dim:,} | {ap.value:.3f} "
        f"({ap.low:.3f}–{ap.high:.3f}) | {accuracy.value:.3f} | {rate:.1f} |"
    )


def _twin(picture: Image.Image, done: Damage) -> Image.Image:
    return decode(Image.open(io.BytesIO(damage.damaged(picture, done))))


if __name__ == "__main__":
    print(main())
