"""The port for Prometheus, asked by an HTTP client. Holds common/scrape/collector.py."""

import asyncio
import contextlib
import json
import logging
import math
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

import common.scrape.port
from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError
from common.network import listening_socket
from common.scrape.port import forget_target, scrape_key, scrape_port

KEY = "0123456789abcdef"
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


def configured(folder: Path | None, **scrape: Any) -> RunConfig:
    return build({"run": {"folder": folder}, "scrape": scrape})


def key_file(folder: Path) -> Path:
    path = folder / "scrape.key"
    path.touch(0o600)
    path.write_text(KEY + "\n")
    return path


def target(folder: Path, process: str = "learner-0") -> str:
    """The address in the process's file."""
    ((named,),) = [one["targets"] for one in json.loads(file_of(folder, process).read_text())]
    return str(named)


def file_of(folder: Path, process: str = "learner-0") -> Path:
    return folder / "scrape" / f"{process}.json"


async def asked(address: str, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://{address}{path}", headers=headers) as reply,
    ):
        return reply.status, await reply.text()


def samples(text: str) -> dict[str, Any]:
    families = text_string_to_metric_families(text)
    return {sample.name: sample for family in families for sample in family.samples}


async def test_a_scrape_has_the_figures_of_now_and_those_of_the_process(tmp_path: Path) -> None:
    figures: dict[str, Any] = {"learner/loss_nats": 0.5, "learner/ratio_max": math.inf}
    folder = tmp_path / "run-7"
    async with scrape_port(configured(folder), "learner", "learner-0", lambda: figures):
        figures |= {"learner/loss_nats": 0.25, "learner/no_such": 1.0}
        figures |= {"broker/trajectories_expired": {"lease_lapsed": 3.0}}
        for accepted in ({}, OPENMETRICS):
            status, text = await asked(target(folder), **accepted)
            assert status == 200
            assert "# HELP vision_opd_learner_loss_nats the objective" in text
        found = samples((await asked(target(folder)))[1])
    labels = {"run": "run-7", "role": "learner", "process": "learner-0"}
    assert found["vision_opd_learner_loss_nats"].value == 0.25
    assert found["vision_opd_learner_loss_nats"].labels == labels
    assert found["vision_opd_learner_ratio_max"].value == math.inf
    expired = found["vision_opd_broker_trajectories_expired_total"]
    assert (expired.value, expired.labels) == (3.0, labels | {"reason": "lease_lapsed"})
    assert found["process_resident_memory_bytes"].value > 2**20
    assert found["process_cpu_seconds_total"].labels == labels
    assert not any("no_such" in name for name in found)


async def test_nothing_is_read_and_no_thread_runs_unless_somebody_asks(tmp_path: Path) -> None:
    num_reads = 0

    def read() -> dict[str, float]:
        nonlocal num_reads
        num_reads += 1
        return {}

    threads = set(threading.enumerate())
    async with scrape_port(configured(tmp_path), "learner", "learner-0", read):
        await asked(target(tmp_path), "/elsewhere")
        assert num_reads == 0 and set(threading.enumerate()) == threads
        await asked(target(tmp_path))
        assert num_reads == 1 and set(threading.enumerate()) == threads


async def test_prometheus_finds_it_as_long_as_it_is_there(tmp_path: Path) -> None:
    file = file_of(tmp_path)
    file.parent.mkdir()
    file.write_text("[]")  # of a life that was killed
    config = configured(tmp_path)
    async with scrape_port(config, "learner", "learner-0", dict):
        (entry,) = json.loads(file.read_text())
        labels = {"run": tmp_path.name, "role": "learner", "process": "learner-0"}
        assert entry == {"targets": [target(tmp_path)], "labels": labels}
        async with scrape_port(config, "learner", "learner-0", dict):
            later = file.read_text()
            assert target(tmp_path) != entry["targets"][0]
            file.write_text(later.replace("learner-0", "of a later life"))
    assert "of a later life" in file.read_text()
    async with scrape_port(config, "learner", "learner-0", dict):
        pass
    assert list(file.parent.iterdir()) == []


async def test_who_is_no_program_on_this_machine_or_has_no_key_is_turned_away(
    tmp_path: Path,
) -> None:
    async with scrape_port(configured(tmp_path), "learner", "learner-0", dict):
        address = target(tmp_path)
        assert (await asked(address, Origin="http://elsewhere.example"))[0] == 403
        assert (await asked(address, Host="elsewhere.example"))[0] == 403
        assert (await asked(address, "/elsewhere"))[0] == 404
    config = configured(tmp_path, key_file=key_file(tmp_path))
    async with scrape_port(config, "learner", "learner-0", dict):
        address = target(tmp_path)
        assert (await asked(address))[0] == 401
        assert (await asked(address, Authorization="Bearer no"))[0] == 401
        assert (await asked(address, Authorization=f"Bearer {KEY}"))[0] == 200


def test_figures_are_shown_to_the_network_with_a_key_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scrape.host = '0.0.0.0' .* Fix: name a file"):
        configured(tmp_path, host="0.0.0.0")
    assert scrape_key(configured(tmp_path)) is None
    file = key_file(tmp_path)
    config = configured(tmp_path, host="0.0.0.0", key_file=file)
    assert scrape_key(config) == KEY
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"scrape.key_file = .* Fix: chmod 600"):
        scrape_key(config)


async def test_a_port_for_the_network_is_named_by_an_address_of_the_machine(tmp_path: Path) -> None:
    config = configured(tmp_path, host="0.0.0.0", key_file=key_file(tmp_path))
    async with scrape_port(config, "learner", "learner-0", dict):
        address = target(tmp_path)
        assert not address.startswith("0.0.0.0")
        assert (await asked(address, Authorization=f"Bearer {KEY}"))[0] == 200


async def test_the_first_free_port_of_those_configured_is_taken(tmp_path: Path) -> None:
    with listening_socket("127.0.0.1") as taken:
        port = taken.getsockname()[1]
        async with scrape_port(configured(tmp_path, port=port), "learner", "learner-0", dict):
            assert port < int(target(tmp_path).rpartition(":")[2]) < port + 64


async def test_a_host_is_looked_up_once_and_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, asked_by = socket.getaddrinfo, []

    def counted(host: Any, *args: Any, **options: Any) -> Any:
        if host == "no-such-host.invalid":
            asked_by.append(threading.current_thread())
        return real(host, *args, **options)

    with listening_socket("127.0.0.1") as taken:
        port = taken.getsockname()[1]
    host = "no-such-host.invalid"
    config = configured(tmp_path, host=host, port=port, key_file=key_file(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", counted)
    async with scrape_port(config, "learner", "learner-0", dict):
        pass
    assert len(asked_by) == 1 and asked_by[0] is not threading.main_thread()
    assert "scrape.host = 'no-such-host.invalid': " in caplog.text


async def test_a_host_that_is_not_found_in_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, host="localhost")
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: is_over.wait(60))
    monkeypatch.setattr(common.scrape.port, "_LOOKUP_S", 0.05)
    async with scrape_port(config, "learner", "learner-0", dict):
        assert "scrape.host = 'localhost': not looked up within 0.05 s" in caplog.text
        is_over.set()
    assert not file_of(tmp_path).exists()


async def test_a_name_is_listened_on_too(tmp_path: Path) -> None:
    async with scrape_port(configured(tmp_path, host="localhost"), "learner", "learner-0", dict):
        assert target(tmp_path).startswith("localhost:")
        assert (await asked(target(tmp_path)))[0] == 200


async def test_only_a_port_that_others_have_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def listen(host: str, port: int = 0) -> socket.socket:
        tried.append(port)
        return listening_socket(host, port)

    monkeypatch.setattr(common.scrape.port, "listening_socket", listen)
    config = configured(tmp_path, host="192.0.2.1", port=20_000, key_file=key_file(tmp_path))
    async with scrape_port(config, "learner", "learner-0", dict):
        assert tried == [20_000]


async def test_those_who_only_connect_are_few(tmp_path: Path) -> None:
    async with scrape_port(configured(tmp_path), "learner", "learner-0", dict):
        host, port = target(tmp_path).split(":")
        async with contextlib.AsyncExitStack() as silent, asyncio.timeout(60):
            readers = []
            for _ in range(16 + 8):
                reader, writer = await asyncio.open_connection(host, int(port))
                silent.callback(writer.close)
                readers.append(reader)
            for reader in readers[16:]:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            assert not any(reader.at_eof() for reader in readers[:16])


async def test_those_who_ask_often_get_the_same_answer(tmp_path: Path) -> None:
    now_s, num_reads = 0.0, 0

    def read() -> dict[str, float]:
        nonlocal num_reads
        num_reads += 1
        return {"learner/step": num_reads}

    async def steps() -> float:
        found = samples((await asked(target(tmp_path)))[1])
        return float(found["vision_opd_learner_step"].value)

    config = configured(tmp_path)
    async with scrape_port(config, "learner", "learner-0", read, lambda: now_s):
        assert [await steps() for _ in range(5)] == [1] * 5
        now_s = 0.49
        assert await steps() == 1
        assert "# EOF" in (await asked(target(tmp_path), **OPENMETRICS))[1], "another form"
        now_s = 0.51
        assert [await steps(), await steps(), num_reads] == [3, 3, 3]


async def test_what_a_killed_process_left_can_be_removed(tmp_path: Path) -> None:
    forget_target(tmp_path, "learner-0")
    file_of(tmp_path).parent.mkdir()
    file_of(tmp_path).touch()
    forget_target(tmp_path, "learner-0")
    assert not file_of(tmp_path).exists()


def without_key(folder: Path) -> RunConfig:
    return configured(folder, key_file=folder / "none")


def on_a_strange_address(folder: Path) -> RunConfig:
    return configured(folder, host="192.0.2.1", key_file=key_file(folder))


def in_a_folder_that_is_a_file(folder: Path) -> RunConfig:
    (folder / "scrape").touch(stat.S_IRUSR)
    return configured(folder)


def switched_off(folder: Path) -> RunConfig:
    return configured(folder, enabled=False)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (without_key, "scrape.key_file = "),
        (on_a_strange_address, "assign requested address"),
        (in_a_folder_that_is_a_file, "File exists"),
        (switched_off, None),
    ],
)
async def test_the_process_goes_on_where_it_cannot_be_read(
    make: Callable[[Path], RunConfig],
    told: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    has_run = False
    async with scrape_port(make(tmp_path), "learner", "learner-0", dict):
        has_run = True
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert has_run and len(warnings) == (told is not None)
    assert told is None or told in warnings[0]
    assert not file_of(tmp_path).exists()


async def test_without_a_run_folder_the_port_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with scrape_port(configured(None), "broker", "broker", lambda: {"broker/slots": 4}):
        (address,) = [r.args[0] for r in caplog.records if "/metrics" in r.getMessage() and r.args]
        found = samples((await asked(str(address)))[1])
    assert found["vision_opd_broker_slots"].value == 4
    assert found["vision_opd_broker_slots"].labels["run"] == "vision-opd"


async def test_a_figure_that_cannot_be_told_costs_a_scrape_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures: dict[str, Any] = {"learner/loss_nats": "much"}
    async with scrape_port(configured(tmp_path), "learner", "learner-0", lambda: figures):
        assert [(await asked(target(tmp_path)))[0] for _ in range(3)] == [500, 500, 500]
        figures["learner/loss_nats"] = 0.5
        assert (await asked(target(tmp_path)))[0] == 200
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
