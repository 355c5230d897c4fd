"""Hand scores: events that only grow, and the labels that follow from them."""

from tastemaker.scores.events import (
    highest_event,
    is_standing,
    newest_event,
    recent,
    standing_events,
)
from tastemaker.scores.labels import (
    UNBIASED_ORIGINS,
    aggregate,
    change_project,
    histogram,
    histogram_text,
    labels_at,
    rebuild_labels,
)
from tastemaker.scores.recording import (
    Recorded,
    parse_score,
    record,
    record_for,
    record_many,
    undo,
)

__all__ = [
    "UNBIASED_ORIGINS",
    "Forbidden",
    "Recorded",
    "aggregate",
    "change_project",
    "highest_event",
    "histogram",
    "histogram_text",
    "is_standing",
    "labels_at",
    "newest_event",
    "parse_score",
    "rebuild_labels",
    "recent",
    "record",
    "record_for",
    "record_many",
    "standing_events",
    "undo",
]  # fmt: skip
