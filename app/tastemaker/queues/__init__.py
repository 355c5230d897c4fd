"""What to show next, and why: the queues of the Score page and the lists of Review."""

from tastemaker.queues.cards import Card, card_for
from tastemaker.queues.sources import (
    EVERY_QUEUE,
    OF_ONE,
    QUEUES,
    next_cards,
    progress,
    score_page,
    titles,
)

__all__ = [
    "EVERY_QUEUE", "OF_ONE", "QUEUES", "Card", "card_for", "next_cards", "progress", "score_page",
    "titles",
]  # fmt: skip
