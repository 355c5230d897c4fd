"""What to show next, and why."""
