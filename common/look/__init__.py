"""A dataset as one HTML sheet: sampled rows, distributions over all rows, and what looks wrong."""

from common.look.command import main

__all__ = ["main"]
