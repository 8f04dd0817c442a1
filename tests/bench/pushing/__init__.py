"""The two sides of a weight push, for tests/bench/push.py."""
