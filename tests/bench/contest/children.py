"""Child processes of a benchmark: fresh interpreters, quiet, gone when their parent is."""

import contextlib
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from common.lifecycle import stop_with_parent

SPAWN = multiprocessing.get_context("spawn")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


def begin_child() -> None:
    """Call it first in every child."""
    stop_with_parent()
    logging.disable(logging.WARNING)  # leases that go back at the end of a phase are no news


@contextlib.contextmanager
def serving(serve: Callable[..., None], *arguments: Any) -> Iterator[str]:
    """Run `serve(say_address, *arguments)` in a child until the context ends; gives the address."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    child = SPAWN.Process(target=_serve, args=(serve, theirs, arguments))
    child.start()
    theirs.close()
    try:
        if not ours.poll(_START_TIMEOUT_S):
            raise TimeoutError(f"{serve.__name__}: no address within {_START_TIMEOUT_S:.0f} s")
        yield ours.recv()
    finally:
        child.terminate()
        child.join(_STOP_TIMEOUT_S)
        child.kill()


def in_child(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call` returns, from a fresh process."""
    with ProcessPoolExecutor(1, SPAWN, begin_child) as pool:
        return pool.submit(call, *arguments).result()


def _serve(serve: Callable[..., None], pipe: Any, arguments: tuple[Any, ...]) -> None:
    begin_child()
    serve(pipe.send, *arguments)
