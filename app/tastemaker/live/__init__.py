"""The model process that stays: the live model, and answers within a breath."""
