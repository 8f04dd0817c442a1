"""The same requests through our rollout and through a plain client, for tests/bench/rollout.py."""
