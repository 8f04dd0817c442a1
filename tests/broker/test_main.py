"""The broker as a real process."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from broker.client import BrokerClient
from broker.main import _address, write_address
from broker.protocol import Role
from common.config import RunConfig
from common.config_cli import build
from common.network import free_port
from tests.broker.support import ROOT, SMALL, command, make_group, process, where, write_dataset
from tests.waiting import LIMIT_S


def run_to_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


async def test_serves_until_the_learner_finishes_and_all_have_left(tmp_path: Path) -> None:
    with process(tmp_path) as (broker, address):
        async with (
            BrokerClient(address, "rollout-0", Role.ROLLOUT) as rollout,
            BrokerClient(address, "learner-0", Role.LEARNER) as learner,
        ):
            assert rollout.welcome.total_steps == 2
            for lease in (await rollout.lease(8, 0, wait_s=0)).leases:
                await rollout.submit(make_group(lease, 0))
            assert len((await learner.take(1, wait_s=5)).groups) == 2
            await learner.ack(1)
            await learner.finish("enough")
            await learner.goodbye()
            assert (await rollout.lease(8, 0, wait_s=5)).finished
            assert broker.poll() is None
            await rollout.goodbye()
        assert broker.wait(LIMIT_S) == 0
        assert broker.stderr is not None
        assert "'samples_trained': 2" in broker.stderr.read()


async def test_sigterm_waits_for_members_to_leave(tmp_path: Path) -> None:
    with process(tmp_path) as (broker, address):
        async with BrokerClient(address, "rollout-0", Role.ROLLOUT) as rollout:
            broker.send_signal(signal.SIGTERM)
            assert (await rollout.watch_weights(0, wait_s=10)).finished
            assert broker.poll() is None
            await rollout.goodbye()
        assert broker.wait(LIMIT_S) == 0


def test_sigint_ends_a_broker_without_members(tmp_path: Path) -> None:
    with process(tmp_path) as (broker, _):
        broker.send_signal(signal.SIGINT)
        assert broker.wait(LIMIT_S) == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with process(tmp_path, "--cluster.drain_s", "600") as (broker, address):
        async with BrokerClient(address, "rollout-0", Role.ROLLOUT) as rollout:
            broker.send_signal(signal.SIGTERM)
            assert (await rollout.watch_weights(0, wait_s=10)).finished
            broker.send_signal(signal.SIGTERM)
            assert broker.wait(LIMIT_S) == 128 + signal.SIGTERM


def test_bad_configurations_are_one_line(tmp_path: Path) -> None:
    train = str(write_dataset(tmp_path, 5))
    for arguments, words in [
        ((), "data.train is not set. Fix:"),
        (("--data.train", train), "learner.groups_per_step = 96 but data.train has 5 usable"),
        (("--data.train", train, *SMALL, "--broker.address", "tcp://0.0.0.0:0"), "loopback only"),
        (("--data.train", str(tmp_path / "none.parquet"), *SMALL), "none.parquet"),
    ]:
        ended = run_to_end(*arguments)
        assert ended.returncode != 0 and words in ended.stderr
        assert "Traceback" not in ended.stderr


async def test_a_restarted_broker_goes_on_where_it_was(tmp_path: Path) -> None:
    with process(tmp_path) as (broker, address):
        async with BrokerClient(address, "rollout-0", Role.ROLLOUT, request_timeout_s=1) as rollout:
            first, second = (await rollout.lease(8, 0, wait_s=0)).leases
            await rollout.submit(make_group(first, 0))
            broker.kill()
            broker.wait(LIMIT_S)
            with process(tmp_path) as (again, same_address):
                assert same_address == address
                await rollout.submit(make_group(second, 0))  # no new hello, no new lease
                assert (await rollout.status()).counts["samples_waiting"] == 2
                again.kill()
    other = run_to_end(*where(tmp_path), *SMALL, "--rollout.trajectories_per_sample", "3")
    assert "rollout.trajectories_per_sample = 3, but the run in run.folder was" in other.stderr
    journal = tmp_path / "run-7" / "journal" / "journal.log"
    content = bytearray(journal.read_bytes())
    content[60] ^= 1
    journal.write_bytes(content)
    damaged = run_to_end(*where(tmp_path), *SMALL)
    assert damaged.returncode == 1 and "Traceback" not in damaged.stderr
    assert "is damaged" in damaged.stderr and "repair keeps what is before it" in damaged.stderr


def config_at(address: str, folder: Path) -> RunConfig:
    return build({"run": {"folder": folder}, "broker": {"address": address}})


def test_a_port_that_somebody_has_without_answering_is_not_taken(tmp_path: Path) -> None:
    """Such as one by which another process talks to a third one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            taken = client.getsockname()[1]
            config = config_at("tcp://127.0.0.1:0", tmp_path)
            write_address(tmp_path, f"tcp://127.0.0.1:{taken}", "run-1")
            assert _address(config) == "tcp://127.0.0.1:0"
        free = free_port("127.0.0.1")
        write_address(tmp_path, f"tcp://127.0.0.1:{free}", "run-1")
        assert _address(config) == f"tcp://127.0.0.1:{free}"
    assert _address(config_at("tcp://*:0", tmp_path)) == f"tcp://*:{free}"


def test_help_lists_the_fields() -> None:
    ended = run_to_end("--help")
    assert ended.returncode == 0 and "--broker.max_staleness" in ended.stdout


def test_the_broker_imports_nothing_heavy() -> None:
    code = (
        "import sys, broker.main, broker.service.server, common.source, broker.client\n"
        "heavy = {'torch', 'transformers', 'torchvision', 'ray', 'pandas'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=LIMIT_S)


def test_a_broker_may_have_as_many_connections_as_the_system_lets_it() -> None:
    code = (
        "import resource as r; from broker.main import allow_many_connections as allow;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, min(hard, 4096) if hard > 0 else 4096)); allow();"
        "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    soft, hard = map(int, told.stdout.split())
    assert soft == hard
