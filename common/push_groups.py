"""How the two sides of a weight push come to be in one group: alike for gloo and NCCL.

    make the group > one element from rank 0 reaches every other rank > joined

gloo connects its ranks when a group is made, NCCL only in the first collective. That first
broadcast thus belongs to joining: NCCL's start (seconds with many ranks) is no part of the first
bucket, and a member that has joined has heard of the others.

Sources: torch 2.13, torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp (blocking waits, lazy
communicators) and distributed_c10d.py. rollout/sglang/launch.py reads this file by its path, in an
environment that has nothing of ours: torch and the standard library only.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

PREFIX = "vision-opd-push-"  # groups with such a name begin with the broadcast, on both sides
_BLOCKING_WAIT = "TORCH_NCCL_BLOCKING_WAIT"
Made = tuple[dist.ProcessGroup, Any]  # what torch's _new_process_group_helper returns


def join(
    make: Callable[[], Made],
    name: str,
    timeout_s: float,
    within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Made:
    """Makes a group of all its ranks, whatever one of them does, or fails within `timeout_s`.

    NCCL sets its communicator up in a call to C++ (ncclCommInitRank) that waits for every rank
    without a limit, and before it returns there is nothing yet that could be aborted. So all of
    joining is done in a thread of its own, a daemon, which is given up when time is up: it is then
    lost with its socket, and the next push makes a new group. (An executor's threads are waited for
    at exit. A communicator that does not block, ncclConfig_t.blocking = 0, has been reported to
    hang by itself.) If it comes to an end after all, it takes the group away again.

    Args:
        make: may block.
        name: the group's.
        within: entered in that thread, e.g. a stream of the device.

    Raises:
        RuntimeError: not all ranks came in time; from torch (DistError and its kin) or from here.
    """
    joined: Future[Made] = Future()
    place = _same_device()
    deadline = time.monotonic() + timeout_s

    def carry_out() -> None:
        try:
            with place, within():
                made = _join(make, name, deadline)
        except BaseException as error:
            if joined.set_running_or_notify_cancel():
                joined.set_exception(error)
            return
        if joined.set_running_or_notify_cancel():
            joined.set_result(made)
        else:
            leave(made[0], is_broken=True)

    threading.Thread(target=carry_out, name=f"join {name}", daemon=True).start()
    try:
        return joined.result(timeout_s)
    except TimeoutError:
        if not joined.cancel():  # the join ended in this very moment
            return joined.result()
        raise RuntimeError(
            f"not every rank of the group {name} joined within {timeout_s:g} s. Fix: see the logs "
            "of the rollout servers; weights.timeout_s sets the limit"
        ) from None


def leave(group: dist.ProcessGroup, is_broken: bool = False) -> None:
    """Leave a group that was joined.

    Args:
        is_broken: a rank failed. What NCCL still waits for is then given up, not waited for.
    """
    if is_broken and _is_nccl(group):
        distributed_c10d._abort_process_group(group)
    else:
        dist.destroy_process_group(group)


class _BlockingWaits:
    """For NCCL, which reads this when a group is made: a wait ends with an error after the timeout,
    where its watchdog would end the whole process.

    The environment is the process's, and groups may be made in several threads at once: the last
    one to leave puts back what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: str | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = os.environ.get(_BLOCKING_WAIT)
                os.environ[_BLOCKING_WAIT] = "1"
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside > 0:
                return
            if self._before is None:
                del os.environ[_BLOCKING_WAIT]
            else:
                os.environ[_BLOCKING_WAIT] = self._before


_blocking_waits = _BlockingWaits()


def _join(make: Callable[[], Made], name: str, deadline: float) -> Made:
    with _blocking_waits:
        made = make()
    group = made[0]
    # torch keeps this of its own groups; without it none can be left.
    distributed_c10d._world.pg_group_ranks[group] = {i: i for i in range(group.size())}
    try:
        if name.startswith(PREFIX):
            _greet(group, timedelta(seconds=max(0.001, deadline - time.monotonic())))
    except BaseException:
        leave(group, is_broken=True)
        raise
    return made


def _greet(group: dist.ProcessGroup, timeout: timedelta) -> None:
    element = torch.zeros(1, dtype=torch.uint8, device="cuda" if _is_nccl(group) else "cpu")
    options = dist.BroadcastOptions()
    options.rootRank, options.timeout = 0, timeout
    group.broadcast([element], options).wait(timeout)


def _is_nccl(group: dist.ProcessGroup) -> bool:
    backend, _ = distributed_c10d._world.pg_map[group]
    return backend == "nccl"


def _same_device() -> AbstractContextManager[Any]:
    """This thread's device, for another thread, which would begin with the first one."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return contextlib.nullcontext()
    return torch.cuda.device(torch.cuda.current_device())
