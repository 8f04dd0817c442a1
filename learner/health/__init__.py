"""Health gates: what a run's figures say about it, and what they remember of it."""
