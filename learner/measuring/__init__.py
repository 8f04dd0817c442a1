"""Figures of a run: metrics, held-out accuracy, health."""
