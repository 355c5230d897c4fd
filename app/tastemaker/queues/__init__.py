"""What to show next, and why: the queues of the Score page and the lists of Review."""

from tastemaker.queues.cards import Card, card_for
from tastemaker.queues.sources import OF_ONE, QUEUES, next_cards, progress, score_page

__all__ = ["OF_ONE", "QUEUES", "Card", "card_for", "next_cards", "progress", "score_page"]
