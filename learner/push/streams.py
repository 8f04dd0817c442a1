"""Streams of a device beside the trainer's: a push waits there for no kernel of a step.

The default stream is one for all threads of a process. What a push copied, sent or hashed on it
would begin behind whatever the trainer has launched, and the trainer's next kernels behind that.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch


class Stream(Protocol):
    """A queue whose work runs in order, and beside the work launched elsewhere."""

    def follow(self) -> None:
        """Run later work here after all that the calling thread has launched."""

    def entered(self) -> AbstractContextManager[Any]:
        """Launch here what the calling thread launches within."""

    def synchronize(self) -> None:
        """Return when all that was launched here is done."""


class CudaStream:
    """A stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def follow(self) -> None:
        self._stream.wait_event(torch.cuda.current_stream(self._stream.device).record_event())

    def entered(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


class NoStream:
    """The stream of a CPU, where work is done when the call returns."""

    def follow(self) -> None:
        return

    def entered(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        return


MakeStream = Callable[[torch.device], Stream]


def new_stream(device: torch.device) -> Stream:
    """A new stream of the device."""
    return CudaStream(device) if device.type == "cuda" else NoStream()
