"""A push's copies, hashes and broadcasts in the order of their streams, and what shards cost.

A CPU has no streams: a stand-in notes what is launched where.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from broker.protocol import Members
from common.config import WeightsSection
from common.types import WeightProbe, WeightUpdate
from learner.push import routes
from learner.push.buckets import Snapshot
from learner.push.publisher import Publisher
from learner.push.streams import NoStream, new_stream

CPU = torch.device("cpu")


class Recorder:
    """Makes the two streams of a snapshot, and notes what happens on which."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._made = 0
        self._of_thread = threading.local()

    @property
    def current(self) -> str:
        return getattr(self._of_thread, "current", "trainer")

    @current.setter
    def current(self, stream: str) -> None:
        self._of_thread.current = stream

    def make(self, device: torch.device) -> "RecordedStream":
        self._made += 1
        return RecordedStream(self, ("copying", "sending")[self._made - 1])

    def note(self, event: str) -> None:
        self.events.append(f"{self.current}: {event}")


class RecordedStream:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder, self._name = recorder, name

    def follow(self) -> None:
        self._recorder.note(f"{self._name} follows")

    @contextmanager
    def entered(self) -> Iterator[None]:
        before, self._recorder.current = self._recorder.current, self._name
        yield
        self._recorder.current = before

    def synchronize(self) -> None:
        self._recorder.note(f"{self._name} is done")


class Watched(TorchDispatchMode):
    """Notes copies and collectives, and adds up the bytes that a rank gives to gathers."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self.gathered_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name == "copy_":
            self._recorder.note("copy")
        if name == "all_gather_into_tensor":
            self._recorder.note("gather")
            self.gathered_bytes += args[0].nbytes
        return func(*args, **(kwargs or {}))


@pytest.fixture
def shards() -> Iterator[dict[str, Tensor]]:
    """Weights of which this process, one of two, has half. The other one is imagined.

    For one test a process: torch 2.13 keeps what it plans for a mesh, with the group's name.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    try:
        yield {
            f"model.layers.0.linear_attn.{name}": DTensor.from_local(
                torch.randn(4, 8), mesh, [Shard(0)]
            )
            for name in ("A_log", "out_proj.weight")
        }
    finally:
        dist.destroy_process_group()


def taken(weights: dict[str, Tensor], recorder: Recorder, watched: Watched) -> Snapshot:
    snapshot = Snapshot(weights, torch.bfloat16, 1, make_stream=recorder.make)
    with watched:
        snapshot.begin()
        snapshot.gather()
    return snapshot


def test_what_is_sent_follows_the_last_copy_of_shards(shards):
    """Nobody waits for those copies: `gather` only counts them. Gathered in the dtype that is sent,
    they are half the bytes of float32, but for what servers hold in float32.
    """
    recorder = Recorder()
    watched = Watched(recorder)
    snapshot = taken(shards, recorder, watched)
    assert recorder.events == [
        "trainer: gather", "trainer: gather", "trainer: copy", "trainer: copy",
        "trainer: copying follows", "trainer: sending follows",
    ]  # fmt: skip
    assert len(list(snapshot.ready())) == 1
    assert watched.gathered_bytes == 4 * 8 * (4 + 2)


def test_whole_weights_are_copied_beside_the_trainer_and_ready_when_that_is_done():
    recorder = Recorder()
    weights = {"a": torch.randn(3), "b": torch.randn(5)}
    taken(weights, recorder, Watched(recorder))
    assert recorder.events == [
        "trainer: copying follows", "trainer: sending follows",
        "copying: copy", "copying: copy", "trainer: copying is done",
    ]  # fmt: skip


def test_a_cpu_has_no_streams():
    stream = new_stream(CPU)
    assert isinstance(stream, NoStream)
    stream.follow()
    with stream.entered():
        pass
    stream.synchronize()


class Line:
    """A broker with one server, as the publisher asks it."""

    def call(self, request: Callable[[Any], Awaitable[Any]], timeout_s: float) -> Any:
        async def carry_out() -> Any:
            return await request(self)

        return asyncio.run(carry_out())

    def cancel_calls(self) -> None:
        pass

    async def announce(self, update: WeightUpdate) -> None:
        pass

    async def watch_members(self, at_least: int, wait_s: float) -> Members:
        return Members(acknowledged={"rollout-0": -1}, ranks={"rollout-0": 1})


class Checks:
    """Answers nothing, and notes where it is asked."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def is_due(self, push: int) -> bool:
        return True

    def probes(self) -> tuple[WeightProbe, ...]:
        self._recorder.note("probe")
        ids, logprobs = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.float32)
        probe = WeightProbe(
            prompt_token_ids=ids, image=b"", response_token_ids=ids, logprobs=logprobs,
            tolerance=0.1,
        )  # fmt: skip
        return (probe,)

    def checksums(self, snapshot: Snapshot) -> None:
        self._recorder.note("checksums")


class Group:
    """A push group that nobody joins; it notes where its work is launched."""

    name, port, world_size = "g", 1, 2
    recorder: Recorder

    def __init__(
        self, *_: object, within: Callable[[], AbstractContextManager[None]], **__: object
    ) -> None:
        self._within = within

    def join(self) -> None:
        thread = threading.Thread(target=self._join)  # as the real one's
        thread.start()
        thread.join()

    def _join(self) -> None:
        with self._within():
            self.recorder.note("join")

    def broadcast(self, content: Tensor) -> None:
        self.recorder.note("broadcast")

    def close(self, is_broken: bool = False) -> None:
        pass


def test_all_that_a_push_sends_is_launched_where_it_is_sent(monkeypatch):
    """Hashes, the broadcast of joining and those of the buckets; the probe is the trainer's."""
    recorder = Recorder()
    weights = {"a": torch.randn(3), "b": torch.randn(5)}
    snapshot = Snapshot(weights, torch.float32, 1e-6, make_stream=recorder.make)
    monkeypatch.setattr(Group, "recorder", recorder, raising=False)
    monkeypatch.setattr(routes, "PushGroup", Group)
    with Publisher(
        WeightsSection(), Line(), 0, snapshot, 1, 5.0, 0.5, checks=Checks(recorder)
    ) as pushing:
        pushing.push(0)
        pushing.wait()
    work = ("probe", "checksums", "join", "broadcast", "sending follows")
    assert [event for event in recorder.events if event.endswith(work)] == [
        "trainer: probe", "trainer: sending follows", "sending: checksums", "sending: join",
        "sending: broadcast", "sending: broadcast",
    ]  # fmt: skip
