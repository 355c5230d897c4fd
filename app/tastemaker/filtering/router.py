"""One classifier and a scorer for each of its classes, as one model: of mixed data sets, every
image is scored by the head that was trained on its kind.

    router = Router("Mixed")              a folder: router.json and the files of the members
    router.score(["a.jpg", "b.png"])      float32 (2,), as of a `Scorer`
    router.explain(x)                     of embeddings (N, D): which class each went by

Scores of heads that were trained by themselves mean different things. By the scale “percentile” a
score is where it lies among those of its head's own project: at 0.5 is the head's threshold; above
it the score tells how much of what passes in that project lies below, and beneath it likewise. By
the scale “score” they are taken as they are (`docs/decisions/0049`).
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.encoding.encode_files import Source
from tastemaker.errors import BadImage, Conflict, Invalid
from tastemaker.files import is_folder
from tastemaker.files.percentages import probability
from tastemaker.filtering.one_encoder import knows_most, one_encoder
from tastemaker.filtering.scorer import Precision, Scorer, Vectors
from tastemaker.learning.router_files import MANIFEST, member_path, read_manifest
from tastemaker.pictures.pictures import Limits

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Share:
    """One class of a router for one image: its probability, the member that scores such images
    (None: they never pass), and the score that this gives."""

    name: str
    probability: float
    scorer: str | None
    score: float


@dataclass(frozen=True)
class Routed:
    """How one image came to its score: the likeliest class and its probability, what scored it
    (None: a class that never passes), and the score, None where the router abstains; and all its
    classes, in the order of the routes."""

    name: str
    probability: float
    scorer: str | None
    score: float | None
    shares: tuple[Share, ...] = ()


def load_model(path: str | os.PathLike[str], **options: Any) -> Scorer:
    """The head in a file, or the router in a folder, with the options of either."""
    if isinstance(path, str | os.PathLike) and is_folder(Path(os.fsdecode(path))):
        return Router(path, **options)
    return Scorer(path, **options)


class Router(Scorer):
    """A `Scorer` whose head is a classifier and a scorer for each of its classes; `members` are
    these, by the file. `threshold` is the score from which an image passes."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: str | None = None,
        precision: Precision = "fp32",
        limits: Limits | None = None,
        device: str | None = None,
        batch: int | None = None,
    ) -> None:
        """Read a router from its folder; the options are those of a `Scorer`.

        Raises `NotFound`, `Invalid` or `CheckpointError` for a folder that holds none, a member
        that is gone or was altered, or classes that are not the classifier's; `Conflict` for
        members of different encoders.
        """
        self.path = Path(os.fsdecode(path))
        self.manifest = read_manifest(self.path)
        members = {
            member.file: Scorer(
                member_path(self.path, member), encoder=encoder, precision=precision
            )
            for member in self.manifest.members
        }
        self.members = members
        self.classifier = members[self.manifest.classifier.file]
        self._check_classes()
        first = self._check_encoders()
        self.checkpoint, self.classes, self._sidecar_fault = first.checkpoint, None, ""
        self.encoder, self.fingerprint = first.encoder, first.fingerprint
        self.features, self.normalised = first.features, first.normalised
        self.project, self.version, self.promises = None, None, None
        self.name, self.percentiles = self.manifest.name, ()
        content = (self.path / MANIFEST).read_bytes()  # it holds the hashes of all the others
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.threshold = self._common_threshold()
        self.doubts: list[str] = []
        self._keep_options(
            encoder=encoder, precision=precision, limits=limits, device=device, batch=batch
        )
        self._head = self._routed

    # --- what its members must be ----------------------------------------------------------------

    def _check_classes(self) -> None:
        reading = self.classifier.classes
        if reading is None or reading.several:
            what = (
                "scores" if reading is None else "tells tags apart, of which an image has several"
            )
            raise Invalid(
                f"{self.classifier.name} {what}, and a router needs one class for each image.",
                "Choose a version of a project with classes.",
            )
        named = [route.name for route in self.manifest.classes]
        if sorted(named) != sorted(reading.names):
            raise Invalid(
                f"The router sends {', '.join(named)}; its classifier tells "
                f"{', '.join(reading.names)} apart.",
                "Every class needs a scorer, or is rejected.",
            )
        scorers = [route.scorer for route in self.manifest.classes if route.scorer]
        if not scorers:
            raise Invalid(
                "Every class is rejected, so nothing would get a score.",
                "Give at least one class a scorer.",
            )
        for member in scorers:
            head = self.members[member.file]
            if head.classes is not None:
                raise Invalid(f"{head.name} tells classes apart; it gives no score.",
                              "Choose a version of a project that scores.")  # fmt: skip
            if self.manifest.scale == "percentile" and not head.percentiles:
                raise Invalid(
                    f"{head.name} does not say how its scores are spread, so they cannot be "
                    "compared with another's.",
                    "Export it from its project, or use the scale score.",
                )

    def _check_encoders(self) -> Scorer:
        """The member whose encoder all read: the one that knows most of it."""
        heads = list(self.members.values())
        one_encoder(heads, "a router encodes each picture once", "Choose versions of one encoder.")
        first = heads[0]
        for head in heads:
            if head.normalised != first.normalised:
                raise Conflict(
                    f"Of {first.name} and {head.name} one was trained on L2-normalised vectors and "
                    "the other was not.",
                    "Choose versions of one encoder.",
                )
        return knows_most(heads)

    def _common_threshold(self) -> float:
        if self.manifest.scale == "percentile":
            return 0.5
        own = {
            self.members[route.scorer.file].threshold
            for route in self.manifest.classes
            if route.scorer
        }
        if len(own) > 1:
            told = " and ".join(f"{100 * value:g} %" for value in sorted(own))
            raise Invalid(
                f"The scorers let pass from {told} on, so their scores mean different things.",
                "Use the scale percentile, where 50 % is the threshold of each.",
            )
        return own.pop()

    @property
    def about(self) -> dict[str, str]:
        heads = [f"{head.name} ({head.sha256})" for head in self.members.values()]
        return super().about | {"members": "; ".join(heads)}

    # --- scores ----------------------------------------------------------------------------------

    def _probabilities(self, x: Vectors) -> Scores:
        """(N, K) of the classes in the order of the routes, of embeddings as trained."""
        assert self.classifier.classes is not None, "checked when it was loaded"
        names = list(self.classifier.classes.names)
        order = [names.index(route.name) for route in self.manifest.classes]
        return np.asarray(self.classifier._head(x)[:, order])

    def _by_route(self, x: Vectors) -> Scores:
        """(N, K) the score that each class would give, 0 for one that is rejected."""
        found = np.zeros((len(x), len(self.manifest.classes)), np.float32)
        kept: dict[str, Scores] = {}
        for place, route in enumerate(self.manifest.classes):
            if route.scorer is None:
                continue
            file = route.scorer.file
            if file not in kept:
                kept[file] = self._compared(self.members[file], x)
            found[:, place] = kept[file]
        return found

    def _compared(self, head: Scorer, x: Vectors) -> Scores:
        scores = head._head(x)
        if self.manifest.scale == "score":
            return scores
        return comparable(scores, head.percentiles, head.threshold)

    def _routed(self, x: Vectors) -> Scores:
        """(N,) scores, also of those of which the router abstains; NaN where a row is not
        finite."""
        p, by_route = self._probabilities(x), self._by_route(x)
        if self.manifest.mode == "soft":  # probabilities add up to 1 but for rounding
            return np.asarray((p * by_route).sum(axis=1).clip(0, 1), np.float32)
        unknown = np.isnan(p).any(axis=1)
        chosen = np.where(unknown, 0, np.nan_to_num(p).argmax(axis=1))
        scores = by_route[np.arange(len(x)), chosen]
        scores[unknown] = np.nan
        return np.asarray(scores, np.float32)

    def undecided(self, x: Vectors) -> dict[int, str]:
        if not self.manifest.abstain:
            return {}
        p = self._probabilities(self._as_trained(x))
        rows = np.flatnonzero(p.max(axis=1) < self.manifest.abstain)
        return {int(row): f"Undecided: {self._in_words(p[row])}." for row in rows}

    def _in_words(self, p: Scores) -> str:
        leading = np.argsort(-p, kind="stable")[:2]
        names = [one.name for one in self.manifest.classes]
        return ", ".join(f"{names[k]} {probability(float(p[k]))}" for k in leading)

    def vectors(
        self, x: Vectors, source: str = "This array"
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        scores, faults = super().vectors(x, source)
        undecided = self.undecided(x)
        scores[list(undecided)] = np.nan
        return scores, dict(sorted((undecided | faults).items()))

    def encoded(self, x: Vectors) -> NDArray[np.float32]:
        scores = super().encoded(x)
        scores[list(self.undecided(x))] = np.nan
        return scores

    def pictures(
        self,
        sources: Iterable[Source],
        on_error: Callable[[int, BadImage], None],
        *,
        guarded: bool = False,
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """As of a `Scorer`; a picture of which the router abstains goes to `on_error` too."""
        for indices, x in self.embed(sources, on_error, guarded=guarded):
            scores, undecided = super().encoded(x), self.undecided(x)
            for row, reason in undecided.items():
                on_error(indices[row], BadImage(reason))
            kept = [row for row in range(len(indices)) if row not in undecided]
            if kept:
                yield [indices[row] for row in kept], scores[kept]

    def explain(self, x: Vectors) -> list[Routed]:
        """How each of the embeddings (N, D) comes to its score."""
        self.check_width(x.shape[1], "This array")
        rows = self._as_trained(x)
        p, by_route = self._probabilities(rows), self._by_route(rows)
        scores, undecided = self._routed(rows), self.undecided(x)
        scorers = [
            self.members[route.scorer.file].name if route.scorer else None
            for route in self.manifest.classes
        ]
        told = []
        for row, k in enumerate(np.nan_to_num(p).argmax(axis=1).tolist()):
            shares = tuple(
                Share(route.name, float(p[row, at]), scorers[at], float(by_route[row, at]))
                for at, route in enumerate(self.manifest.classes)
            )
            score = None if row in undecided else float(scores[row])
            told.append(Routed(shares[k].name, shares[k].probability, scorers[k], score, shares))
        return told


def comparable(scores: Scores, percentiles: Sequence[float], threshold: float) -> Scores:
    """Scores (N,) of a head as shares of its own project: `percentiles` are 101 rising scores. The
    threshold is at 0.5; above it, 0.5 and half the share of what passes that lies below; beneath
    it, half the share of what fails. Rising wherever the head's scores do, also within one
    percentile and where many are equal."""
    knots, first = np.unique(np.asarray(percentiles, np.float64), return_index=True)
    shares = first / (len(percentiles) - 1)

    def share(of: Any) -> Any:
        ends = np.concatenate([[min(0.0, knots[0]) - 1e-9], knots, [max(1.0, knots[-1]) + 1e-9]])
        return np.interp(of, ends, np.concatenate([[0.0], shares, [1.0]]))

    cut, at = float(share(threshold)), share(scores.astype(np.float64))
    passing = scores >= threshold
    above = (at - cut) / (1 - cut) if cut < 1 else np.zeros_like(at)
    below = at / cut if cut > 0 else np.ones_like(at)
    told = np.where(passing, 0.5 + 0.5 * above, 0.5 * np.minimum(below, 1 - 1e-7))
    return np.asarray(np.where(np.isnan(scores), np.nan, np.clip(told, 0, 1)), np.float32)
