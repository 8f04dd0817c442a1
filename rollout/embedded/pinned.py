"""Jobs on copies of earlier weights, computed when the engine has nothing else to do.

    pin: copy the model under its version    unpin: forget the copy
    waiting jobs > one batch at a time > done

So held-out samples are answered by the weights of one version while later ones are pushed. Beside
work that goes on without end they get `SHARE` of the time: a measurement ends some time.
"""

import copy
import logging
from collections import deque
from typing import Any

from common.image_text_model import ImageTextModel
from rollout.embedded.job import Job, settle
from rollout.embedded.sampler import Batch

logger = logging.getLogger(__name__)
SHARE = 0.25  # of the compute thread's time, beside other work
BATCH_TOKENS = 2304  # of prompts in one batch: other work waits for it, and it fits a CPU's caches


class PinnedJobs:
    """Belongs to the compute thread.

    Args:
        one_job_a_batch: as for `Scheduler`.
    """

    def __init__(self, one_job_a_batch: bool = False) -> None:
        self._one_job_a_batch = one_job_a_batch
        self._models: dict[str, Any] = {}
        self._waiting: deque[Job] = deque()
        self._running: tuple[Batch, list[Job]] | None = None
        self._own_s = self._others_s = 0.0  # since there was last nothing to do here
        self.tokens_generated = 0

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def pin(self, version: str, model: ImageTextModel) -> None:
        """Keep a copy of the model as it is now."""
        self._models[version] = copy.deepcopy(model)

    def unpin(self, version: str) -> None:
        """Forget it; jobs that still wait for it fail."""
        self._models.pop(version, None)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def is_due(self, is_alone: bool) -> bool:
        """Whether a step here comes next. `is_alone`: nothing else can be computed."""
        if not self.has_work:
            self._own_s = self._others_s = 0.0
            return False
        return is_alone or self._own_s <= SHARE * (self._own_s + self._others_s)

    def note(self, own_s: float = 0.0, others_s: float = 0.0) -> None:
        """Seconds that a step here, or of other work, has taken."""
        self._own_s += own_s
        self._others_s += others_s

    def compute(self) -> None:
        """Begin a batch, or one token more for the one that runs. An error fails its jobs."""
        is_new = self._running is None
        jobs = self._take_batch() if self._running is None else self._running[1]
        before = sum(len(s.token_ids) for job in jobs for s in job.sequences)
        try:
            version = str(jobs[0].pinned)
            if is_new:
                batch = Batch(self._models[version], [job.unfinished for job in jobs])
                self._running = (batch, jobs)
                batch.start(version)
            elif self._running is not None:
                self._running[0].advance(version)
        except Exception as error:
            logger.exception("a batch of %d requests to pinned weights failed", len(jobs))
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
            self._running = None
            return
        self.tokens_generated += sum(len(s.token_ids) for job in jobs for s in job.sequences)
        self.tokens_generated -= before
        settle(jobs)
        self.tidy()

    def tidy(self) -> None:
        """Leave out what is finished, by itself or because it was aborted."""
        self._waiting = deque(job for job in self._waiting if job.unfinished)
        if self._running is not None and not self._running[0].is_running:
            self._running = None

    def _take_batch(self) -> list[Job]:
        taken = [self._waiting.popleft()]
        key, most = _key(taken[0]), max(1, BATCH_TOKENS // len(taken[0].sequences[0].prompt))
        passed: deque[Job] = deque()
        while self._waiting and len(taken) < most and not self._one_job_a_batch:
            job = self._waiting.popleft()
            (taken if _key(job) == key else passed).append(job)
        self._waiting.extendleft(reversed(passed))
        return taken


def _key(job: Job) -> tuple[Any, ...]:
    return (job.pinned, *job.unfinished[0].cache_key)
