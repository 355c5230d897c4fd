"""Metrics as programs see them, as the value that is stored."""

import importlib.util
from pathlib import Path
from typing import Any

from tastemaker.learning.version_metrics import VersionMetrics

MIGRATION = Path(__file__).parent.parent / "migrations" / "versions" / "0004_nested_metrics.py"


def from_flat(metrics: dict[str, Any]) -> VersionMetrics:
    """Metrics in the form of `versions show --json`."""
    spec = importlib.util.spec_from_file_location("nested_metrics", MIGRATION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return VersionMetrics.model_validate(module.nested(metrics))
