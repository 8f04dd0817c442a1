"""Accuracy on held-out samples, measured by the rollout servers while training goes on."""
