"""What every test leaves as it should be found."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_log_handlers_left() -> Iterator[None]:
    """A program that a test runs in this process logs to that test's output, which is closed behind
    it: each later line would be an error on the output of another test.
    """
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(logging.WARNING)
