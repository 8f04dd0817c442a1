"""Single keys of a terminal, read on the event loop; the terminal's mode comes back in any case.

A process in the background must neither read from its terminal nor set its mode: the system would
stop it, and with it a run. So this looks again and again whether it is in the foreground, and for
the moment of reading or setting it holds off the two signals that stop.

It reads through an opening of its own: an event loop makes what it watches non-blocking, and that
holds for everything that shares an opening: standard output, and the shell afterwards.
"""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Any, Self

from common.lifecycle import before_a_hard_exit

_STOPPING = (signal.SIGTTIN, signal.SIGTTOU)
_LOCAL_FLAGS = 3  # where `termios.tcgetattr` has them
_TERMINAL = "/dev/tty"  # the one that this process belongs to
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
        self._reading = -1  # the own opening, while `_before` is set
        self._hooks = contextlib.ExitStack()

    @property
    def is_there(self) -> bool:
        """Whether there is a terminal to read keys from."""
        return self._number is not None and os.isatty(self._number)

    def __enter__(self) -> Self:
        self._hooks.enter_context(before_a_hard_exit(self.release))
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        self.release()

    def look(self) -> None:
        """Take the keys when the process has come to the foreground, leave them when it has left.

        Called with every picture: nothing tells of it.
        """
        if not self.is_there or self._number is None:
            return
        if not is_in_front(self._number):
            self._leave()
            return
        with self._held_off(), contextlib.suppress(termios.error, OSError):
            mode = termios.tcgetattr(self._number)
            if self._before is None:
                self._reading = os.open(_TERMINAL, os.O_RDONLY | os.O_CLOEXEC)
                self._before = mode
                asyncio.get_running_loop().add_reader(self._reading, self._read)
            if mode[_LOCAL_FLAGS] & termios.ICANON:  # also after Ctrl-Z, when a shell had set it
                tty.setcbreak(self._number, termios.TCSANOW)  # Ctrl-C and Ctrl-Z stay signals

    def release(self) -> None:
        """Bring back the mode, unless another process has the terminal now, until the next look."""
        before, number = self._before, self._number
        self._leave()
        if before is not None and number is not None and is_in_front(number):
            with self._held_off(), contextlib.suppress(termios.error):
                termios.tcsetattr(number, termios.TCSANOW, before)

    def _leave(self) -> None:
        if self._before is not None:
            self._before = None
            with contextlib.suppress(RuntimeError):  # the loop is over
                asyncio.get_running_loop().remove_reader(self._reading)
            os.close(self._reading)

    def _read(self) -> None:
        if self._number is None or not is_in_front(self._number):
            self._leave()
            return
        try:
            with self._held_off():
                content = os.read(self._reading, _MOST_KEYS)
        except BlockingIOError:  # another process was faster
            return
        except OSError:  # the terminal is gone, or another process has taken it
            content = b""
        if not content:
            self._leave()
            self._number = None
        for key in content.decode(errors="ignore"):
            self._on_key(key)

    @contextlib.contextmanager
    def _held_off(self) -> Iterator[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_in_front(descriptor: int) -> bool:
    """Whether what is typed at a terminal is for this process, not for a shell or another one."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not the terminal of this session, or gone
        return False


def _standard_input() -> int | None:
    """Its descriptor; None where it is closed or no file."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None
