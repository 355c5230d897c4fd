"""Heads of one encoder that score together: a picture is encoded once, a file is read once.

    panel = Panel([Scorer("Anime-v1.8.safetensors"), Scorer("Photos-v2.0.safetensors")])

The first one leads: by what it says rows are filtered and ranked. Each of several has a column that
is called by its name, and of classes one for each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.encoding.embedding_files import Block, Embeddings
from tastemaker.encoding.encode_files import Source
from tastemaker.encoding.encoder_names import differ
from tastemaker.encoding.encoders import Encoder
from tastemaker.errors import BadImage, Conflict, Invalid
from tastemaker.files.json_text import json_text
from tastemaker.filtering.class_columns import OWN, share_columns
from tastemaker.filtering.columns import ADDED
from tastemaker.filtering.losses import OnError
from tastemaker.filtering.one_encoder import knows_most, one_encoder
from tastemaker.filtering.score_tables import MODEL, SCHEMA, table, with_column
from tastemaker.filtering.scorer import NOT_FINITE, Scorer, unknown


class Panel:
    """`first` leads; `names` are the columns of all, none where there is only one."""

    def __init__(self, scorers: Scorer | Sequence[Scorer]) -> None:
        """Raises `Invalid` for twice the same head, `Conflict` for heads of other encoders."""
        self.scorers = [scorers] if isinstance(scorers, Scorer) else list(scorers)
        if not self.scorers:
            raise Invalid("No head was named.", "Name a .safetensors file.")
        self.first = self.scorers[0]
        one_encoder(
            self.scorers, "one pass has one encoder", "Score with each in a run of its own."
        )
        self.names = _named_apart(self.scorers) if len(self.scorers) > 1 else []

    @property
    def about(self) -> dict[str, str]:
        """What a file of scores says of the heads that gave them."""
        told = dict(self.first.about)
        if self.names:
            each = zip(self.names, self.scorers, strict=True)
            models = [{"column": name} | scorer.about for name, scorer in each]
            told["models"] = json_text(models)
        return told

    @property
    def run(self) -> dict[str, Any]:
        """What the manifest of a run holds of the heads, besides the hash of the first."""
        others = {"heads": [scorer.sha256 for scorer in self.scorers]} if self.names else {}
        return {"encoder": self.first.encoder} | others

    @property
    def doubts(self) -> list[str]:
        return [doubt for scorer in self.scorers for doubt in scorer.doubts]

    # --- the encoder -----------------------------------------------------------------------------

    def load_encoder(self) -> Encoder:
        """The encoder of all, loaded once. Raises as `Scorer.load_encoder`."""
        leader = knows_most(self.scorers)
        encoder = leader.load_encoder()
        for other in self.scorers:
            if other is not leader:
                other.check_encoder(encoder)
        return encoder

    def embed(
        self, sources: Iterable[Source], on_error: Callable[[int, BadImage], None]
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """The embeddings of pictures, each decoded in a guarded child (`Scorer.embed`)."""
        self.load_encoder()
        return knows_most(self.scorers).embed(sources, on_error, guarded=True)

    def check_source(self, opened: Embeddings, name: str) -> None:
        """Raises `Invalid` for embeddings of another width, `Conflict` for those of another
        encoder, as far as the file knows it."""
        self.check_make(opened.dim, opened.encoder, opened.fingerprint, name)

    def check_make(
        self, dim: int | None, encoder: str | None, fingerprint: str | None, name: str
    ) -> None:
        """The same of what is known before a file is opened."""
        if dim is not None:
            self.first.check_width(dim, name)
        for scorer in self.scorers:
            theirs, ours = fingerprint, scorer.fingerprint
            one, other = encoder, scorer.encoder
            if differ((one, theirs), (other, ours)):
                raise Conflict(
                    f"{name} was made by {one or 'another encoder'} (fingerprint {theirs}), and "
                    f"{scorer.name} was trained on {other} ({ours}): every score would be wrong.",
                    "Embed the pictures with the encoder the head was trained on.",
                )

    # --- scores ----------------------------------------------------------------------------------

    def tables(
        self,
        blocks: Iterable[Block],
        name: str,
        on_error: OnError,
        tell: Callable[[str], None],
        *,
        encoded: bool,
    ) -> Iterator[pa.Table]:
        """Blocks of embeddings as tables of their scores; `encoded` tells that they come from the
        heads' own encoder. A row that one of the heads cannot score goes to `on_error`."""
        for paths, x, carried in blocks:
            scores, faults = self._scored(x, name, tell, encoded)
            for row, reason in sorted(faults.items()):
                on_error(paths[row].as_py(), BadImage(reason))
            if faults:
                fine = np.ones(len(x), bool)
                fine[list(faults)] = False
                paths, scores = paths.filter(pa.array(fine)), [each[fine] for each in scores]
                carried = None if carried is None else carried.filter(pa.array(fine))
            rows = self._table(paths, scores, carried)
            del paths, x, carried  # not held while the next block is read
            yield rows

    def empty(self) -> pa.Table:
        """A table of no rows, with the columns and types of every other."""
        scores = [scorer.blank(0) for scorer in self.scorers]
        return self._table(pa.array([], pa.string()), scores, None)

    def _table(
        self, paths: pa.Array, scores: list[NDArray[np.float32]], carried: pa.Table | None
    ) -> pa.Table:
        """What all heads say of paths (n,), each scores (n,) or probabilities of classes (n, K)."""
        classes = self.first.classes
        make = table if classes is None else classes.table
        rows = make(paths, scores[0], carried)
        for name, scorer, given in zip(self.names, self.scorers, scores, strict=False):
            if scorer.classes is None:
                rows = with_column(rows, name, pa.array(given))
            elif scorer is not self.first:
                for k, share in enumerate(share_columns(scorer.labels)):
                    rows = with_column(rows, f"{name} {share}", pa.array(given[:, k]))
        return rows

    def _scored(
        self, x: NDArray[Any], name: str, tell: Callable[[str], None], encoded: bool
    ) -> tuple[list[NDArray[np.float32]], Mapping[int, str]]:
        scores: list[NDArray[np.float32]] = []
        faults: dict[int, str] = {}
        for scorer in self.scorers:
            before = len(scorer.doubts)
            if encoded:
                given = scorer.encoded(x)
                wrong = dict.fromkeys(np.flatnonzero(unknown(given)).tolist(), NOT_FINITE)
                wrong |= scorer.undecided(x)
            else:
                given, wrong = scorer.vectors(x, name)
            for doubt in scorer.doubts[before:]:
                tell(doubt)
            scores.append(given)
            faults = wrong | faults
        return scores, faults


def _named_apart(scorers: Sequence[Scorer]) -> list[str]:
    """A column's name for each: as it is called, with a piece of its hash where two are called
    alike, or one like another column of a table."""
    if len({scorer.sha256 for scorer in scorers}) < len(scorers):
        raise Invalid("Two of the models are the same file.", "Name each once.")
    names = [scorer.name for scorer in scorers]
    taken = {*SCHEMA.names, *OWN, *share_columns(scorers[0].labels), *ADDED, MODEL}
    return [
        f"{name} ({scorer.sha256[:8]})" if names.count(name) > 1 or name in taken else name
        for name, scorer in zip(names, scorers, strict=True)
    ]
