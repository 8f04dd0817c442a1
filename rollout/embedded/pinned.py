"""Jobs on copies of earlier weights, computed when the engine has nothing else to do.

    pin: copy the model under its version    unpin: forget the copy
    waiting jobs > one batch at a time > done

So held-out samples are answered by the weights of one version while later ones are pushed. Beside
work that goes on without end they get `SHARE` of the time: a measurement ends some time.
"""

import copy
from collections import deque
from functools import partial
from typing import Any

from common.image_text_model import ImageTextModel
from rollout.embedded.job import BatchLimits, Job, compute, settle, take_batch
from rollout.embedded.sampler import DecodingBatch

SHARE = 0.25  # share of the compute thread's time, beside other work
BATCH_TOKENS = 2304  # prompt tokens of a batch: other work waits for it; it fits a CPU's caches


class PinnedJobs:
    """The jobs on copies of weights. It belongs to the compute thread.

    Args:
        one_job_a_batch: see `Scheduler`.
    """

    def __init__(self, one_job_a_batch: bool = False) -> None:
        self._limits = BatchLimits(max_prefill_tokens=0 if one_job_a_batch else BATCH_TOKENS)
        self._models: dict[str, Any] = {}
        self._waiting: deque[Job] = deque()
        self._running: tuple[DecodingBatch, list[Job]] | None = None
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
        """Forget a copy; jobs that still wait for it fail."""
        self._models.pop(version, None)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def is_due(self, is_alone: bool) -> bool:
        """Whether a step here comes next. `is_alone` says that nothing else can be computed."""
        if not self.has_work:
            self._own_s = self._others_s = 0.0
            return False
        return is_alone or self._own_s <= SHARE * (self._own_s + self._others_s)

    def note(self, own_s: float = 0.0, others_s: float = 0.0) -> None:
        """Note the seconds that a step here, or of other work, has taken."""
        self._own_s += own_s
        self._others_s += others_s

    def compute(self) -> None:
        """Begin a batch, or one token more for the one that runs. An error fails its jobs."""
        if self._running is None:
            jobs = take_batch(self._waiting, self._limits)
            step = partial(self._begin, jobs)
        else:
            batch, jobs = self._running
            step = partial(batch.advance, str(jobs[0].pinned))
        tokens = compute(jobs, step)
        if tokens is None:
            self._running = None
            return
        self.tokens_generated += tokens
        settle(jobs)
        self.tidy()

    def _begin(self, jobs: list[Job]) -> None:
        version = str(jobs[0].pinned)
        batch = DecodingBatch(self._models[version], [job.unfinished for job in jobs])
        self._running = (batch, jobs)
        batch.start(version)

    def tidy(self) -> None:
        """Leave out what is finished, by itself or because it was aborted."""
        self._waiting = deque(job for job in self._waiting if job.unfinished)
        if self._running is not None and not self._running[0].is_running:
            self._running = None
