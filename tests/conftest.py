"""What every test leaves as it should be found, and which tests begin."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes is no property of the code where processes share the cores.
settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that say how many minutes they take begin, the longest first: processes that share the
    tests then end at nearly the same time.
    """
    items.sort(key=_minutes, reverse=True)


def _minutes(item: pytest.Item) -> float:
    mark = item.get_closest_marker("minutes")
    return 0.0 if mark is None else float(mark.args[0])
