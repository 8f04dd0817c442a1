"""What a command does when nothing reads its output any more, as after `COMMAND | head`.

A command that only shows something ends, without a word. A run goes on: its folder holds all that
is said on the terminal.
"""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_NO_READER = 141  # exit code: as a shell calls an end by SIGPIPE


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End the command, with exit code 141, when its output has lost its reader inside."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_lost_its_reader(sys.stdout):
            raise  # another pipe or connection
        _lead_nowhere(sys.stdout)
        raise SystemExit(_NO_READER) from None


@contextlib.contextmanager
def goes_on_without_readers() -> Iterator[None]:
    """Drop lines that standard output and error do not take, inside."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Lenient, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Lenient:
    """A stream whose writes do not fail: without a reader, on a full disk, or after a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str, /) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _lead_nowhere(self._stream)
        except OSError:
            pass  # there may be room again for later lines


def _has_lost_its_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _lead_nowhere(stream: TextIO) -> None:
    """Send what the stream still holds, and all that follows, to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
