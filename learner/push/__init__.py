"""Weights on their way to the rollout servers, and how they are verified there."""
