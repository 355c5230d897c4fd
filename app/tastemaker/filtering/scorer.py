"""A head with its encoder: pictures or embeddings in, scores in 0-1 out, or of a head that tells
classes apart, their probabilities.

    scorer = Scorer("Anime-v1.8.safetensors")
    scorer.score("a.jpg")                       one picture: a float
    scorer.score(["a.jpg", "b.png"])            several: float32 (2,)
    scorer.score(numpy.load("x.npy"))           embeddings (N, D): float32 (N,)

    scorer = Scorer("Kinds-v1.0.safetensors")
    scorer.classify(["a.jpg", "b.png"])         float32 (2, K), of the K classes in scorer.labels

No database, no server, no home folder: nothing is written, and nothing is read but the file, its
sidecar, the pictures and, at the first picture, the weights of the encoder.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.config import Settings
from tastemaker.encoding.devices import validate_device
from tastemaker.encoding.embedding_files import BLOCK, floats
from tastemaker.encoding.encode_files import Source
from tastemaker.encoding.encoder_names import differ, given
from tastemaker.encoding.encoder_specs import parse
from tastemaker.encoding.encoders import Encoder, load
from tastemaker.encoding.similarity import are_normalised
from tastemaker.errors import BadImage, Conflict, Invalid
from tastemaker.files import readable
from tastemaker.files.addresses import is_address, local_path, shown
from tastemaker.files.json_text import json_text
from tastemaker.filtering.head_files import (
    classes_of,
    percentiles_of,
    read_head,
    read_sidecar,
    sidecar_encoder,
    text_of,
    threshold_of,
)
from tastemaker.filtering.picture_order import batches, in_order
from tastemaker.filtering.remote_pictures import Picture, sources_of
from tastemaker.learning.checkpoints import check_described, sidecar_path
from tastemaker.learning.heads import Head
from tastemaker.pictures.pictures import Limits

Precision = Literal["fp32", "fast"]
Errors = Literal["raise", "skip"]
PICTURE = (str, os.PathLike, Image.Image)  # the same, to check at run time
Vectors = NDArray[np.floating[Any]]

NOT_FINITE = "The embedding holds values that are not finite numbers."
CHECKED = 64  # rows of a block that show whether it is L2-normalised


class Scorer:
    """Scores pictures or embeddings with one head. `tastemaker score` and programs use the same.

    - `encoder`: the name of the encoder it was trained on, or the one given; None if unknown
    - `fingerprint`: of that encoder, as the file knows it; None if unknown
    - `threshold`: the score from which an image passes, 0.5 if the file names none
    - `percentiles`: 101 scores, rising: `percentiles[90]` has 90 % of its project's images below
      it. From an exported sidecar; empty if unknown
    - `project` and `version`: where it comes from, as “Anime” and “v1.8”; None if unknown
    - `labels`: the names of the K classes, or tags, that it tells apart; empty if it scores
    - `classes`: how these are read and which of them were chosen; None if it scores
    - `promises`: what audits of its filter said, as its exported sidecar lists them; else None
    - `features`: D, the length of an embedding
    - `normalised`: whether it was trained on L2-normalised embeddings; None if unknown
    - `doubts`: why the scores given so far may be wrong, in sentences; mostly empty
    - `path`, `sha256`: the file and the hash of its bytes
    """

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
        """Read a head from a file that nobody vouches for: one of this program, a score file of
        the original, or a LAION head. `encoder` names the encoder of a file that does not. With
        `precision="fast"`, large products are in bfloat16 where the processor has it, about 2e-3
        off. `limits` of a picture are those of the settings unless given. Pictures are encoded on
        `device`, a GPU if there is one unless given, and `batch` of them at once, which is
        measured otherwise.

        Raises `NotFound`, `CheckpointError` for what is no head or has the sidecar of another
        beside it, `Invalid` for an encoder that there is not or a device that is not there,
        `Conflict` for another encoder than the file names.
        """
        if not isinstance(path, str | os.PathLike) or not isinstance(encoder, str | None):
            raise Invalid(
                "A head is loaded by its path and, where the file names none, its encoder's name; "
                f"these are {type(path).__name__} and {type(encoder).__name__}.",
            )
        self.path = local_path(os.fsdecode(path))
        self.checkpoint = read_head(self.path)
        about = self.checkpoint.metadata
        beside, self._sidecar_fault = read_sidecar(sidecar_path(self.path))
        names = sidecar_path(self.path).name, self.path.name
        check_described(beside, *names, self.checkpoint.sha256)
        self.classes = classes_of(self.checkpoint, beside, self.path.name)
        own = (about.get("encoder"), about.get("encoder_fingerprint"))
        own_encoder, self.fingerprint = own if "encoder" in about else sidecar_encoder(beside)
        self.encoder = given(encoder, own_encoder, self.path.name) if encoder else own_encoder
        self.project = about.get("project") or text_of(beside.get("name"))
        self.version = about.get("version") or text_of(beside.get("rev"))
        self.threshold = threshold_of(about.get("threshold", beside.get("threshold")))
        self.percentiles = percentiles_of(beside.get("percentiles"))
        self.promises = beside.get("promises")
        embedding = about.get("embedding")
        self.normalised = None if embedding is None else embedding == "L2-normalised"
        self.features, self.sha256 = self.checkpoint.features, self.checkpoint.sha256
        named = "project" in about and "version" in about
        self.name = f"{about['project']}@{about['version']}" if named else readable(self.path.stem)
        self.doubts: list[str] = []
        self._keep_options(
            encoder=encoder, precision=precision, limits=limits, device=device, batch=batch
        )
        self._head: Callable[[Vectors], NDArray[np.float32]] = Head(self.checkpoint, precision)

    def _keep_options(
        self, *, limits: Limits | None, device: str | None, batch: int | None, **others: Any
    ) -> None:
        """Keep what the scorer was given, also for another process that shall score the same."""
        self.options = {"limits": limits, "device": device, "batch": batch} | others
        self._limits, self._batch = limits, batch
        self._device = None if device is None else validate_device(device)

    def __repr__(self) -> str:
        return f"<Scorer {self.name}: {self.features} features of {self.encoder or 'any encoder'}>"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes.names if self.classes else ()

    @property
    def about(self) -> dict[str, str]:
        """What a file of scores says of the head that gave them."""
        told = {"model": self.name, "model_sha256": self.sha256}
        if isinstance(self.promises, list) and self.promises:
            told["promises"] = json_text(self.promises)
        return told

    # --- one call for everything -------------------------------------------------------------

    @overload
    def score(  # type: ignore[overload-overlap]  # a text is an iterable of texts as well
        self, x: Picture, *, errors: Errors = "raise"
    ) -> float: ...
    @overload  # a float or an array: the number of dimensions is no part of an array's type
    def score(self, x: Vectors, *, errors: Errors = "raise") -> Any: ...
    @overload
    def score(self, x: Iterable[Picture], *, errors: Errors = "raise") -> NDArray[np.float32]: ...

    def score(self, x: Any, *, errors: Errors = "raise") -> float | NDArray[np.float32]:
        """Scores in 0-1. A single picture or embedding gives a float, several give (N,) float32 in
        their order.

        Pictures are paths, addresses (s3://…, https://…) or PIL images, one or any iterable of
        them; embeddings are an array (D,) or (N, D) of any floating-point type. What cannot be
        scored, an unreadable picture or an embedding that is not finite or all zeros, raises an
        error that names it; with `errors="skip"` its score is NaN instead.

        Raises `BadImage` for a picture; `Invalid` for embeddings of another width or normalisation
        than the head was trained on, and for anything else than pictures and embeddings;
        `EncoderUnavailable` or `Conflict` where pictures cannot be encoded as in training.
        """
        if self.classes is not None:
            raise Invalid(
                f"{self.name} tells {len(self.labels)} classes apart; it gives no score.",
                "Call classify(): it gives the probability of each.",
            )
        scores, single = self._read(x, errors)
        return float(scores[0]) if single else scores

    def classify(self, x: Any, *, errors: Errors = "raise") -> NDArray[np.float32]:
        """Probabilities in 0-1 of the K classes in `labels`: (K,) of a single picture or embedding,
        (N, K) of several. Those of classes add up to 1; of tags each is for itself. Otherwise as
        `score`. Raises `Invalid` for a head that scores."""
        if self.classes is None:
            raise Invalid(f"{self.name} scores; it tells no classes apart.", "Call score().")
        probabilities, single = self._read(x, errors)
        return np.asarray(probabilities[0] if single else probabilities)

    def _read(self, x: Any, errors: Errors) -> tuple[NDArray[np.float32], bool]:
        """What the head says of all of x, (N,) or (N, K), and whether x is a single one."""
        if errors not in ("raise", "skip"):
            raise Invalid(f"errors is 'raise' or 'skip', not {errors!r}.")
        if isinstance(x, PICTURE):
            return self._score_pictures([x], errors), True
        if not _is_numeric(x):
            x = _listed(x)
            if all(isinstance(item, PICTURE) for item in x):
                return self._score_pictures(x, errors), False
        vectors = _as_vectors(x)
        scores = self._score_vectors(np.atleast_2d(vectors), errors)
        for doubt in self.doubts:
            warnings.warn(doubt, stacklevel=3)
        return scores, vectors.ndim == 1

    def blank(self, count: int) -> NDArray[np.float32]:
        """Room for what the head says of so many: (count,), or (count, K)."""
        shape = (count, len(self.labels)) if self.classes else (count,)
        return np.full(shape, np.nan, np.float32)

    def _score_pictures(self, pictures: Sequence[Picture], errors: Errors) -> NDArray[np.float32]:
        if not pictures:
            return self.blank(0)

        def report(index: int, error: BadImage) -> None:
            if errors == "raise":
                name = _name_of(pictures[index], index)
                raise BadImage(f"{name}: {error.message}", error.hint) from error

        scores = self.blank(len(pictures))
        for indices, values in self.pictures(sources_of(pictures, self.limits.bytes), report):
            scores[indices] = values
        return scores

    def _score_vectors(self, x: Vectors, errors: Errors) -> NDArray[np.float32]:
        """Block by block, as a file of embeddings: a memory-mapped array stays on the disk."""
        self.check_width(x.shape[1], "This array")
        scores = self.blank(len(x))
        for start in range(0, len(x), BLOCK):
            scores[start : start + BLOCK], faults = self.vectors(x[start : start + BLOCK])
            if faults and errors == "raise":
                row, reason = next(iter(faults.items()))
                where = f"Row {start + row}: " if len(x) > 1 else ""
                raise Invalid(f"{where}{reason}", "Leave it out, or pass errors='skip'.")
        return scores

    # --- embeddings --------------------------------------------------------------------------

    def vectors(
        self, x: Vectors, source: str = "This array"
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Scores (N,) of embeddings (N, D), or probabilities (N, K), NaN for those that cannot be
        scored; and the reason for each of these, by row. Raises `Invalid`, about the `source`, for
        another width, or where L2-normalised embeddings meet a head that was trained on raw
        ones."""
        self.check_width(x.shape[1], source)
        unfit = not self.normalised and are_normalised(x[:: max(1, len(x) // CHECKED)])
        if unfit and self.normalised is None and not self.doubts:
            self.doubts.append(
                f"{source} holds L2-normalised embeddings, and {self.name} does not say whether it "
                "was trained on such. If it was trained on raw ones, every score is wrong."
            )
        if unfit and self.normalised is False:
            raise Invalid(
                f"{source} holds L2-normalised embeddings, and {self.name} was trained on raw "
                "ones: every score would be wrong.",
                "Embed the pictures again without normalising, or train on normalised ones.",
            )
        scores = self._head(self._as_trained(x))
        near = np.abs(scores - self._score_of_zeros) < 0.001  # only these are worth a look
        empty = near if near.ndim == 1 else near.all(axis=1)
        empty[empty] = ~np.asarray(x[empty]).any(axis=1)
        faults = dict.fromkeys(
            np.flatnonzero(unknown(scores)).tolist(), NOT_FINITE
        ) | dict.fromkeys(
            np.flatnonzero(empty).tolist(), "The embedding is all zeros: it was never written."
        )
        scores[empty] = np.nan
        return scores, dict(sorted(faults.items()))

    def check_width(self, width: int, source: str) -> None:
        if width != self.features:
            raise Invalid(
                f"{source} holds vectors of {width} values; this head reads {self.features}.",
                "Embed them with the encoder the head was trained on.",
            )

    @functools.cached_property
    def _score_of_zeros(self) -> NDArray[np.float32]:
        return np.asarray(self._head(np.zeros((1, self.features), np.float32))[0])

    def _as_trained(self, x: Vectors) -> Vectors:
        """The vectors (N, D) as the head saw such in training."""
        if not self.normalised:
            return x
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite scores NaN
            x = x.astype(np.float32)
            # The squares in float64: those of values above 1e19 are beyond float32.
            lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
            unit: Vectors = x / lengths.clip(1e-12).astype(np.float32)[:, None]
        return unit

    # --- pictures ----------------------------------------------------------------------------

    def pictures(
        self,
        sources: Iterable[Source],
        on_error: Callable[[int, BadImage], None],
        *,
        guarded: bool = False,
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Score pictures in their order, some at a time: (indices, scores (n,) or (n, K)). What
        cannot be decoded goes to `on_error(index, error)`, and the others go on. `sources`, which
        may be a stream, and `guarded` as for `embed_files`."""
        for indices, vectors in self.embed(sources, on_error, guarded=guarded):
            yield indices, self.encoded(vectors)

    def embed(
        self,
        sources: Iterable[Source],
        on_error: Callable[[int, BadImage], None],
        *,
        guarded: bool = False,
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """The embeddings (n, D) of pictures as the encoder gives them, as for `pictures`."""
        vectors_of = in_order(
            self.load_encoder(), sources, self.limits, on_error, self._batch, guarded
        )
        for batch in batches(vectors_of):
            yield [index for index, _ in batch], np.stack([vector for _, vector in batch])

    def encoded(self, x: Vectors) -> NDArray[np.float32]:
        """Scores (N,) of embeddings (N, D) that come from this head's own encoder."""
        return self._head(self._as_trained(x))

    def undecided(self, x: Vectors) -> dict[int, str]:
        """The rows of embeddings that are given no score, and why: those of which a router
        abstains."""
        return {}

    @property
    def limits(self) -> Limits:
        """What one picture may cost: as given, else as the settings have it."""
        return self._limits or Limits.of(Settings()).anywhere()

    def load_encoder(self) -> Encoder:
        """The encoder the head was trained on, loaded at the first call (seconds). An encoder that
        differs is refused."""
        return self._loaded_encoder

    @functools.cached_property
    def _loaded_encoder(self) -> Encoder:
        if self.encoder is None:
            raise Invalid(
                f"{self.path.name} does not say which encoder it needs. "
                f"{self._sidecar_fault}".rstrip(),
                "Name it with --encoder, in a program with encoder=…, as "
                "“ViT-L-14-quickgelu/openai”.",
            )
        encoder = load(parse(self.encoder), device=self._device)
        self.check_encoder(encoder)
        return encoder

    def check_encoder(self, encoder: Encoder) -> None:
        """Raises `Conflict` for another encoder than the head was trained on, `Invalid` for one of
        another width."""
        here = encoder.spec.name, encoder.fingerprint
        if differ((self.encoder, self.fingerprint), here):
            raise Conflict(
                f"{encoder.spec.name} as it is on this machine is not the encoder {self.name} was "
                "trained on; its scores would be wrong.",
                f"Fingerprint {encoder.fingerprint} here, {self.fingerprint or self.encoder} "
                "wanted.",
            )
        if encoder.dim != self.features:
            raise Invalid(
                f"{encoder.spec.name} gives {encoder.dim} values; {self.path.name} reads "
                f"{self.features}.",
                "Name the encoder the head was trained on with --encoder.",
            )


# --- what is given -----------------------------------------------------------------------------


def unknown(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) which of the scores (N,), or rows of probabilities (N, K), are none."""
    none = np.isnan(scores)
    return np.asarray(none if none.ndim == 1 else none.any(axis=1))


def _is_numeric(x: object) -> bool:
    """Whether it is an array, and none of objects or texts: those may be paths."""
    return hasattr(x, "__array__") and getattr(getattr(x, "dtype", None), "kind", "f") not in "OUT"


def _listed(x: object) -> list[Any]:
    if isinstance(x, Iterable) and not isinstance(x, bytes | Mapping):
        with contextlib.suppress(TypeError):  # an array without dimensions
            return list(x)
    raise _not_scorable(x)


def _as_vectors(x: Any) -> Vectors:
    """Embeddings (D,) or (N, D) of a type that torch can read; `Invalid` for anything else."""
    try:
        array = np.asarray(x)
    except (TypeError, ValueError):
        raise _not_scorable(x) from None
    if "float" not in array.dtype.name:
        if array.dtype.kind in "iub":
            raise Invalid(
                f"This array holds whole numbers ({array.dtype}); embeddings are floating-point.",
                "For the pixels of a picture, pass PIL.Image.fromarray(array).",
            )
        raise _not_scorable(x)
    if array.ndim not in (1, 2):
        raise Invalid(
            f"This array has the shape {array.shape}.", "Embeddings are of shape (D,) or (N, D)."
        )
    return floats(array)


def _not_scorable(x: object) -> Invalid:
    kinds = sorted({type(item).__name__ for item in x}) if isinstance(x, list) else []
    what = f"a list of {', '.join(kinds)}" if kinds else type(x).__name__
    return Invalid(
        f"{what[0].upper()}{what[1:]} cannot be scored.",
        "Pass a path, a PIL image, a list of these, or an array of embeddings.",
    )


def _name_of(picture: Picture, index: int) -> str:
    """How an error names a picture: by its path, else by its place in the list."""
    if isinstance(picture, Image.Image):
        return getattr(picture, "filename", "") or f"Picture {index}"
    name = os.fsdecode(picture)
    return shown(name) if is_address(name) else name
