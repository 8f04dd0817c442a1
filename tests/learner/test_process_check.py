"""What the learner refuses before it loads anything."""

from pathlib import Path
from typing import Any

import pytest

from broker.keys import make_keys
from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError
from learner.main import check_process

ELSEWHERE = "10.0.0.1"


@pytest.fixture(autouse=True)
def without_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def config_with(
    folder: Path, keys: Path | None = None, broker_host: str = "127.0.0.1", **weights: Any
) -> RunConfig:
    tree: dict[str, Any] = {"run": {"folder": folder}, "data": {"train": folder / "x.parquet"}}
    broker = {"keys": keys, "address": f"tcp://{broker_host}:5570"}
    return build({**tree, "broker": broker, "weights": weights})


def test_weights_leave_loopback_only_where_the_broker_has_left_it(tmp_path: Path) -> None:
    """A run on one machine has keys too."""
    check_process(config_with(tmp_path))
    told = r"weights.host = '10.0.0.1': .* on loopback, or without keys .* Fix: use 127"
    with pytest.raises(ConfigError, match=told):
        check_process(config_with(tmp_path, host=ELSEWHERE))
    check_process(config_with(tmp_path, host=ELSEWHERE, transport="files"))  # listens nowhere
    make_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match=told):
        check_process(config_with(tmp_path, tmp_path / "keys", host=ELSEWHERE))
    check_process(config_with(tmp_path, tmp_path / "keys", ELSEWHERE, host=ELSEWHERE))


def test_ranks_meet_off_loopback_only_where_the_broker_has_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", ELSEWHERE)
    check_process(config_with(tmp_path))  # one rank meets nobody
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"MASTER_ADDR = '10.0.0.1': .* keys .* Fix: use 127"):
        check_process(config_with(tmp_path))
    make_keys(tmp_path / "keys")
    check_process(config_with(tmp_path, tmp_path / "keys", ELSEWHERE))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    check_process(config_with(tmp_path))
