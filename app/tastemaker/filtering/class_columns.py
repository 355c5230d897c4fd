"""What a head of classes or tags says of an image, as columns of a table.

Every row has `class`, what it is taken for, `probability` and `percent` of that, and the
probability of each class in a column of its own, `p_` and its name. Of tags `class` lists those
from 50 % on (none: it is empty), and `probability` is that of the likeliest.

Where classes are chosen, with the least probability of each or without one, a row speaks of these
alone: what it is taken for among them, and how sure that is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.errors import Invalid
from tastemaker.files.texts import composed

OWN = ("path", "class", "probability", "percent")
SHARE = "p_"  # before the name of a class: the column of its probability


@dataclass(frozen=True)
class ClassReading:
    """How the outputs of a head are read: the `names` of its K classes in their order, whether an
    image can have `several` of them, and those that were `chosen`, by their places, with the least
    probability of each (None: what the head takes the image for)."""

    names: tuple[str, ...]
    several: bool
    chosen: Mapping[int, float | None] = field(default_factory=dict)

    def choose(self, typed: Sequence[str]) -> "ClassReading":
        """With the classes named as `NAME`, or `NAME=70` for at least 70 %. Raises `Invalid`."""
        return ClassReading(self.names, self.several, dict(map(self._chosen, typed)))

    def _chosen(self, typed: str) -> tuple[int, float | None]:
        name, equals, percent = typed.rpartition("=")
        if not equals or self._place(typed) is not None:  # a name may hold the sign
            name, percent = typed, ""
        place = self._place(name)
        if place is None:
            known = ", ".join(self.names[:12]) + (" …" if len(self.names) > 12 else "")
            raise Invalid(f"“{name[:60]}” is no class of this head.", f"There are: {known}.")
        if not percent:
            return place, None
        try:
            least = float(percent)
        except ValueError:
            least = -1.0
        if not 0 <= least <= 100:
            raise Invalid(
                f"“{percent[:20]}” is no percentage from 0 to 100.",
                f"Write {self.names[place]}=70 for at least 70 %.",
            )
        return place, least / 100

    def _place(self, name: str) -> int | None:
        wanted = composed(name.strip()).casefold()
        return next((k for k, own in enumerate(self.names) if own.casefold() == wanted), None)

    def _fits(self, p: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(n, K) which classes each of the probabilities p (n, K) is taken for."""
        if self.several:
            fits = p >= 0.5
        else:
            fits = np.zeros(p.shape, bool)
            fits[np.arange(len(p)), p.argmax(axis=1)] = True
        for k, least in self.chosen.items():
            if least is not None:
                fits[:, k] = p[:, k].astype(np.float64) >= least - 1e-9
        if self.chosen:
            others = [k for k in range(p.shape[1]) if k not in self.chosen]
            fits[:, others] = False
        return fits

    def table(
        self, paths: pa.Array, p: NDArray[np.float32], carried: pa.Table | None = None
    ) -> pa.Table:
        """Paths (n,) and probabilities p (n, K) as a table; after it the `carried` columns that are
        not called like one of these. Where none fits, `class` is null."""
        fits = self._fits(p)
        among = list(self.chosen) or list(range(p.shape[1]))
        # Of those that fit the surest, and where none does, the likeliest.
        lead = np.where(fits, p, -1.0).max(axis=1)
        lead = np.where(lead < 0, p[:, among].max(axis=1), lead).astype(np.float32)
        percent = np.round(100 * lead.astype(np.float64), 2).astype(np.float32)
        names = [self._words(row, shares) for row, shares in zip(fits, p, strict=True)]
        columns: dict[str, Any] = {
            "path": paths, "class": pa.array(names, pa.string()), "probability": pa.array(lead),
            "percent": pa.array(percent),
        }  # fmt: skip
        columns |= {
            name: pa.array(p[:, k]) for k, name in enumerate(share_columns(self.names))
        }  # fmt: skip
        rows = pa.table(columns)
        if carried is not None:
            for name in carried.column_names:
                if name not in {*rows.column_names, "model"}:
                    rows = rows.append_column(name, carried[name])
        return rows

    def _words(self, fits: NDArray[np.bool_], p: NDArray[np.float32]) -> str | None:
        held = np.flatnonzero(fits)
        if not self.several and len(held) > 1:
            held = held[[p[held].argmax()]]
        return ", ".join(self.names[k] for k in held) or None


def fitting(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Only the rows that one of the chosen classes fits."""
    for rows in tables:
        yield rows.filter(pc.is_valid(rows["class"]))


def share_columns(names: Sequence[str]) -> list[str]:
    """The column of each class; of two classes of one name the later has its place in it."""
    columns: list[str] = []
    for place, name in enumerate(names):
        column = SHARE + name
        columns.append(column if column not in columns else f"{column}_{place}")
    return columns
