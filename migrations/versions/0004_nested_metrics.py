"""the numbers of a version with their intervals inside them: {"mae": {"value", "low", "high", "n"}}
instead of "mae", "mae_low", "mae_high", "mae_n" """

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

VERSION = sa.table("version", sa.column("id", sa.Integer), sa.column("metrics", sa.JSON))
ON_LABELS = ("mae", "spearman", "auc", "fp_rate", "fn_rate", "error_at_threshold")


def upgrade() -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.select(VERSION.c.id, VERSION.c.metrics)).all()
    for version_id, metrics in rows:
        connection.execute(
            sa.update(VERSION).where(VERSION.c.id == version_id).values(metrics=nested(metrics))
        )


def nested(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a version in the new form. What is not there stays away."""
    changed = dict(metrics)
    for name in ("holdout", "out_of_fold", "all_labels"):
        if metrics.get(name) is not None:
            changed[name] = _estimates(metrics[name], ON_LABELS, metrics[name].get("n"))
    for name in ("versus_baseline", "out_of_fold_baseline", "versus_parent"):
        if metrics.get(name):
            changed[name] = _comparison(metrics[name])
    if metrics.get("noise_floor"):
        pairs = metrics["noise_floor"].get("n")
        changed["noise_floor"] = _estimates(metrics["noise_floor"], ("sigma", "mae"), pairs)
        changed["noise_floor"].pop("n", None)
    if metrics.get("learning_curve"):
        on = (metrics.get("holdout") or {}).get("n")
        changed["learning_curve"] = _learning_curve(metrics["learning_curve"], on)
    if metrics.get("slices"):
        changed["slices"] = [_slice(row) for row in metrics["slices"]]
    return changed


def _estimates(flat: dict[str, Any], names: tuple[str, ...], n: int | None) -> dict[str, Any]:
    """The numbers of these names with their intervals; `n` is that of those without their own."""
    rest = dict(flat)
    for name in names:
        if name in flat:
            rest[name] = {
                "value": rest.pop(name),
                "low": rest.pop(f"{name}_low", None),
                "high": rest.pop(f"{name}_high", None),
                "n": rest.pop(f"{name}_n", n) or 0,
            }
    return rest


def _comparison(flat: dict[str, Any]) -> dict[str, Any]:
    rest = dict(flat)
    value, low, high = (rest.pop(name, None) for name in ("difference", "low", "high"))
    estimate = {"value": value, "low": low, "high": high, "n": rest.pop("n", None) or 0}
    return rest | {"difference": estimate}


def _learning_curve(columns: dict[str, Any], n: int | None) -> dict[str, Any]:
    rest = dict(columns)
    names = ("labels", "mae", "mae_low", "mae_high")
    labels, *numbers = (rest.pop(name, None) or [] for name in names)
    blank = [None] * len(labels)
    values, low, high = ((column + blank)[: len(labels)] for column in numbers)
    rest["points"] = [
        {"labels": count, "mae": {"value": value, "low": least, "high": most, "n": n or 0}}
        for count, value, least, most in zip(labels, values, low, high, strict=True)
    ]
    return rest


def _slice(flat: dict[str, Any]) -> dict[str, Any]:
    rest = _estimates(flat, ("mae",), flat.get("labelled"))
    for name, count in (("fp_rate", "fp_n"), ("fn_rate", "fn_n")):
        value, n = rest.get(name), rest.pop(count, None) or 0
        rest[name] = {"value": value, "low": None, "high": None, "n": n}
    return rest
