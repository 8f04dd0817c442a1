"""The ranks' writing threads among themselves: the first leads, the others follow.

    first rank:  lead(write)  lead(write)  end()            again, if the disk was full
    others:      follow(write) ...........................  until the first says how it ended

They have a group of their own, so that nothing here meets a collective of the training threads.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from common.errors import CheckpointError
from learner.ranks import RankError, Ranks

_TIMEOUT = timedelta(days=1)  # a full disk is waited for; the training thread has its own limit
Answer = dict[str, Any]  # a JSON object


@dataclass(frozen=True)
class _Result:
    answer: Answer
    error: Exception | None = None

    def message(self) -> Answer:
        if self.error is None:
            return {"answer": self.answer}
        return {"error": str(self.error), "errno": getattr(self.error, "errno", None)}


class Fellows:
    """All ranks make one, and end it with `close`. Alone, a rank leads itself."""

    def __init__(self, ranks: Ranks) -> None:
        self._group = ranks.side_group(_TIMEOUT)

    def close(self) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def lead(self, act: Callable[[], Answer]) -> list[Answer]:
        """What `act` answers on each rank.

        Raises:
            Exception: its own; OSError: that of another rank; CheckpointError: another error of it.
            RankError: another rank is gone.
        """
        self._exchange({"is_over": False})
        own = _result_of(act)
        messages = self._exchange(own.message())
        if own.error is not None:
            raise own.error
        for rank, message in enumerate(messages):
            if "error" in message:
                raise _error_of(rank, message)
        return [message["answer"] for message in messages]

    def end(self, error: BaseException | None = None) -> None:
        """Tell the others that it is done, or what it failed for."""
        told = None if error is None else str(error) or type(error).__name__
        self._exchange({"is_over": True, "error": told})

    def follow(self, act: Callable[[], Answer]) -> None:
        """Do as the first rank says until it ends.

        Raises:
            Exception: it ended badly, and this was why here.
            CheckpointError: it ended badly for another reason.
            RankError: another rank is gone.
        """
        own = _Result({})
        while not (order := self._exchange({})[0])["is_over"]:
            own = _result_of(act)
            self._exchange(own.message())
        if order["error"] is not None:
            raise own.error or CheckpointError(order["error"])

    def _exchange(self, message: Answer) -> list[Answer]:
        if self._group is None:
            return [message]
        try:
            return _gathered(message, self._group)
        except RuntimeError as error:
            raise RankError(
                f"another rank was lost while a checkpoint was written: {error}. Fix: see the "
                "other ranks' logs for the first error, then start again with run.resume = true"
            ) from error


def _result_of(act: Callable[[], Answer]) -> _Result:
    try:
        return _Result(act())
    except Exception as error:  # the leader learns of it, and raises what it must
        return _Result({}, error)


def _error_of(rank: int, message: Answer) -> Exception:
    if message["errno"] is not None:
        return OSError(message["errno"], f"rank {rank}: {message['error']}")
    return CheckpointError(f"rank {rank}: {message['error']}")


def _gathered(message: Answer, group: dist.ProcessGroup) -> list[Answer]:
    content = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(sizes, torch.tensor([len(content)]), group=group)
    room = max(int(size) for size in sizes)
    padded = torch.nn.functional.pad(content, (0, room - len(content)))
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded, group=group)
    return [
        json.loads(bytes(letters[: int(size)].tolist()))
        for letters, size in zip(found, sizes, strict=True)
    ]
