"""Connections to a push group's ports from somebody who is none of its ranks."""

import multiprocessing
import os
import socket
from contextlib import ExitStack
from multiprocessing.queues import Queue

import torch

from learner.push.group import PushGroup
from rollout.embedded.weights import UpdateGroup
from tests.hosts.listening import listening_ports

HOST, NAME = "127.0.0.1", "push-x"
TIMEOUT_S = 60.0  # the other rank has torch to import, on a machine that may be busy
NOT_OURS = (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # the first waits and says nothing


def receive(port: int, said: "Queue[float]", told: "Queue[int]") -> None:
    """Rank 1: says its process id, and then the sum of each tensor."""
    group = UpdateGroup(HOST, port, 1, 2, NAME, "gloo", TIMEOUT_S)
    said.put(os.getpid())
    while told.get():
        ((_, tensor),) = group.receive(["x"], [torch.float32], [[8]])
        said.put(float(tensor.sum()))
    group.close()


def knock(port: int, connections: ExitStack) -> None:
    """Leaves connections open that say nothing or something else, and one that is gone again."""
    for content in NOT_OURS:
        connection = connections.enter_context(socket.create_connection((HOST, port), TIMEOUT_S))
        connection.sendall(content)
    socket.create_connection((HOST, port), TIMEOUT_S).close()


def test_strangers_at_its_ports_hold_up_no_push() -> None:
    context = multiprocessing.get_context("spawn")
    said, told = context.Queue(), context.Queue()
    group = PushGroup(NAME, HOST, 2, "gloo", TIMEOUT_S)
    with ExitStack() as connections:
        knock(group.port, connections)
        rank = context.Process(target=receive, args=(group.port, said, told), daemon=True)
        rank.start()
        group.join()
        other = int(said.get(timeout=TIMEOUT_S))
        ports = {*listening_ports(os.getpid()), *listening_ports(other)}
        assert len(ports) >= 3, "the store's, and gloo's of each rank"
        for port in ports:
            knock(port, connections)
        for value in (1.0, 2.0):
            told.put(1)
            group.broadcast(torch.full((8,), value))
            assert said.get(timeout=TIMEOUT_S) == 8 * value
        told.put(0)
        group.close()
        rank.join(TIMEOUT_S)
        assert rank.exitcode == 0
