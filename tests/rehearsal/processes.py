"""Commands that a rehearsal starts, their output in files, and waiting for what they do."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.rehearsal.settings import ROOT

_LOOK_S = 0.2
_DRAIN_S = 30.0  # for a process that was told to stop
_TOLD = 2000  # characters of output in an error


class RehearsalError(Exception):
    """A step did not come to its end; the message says what was seen."""


class Command:
    """A process of its own group, its output in a file."""

    def __init__(
        self, words: Sequence[object], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self._output = output
        self._name = " ".join(str(word) for word in words[:3])
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout_s: float) -> int:
        """The exit code. Raises RehearsalError when it does not end in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"has not ended after {timeout_s:.0f} s") from None

    def wait_until(self, is_there: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait for it; RehearsalError when the process ends before, or it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not is_there():
            if self.process.poll() is not None:
                raise self.error(f"ended with {self.process.returncode} before {what}")
            if time.monotonic() > deadline:
                raise self.error(f"not {what} after {timeout_s:.0f} s")
            time.sleep(_LOOK_S)

    def stop(self, drain_s: float = _DRAIN_S) -> int:
        """SIGTERM, later SIGKILL to its whole group; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(drain_s)
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def error(self, problem: str) -> RehearsalError:
        """With the end of its output."""
        return RehearsalError(f"{self._name} {problem}:\n{self.output()[-_TOLD:]}")


@contextlib.contextmanager
def running(
    words: Sequence[object],
    output: Path,
    environment: Mapping[str, str] | None = None,
    drain_s: float = _DRAIN_S,
) -> Iterator[Command]:
    """A command that does not outlive the block by more than `drain_s`."""
    command = Command(words, output, environment)
    try:
        yield command
    finally:
        command.stop(drain_s)


def run(words: Sequence[object], output: Path, timeout_s: float) -> str:
    """The output of a command that must succeed.

    Raises:
        RehearsalError: it fails or takes too long.
    """
    with running(words, output) as command:
        if code := command.wait(timeout_s):
            raise command.error(f"ended with {code}")
        return command.output()
