"""Ray over three hosts: what the launcher stands on when it is tested there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.namespaces import HOSTS, why_not
from tests.hosts.ray_nodes import RayHosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LOST_AFTER_S = 4.0
# A driver that obeys: each line that it reads is a Python expression, each that it writes after a
# "=" is the answer's JSON. What Ray writes beside that is for people.
DRIVER = """
import json, subprocess, sys, time, ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init(log_to_driver=False, logging_level="ERROR")
actors = {}

@ray.remote(num_cpus=1, max_restarts=0)
class Actor:
    def address(self):
        told = subprocess.run(("ip", "-j", "address", "show", "net0"), capture_output=True)
        return json.loads(told.stdout)[0]["addr_info"][0]["local"]

def place(host):
    group = ray.util.placement_group([{"CPU": 1}], bundle_label_selector=[{"pool": host}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    actors[host] = Actor.options(scheduling_strategy=strategy).remote()
    return address(host)

def address(host, timeout_s=60.0):
    try:
        return ray.get(actors[host].address.remote(), timeout=timeout_s)
    except ray.exceptions.RayError as error:
        return type(error).__name__

def wait_for_nodes(number, timeout_s):
    began = time.monotonic()
    while sum(node["Alive"] for node in ray.nodes()) != number:
        if time.monotonic() > began + timeout_s:
            return None
        time.sleep(0.1)
    return time.monotonic() - began

for line in sys.stdin:
    print("=", json.dumps(eval(line)), flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHosts]:
    if reason := why_not():
        pytest.skip(reason)
    pytest.importorskip("ray")
    with RayHosts(LOST_AFTER_S) as made:
        yield made


@pytest.fixture
def driver(cluster: RayHosts) -> Iterator["Driver"]:
    made = Driver(cluster)
    yield made
    made.close()


class Driver:
    """Runs on host a."""

    def __init__(self, cluster: RayHosts) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = cluster.popen_on("a", (sys.executable, "-c", DRIVER), **pipes)

    def __call__(self, expression: str) -> Any:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        pipe_in.write(expression.encode() + b"\n")
        pipe_in.flush()
        answers = (line for line in pipe_out if line.startswith(b"="))
        return json.loads(next(answers).removeprefix(b"="))

    def close(self) -> None:
        self._process.communicate(timeout=30)


def test_an_actor_goes_where_its_label_says(cluster: RayHosts, driver: Driver) -> None:
    for host in HOSTS:
        assert driver(f"place({host!r})") == cluster.hosts.address(host)


def test_whoever_has_no_token_does_not_get_in(cluster: RayHosts) -> None:
    status = (sys.executable, "-m", "ray.scripts.scripts", "status")
    assert "Node status" in cluster.run_on("b", status)
    with pytest.raises(AssertionError, match="token is missing or incorrect"):
        cluster.run_on("b", status, {"RAY_AUTH_TOKEN": "0" * 64})


def test_a_short_cut_is_only_waited_for(cluster: RayHosts, driver: Driver) -> None:
    driver("place('b')")
    cluster.hosts.cut("b")
    assert driver("address('b', 1.0)") == "GetTimeoutError"
    cluster.hosts.heal("b")
    assert driver("address('b')") == cluster.hosts.address("b")
    assert driver("wait_for_nodes(3, 0)") is not None


def test_a_lost_host_is_noticed_and_one_that_is_back_is_used(
    cluster: RayHosts, driver: Driver
) -> None:
    driver("place('c')")
    cluster.kill("c")
    took_s = driver("wait_for_nodes(2, 30)")
    assert took_s is not None and took_s < LOST_AFTER_S + 3
    assert driver("address('c')") == "ActorDiedError"
    cluster.restart("c")
    assert driver("wait_for_nodes(3, 30)") is not None
    assert driver("place('c')") == cluster.hosts.address("c")
