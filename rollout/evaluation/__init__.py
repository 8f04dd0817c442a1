"""Accuracy on published and own sets: items, prompts, requests, verdicts, results."""
