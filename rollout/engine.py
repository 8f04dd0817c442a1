"""What the rollout side asks of a generation engine, whatever it is made of."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import EngineError
from common.group import Responses, Trajectory
from common.types import WeightBucket


class RequestRejected(EngineError):
    """The engine found fault with the request itself: another try would fail as well."""


class RequestFailed(EngineError):
    """The engine's answer was an error of its own, or useless. It lives on: the request is why."""


class CutShort(EngineError):
    """Cut short by a pause, or by weights that turned out to be wrong. To be done again."""


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
    pinned_version: int | None = None  # of a copy of weights that `pin` made; None: as served


@dataclass(frozen=True)
class GroupResult:
    """What came back."""

    num_prompt_tokens: int  # placeholders expanded
    responses: Responses | None  # in the order asked for, aborted ones left out; None: all were
    num_aborted: int  # cut by a pause; the group must be generated again

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """One by one."""
        return () if self.responses is None else self.responses.rows()


@dataclass(frozen=True)
class EngineInfo:
    """What a running engine is made of."""

    device: str  # "cpu" | "cuda"
    ranks: int  # processes that join a push group: its tensor parallel size
    max_running: int | None  # responses that it generates at once; None: it does not say
    version: str | None = None  # of the engine's program; None: it does not say


@dataclass(frozen=True)
class Scores:
    """Log-probs of a given response."""

    logprobs: np.ndarray  # float32 [T], nats, at temperature 1
    cached_tokens: int  # of the prompt, that were not computed but found in the prefix cache


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
        """True when it can generate. Not to be asked while paused."""

    async def checksums(self) -> dict[str, str]:
        """Checksums of the first rank's tensors, by the engine's names. Answers while paused."""

    async def init_group(
        self, *, name: str, host: str, port: int, rank: int, world_size: int, backend: str
    ) -> None:
        """Joins the trainer's group; returns when all ranks have."""

    async def destroy_group(self, name: str) -> None: ...

    async def pause(self, mode: str) -> None: ...

    async def begin_update(self) -> None: ...

    async def update(
        self, bucket: WeightBucket, *, group: str, final_version: int | None, flush: bool
    ) -> None:
        """Takes one bucket. `final_version` is given with the last one; `flush` empties caches."""

    async def end_update(self) -> None: ...

    async def load_folder(self, folder: str, version: int, *, flush: bool) -> None:
        """Takes all weights from a Hugging Face folder; no session, no group."""

    async def resume(self) -> None: ...

    async def pin(self, version: int) -> bool:
        """Keep a copy of the weights that it serves; false: it cannot, or they are others."""

    async def unpin(self, version: int) -> None: ...

    async def use_threads(self, threads: int) -> None:
        """Compute on so many CPU threads, where it knows how."""
