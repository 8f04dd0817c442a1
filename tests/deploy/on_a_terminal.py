"""A program on a terminal of its own, as a person has it: seen, typed at, resized."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.waiting import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """The side of a terminal that a person is at."""

    def __init__(self, process: subprocess.Popen[bytes], number: int) -> None:
        self.process = process
        self._number = number
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = ""
        self.seen = ""  # what the last `see` took away, with colours and the like

    def see(self, *parts: str) -> str:
        """What is shown, without colours, once all the parts have been since the last call."""
        deadline = time.monotonic() + LIMIT_S
        while not all(part in self.text for part in parts):
            assert time.monotonic() < deadline and self._read(), f"{parts} not in {self.text}"
        shown, self.seen, self.raw = self.text, self.raw, ""
        return shown

    @property
    def text(self) -> str:
        return _ANSI.sub("", self.raw)

    def press(self, keys: str) -> None:
        os.write(self._number, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """The system tells the program by SIGWINCH."""
        _set_size(self._number, columns, rows)

    def is_line_mode(self) -> bool:
        """Whether the terminal is as a shell left it: lines, and what is typed is shown."""
        flags = termios.tcgetattr(self._number)[3]
        return bool(flags & termios.ICANON) and bool(flags & termios.ECHO)

    def end(self) -> int:
        """The program's exit code, once it ends."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read()
        return self.process.returncode

    def _read(self) -> bool:
        """Take in what comes within a moment; False when the other side is gone."""
        if select.select([self._number], [], [], 0.05)[0]:
            try:
                content = os.read(self._number, 2**16)
            except OSError:
                return False
            self.raw += self._decoder.decode(content)
        return True


@contextlib.contextmanager
def on_a_terminal(
    command: Sequence[str], columns: int = 80, rows: int = 30, **environment: str
) -> Iterator[Terminal]:
    """Run a program on a new terminal, in a session of its own; it is killed at the end."""
    number, other = pty.openpty()
    _set_size(number, columns, rows)
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=ROOT,
        env={**variables, "TERM": "xterm-256color", **environment},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    try:
        yield Terminal(process, number)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(number)


def _set_size(number: int, columns: int, rows: int) -> None:
    fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
