"""Requests under way: what is known of one, and how several are computed together."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rollout.embedded.sampler import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """Bounds on one batch, for memory."""

    max_sequences: int = 512
    max_prefill_tokens: int = 16384


@dataclass(eq=False)
class Job:
    """A request under way. `done` resolves when all its sequences are finished."""

    rid: str
    sequences: list[Sequence]
    score_from: int | None = None  # position in the prompt; tokens after it are to be scored
    pinned: str | None = None  # version of the copy that computes it; None means the served weights
    done: Future[None] = field(default_factory=Future)
    prompt_logprobs: list[float] = field(default_factory=list)  # computed with the first token
    began: float | None = None  # when it was first computed, on time.monotonic's clock; None: not
    first_token: float | None = None
    ended: dict[int, float] = field(default_factory=dict)  # by sequence: when it was finished
    after_step: list[Callable[[], None]] = field(default_factory=list)  # on the compute thread

    def note_step(self) -> None:
        """Note when a step was computed for it."""
        now = time.monotonic()
        self.first_token = self.first_token or now
        for index, sequence in enumerate(self.sequences):
            if sequence.finish_reason is not None:
                self.ended.setdefault(index, now)

    @property
    def unfinished(self) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence.finish_reason is None]


def take_batch(waiting: deque[Job], limits: BatchLimits) -> list[Job]:
    """Take the first waiting job, and those behind it that fit into one batch with it."""
    first = waiting.popleft()
    taken, passed = [first], list[Job]()
    length, sequences = len(first.sequences[0].prompt), len(first.unfinished)
    while waiting:
        job = waiting.popleft()
        fits = (
            _key(job) == _key(first)
            and sequences + len(job.unfinished) <= limits.max_sequences
            and (len(taken) + 1) * length <= limits.max_prefill_tokens
        )
        (taken if fits else passed).append(job)
        sequences += len(job.unfinished) if fits else 0
    waiting.extend(passed)
    return taken


def compute(jobs: list[Job], step: Callable[[], None]) -> int | None:
    """Compute one step of a batch.

    Returns:
        How many tokens came. None means that the step failed: its error is that of the jobs.
    """
    before = _num_tokens(jobs)
    for job in jobs:
        job.began = job.began or time.monotonic()
    try:
        step()
    except Exception as error:
        logger.exception("a batch of %d requests failed", len(jobs))
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)
        return None
    for job in jobs:
        job.note_step()
    return _num_tokens(jobs) - before


def settle(jobs: Iterable[Job]) -> None:
    """Resolve the jobs of which nothing is left to be computed."""
    for job in jobs:
        if not job.done.done() and not job.unfinished:
            job.done.set_result(None)


def _num_tokens(jobs: Iterable[Job]) -> int:
    return sum(len(sequence.token_ids) for job in jobs for sequence in job.sequences)


def _key(job: Job) -> tuple[object, ...]:
    """The key of a job; jobs with equal keys can share a batch."""
    return (job.pinned, *job.unfinished[0].cache_key)
