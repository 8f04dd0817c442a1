"""Predict a run before it starts, and say afterwards where its time went."""
