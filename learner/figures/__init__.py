"""Figures of a step: its parts in seconds, means over its tokens, and the files they go to."""
