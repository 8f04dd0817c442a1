"""The compute thread that owns the model: it forms batches, and pauses between token steps.

                submit                     admit (equal lengths, at most MAX_BATCHES)
    requests ----------> waiting rows -------------------------------------> running batches
                             ^                                                   |   one token for
                             '--- pause("retract"): caches dropped, versions kept'   each in turn
                                  jobs on pinned weights: in between (`rollout.embedded.pinned`)

A row is the unfinished sequences of one request. `run` lets other code touch the model between
two token steps: weights change there and nowhere else.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from common.image_text_model import ImageTextModel
from rollout.embedded.job import BatchLimits, Job, compute, settle, take_batch
from rollout.embedded.pinned import PinnedJobs
from rollout.embedded.sampler import DecodingBatch, prompt_logprobs

logger = logging.getLogger(__name__)
MAX_BATCHES = 2  # a second batch lets new requests start while a long one runs
PAUSE_MODES = ("abort", "retract", "in_place")


class Scheduler:
    """The thread that runs jobs.

    Args:
        model: transformers image-text model in eval mode; no other thread may touch it.
        one_job_a_batch: tokens and log-probs of a job then depend on nothing but the job.
        version: name of the weights at first.
        threads: CPU threads of the computation; None leaves torch's choice.
    """

    def __init__(
        self,
        model: ImageTextModel,
        *,
        one_job_a_batch: bool = False,
        version: str = "default",
        threads: int | None = None,
    ) -> None:
        self._model = model
        self._limits = BatchLimits(max_prefill_tokens=0) if one_job_a_batch else BatchLimits()
        self._threads = threads
        self._wake = threading.Condition()
        self._closing = False
        self._paused = False
        self._jobs: dict[Job, None] = {}  # in order of arrival
        self._commands: deque[Callable[[], None]] = deque()
        # The rest belongs to the compute thread.
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[DecodingBatch, list[Job]]] = []
        self._pinned = PinnedJobs(one_job_a_batch)
        self.version = version
        self.tokens_generated = 0
        self._thread = threading.Thread(target=self._loop, name="compute")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Abort what is left and join the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_paused(self) -> bool:
        return self._paused

    @property
    def num_jobs(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        job.done.set_running_or_notify_cancel()  # only the compute thread ends it

        def accept() -> None:
            self._jobs[job] = None
            job.done.add_done_callback(lambda _: self._jobs.pop(job, None))
            if job.pinned is None:
                self._waiting.append(job)
            else:
                self._pinned.submit(job)

        self.run(accept)

    def run(self, command: Callable[[], Any]) -> Future[Any]:
        """Run `command` on the compute thread, between two token steps.

        A future that is cancelled before its turn (the client went away) takes its command along;
        from then on it can no longer be cancelled.
        """
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)

        with self._wake:
            if self._closing:
                raise RuntimeError("the engine is shutting down")
            self._commands.append(call)
            self._wake.notify()
        return future

    def pause(self, mode: str) -> Future[Any]:
        """Stop after the current token. `_pause` says what becomes of running jobs."""
        assert mode in PAUSE_MODES
        return self.run(lambda: self._pause(mode))

    def resume(self) -> Future[Any]:
        return self.run(lambda: self._set_paused(False))

    def abort(self, is_meant: Callable[[Job], bool]) -> Future[Any]:
        """End jobs now; they keep the tokens that they have."""
        return self.run(lambda: self._abort([job for job in self._jobs if is_meant(job)]))

    def unfinished_jobs(self) -> list[Future[None]]:
        """The jobs that a weight update outside a pause has to wait for."""
        return [job.done for job in list(self._jobs) if job.pinned is None]

    # ---- copies of the weights -------------------------------------------------------------------
    @property
    def pinned_versions(self) -> tuple[str, ...]:
        return self._pinned.versions

    def pin(self, version: str) -> Future[Any]:
        """Keep a copy of the weights; false if they are of another version by now."""

        def copy() -> bool:
            if self.version != version:
                return False
            self._pinned.pin(version, self._model)
            return True

        return self.run(copy)

    def unpin(self, version: str) -> Future[Any]:
        return self.run(lambda: self._pinned.unpin(version))

    def use_threads(self, threads: int) -> Future[Any]:
        """Compute on so many CPU threads from now on."""
        return self.run(lambda: torch.set_num_threads(threads))

    @property
    def can_flush(self) -> bool:
        """Whether no cache of older weights can be used again. Compute thread only."""
        return not self._running and (self._paused or not self._waiting)

    # ---- compute thread --------------------------------------------------------------------------
    def _loop(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._commands or self._has_work())
                commands = list(self._commands)
                self._commands.clear()
                if self._closing:
                    break
            for command in commands:
                command()
            if not self._paused:
                self._compute()
        for command in commands:
            command()
        self._abort(list(self._jobs))

    def _has_work(self) -> bool:
        is_idle = not self._running and not self._waiting and not self._pinned.has_work
        return not self._paused and not is_idle

    def _compute(self) -> None:
        began = time.monotonic()
        if self._pinned.is_due(is_alone=not self._running and not self._waiting):
            before = self._pinned.tokens_generated
            self._pinned.compute()
            self.tokens_generated += self._pinned.tokens_generated - before
            self._pinned.note(own_s=time.monotonic() - began)
        else:
            self._compute_served()
            self._pinned.note(others_s=time.monotonic() - began)

    def _compute_served(self) -> None:
        if len(self._running) < MAX_BATCHES and self._waiting:
            self._admit()
        else:
            for entry in list(self._running):
                self._guarded(entry, entry[0].advance)
        for batch, jobs in self._running:
            for job in jobs:
                self._call_after_step(job)
            settle(jobs)
            logger.debug("batch of %d sequences", len(batch.sequences))
        self._running = [entry for entry in self._running if entry[0].is_running]

    def _admit(self) -> None:
        jobs = take_batch(self._waiting, self._limits)
        batch = DecodingBatch(self._model, [job.unfinished for job in jobs])
        entry = (batch, jobs)
        self._running.append(entry)
        self._guarded(entry, lambda version: self._start(entry, version))

    def _start(self, entry: tuple[DecodingBatch, list[Job]], version: str) -> None:
        batch, jobs = entry
        for job in jobs:
            if job.score_from is not None:
                prompt = job.sequences[0].prompt
                job.prompt_logprobs = prompt_logprobs(self._model, prompt, job.score_from)
        batch.start(version)

    def _guarded(self, entry: tuple[DecodingBatch, list[Job]], step: Callable[[str], None]) -> None:
        """Compute one token for a batch. An error fails its jobs, not the engine."""
        tokens = compute(entry[1], lambda: step(self.version))
        if tokens is None:
            self._running.remove(entry)
        else:
            self.tokens_generated += tokens

    def _call_after_step(self, job: Job) -> None:
        """Call what is to be called after a step. An error fails the job, not the engine."""
        try:
            for call in job.after_step if job.unfinished else ():
                call()
        except Exception as error:
            logger.exception("request %s failed between two steps", job.rid)
            job.done.set_exception(error)
            self._abort([job])

    def _pause(self, mode: str) -> None:
        self._set_paused(True)
        if mode == "abort":
            self._abort(list(self._jobs))
        elif mode == "retract":
            for batch, jobs in reversed(self._running):
                for sequence in batch.sequences:
                    sequence.num_retractions += sequence.finish_reason is None
                self._waiting.extendleft(reversed([job for job in jobs if job.unfinished]))
            self._running = []

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused

    def _abort(self, jobs: list[Job]) -> None:
        for job in jobs:
            for sequence in job.unfinished:
                sequence.finish_reason = {"type": "abort", "message": "Aborted"}
        settle(jobs)
        self._pinned.tidy()
        self._waiting = deque(job for job in self._waiting if job.unfinished)
        self._running = [entry for entry in self._running if entry[0].is_running]
