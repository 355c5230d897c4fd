"""What to show next, and why."""

from tastemaker.queues.sources import QUEUES, card_for, next_cards, progress, score_page

__all__ = ["QUEUES", "card_for", "next_cards", "progress", "score_page"]
