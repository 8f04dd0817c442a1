"""A request under way, as the scheduler and the clients of its thread see it."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rollout.embedded.sampler import Sequence


@dataclass(eq=False)
class Job:
    """A request under way. `done` resolves when all its sequences are finished."""

    rid: str
    sequences: list[Sequence]
    score_from: int | None = None  # position of the prompt whose successors are to be scored
    pinned: str | None = None  # version of the copy that computes it; None: the served weights
    done: Future[None] = field(default_factory=Future)
    prompt_logprobs: list[float] = field(default_factory=list)  # computed with the first token
    after_step: list[Callable[[], None]] = field(default_factory=list)  # on the compute thread

    @property
    def unfinished(self) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence.finish_reason is None]


def settle(jobs: Iterable[Job]) -> None:
    """Resolve those of which nothing is left to be computed."""
    for job in jobs:
        if not job.done.done() and not job.unfinished:
            job.done.set_result(None)
