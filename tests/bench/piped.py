"""Child processes that answer through a pipe, started side by side."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.contest.children import SPAWN, begin_child

_STOP_TIMEOUT_S = 5.0


class PipedChild:
    """A process that runs `work(pipe, *arguments)`; gone, at the latest, when its parent is."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._name = work.__name__
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(work, theirs, arguments))
        self._process.start()
        theirs.close()

    def answer(self, timeout_s: float) -> Any:
        """The next thing that it says. Raises TimeoutError, or EOFError when it has died."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"{self._name} says nothing for {timeout_s:g} s")
        return self._pipe.recv()

    def say(self, something: Any) -> None:
        self._pipe.send(something)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(_STOP_TIMEOUT_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextlib.contextmanager
def children(work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> Iterator[Any]:
    """One child for each tuple of arguments."""
    with contextlib.ExitStack() as stack:
        started = []
        for given in arguments:
            started.append(PipedChild(work, *given))
            stack.callback(started[-1].stop)
        yield started


def _work(work: Callable[..., None], pipe: Any, arguments: tuple[Any, ...]) -> None:
    begin_child()
    work(pipe, *arguments)
