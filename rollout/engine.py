"""What the rollout side asks of a generation engine, whoever implements it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import EngineError
from common.types import Trajectory, WeightBucket


class RequestRejected(EngineError):
    """The engine found fault with the request itself: another try would fail as well."""


@dataclass(frozen=True)
class GroupRequest:
    """n responses to one prompt."""

    prompt_token_ids: np.ndarray  # int32 [P], ONE placeholder an image
    images: tuple[bytes, ...]  # encoded files (PNG, JPEG), in the prompt's order
    num_trajectories: int
    temperature: float
    top_p: float
    top_k: int  # -1: off
    max_response_tokens: int
    banned_token_ids: tuple[int, ...]  # never sampled: vision tokens, which no response may hold
    seed: int | None  # only where the engine is deterministic


@dataclass(frozen=True)
class GroupResult:
    """What came back."""

    num_prompt_tokens: int  # placeholders expanded
    trajectories: tuple[Trajectory, ...]  # in order of index; aborted ones are missing
    num_aborted: int  # cut by a pause; the group must be generated again


class Engine(Protocol):
    """One engine. Every method has a finite timeout and raises EngineError."""

    async def generate(self, request: GroupRequest) -> GroupResult:
        """Raises RequestRejected when the request is at fault."""

    async def version(self) -> int | None:
        """Version of the weights it serves; None before the first push. Answers while paused."""

    async def is_healthy(self) -> bool:
        """True when it can generate. Not to be asked while paused."""

    async def init_group(
        self, *, name: str, host: str, port: int, rank: int, world_size: int, backend: str
    ) -> None:
        """Joins the trainer's group; returns when all ranks have."""

    async def destroy_group(self, name: str) -> None: ...

    async def pause(self, mode: str) -> None: ...

    async def begin_update(self) -> None: ...

    async def update(self, bucket: WeightBucket, *, group: str, final_version: int | None) -> None:
        """Takes one bucket. `final_version` is given with the last one."""

    async def end_update(self) -> None: ...

    async def resume(self) -> None: ...
