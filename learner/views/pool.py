"""Worker processes that render views, so that the learner's own process need not.

    submit --> a thread pool: one thread a worker --- socket ---> learner.views.worker
       ^                        |
       '------- Future <--------'

A worker that dies or is silent for too long costs the view it was at, which then fails with
WorkerLost and is rendered by the thread that asked for it. Each worker is started once more; after
that it is given up with a warning. No failure in here ends a run, and every wait has a limit.

`concurrent.futures.ProcessPoolExecutor` would not do: one dead process fails all views of its pool,
one that hangs cannot be ended, its processes outlive a parent that is killed, and pickled pictures
take ten times as long to arrive.
"""

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedRWPair
from pathlib import Path

from common.errors import DataError
from common.rendering import RenderedPrompt
from learner.views.renderer import ViewRequest
from learner.views.worker import HANDLED, READY, WorkerSetup, receive, receive_view, send

logger = logging.getLogger(__name__)
WORKER = (sys.executable, "-m", "learner.views.worker")
START_S = 120.0
RENDER_S = 30.0
_STOP_S = 5.0
_STARTS = 2  # of each worker
View = RenderedPrompt | DataError


class WorkerLost(Exception):
    """No worker could render this view: the thread that wants it renders it."""


class RenderPool:
    """Processes and threads that live inside its context.

    Args:
        processes: number of workers; they start in the background.
        setup: what they need to render as the learner does.
        start_s: seconds until a worker must be ready.
        render_s: seconds of silence after which a worker at work is given up.
        command: starts a worker; the descriptor of its socket is appended.
    """

    def __init__(
        self,
        processes: int,
        setup: WorkerSetup,
        start_s: float = START_S,
        render_s: float = RENDER_S,
        command: Sequence[str] = WORKER,
    ) -> None:
        self.processes = processes
        self._threads = ThreadPoolExecutor(processes, "render")
        self._workers = [_Worker(command, setup, start_s, render_s) for _ in range(processes)]
        # None means that no worker is left.
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()

    def __enter__(self) -> "RenderPool":
        for worker in self._workers:
            self._idle.put(worker)
            self._threads.submit(self._start_one)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether any worker is left, be it still starting."""
        return any(worker.is_left for worker in self._workers)

    def submit(self, request: ViewRequest) -> Future[View]:
        """Have a view rendered; from any thread. The future fails with WorkerLost alone."""
        if self.is_alive:
            with suppress(RuntimeError):  # it was closed in between
                return self._threads.submit(self._render, request)
        future: Future[View] = Future()
        future.set_exception(WorkerLost("no render process is left"))
        return future

    def close(self) -> None:
        """End all workers; views that are still wanted fail. Safe to call twice."""
        for worker in self._workers:
            worker.close()
        self._idle.put(None)
        self._threads.shutdown()
        for worker in self._workers:
            worker.end()

    def _start_one(self) -> None:
        with suppress(WorkerLost), self._worker():
            pass

    def _render(self, request: ViewRequest) -> View:
        with self._worker() as worker:
            return worker.render(request)

    @contextmanager
    def _worker(self) -> Iterator["_Worker"]:
        """A worker that runs, for this thread alone; raises WorkerLost."""
        worker = self._idle.get()
        try:
            if worker is None:
                raise WorkerLost("no render process is left")
            worker.ensure_started()
            yield worker
        finally:
            if worker is not None and worker.is_left:
                self._idle.put(worker)
            elif not self.is_alive:
                if worker is not None and not worker.is_closed:
                    logger.warning(
                        "no render process is left: the learner renders by itself from now on"
                    )
                self._idle.put(None)  # each thread that waits passes it on to the next


class _Worker:
    """One process and the socket to it, started again once after a loss.

    One thread at a time may use it; `close` is free to all.
    """

    def __init__(
        self, command: Sequence[str], setup: WorkerSetup, start_s: float, render_s: float
    ) -> None:
        self.is_closed = False
        self._command = command
        self._setup = setup
        self._start_s = start_s
        self._render_s = render_s
        self._starts_left = _STARTS
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._link: BufferedRWPair | None = None  # to the socket

    @property
    def is_left(self) -> bool:
        """Whether it runs or may be started."""
        return not self.is_closed and (self._link is not None or self._starts_left > 0)

    def ensure_started(self) -> None:
        """Start it unless it runs. Raises WorkerLost where it does not come up."""
        while self._link is None:
            if not self.is_left:
                raise WorkerLost("this render process is given up")
            self._starts_left -= 1
            try:
                self._begin()
            except Exception as error:
                self._lose(error)

    def render(self, request: ViewRequest) -> View:
        try:
            assert self._link is not None
            send(self._link, request.model_dump_json())
            return receive_view(self._link)
        except Exception as error:  # no memory for an array, say
            self._lose(error)
            raise WorkerLost(f"a render process was lost: {error!r}") from error

    def close(self) -> None:
        """End the process, which fails what its thread waits for."""
        self.is_closed = True
        if self._process is not None:
            self._process.kill()

    def _begin(self) -> None:
        self._socket, self._process = _started(self._command)
        self._link = self._socket.makefile("rwb")
        if self.is_closed:  # before there was a process to end
            self._process.kill()
        self._socket.settimeout(self._start_s)
        send(self._link, self._setup.model_dump_json())
        said, _ = receive(self._link)
        if said != READY:
            raise EOFError(f"it said {said!r} instead of {READY!r}")
        self._socket.settimeout(self._render_s)

    def end(self) -> int | None:
        """Put away a process that ends; its exit code, None means it had to be killed."""
        code = None
        if self._socket is not None and self._link is not None and self._process is not None:
            with suppress(OSError):  # of what it did not take any more
                self._link.close()
            self._socket.close()
            code = _ended(self._process)
        self._socket = self._link = self._process = None
        return code

    def _lose(self, error: Exception) -> None:
        code = self.end()
        if not self.is_closed:
            end = "starting it again" if self._starts_left else "doing without it"
            logger.warning("a render process was lost (%s); %s", _reason(error, code), end)


def _started(command: Sequence[str]) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Our end of a new worker's socket, and the worker, whose command ends with its descriptor."""
    ours, theirs = socket.socketpair()
    with theirs:
        # Until it ignores them, they wait: a Ctrl-C meanwhile must not print a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ours, process


def _ended(process: "subprocess.Popen[bytes]") -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(1.0)
    process.kill()
    with suppress(subprocess.TimeoutExpired):  # the kernel has it
        process.wait(_STOP_S)
    return None


def _reason(error: Exception, code: int | None) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, EOFError | ConnectionError | ValueError):  # ValueError: within an array
        if code is None:
            return str(error)
        return f"signal {-code}" if code < 0 else f"exit code {code}"
    if isinstance(error, OSError):
        return f"it could not be started: {error}"
    return f"its view could not be taken: {error!r}"


def _environment() -> dict[str, str]:
    """One thread a worker: the processes are the parallelism. Our packages wherever it starts."""
    code = str(Path(__file__).resolve().parents[2])
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
