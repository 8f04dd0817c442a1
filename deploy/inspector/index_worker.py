"""The process that builds an index, started and asked by the inspector."""

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MAX_STARTS = 3
_END_S = 5.0


class IndexWorker:
    """Runs `deploy.inspector.indexing` for a run. Any thread may ask.

    A worker that died is started again with the next request, but not for ever, unless it comes to
    the end of a round.
    """

    def __init__(self, run: Path, folder: Path) -> None:
        places = [str(path.absolute()) for path in (run, folder)]  # it works in another folder
        self._command = [sys.executable, "-m", "deploy.inspector.indexing", *places]
        self._lock = threading.Lock()
        self._round_ended = threading.Condition(self._lock)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._starts = 0
        self._is_working = False
        self._is_closed = False
        self._error: str | None = None

    def wake(self) -> None:
        """Ask for a round, unless one is under way. Does not wait for it."""
        with self._lock:
            if self._is_closed or self._is_working:
                return
            if self._process is None and not self._start():
                return
            assert self._process is not None and self._process.stdin is not None
            try:
                self._process.stdin.write("\n")
                self._process.stdin.flush()
                self._is_working = True
            except OSError:
                pass  # it has just died: its reader will say so

    def wait(self, limit_s: float) -> None:
        """Wait until no round is under way, for so long at most."""
        with self._round_ended:
            self._round_ended.wait_for(lambda: not self._is_working, limit_s)

    @property
    def is_working(self) -> bool:
        """Whether a round is under way."""
        return self._is_working

    def note(self) -> str | None:
        """Why the index is not built; None means that it is."""
        if self._error is not None:
            return f"the index of trajectories is not written: {self._error}"
        if self._starts >= _MAX_STARTS and self._process is None:
            return f"the index of trajectories was given up: its worker died {self._starts} times"
        return None

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._is_closed = True
            process, reader = self._process, self._reader
        if process is None:
            return
        process.kill()  # it may be killed at any time
        process.wait(_END_S)
        if reader is not None:
            reader.join(_END_S)

    def _start(self) -> bool:
        if self._starts >= _MAX_STARTS:
            return False
        self._starts += 1
        process = subprocess.Popen(
            self._command, cwd=_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._process = process
        self._reader = threading.Thread(target=self._follow, args=(process,), name="index-worker")
        self._reader.start()
        return True

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            told, _, why = line.strip().partition(": ")
            with self._lock:
                self._is_working = False
                self._error = why if told == "error" else None
                self._starts = 0 if told == "done" else self._starts
                self._round_ended.notify_all()
        process.wait()
        process.stdout.close()
        with self._lock:
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._process, self._is_working = None, False
            self._round_ended.notify_all()
