"""What leaves and what comes back: exports, model cards, sheets, heads made elsewhere."""
