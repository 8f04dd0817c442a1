"""Joining a push group, the learner's side and a server's: it ends whatever the other one does."""

import os
import re
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

HOST, NAME, LONG_S = "127.0.0.1", f"{PREFIX}x", 30.0
SHORT_S = 1.0
BUCKET = [3.0, 4.0, 5.0]
ERRORS = {"leaves": "closed by peer|reset by peer", "is silent": "timed out|joined within"}


def make_rank(rank: int, store: Any) -> dist.ProcessGroup:
    """A rank as plain torch makes it: it sends and receives nothing."""
    group, _ = distributed_c10d._new_process_group_helper(
        2, rank, [], dist.Backend("gloo"), dist.PrefixStore(NAME, store), group_name=NAME,
        timeout=dist.constants.timedelta(seconds=LONG_S),
    )  # fmt: skip
    return group


def take(port: int, pipe: Connection) -> None:
    group = UpdateGroup(HOST, port, 1, 2, NAME, "gloo", LONG_S)
    pipe.send("joined")
    ((_, tensor),) = group.receive(["w"], [torch.float32], [[len(BUCKET)]])
    pipe.send(tensor.tolist())
    assert pipe.poll(LONG_S)  # the learner leaves first


def connect_and(port: int, pipe: Connection, end: str) -> None:
    """A server that connects, and then never takes what belongs to joining."""
    store, _, _ = next(rendezvous(f"tcp://{HOST}:{port}", 1, 2))
    group = make_rank(1, store)
    if end == "dies":
        os._exit(9)
    pipe.send(group.size())
    pipe.poll(LONG_S)
    os._exit(0)


def ask_to_join(port: int, pipe: Connection) -> None:
    """A server, whose learner may end or fall silent."""
    try:
        UpdateGroup(HOST, port, 1, 2, NAME, "gloo", 2 * SHORT_S)
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


def test_who_has_joined_has_the_first_element_and_the_first_bucket_is_whole(server):
    group = PushGroup(NAME, HOST, 2, "gloo", LONG_S)
    pipe = server(take, group.port)
    group.join()
    assert pipe.poll(LONG_S) and pipe.recv() == "joined"
    group.broadcast(torch.tensor(BUCKET))
    assert pipe.poll(LONG_S) and pipe.recv() == BUCKET
    group.close()
    pipe.send("left")


def test_a_server_that_never_comes_is_not_waited_for_longer_than_the_timeout():
    group = PushGroup(NAME, HOST, 2, "gloo", SHORT_S)
    with pytest.raises(RuntimeError):
        group.join()
    group.close(is_broken=True)


@pytest.mark.parametrize("end", ["dies", "is silent"])
def test_a_server_that_ends_between_the_announcement_and_the_first_element_has_not_joined(
    server, end
):
    group = PushGroup(NAME, HOST, 2, "gloo", 3 * SHORT_S)
    pipe = server(connect_and, group.port, end)
    with pytest.raises(RuntimeError):
        group.join()
    assert NAME not in distributed_c10d._world.pg_names.values()  # nothing is left of it
    group.close(is_broken=True)
    pipe.close()


@pytest.mark.parametrize("end", ["leaves", "is silent"])
def test_a_learner_that_ends_before_the_first_element_costs_a_server_an_error_no_hang(server, end):
    group = PushGroup(NAME, HOST, 2, "gloo", LONG_S)
    pipe = server(ask_to_join, group.port)
    made = make_rank(0, group._store)
    distributed_c10d._world.pg_group_ranks[made] = {0: 0, 1: 1}
    if end == "leaves":
        dist.destroy_process_group(made)
        del made
    assert pipe.poll(LONG_S) and re.search(ERRORS[end], pipe.recv())
    group.close()
