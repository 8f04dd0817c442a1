"""Single keys of a terminal, read on the event loop; the terminal's mode comes back in any case.

A process in the background must neither read from its terminal nor set its mode: the system would
stop it, and with it a run. So this looks again and again whether it is in the foreground, and for
the moment of reading or setting it holds off the two signals that stop.
"""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from common.lifecycle import before_a_hard_exit

_STOPPING = (signal.SIGTTIN, signal.SIGTTOU)
_LOCAL_FLAGS = 3  # where `termios.tcgetattr` has them
_MOST_KEYS = 64  # of one look


class Keyboard:
    """Calls a function with each key, as long as its block runs inside the event loop.

    Args:
        on_key: gets one character.
        descriptor: of the terminal; None: standard input's. Where it is no terminal, nothing is
            read and no mode is set.
    """

    def __init__(self, on_key: Callable[[str], None], descriptor: int | None = None) -> None:
        self._on_key = on_key
        self._number = _standard_input() if descriptor is None else descriptor
        self._before: list[Any] | None = None  # the mode to bring back; None: not set by us
        self._hooks = contextlib.ExitStack()

    @property
    def is_there(self) -> bool:
        """Whether there is a terminal to read keys from."""
        return self._number is not None and os.isatty(self._number)

    def __enter__(self) -> Self:
        self._hooks.enter_context(before_a_hard_exit(self._release))
        self.look()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.close()
        self._release()

    def look(self) -> None:
        """Take the keys when the process has come to the foreground, leave them when it has left.

        Called with every picture: nothing tells of it.
        """
        if not self.is_there or self._number is None:
            return
        if not self._is_in_front():
            self._leave()
            return
        with self._held_off(), contextlib.suppress(termios.error):
            mode = termios.tcgetattr(self._number)
            if self._before is None:
                self._before = mode
                asyncio.get_running_loop().add_reader(self._number, self._read)
            if mode[_LOCAL_FLAGS] & termios.ICANON:  # also after Ctrl-Z, when a shell had set it
                tty.setcbreak(self._number, termios.TCSANOW)  # Ctrl-C and Ctrl-Z stay signals

    def _release(self) -> None:
        """Bring back the mode, unless another process has the terminal now."""
        before, number = self._before, self._number
        self._leave()
        if before is not None and number is not None and self._is_in_front():
            with self._held_off(), contextlib.suppress(termios.error):
                termios.tcsetattr(number, termios.TCSANOW, before)

    def _leave(self) -> None:
        if self._before is not None and self._number is not None:
            self._before = None
            with contextlib.suppress(RuntimeError):  # the loop is over
                asyncio.get_running_loop().remove_reader(self._number)

    def _read(self) -> None:
        if self._number is None or not self._is_in_front():
            self._leave()
            return
        try:
            with self._held_off():
                content = os.read(self._number, _MOST_KEYS)
        except OSError:  # the terminal is gone, or another process has taken it
            content = b""
        if not content:
            self._leave()
            self._number = None
        for key in content.decode(errors="ignore"):
            self._on_key(key)

    def _is_in_front(self) -> bool:
        try:
            return self._number is not None and os.tcgetpgrp(self._number) == os.getpgrp()
        except OSError:  # not the terminal of this session, or gone
            return False

    @contextlib.contextmanager
    def _held_off(self) -> Iterator[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _standard_input() -> int | None:
    """Its descriptor; None where it is closed or no file."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None
