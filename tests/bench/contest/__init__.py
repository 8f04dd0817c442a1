"""The broker and its peers under the same load; `tests/bench/broker.py` is the program."""
