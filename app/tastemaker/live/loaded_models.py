"""Heads and routers in memory, and what each says of one vector, as JSON.

Every answer has `by`, `version_id`, `active`, `score` (0–1, None where none is given), `bracket`,
`uncertainty` and `out_of_fold`. Of what tells classes apart it has `classes` as well, the likeliest
first, each with its `probability`; `several` where these are tags, of which an image has those from
½ on. Of a router it says how the picture came to its score.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from tastemaker import versions
from tastemaker.config import Settings
from tastemaker.database.tables import ClassPrediction, EncoderRow, Prediction, Project, Version
from tastemaker.encoding.encoder_names import differ
from tastemaker.errors import Conflict, NotFound
from tastemaker.files import is_bare_name
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.class_metrics import ClassRecord
from tastemaker.learning.router_files import MANIFEST, member_path, read_manifest
from tastemaker.scores import classes
from tastemaker.versions import class_rows

if TYPE_CHECKING:
    from tastemaker.filtering.router import Routed, Router

Head = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # (N, D) → (N,), or (N, K) of classes

HEADS, ROUTERS = 8, 2  # how many stay loaded
SCORED, REJECTED, ABSTAINED = "scored", "rejected", "abstained"  # what became of a routed picture


class LoadedModels:
    """Belongs to one thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._heads: LRUCache[str, Head] = LRUCache(HEADS)
        self._routers: LRUCache[Path, tuple[bytes, Router]] = LRUCache(ROUTERS)

    # --- versions --------------------------------------------------------------------------------

    def by_version(
        self,
        session: Session,
        project: Project,
        version: Version,
        vector: NDArray[np.float32],
        nearest: list[int],
        image_id: int | None,
    ) -> dict[str, Any]:
        """What a version says of a vector (D,); `nearest` are the ids of images that lend it their
        uncertainty. Raises `Conflict` for one of another encoder or a file that was altered."""
        if version.encoder_id != project.encoder_id:
            raise Conflict(
                f"{version.number} was trained on another encoder than “{project.name}” uses now.",
                "Make it the active version first, or choose another one.",
            )
        said = self._head(version)(vector[None])[0]
        told: dict[str, Any] = {
            "by": version.number, "version_id": version.id, "active": version.active,
            "score": None, "bracket": "", "uncertainty": None, "out_of_fold": None,
        }  # fmt: skip
        if version.classes.numbers:
            row = session.get(ClassPrediction, (version.id, image_id)) if image_id else None
            return told | by_class(session, project, version.classes, said, row)
        if np.ndim(said):
            names = version.recipe.get("labels") or []
            told |= {"classes": _foreign_classes(names, said), "several": False}
        score = float(1 - said[0]) if np.ndim(said) else float(said)
        own_row = session.get(Prediction, (version.id, image_id)) if image_id else None
        spread = session.exec(
            select(Prediction.uncertainty).where(
                Prediction.version_id == version.id, col(Prediction.image_id).in_(nearest)
            )
        ).all()
        return told | {
            "score": score, "bracket": bracket(project, score),
            "uncertainty": float(np.mean(spread)) if spread else None,
            "out_of_fold": own_row.out_of_fold if own_row else None,
        }  # fmt: skip

    def _head(self, version: Version) -> Head:
        if version.sha256 not in self._heads:
            from tastemaker.learning import heads  # imports torch

            path = versions.verify(self.settings, version)
            self._heads[version.sha256] = heads.Head(load_checkpoint(path))
        return self._heads[version.sha256]

    # --- routers ---------------------------------------------------------------------------------

    def by_router(
        self, project: Project, row: EncoderRow, folder: str, vector: NDArray[np.float32]
    ) -> dict[str, Any]:
        """What the router in a folder of this home says of a vector (D,) of the project's encoder.
        Raises `NotFound` or `CheckpointError` for one that is gone or lacks a member, `Conflict`
        for one of another encoder."""
        router = self._router(folder)
        _check_encoder(router, project, row)
        says = router.manifest
        (routed,) = router.explain(vector[None])
        return {
            "by": router.name, "version_id": None, "router": folder, "active": False,
            "score": routed.score, "bracket": "", "uncertainty": None, "out_of_fold": None,
            "threshold": router.threshold, "mode": says.mode, "scale": says.scale,
            "abstain": says.abstain, "outcome": _outcome(routed), "taken_for": routed.name,
            "scored_by": routed.scorer, "several": False,
            "classes": sorted(
                (
                    {
                        "name": share.name, "colour": at % classes.COLOURS, "gone": False,
                        "probability": share.probability, "scorer": share.scorer,
                        "score": share.score,
                    }
                    for at, share in enumerate(routed.shares)
                ),
                key=_likeliest,
            ),
        }  # fmt: skip

    def _router(self, name: str) -> Router:
        """Kept while its manifest is the same; its files are looked at each time."""
        folder = self.settings.routers / name
        if not is_bare_name(name) or name.startswith("."):
            raise NotFound(f"There is no router “{name[:60]}”.", "Choose one of the list.")
        says = read_manifest(folder)
        for member in says.members:
            member_path(folder, member)
        content = (folder / MANIFEST).read_bytes()
        held = self._routers.get(folder)
        if held is None or held[0] != content:
            from tastemaker.filtering.router import Router  # imports torch

            held = self._routers[folder] = content, Router(folder)
        return held[1]


def _check_encoder(router: Router, project: Project, row: EncoderRow) -> None:
    here = row.name, None if row.declared else row.fingerprint
    if differ((router.encoder, router.fingerprint), here) or router.features != row.dim:
        reads = router.encoder or f"{router.features} values"
        raise Conflict(
            f"{router.name} reads vectors of {reads}; those of “{project.name}” are of {row.name}.",
            "Vectors of different encoders never mix. Try it in a project of that encoder.",
        )


def _outcome(routed: Routed) -> str:
    if routed.score is None:
        return ABSTAINED
    return REJECTED if routed.scorer is None else SCORED


# --- classes -------------------------------------------------------------------------------------


def _likeliest(told: dict[str, Any]) -> float:
    return -float(told["probability"])


def by_class(
    session: Session,
    project: Project,
    record: ClassRecord,
    said: NDArray[np.float32],
    row: ClassPrediction | None = None,
) -> dict[str, Any]:
    """`classes` and `several` of the probabilities said (K,) of the classes of a record; `row` is
    what a version holds of an image that it may have learned from. The classes are called as they
    are by now: what was merged since counts as what it became, with the sum of the probabilities
    (of tags: the larger one); what was deleted since is `gone`."""
    known = classes.of(session, project.id)
    unseen = class_rows.shares(row, record) if row is not None and row.out_of_fold else {}
    told: dict[int, dict[str, Any]] = {}
    for at, number in enumerate(record.numbers):
        now = known.current_number(number)
        alive = known.by_number[now] if now is not None else None
        key = number if now is None else now
        one = told.setdefault(
            key,
            {
                "number": key, "name": alive.name if alive else record.names[at],
                "colour": alive.colour if alive else None, "gone": alive is None,
                "probability": 0.0, "out_of_fold": 0.0 if unseen else None,
            },
        )  # fmt: skip
        pairs = [("probability", float(said[at]))]
        pairs += [("out_of_fold", unseen[number])] if unseen else []
        for name, value in pairs:
            one[name] = max(one[name], value) if known.several else min(1.0, one[name] + value)
    return {"classes": sorted(told.values(), key=_likeliest), "several": known.several}


def _foreign_classes(names: list[str], said: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The classes of a head made elsewhere, by the names that its sidecar gave them."""
    if len(names) != len(said):
        names = [str(number) for number in range(len(said))]
    told = [
        {
            "number": number, "name": name, "colour": number % classes.COLOURS, "gone": False,
            "probability": float(p), "out_of_fold": None,
        }
        for number, (name, p) in enumerate(zip(names, said.tolist(), strict=True))
    ]  # fmt: skip
    return sorted(told, key=_likeliest)


def bracket(project: Project, score: float) -> str:
    """Name of the bracket that a score in [0, 1] falls into; empty below the lowest."""
    names = [str(name) for low, name in project.brackets if score >= float(low)]
    return names[-1] if names else ""
