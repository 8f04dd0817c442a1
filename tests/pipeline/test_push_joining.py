"""Joining a push group, the learner's side and a server's: it ends whatever the other one does.

Holds learner/push/group.py.
"""

import os
import re
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from common.push_groups import PREFIX
from learner.push.group import PushGroup
from rollout.embedded.weights import UpdateGroup
from tests.learner.rank_processes import FORKS

HOST, LONG_S = "127.0.0.1", 30.0
SHORT_S = 1.0
BUCKET = [3.0, 4.0, 5.0]
ERRORS = {  # by whom it is noticed first is gloo's, or ours
    "leaves": "closed by peer|reset by peer",
    "is silent": "(?i)timed out|joined within",
}


@pytest.fixture
def name(request) -> str:
    """Each test's own: what a late rank leaves behind would stand in the next one's way."""
    return f"{PREFIX}{request.node.name}"


def make_rank(rank: int, store: Any, name: str) -> dist.ProcessGroup:
    """A rank as plain torch makes it: it sends and receives nothing."""
    group, _ = distributed_c10d._new_process_group_helper(
        2, rank, [], dist.Backend("gloo"), dist.PrefixStore(name, store), group_name=name,
        timeout=dist.constants.timedelta(seconds=LONG_S),
    )  # fmt: skip
    return group


def take(port: int, pipe: Connection, name: str) -> None:
    group = UpdateGroup(HOST, port, 1, 2, name, "gloo", LONG_S)
    pipe.send("joined")
    ((_, tensor),) = group.receive(["w"], [torch.float32], [[len(BUCKET)]])
    pipe.send(tensor.tolist())
    assert pipe.poll(LONG_S)  # the learner leaves first


def connect_and(port: int, pipe: Connection, name: str, end: str) -> None:
    """A server that connects, and then never takes what belongs to joining."""
    store, _, _ = next(rendezvous(f"tcp://{HOST}:{port}", 1, 2))
    group = make_rank(1, store, name)
    if end == "dies":
        os._exit(9)
    pipe.send(group.size())
    pipe.poll(LONG_S)
    os._exit(0)


def ask_to_join(port: int, pipe: Connection, name: str) -> None:
    """A server, whose learner may end or fall silent."""
    try:
        UpdateGroup(HOST, port, 1, 2, name, "gloo", 2 * SHORT_S)
    except RuntimeError as error:
        pipe.send(str(error))
    pipe.poll(LONG_S)


@pytest.fixture
def server():
    """Starts one process with a pipe, and ends it."""
    started = []

    def start(target, *arguments) -> Connection:
        pipe, of_process = FORKS.Pipe()
        port, *others = arguments
        process = FORKS.Process(target=target, args=(port, of_process, *others))
        process.start()
        started.append(process)
        return pipe

    yield start
    for process in started:
        process.kill()
        process.join(LONG_S)


def test_who_has_joined_has_the_first_element_and_the_first_bucket_is_whole(server, name):
    group = PushGroup(name, HOST, 2, "gloo", LONG_S)
    pipe = server(take, group.port, name)
    group.join()
    assert pipe.poll(LONG_S) and pipe.recv() == "joined"
    group.broadcast(torch.tensor(BUCKET))
    assert pipe.poll(LONG_S) and pipe.recv() == BUCKET
    group.close()
    pipe.send("left")


def test_a_server_that_never_comes_is_not_waited_for_longer_than_the_timeout(name):
    group = PushGroup(name, HOST, 2, "gloo", SHORT_S)
    with pytest.raises(RuntimeError):
        group.join()
    group.close(is_broken=True)


@pytest.mark.parametrize("end", ["dies", "is silent"])
def test_a_server_that_ends_between_the_announcement_and_the_first_element_has_not_joined(
    server, name, end
):
    group = PushGroup(name, HOST, 2, "gloo", 3 * SHORT_S)
    pipe = server(connect_and, group.port, name, end)
    with pytest.raises(RuntimeError):
        group.join()
    for thread in threading.enumerate():
        if thread.name == f"join {name}":
            thread.join(LONG_S)
    assert name not in distributed_c10d._world.pg_names.values()  # nothing is left of it
    group.close(is_broken=True)
    pipe.close()


@pytest.mark.parametrize("end", ["leaves", "is silent"])
def test_a_learner_that_ends_before_the_first_element_costs_a_server_an_error_no_hang(
    server, name, end
):
    group = PushGroup(name, HOST, 2, "gloo", LONG_S)
    pipe = server(ask_to_join, group.port, name)
    made = make_rank(0, group._store, name)
    distributed_c10d._world.pg_group_ranks[made] = {0: 0, 1: 1}
    if end == "leaves":
        dist.destroy_process_group(made)
        del made
    assert pipe.poll(LONG_S) and re.search(ERRORS[end], pipe.recv())
    if end != "leaves":
        dist.destroy_process_group(made)
    group.close()
