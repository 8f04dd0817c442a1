"""Run a function on n ranks of the learner: real processes over gloo, with an end to every wait.

A server that has imported torch and transformers forks the ranks, so that one takes milliseconds.
"""

import contextlib
import multiprocessing as mp
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from learner.ranks import Ranks, init_ranks

FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.learner.preloaded", "tests.learner.rank_processes"])
_KILL_S = 5.0


def run_on_ranks(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = 60.0,
    collective_timeout_s: float = 30.0,
    shard_ranks: int | None = None,
) -> list[Any]:
    """What `function(ranks, *arguments)` returned on each rank. No process outlives the call.

    Args:
        function: of a module that a new process can import; its results are pickled, and must
            be plain values, arrays, or tensors that were turned into arrays.
        timeout_s: for all of it.
        collective_timeout_s: of the ranks' process group.
        shard_ranks: as `init_ranks` has it.

    Raises:
        AssertionError: a rank raised (its traceback is in the message), died, or was too slow.
    """
    deadline = time.monotonic() + timeout_s
    with started_ranks(
        function, world_size, *arguments, timeout_s=collective_timeout_s, shard_ranks=shard_ranks
    ) as started:
        answers: dict[int, Any] = {}
        while len(answers) < world_size:
            waiting = {started[r][1]: r for r in range(world_size) if r not in answers}
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            assert ready, f"ranks {sorted(waiting.values())} gave no answer in {timeout_s:g} s"
            for pipe in ready:
                assert isinstance(pipe, Connection)
                answers[waiting[pipe]] = _answer(pipe, waiting[pipe])
    return [answers[rank] for rank in range(world_size)]


@contextlib.contextmanager
def started_ranks(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = 30.0,
    shard_ranks: int | None = None,
) -> Iterator[list[tuple[ForkServerProcess, Connection]]]:
    """The ranks' processes and the pipes of their answers; all are gone at the end."""
    port = free_port()
    started = []
    try:
        for rank in range(world_size):
            here, there = FORKS.Pipe(duplex=False)
            process = FORKS.Process(
                target=_run,
                args=(there, function, rank, world_size, port, timeout_s, shard_ranks, arguments),
            )
            process.start()
            there.close()
            started.append((process, here))
        yield started
    finally:
        for process, pipe in started:
            pipe.close()
            process.kill()
            process.join(_KILL_S)


def _answer(pipe: Connection, rank: int) -> Any:
    try:
        is_good, content = pipe.recv()
    except EOFError:
        raise AssertionError(f"rank {rank} died without an answer") from None
    assert is_good, f"rank {rank}:\n{content}"
    return content


def _run(
    pipe: Connection,
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    timeout_s: float,
    shard_ranks: int | None,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        ranks: Ranks = init_ranks(timeout_s, needs_group=True, shard_ranks=shard_ranks)
        answer = function(ranks, *arguments)
        ranks.close()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        raise
    pipe.send((True, answer))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
