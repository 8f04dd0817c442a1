"""Places on a real Ray of one machine, which is told that it has GPUs and a label."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.errors import VisionOpdError
from deploy.cluster.pools import Pool
from deploy.supervision.placement import (
    NoPlace,
    Placed,
    PlaceLost,
    Placement,
    needs,
    processes_a_node,
)
from deploy.supervision.process_actor import StartRequest
from deploy.supervision.ray_connection import local_ray
from tests.waiting import LIMIT_S, until

SEAT_S = 60.0  # a place that is there is taken within seconds
NO_ROOM_S = 1.0
WAITING = "import time\nprint('up', flush=True)\ntime.sleep(600)"
BROKER = Pool("broker", 1, cpus=1, gpus=0, nodes=None)
ROLLOUT = Pool("rollout", 2, cpus=1, gpus=1, nodes=None)
LEARNER = Pool("learner", 2, cpus=0.5, gpus=0.5, nodes=1, labels={"pool": "train"})


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    """A Ray with 3 CPUs, 2 GPUs and the label pool=train."""
    with local_ray(num_cpus=3, num_gpus=2, labels={"pool": "train"}):
        yield


def available(resource: str) -> float:
    import ray

    found: float = ray.available_resources().get(resource, 0.0)
    return found


def groups() -> list[str]:
    """Placement groups that are not removed."""
    import ray

    table = ray.util.placement_group_table()
    return [each["state"] for each in table.values() if each["state"] != "REMOVED"]


@pytest.fixture
async def placement() -> AsyncIterator[Placement]:
    """Fails when a test has not given all back."""
    made = Placement(reserves_cpus=True)
    yield made
    made.close()
    await until(lambda: available("CPU") == 3 and available("GPU") == 2 and groups() == [])


class Lent:
    """Places that are given back at the end of a block."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._placed: list[Placed] = []

    def take(self, pool: Pool, rank: int = 0) -> Placed:
        self._placed.append(self._placement.place(pool, rank))
        return self._placed[-1]

    def give_back(self) -> None:
        while self._placed:
            self._placed.pop().release()


@pytest.fixture
def lent(placement: Placement) -> Iterator[Lent]:
    places = Lent(placement)
    yield places
    places.give_back()


def order(folder: Path, script: str, name: str = "a") -> StartRequest:
    command = (sys.executable, "-c", script)
    return StartRequest(command, {"MINE": "yes"}, str(folder / f"{name}.log"), 2**20, 2)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_a_process_is_placed_started_signalled_and_waited_for(
    lent: Lent, tmp_path: Path
) -> None:
    script = "import os, signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\n"
    placed = lent.take(BROKER)
    location = await placed.location(SEAT_S)
    assert (location.host, location.interface) == ("127.0.0.1", "lo") and 0 < location.port < 2**16
    pid = await placed.start(order(tmp_path, script + "print(os.environ['MINE'])\n" + WAITING))
    end = asyncio.create_task(placed.wait())
    await until(lambda: text(tmp_path / "a.log") == "yes\nup\n")
    assert is_alive(pid) and not end.done()
    await placed.signal(signal.SIGTERM)
    assert await end == 7
    await placed.signal(signal.SIGTERM)  # to nobody


async def test_a_child_left_behind_does_not_hold_up_the_exit_code(
    lent: Lent, tmp_path: Path
) -> None:
    """An engine whose server was killed has the server's pipe. Ray's loop is another one."""
    placed = lent.take(BROKER)
    await placed.location(SEAT_S)
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid)\nsys.exit(4)"
    )
    await placed.start(order(tmp_path, script))
    async with asyncio.timeout(LIMIT_S):
        assert await placed.wait() == 4
    os.kill(int(text(tmp_path / "a.log")), signal.SIGKILL)


async def test_a_command_that_cannot_be_run_is_told(lent: Lent, tmp_path: Path) -> None:
    placed = lent.take(BROKER)
    await placed.location(SEAT_S)
    strange = StartRequest(("/no/such/python",), {}, str(tmp_path / "a.log"), 2**20, 2)
    with pytest.raises(
        VisionOpdError, match=r"broker cannot be started: /no/such/python does.*Fix"
    ):
        await placed.start(strange)


async def test_what_is_killed_with_its_ray_worker_is_lost_and_ended(
    lent: Lent, tmp_path: Path
) -> None:
    placed = lent.take(BROKER)
    await placed.location(SEAT_S)
    pid = await placed.start(order(tmp_path, WAITING))
    end = asyncio.create_task(placed.wait())
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert await end is None
    await until(lambda: not is_alive(pid))
    await placed.signal(signal.SIGTERM)  # nobody is there to be told
    with pytest.raises(PlaceLost, match="broker lost its place"):
        await placed.start(order(tmp_path, WAITING))


async def test_there_is_room_again_when_a_place_is_given_back(lent: Lent, tmp_path: Path) -> None:
    first, second, third = (lent.take(ROLLOUT, rank) for rank in range(3))
    await first.location(SEAT_S)
    await second.location(SEAT_S)
    seen = "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n" + WAITING
    pid = await first.start(order(tmp_path, seen, "first"))
    await second.start(order(tmp_path, seen, "second"))
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    await until(lambda: all("up" in text(log) for log in logs))
    assert sorted(text(log).splitlines()[0] for log in logs) == ["0", "1"]

    began = time.monotonic()
    message = (
        r"rollout-2 found no machine with room within 1 s: it needs 1 CPUs, 1 GPUs\. "
        r"Fix: .*\[rollout_pool\]"
    )
    with pytest.raises(NoPlace, match=message):
        await third.location(NO_ROOM_S)
    assert time.monotonic() - began < SEAT_S
    third.release()

    fourth = lent.take(ROLLOUT, 3)
    waiting = asyncio.create_task(fourth.location(SEAT_S))
    await asyncio.sleep(0.2)  # in which it would be given a place that is not free
    assert not waiting.done()
    first.release()
    await waiting
    await until(lambda: not is_alive(pid))


async def test_a_pool_on_one_machine_has_one_group_for_all_its_lives(
    lent: Lent, tmp_path: Path
) -> None:
    """Two halves of one GPU; when they have ended, the room stays theirs."""
    for _ in range(2):
        ranks = [lent.take(LEARNER, rank) for rank in range(2)]
        await asyncio.gather(*(placed.location(SEAT_S) for placed in ranks))
        seen = "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
        for number, placed in enumerate(ranks):
            await placed.start(order(tmp_path, seen, str(number)))
            assert await placed.wait() == 0
        gpus = {text(tmp_path / f"{number}.log") for number in range(2)}
        assert len(gpus) == 1
        lent.give_back()
        await until(lambda: available("GPU") == 1)
        assert len(groups()) == 1


@pytest.mark.parametrize("nodes", [None, 1])
async def test_a_label_that_no_machine_has_gets_no_place(lent: Lent, nodes: int | None) -> None:
    elsewhere = Pool("learner", 1, cpus=0.1, gpus=0, nodes=nodes, labels={"pool": "elsewhere"})
    with pytest.raises(NoPlace, match=r"it needs 0\.1 CPUs, label pool=elsewhere"):
        await lent.take(elsewhere).location(NO_ROOM_S)


async def test_three_halves_of_a_gpu_are_a_group_too(lent: Lent) -> None:
    halves = Pool("rollout", 3, cpus=0.1, gpus=0.5, nodes=1)
    await asyncio.gather(*(lent.take(halves, rank).location(SEAT_S) for rank in range(3)))
    await until(lambda: available("GPU") == 0.5)


async def test_without_reservations_there_is_room_for_every_process() -> None:
    """On a small machine the last one would wait for ever."""
    places = Lent(Placement(reserves_cpus=False))
    wanted = Pool("rollout", 3, cpus=100, gpus=0, nodes=None)
    try:
        await asyncio.gather(*(places.take(wanted, rank).location(SEAT_S) for rank in range(3)))
    finally:
        places.give_back()
    await until(lambda: groups() == [])


async def test_a_wait_for_a_place_can_be_given_up(lent: Lent) -> None:
    waiting = asyncio.create_task(lent.take(Pool("rollout", 1, 99, 0, None)).location(SEAT_S))
    await until(lambda: groups() == ["PENDING"])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    lent.give_back()
    await until(lambda: groups() == [])


def test_processes_are_spread_evenly() -> None:
    assert [processes_a_node(Pool("rollout", 5, 1, 0, nodes)) for nodes in (1, 2, 5, 9)] == [
        *(5, 3, 1, 1)
    ]


def test_what_a_process_needs_is_told_for_people() -> None:
    assert needs(LEARNER) == "0.5 CPUs, 0.5 GPUs, label pool=train"
    assert needs(BROKER) == "1 CPUs"
    assert needs(Pool("broker", 1, 0.01, 0, None)) == "next to nothing"
