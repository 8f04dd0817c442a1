"""Authenticated sockets: who gets in, who does not, and the files that decide it.

Holds broker/net/zap.py.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import keys as keys_command
from broker import main as broker_main
from broker.client import BrokerClient
from broker.keys import (
    FILE_OF,
    LEARNER_FILE,
    MEMBER_FILE,
    SERVER_FILE,
    ClientKeys,
    ServerKeys,
    client_keys,
    make_keys,
    server_keys,
)
from broker.net.transport import ZmqLink, ZmqListener, public_address, zmq_link
from broker.protocol import Blame, Role
from broker.service.images import DatasetImages
from broker.service.server import BrokerServer
from common.config import BrokerSection, RunConfig
from common.config_cli import build
from common.errors import BrokerUnavailable, ConfigError
from common.images import ImageStore
from common.network import local_address_towards
from tests.broker.support import make_rules, make_service, make_source, write_dataset
from tests.waiting import LIMIT_S, until

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 20_000
OFF_LOOPBACK = (
    *("tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://10.1.2.3:5570", "tcp://[::]:5570"),
    *("tcp://[fd00::7]:5570", "ipc://x", "tcp://n:1", "tcp://::1:5570"),
)


def member_keys(folder: Path) -> ClientKeys:
    return client_keys(folder, Role.ROLLOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    make_keys(folder)
    return folder


@contextlib.asynccontextmanager
async def running_broker(
    keys: ServerKeys | None, address: str = "tcp://127.0.0.1:0", public_host: str | None = None
) -> AsyncIterator[str]:
    """A broker's address. At the end it must stop by itself."""
    source = make_source(4)
    dataset_images = DatasetImages(ImageStore(Path(".")), source.samples)
    listener = ZmqListener(address, LIMIT, keys, public_host)
    server = BrokerServer(
        make_service(source, make_rules()), dataset_images, listener, max_frame_bytes=LIMIT
    )
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT_S), server, asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(stop, 0.05))
        yield server.address
        stop.set()


def member(address: str, keys: ClientKeys | None, *, timeout_s: float = LIMIT_S) -> BrokerClient:
    link = ZmqLink(keys)
    return BrokerClient(
        address, "rollout-0", Role.ROLLOUT, request_timeout_s=timeout_s, tries=2, link=link
    )


async def assert_served(address: str, keys: ClientKeys | None) -> None:
    async with member(address, keys) as rollout:
        (lease,) = (await rollout.lease(1, 0, wait_s=0)).leases
        await rollout.give_back(lease.group_id, lease.attempt, "enough", Blame.NOBODY)


async def assert_left_alone(address: str, keys: ClientKeys | None) -> None:
    with pytest.raises(BrokerUnavailable, match=r"Hello after 2 tries .* Fix: .*broker\.keys"):
        await member(address, keys, timeout_s=0.2).__aenter__()


# ---- sockets -------------------------------------------------------------------------------------
async def test_who_has_the_members_key_is_served(folder: Path) -> None:
    async with running_broker(server_keys(folder)) as address:
        await assert_served(address, member_keys(folder))
        await assert_served(address, member_keys(folder))


async def test_any_other_key_gets_nothing(folder: Path, other_folder: Path) -> None:
    good, other = member_keys(folder), member_keys(other_folder)
    async with running_broker(server_keys(folder)) as address:
        wrong_member = ClientKeys(other.secret, good.server_public)
        wrong_server = ClientKeys(good.secret, other.server_public)
        async with asyncio.TaskGroup() as tasks:
            for keys in (wrong_member, wrong_server, None):
                tasks.create_task(assert_left_alone(address, keys))
        await assert_served(address, good)


async def test_a_member_with_keys_talks_to_no_plain_server(folder: Path) -> None:
    async with running_broker(None) as address:
        await assert_left_alone(address, member_keys(folder))
        await assert_served(address, None)


async def test_without_an_authenticator_no_client_gets_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def __init__(self, *_: object) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr("broker.net.transport.ZapAuthenticator", Absent)
    async with running_broker(server_keys(folder)) as address:
        await assert_left_alone(address, member_keys(folder))


async def test_a_flood_of_strangers_is_a_few_lines_of_log(
    folder: Path, other_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_keys(folder)
    stranger = ClientKeys(member_keys(other_folder).secret, member_keys(folder).server_public)
    with caplog.at_level(logging.INFO):
        async with running_broker(server) as address:
            for _ in range(60):
                link = ZmqLink(stranger)
                link.open(address, LIMIT)
                await asyncio.sleep(0.005)  # a flood, yet each gets as far as its handshake
                link.close()
            await assert_served(address, member_keys(folder))
    refusals = [record for record in caplog.records if record.name == "broker.net.zap"]
    assert 1 <= len(refusals) <= 7
    assert "127.0.0.1" in refusals[0].getMessage()


async def test_closing_waits_for_nobody_and_leaves_no_thread(
    folder: Path, other_folder: Path
) -> None:
    threads = threading.active_count()
    stranger = ClientKeys(member_keys(other_folder).secret, member_keys(folder).server_public)
    links = [ZmqLink(stranger) for _ in range(4)] + [ZmqLink(member_keys(folder))]
    began = asyncio.get_running_loop().time()
    async with running_broker(server_keys(folder)) as address:
        for link in links:
            link.open(address, LIMIT)
            await link.send([b"12345678", b"x"])
        _, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    for link in links:
        link.close()
    writer.close()
    assert asyncio.get_running_loop().time() - began < LIMIT_S  # a linger would have no end
    assert threading.active_count() == threads


async def test_encryption_does_not_eat_into_the_frame_limit(folder: Path) -> None:
    listener = ZmqListener("tcp://127.0.0.1:0", LIMIT, server_keys(folder))
    link = ZmqLink(member_keys(folder))
    link.open(listener.open(), LIMIT)
    largest = b"\x01" * LIMIT
    async with asyncio.timeout(LIMIT_S):
        await link.send([b"12345678", largest])
        peer, *sent = (await listener.receive()).envelope
        assert sent == [b"12345678", largest]
        await listener.send([peer, *sent])
        assert await link.receive() == sent
    link.close()
    listener.close()


# ---- addresses -----------------------------------------------------------------------------------
@pytest.mark.parametrize("address", OFF_LOOPBACK)
def test_off_loopback_is_refused_without_keys(address: str, folder: Path) -> None:
    wanted = rf"broker\.address = '{re.escape(address)}'.*CURVE.*Fix: .*broker\.keys"
    for refused in (
        lambda: ZmqListener(address, LIMIT),
        lambda: ZmqLink().open(address, LIMIT),
        lambda: zmq_link(BrokerSection(address=address), Role.ROLLOUT),
    ):
        with pytest.raises(ConfigError, match=wanted):
            refused()
    zmq_link(BrokerSection(address=address, keys=folder), Role.ROLLOUT)
    ZmqListener(address, LIMIT, server_keys(folder))


async def test_a_client_off_loopback_without_keys_ends_at_once() -> None:
    with pytest.raises(ConfigError, match="CURVE"):
        await member("tcp://10.1.2.3:5570", None).__aenter__()


async def test_an_address_that_is_none_is_a_config_error(folder: Path) -> None:
    for address in ("tcp://", "tcp://1.2.3.4:x", "carrier://pigeon"):
        with pytest.raises(ConfigError, match="Fix"):
            ZmqLink(member_keys(folder)).open(address, LIMIT)
        with pytest.raises(ConfigError, match="Fix"):
            ZmqListener(address, LIMIT, server_keys(folder)).open()


@pytest.mark.parametrize("everywhere", ["tcp://0.0.0.0:0", "tcp://*:0"])
async def test_a_broker_bound_everywhere_is_reached_at_the_address_it_gives(
    everywhere: str, folder: Path
) -> None:
    async with running_broker(server_keys(folder), everywhere) as address:
        assert "0.0.0.0" not in address and "*" not in address
        await assert_served(address, member_keys(folder))


@pytest.mark.skipif(local_address_towards("::1") is None, reason="this machine has no IPv6")
@pytest.mark.parametrize("has_keys", [True, False])
async def test_a_broker_at_an_ipv6_address_is_reached_there(has_keys: bool, folder: Path) -> None:
    keys = server_keys(folder) if has_keys else None
    async with running_broker(keys, "tcp://[::1]:0") as address:
        assert address.startswith("tcp://[::1]:")
        await assert_served(address, member_keys(folder) if has_keys else None)


async def test_a_public_host_stands_in_the_address(folder: Path) -> None:
    keys = server_keys(folder)
    async with running_broker(keys, "tcp://localhost:0", "localhost") as address:
        assert address.startswith("tcp://localhost:")
        await assert_served(address, member_keys(folder))
    assert public_address("tcp://0.0.0.0:7", "head.cluster") == "tcp://head.cluster:7"
    assert public_address("tcp://[::]:7", "fd00::7") == "tcp://[fd00::7]:7"
    assert public_address("tcp://[fd00::7]:7", None) == "tcp://[fd00::7]:7"
    assert public_address("tcp://10.1.2.3:7", None) == "tcp://10.1.2.3:7"


# ---- the broker's process ------------------------------------------------------------------------
def run_config(folder: Path, address: str, keys: Path | None) -> RunConfig:
    return build(
        {
            "run": {"folder": folder / "run"},
            "data": {"train": write_dataset(folder, 5)},
            "broker": {"address": address, "keys": keys},
            "learner": {"groups_per_step": 2},
        }
    )


async def serve_a_member(config: RunConfig, keys: ClientKeys) -> str:
    """Run a broker until one member has been served; the address that it wrote down."""
    assert config.run.folder is not None
    announced = config.run.folder / "broker.json"
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(broker_main.serve(config, stop))
        await until(announced.exists)
        address: str = json.loads(announced.read_text())["address"]
        async with member(address, keys) as rollout:
            await rollout.goodbye()
        stop.set()
    return address


async def test_a_broker_bound_everywhere_comes_back_at_its_port(
    tmp_path: Path, folder: Path
) -> None:
    config = run_config(tmp_path, "tcp://0.0.0.0:0", folder)
    address = await serve_a_member(config, member_keys(folder))
    assert await serve_a_member(config, member_keys(folder)) == address
    assert "0.0.0.0" not in address


async def test_a_broker_off_loopback_without_keys_begins_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CURVE"):
        await broker_main.serve(run_config(tmp_path, "tcp://0.0.0.0:0", None), asyncio.Event())
    assert not (tmp_path / "run").exists()


# ---- files ---------------------------------------------------------------------------------------
def test_key_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_keys(tmp_path / "a" / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "keys").stat().st_mode) == 0o700
    for name in (SERVER_FILE, *FILE_OF.values()):
        assert stat.S_IMODE((tmp_path / "a" / "keys" / name).stat().st_mode) == 0o600


def test_each_side_holds_its_secret_only(folder: Path) -> None:
    server, member = server_keys(folder), member_keys(folder)
    learner = client_keys(folder, Role.LEARNER)
    files = {name: (folder / name).read_text() for name in (SERVER_FILE, *FILE_OF.values())}
    for secret, home in (
        (server.server_secret, SERVER_FILE),
        (member.secret, MEMBER_FILE),
        (learner.secret, LEARNER_FILE),
    ):
        assert [name for name, text in files.items() if secret.decode() in text] == [home]
        assert secret.decode() not in repr(server) + repr(member)


@pytest.mark.parametrize("name", [SERVER_FILE, MEMBER_FILE])
def test_keys_are_never_overwritten_by_accident(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name}.*Fix: .*--force"):
        make_keys(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).chmod(0o644)
    make_keys(tmp_path, replace=True)
    assert server_keys(tmp_path).public
    assert member_keys(tmp_path).server_public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_keys_that_others_may_use_are_refused(tmp_path: Path, mode: int) -> None:
    make_keys(tmp_path)
    for read, name in ((server_keys, SERVER_FILE), (member_keys, MEMBER_FILE)):
        (tmp_path / name).chmod(mode)
        with pytest.raises(
            ConfigError, match=rf"{name} \(mode {mode:o}\). Fix: chmod 600 .*{name}"
        ):
            read(tmp_path)


def test_missing_keys_say_how_to_make_them(tmp_path: Path) -> None:
    for read, name in ((server_keys, SERVER_FILE), (member_keys, MEMBER_FILE)):
        with pytest.raises(
            ConfigError, match=rf"broker\.keys = .*{name}.*Fix: .*broker\.keys FOLD"
        ):
            read(tmp_path)
    with pytest.raises(ConfigError, match=r"member\.json"):
        zmq_link(BrokerSection(keys=tmp_path), Role.ROLLOUT)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rollout_secret": 1}', "\xff\0", None])
def test_damaged_keys_are_one_line_without_the_secret(tmp_path: Path, content: str | None) -> None:
    make_keys(tmp_path)
    secret = member_keys(tmp_path).secret.decode()
    cut = f'{{"rollout_secret": "{secret[1:]}", "server_public": "{secret}"}}'
    (tmp_path / MEMBER_FILE).write_text(cut if content is None else content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"member\.json holds no .* Fix: ") as refused:
        member_keys(tmp_path)
    assert secret[1:] not in str(refused.value)


def test_files_that_changed_places_are_noticed(tmp_path: Path) -> None:
    make_keys(tmp_path)
    for other in (SERVER_FILE, LEARNER_FILE):
        (tmp_path / other).replace(tmp_path / MEMBER_FILE)
        with pytest.raises(ConfigError, match=r"holds no rollout_secret"):
            member_keys(tmp_path)


# ---- the command ---------------------------------------------------------------------------------
def test_the_command_says_what_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["keys", str(tmp_path)])
    keys_command.main()
    before, told = member_keys(tmp_path), capsys.readouterr().out
    for part in (
        SERVER_FILE,
        *FILE_OF.values(),
        "600",
        f"--broker.keys {tmp_path}",
        "tcp://0.0.0.0:",
    ):
        assert part in told, part
    assert before.secret.decode() not in told
    with pytest.raises(SystemExit, match="2"):
        keys_command.main()
    assert "--force" in capsys.readouterr().err and member_keys(tmp_path) == before
    monkeypatch.setattr("sys.argv", ["keys", str(tmp_path), "--force"])
    keys_command.main()
    assert member_keys(tmp_path) != before


def test_the_command_is_a_module_with_help() -> None:
    command = [sys.executable, "-m", "broker.keys", "--help"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert "FOLDER" in ended.stdout and "--force" in ended.stdout
