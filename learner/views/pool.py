"""Worker processes that render views, so that the learner's own process need not.

    submit --> queue --> one thread a worker --- socket ---> learner.views.worker
       ^                        |
       '------- Future <--------'

A worker that dies or is silent for too long costs the view it was at, which then fails with
WorkerLost and is rendered by whoever asked for it. Each worker is started once more; after that it
is given up with a warning. No failure in here ends a run, and nothing waits without a limit.

Pixels travel through the sockets as plain bytes (`learner.views.array_link` says why).
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from common.errors import DataError
from common.rendering import RenderedPrompt
from learner.views.array_link import ArrayLink, LinkClosed
from learner.views.renderer import ViewRequest
from learner.views.worker import HANDLED, READY, WorkerSetup, receive_view

logger = logging.getLogger(__name__)
WORKER = (sys.executable, "-m", "learner.views.worker")
START_S = 120.0
RENDER_S = 30.0
_STOP_S = 5.0
_STARTS = 2  # of each worker
View = RenderedPrompt | DataError


class WorkerLost(Exception):
    """No worker could render this view. Whoever wants it renders it."""


class RenderPool:
    """Use it as a context manager: its processes and threads live inside.

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
        self._setup = setup
        self._start_s = start_s
        self._render_s = render_s
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[ViewRequest, Future[View]] | None]
        self._queue = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        self._num_serving = processes
        self._is_closing = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"render-{number}", daemon=True)
            for number in range(processes)
        ]

    def __enter__(self) -> "RenderPool":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether any worker is left, be it still starting."""
        return self._num_serving > 0 and not self._is_closing

    def submit(self, request: ViewRequest) -> Future[View]:
        """Have a view rendered; from any thread. The future fails with WorkerLost alone."""
        future: Future[View] = Future()
        with self._lock:
            if self.is_alive:
                self._queue.put((request, future))
                return future
        _fail(future)
        return future

    def close(self) -> None:
        """End all workers; views that are still wanted fail. Safe to call twice."""
        with self._lock:
            self._is_closing = True
            workers = list(self._workers)
        self._fail_waiting()
        for _ in self._threads:
            self._queue.put(None)
        for worker in workers:
            worker.link.hang_up()
        until = time.monotonic() + _STOP_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    logger.error("%s did not end within %.0f s", thread.name, _STOP_S)

    # ---- a worker's thread -----------------------------------------------------------------------
    def _serve(self) -> None:
        for start in range(_STARTS):
            if self._is_closing:
                break
            reason = self._serve_until_lost()
            if not self._is_closing:
                end = "starting it again" if start + 1 < _STARTS else "doing without it"
                logger.warning("a render process was lost (%s); %s", reason, end)
        with self._lock:
            self._num_serving -= 1
            is_last = self._num_serving == 0
        if is_last and not self._is_closing:
            logger.warning("no render process is left: the learner renders by itself from now on")
            self._fail_waiting()

    def _serve_until_lost(self) -> str:
        """Start a worker and feed it requests; returns why that ended."""
        try:
            worker = _Worker(self._command)
        except OSError as error:
            return f"it could not be started: {error}"
        try:
            with self._lock:
                self._workers.add(worker)
                if self._is_closing:
                    return "it was told to end"
            worker.begin(self._setup, self._start_s)
            worker.link.set_timeout(self._render_s)
            while (item := self._queue.get()) is not None and not self._is_closing:
                _carry_out(worker.link, *item)
            if item is not None:
                _fail(item[1])
            return "it was told to end"
        except LinkClosed as error:
            return worker.last_words() or str(error)
        except TimeoutError:
            return "it did not answer in time"
        except Exception as error:  # the boundary of this thread: no memory for an array, say
            return f"its view could not be taken: {error!r}"
        finally:
            with self._lock:
                self._workers.discard(worker)
            worker.end()

    def _fail_waiting(self) -> None:
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None:
                _fail(item[1])


class _Worker:
    """One process and the link to it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self.link = ArrayLink(ours)
        try:
            with theirs:
                # Until it ignores them, they wait: a Ctrl-C meanwhile must not print a traceback.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
                try:
                    self._process = subprocess.Popen(
                        [*command, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        env=_environment(),
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            self.link.close()
            raise

    def begin(self, setup: WorkerSetup, start_s: float) -> None:
        """Set the worker up; LinkClosed or TimeoutError if it does not come up."""
        self.link.set_timeout(start_s)
        self.link.send(setup.model_dump_json())
        text, _ = self.link.receive()
        if text != READY:
            raise LinkClosed(f"it said {text!r} instead of {READY!r}")

    def last_words(self) -> str | None:
        """How the process ended, if it has."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        self.link.hang_up()
        self.link.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel has it
                self._process.wait(_STOP_S)


def _fail(future: Future[View]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(WorkerLost("no render process is left"))


def _carry_out(link: ArrayLink, request: ViewRequest, future: Future[View]) -> None:
    """Have a view rendered; raises LinkClosed, TimeoutError and others once `future` has failed."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        link.send(request.model_dump_json())
        view = receive_view(link)
    except Exception as error:
        future.set_exception(WorkerLost(f"a render process was lost: {error!r}"))
        raise
    future.set_result(view)


def _environment() -> dict[str, str]:
    """One thread a worker: the processes are the parallelism. Our packages wherever it starts."""
    code = str(Path(__file__).resolve().parents[2])
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
