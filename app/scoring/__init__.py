"""What people say: scores as events, the labels that follow, and how well people agree."""
