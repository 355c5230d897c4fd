"""What to show next, and why."""

from tastemaker.queues.sources import QUEUES, card_for, next_cards, progress

__all__ = ["QUEUES", "card_for", "next_cards", "progress"]
