"""Hand scores: events that only grow, and the labels that follow from them."""

from tastemaker.scores.carrying import carry_over
from tastemaker.scores.event_statements import Recorded
from tastemaker.scores.events import (
    highest_event,
    is_standing,
    newest_event,
    newest_of,
    newest_undoable,
    recent,
    standing_events,
)
from tastemaker.scores.labels import (
    aggregate,
    aggregates_of,
    change_project,
    count_labels,
    drawn_at_random,
    histogram,
    histogram_text,
    labels_at,
    rebuild_labels,
    values_of,
)
from tastemaker.scores.offers import Offer
from tastemaker.scores.offers import sign as sign_offer
from tastemaker.scores.origin import Origin
from tastemaker.scores.recording import (
    Given,
    parse_score,
    parse_value,
    record,
    record_for,
    record_many,
    undo,
    undo_group,
    undo_recorded,
)

__all__ = [
    "Given",
    "Offer",
    "Origin",
    "Recorded",
    "aggregate",
    "aggregates_of",
    "carry_over",
    "change_project",
    "count_labels",
    "drawn_at_random",
    "highest_event",
    "histogram",
    "histogram_text",
    "is_standing",
    "labels_at",
    "newest_event",
    "newest_of",
    "newest_undoable",
    "parse_score",
    "parse_value",
    "rebuild_labels",
    "recent",
    "record",
    "record_for",
    "record_many",
    "sign_offer",
    "standing_events",
    "undo",
    "undo_group",
    "undo_recorded",
    "values_of",
]  # fmt: skip
