"""What the rollout side asks of a generation engine, whatever it is made of."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import EngineError
from common.group import Responses, Trajectory
from common.types import WeightBucket


class RequestRejected(EngineError):
    """The engine's refusal of the request itself: another try would fail as well."""


class RequestFailed(EngineError):
    """An answer that is the engine's own error, or useless. It lives on: the request is why."""


class CutShort(EngineError):
    """A request cut short by a pause, or by weights that are wrong. It is to be done again."""


class EngineGone(EngineError):
    """No answer at all: the engine has died, hangs, or cannot be reached."""


@dataclass(frozen=True)
class GroupRequest:
    """n responses to one prompt."""

    prompt_token_ids: np.ndarray  # int32 [P], ONE placeholder an image
    images: tuple[bytes, ...]  # PNG files of the learner's very pixels, in the prompt's order
    num_trajectories: int
    temperature: float
    top_p: float
    top_k: int  # -1: off
    max_response_tokens: int
    banned_token_ids: tuple[int, ...]  # never sampled: vision tokens, which no response may hold
    end_token_ids: tuple[int, ...]  # each ends a response; an engine may know more
    seed: int | None  # only where the engine is deterministic
    pinned_version: int | None = None  # names a copy that `pin` made; None means the served weights


@dataclass(frozen=True)
class Latencies:
    """Seconds from the arrival of a request at its engine."""

    queue_s: float | None = None  # until it was computed; None means that the engine does not say
    first_token_s: float | None = None  # of the first response to have one; None: as above
    response_s: tuple[float, ...] = ()  # until the last token of each response; empty: as above


@dataclass(frozen=True)
class GroupResult:
    """What came back."""

    num_prompt_tokens: int  # placeholders expanded
    responses: Responses | None  # in the order asked for, without aborted ones; None if all were
    num_aborted: int  # cut by a pause; the group must be generated again
    latencies: Latencies = Latencies()

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """The responses one by one."""
        return () if self.responses is None else self.responses.rows()


@dataclass(frozen=True)
class EngineInfo:
    """What a running engine is made of."""

    device: str  # "cpu" | "cuda"
    ranks: int  # processes that join a push group: its tensor parallel size
    max_running: int | None  # responses that it generates at once; None means that it does not say
    version: str | None = None  # version of its program; None means that it does not say


@dataclass(frozen=True)
class Scores:
    """Log-probs of a given response."""

    logprobs: np.ndarray  # float32 [T], nats, at temperature 1
    cached_tokens: int  # prompt tokens that were found in the prefix cache, not computed


class Engine(Protocol):
    """One engine. Every method has a finite timeout and raises EngineError (EngineGone)."""

    async def generate(self, request: GroupRequest) -> GroupResult:
        """Generate a group. Raises RequestRejected when the request is at fault."""

    async def score(
        self, prompt_token_ids: np.ndarray, image: bytes, response_token_ids: np.ndarray
    ) -> Scores:
        """Log-probs of a response by the weights as they are. Waits while paused."""

    async def info(self) -> EngineInfo: ...

    async def version(self) -> int | None:
        """Version of the weights it serves; None before the first push. Answers while paused."""

    async def is_healthy(self) -> bool:
        """Whether it can generate. Not to be asked while paused."""

    async def checksums(self) -> dict[str, str]:
        """Checksums of the first rank's tensors, by the engine's names. Answers while paused."""

    async def init_group(
        self, *, name: str, host: str, port: int, rank: int, world_size: int, backend: str
    ) -> None:
        """Join the trainer's group; return when all ranks have."""

    async def destroy_group(self, name: str) -> None: ...

    async def pause(self, mode: str) -> None: ...

    async def begin_update(self) -> None: ...

    async def update(
        self, bucket: WeightBucket, *, group: str, final_version: int | None, flush: bool
    ) -> None:
        """Take one bucket. `final_version` is given with the last one; `flush` empties caches."""

    async def end_update(self) -> None: ...

    async def load_folder(self, folder: str, version: int, *, flush: bool) -> None:
        """Take all weights from a Hugging Face folder; no session, no group."""

    async def resume(self) -> None: ...

    async def pin(self, version: int) -> bool:
        """Keep a copy of the weights that it serves; false if it cannot, or they are others."""

    async def unpin(self, version: int) -> None: ...

    async def use_threads(self, threads: int) -> None:
        """Compute on so many CPU threads, if it can."""
