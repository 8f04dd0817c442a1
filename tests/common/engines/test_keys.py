"""The key of an engine's HTTP port: where it comes from, who can read it, what is refused."""

import stat
from pathlib import Path

import pytest

from common.config import RunConfig
from common.config_cli import build
from common.engines.keys import (
    bearer,
    check_engine,
    configured_key,
    engine_key_file,
    key_given_by_hand,
    read_key,
)
from common.errors import ConfigError
from rollout.engine_process import engine_command


def run_config(folder: Path | None = None, key: Path | None = None, **rollout: str) -> RunConfig:
    return build(
        {
            "rollout": {"engine": "embedded", **rollout},
            "run": {} if folder is None else {"folder": str(folder)},
            "sglang": {} if key is None else {"api_key_file": str(key)},
        }
    )


def key_in(folder: Path, content: bytes = b"s3cret\n", mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("has_run_folder", [True, False])
def test_each_start_has_a_key_of_its_own_that_others_cannot_read(
    tmp_path: Path, has_run_folder: bool
) -> None:
    config = run_config(tmp_path / "run" if has_run_folder else None)
    with engine_key_file(config, 3) as path:
        first = read_key(path)
        assert len(first) == 64 and first.isalnum()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.is_relative_to(tmp_path / "run" / "keys") is has_run_folder
    assert not path.exists()
    with engine_key_file(config, 3) as path:
        assert read_key(path) != first


def test_the_end_of_an_engine_leaves_the_key_of_the_next_one(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    with engine_key_file(config, 0) as path:
        later = engine_key_file(config, 0)
        assert later.__enter__() == path
        key = read_key(path)
    assert read_key(path) == key
    later.__exit__(None, None, None)
    assert not path.exists()


def test_a_configured_key_is_taken_and_stays(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    config = run_config(tmp_path / "run", key)
    with engine_key_file(config, 0) as path:
        assert (path, read_key(path)) == (key, "s3cret")
    assert key.exists() and not (tmp_path / "run").exists()
    assert configured_key(config) == "s3cret" and configured_key(run_config()) is None
    assert bearer("s3cret") == {"Authorization": "Bearer s3cret"} and bearer(None) == {}


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two words", b"two\nlines", b"\xff\xfe"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "key" if content is None else key_in(tmp_path, content)
    with (
        pytest.raises(ConfigError, match=r"sglang\.api_key_file = .*Fix: .*umask 077"),
        engine_key_file(run_config(key=key), 0),
    ):
        pass


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = key_in(tmp_path, mode=mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}\)\. Fix: chmod 600 {key}") as refusal:
        read_key(key)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("engine", ["embedded", "sglang"])
@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "a-node.example", "::"])
def test_off_loopback_a_key_must_be_agreed_on(tmp_path: Path, engine: str, host: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.host = '{host}'.*\. Fix: name a file"):
        engine_command(run_config(engine=engine), host, 4000)


def test_what_no_engine_can_be_given_is_refused_before_it_is_looked_for(tmp_path: Path) -> None:
    check_engine(run_config())
    check_engine(run_config(engine="sglang"))
    with pytest.raises(ConfigError, match=r"rollout\.host = '0\.0\.0\.0'"):
        check_engine(run_config(host="0.0.0.0"))
    with pytest.raises(ConfigError, match=r"sglang\.api_key_file = .*chmod 600"):
        check_engine(run_config(key=key_in(tmp_path, mode=0o644)))
    tree = {"rollout": {"engine": "sglang"}, "sglang": {"extra_flags": ["--load-format", "pt"]}}
    with pytest.raises(ConfigError, match=r"--load-format is refused: .*pickled weights can run"):
        check_engine(build(tree))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0"])
def test_the_command_line_of_an_engine_shows_no_key(tmp_path: Path, host: str) -> None:
    key = key_in(tmp_path) if host == "0.0.0.0" else None
    command = engine_command(run_config(key=key), host, 4000)
    assert host in command and "s3cret" not in " ".join(command)


def test_by_hand_an_engine_obeys_everybody_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISION_OPD_API_KEY_FILE", raising=False)
    key = key_in(tmp_path)
    assert key_given_by_hand(str(key), "0.0.0.0", False) == "s3cret"
    assert key_given_by_hand(None, "127.0.0.1", True) is None
    with pytest.raises(ConfigError, match=r"everybody on this machine .*; or --without-key"):
        key_given_by_hand(None, "127.0.0.1", False)
    for is_without in (False, True):
        with pytest.raises(ConfigError, match=r"everybody on the network .* FILE\)$"):
            key_given_by_hand(None, "0.0.0.0", is_without)
    monkeypatch.setenv("VISION_OPD_API_KEY_FILE", str(key))
    assert key_given_by_hand(None, "127.0.0.1", False) == "s3cret"
