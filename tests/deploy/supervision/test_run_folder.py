import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from broker.keys import FILE_OF, SERVER_FILE, client_keys, server_keys
from broker.protocol import Role
from common.config import RunConfig
from common.config_cli import build, load
from common.errors import ConfigError
from deploy.supervision.run_folder import open_run_folder, owned
from tests.deploy.supervision.support import NOW


def config_for(folder: Path, **run: object) -> RunConfig:
    return build({"run": {"folder": folder, **run}})


def test_a_new_folder_holds_the_configuration_that_names_it(tmp_path: Path) -> None:
    config, folder = open_run_folder(config_for(tmp_path / "run", seed=5), NOW)
    assert folder == config.run.folder == tmp_path / "run"
    assert (folder / "logs").is_dir()
    assert load(["--config", str(folder / "config.toml")]) == config


def test_a_folder_with_a_run_is_used_again_only_to_resume_it(tmp_path: Path) -> None:
    config, folder = open_run_folder(config_for(tmp_path / "run"), NOW)
    with pytest.raises(ConfigError, match=r"holds a run already.*config\.toml --run\.resume true"):
        open_run_folder(config, NOW)
    (folder / "summary.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")

    arguments = ["--config", str(folder / "config.toml"), "--run.resume", "true"]
    resumed, same = open_run_folder(load([*arguments, "--learner.max_steps", "9"]), NOW)
    assert same == folder and resumed.learner.max_steps == 9
    assert load(["--config", str(folder / "config.toml")]) == resumed
    assert not resumed.run.resume, "the next start must ask for it again"
    assert not (folder / "summary.json").exists() and (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["empty", "nowhere", None])
def test_nothing_to_resume_is_a_clear_error(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "empty").mkdir()
    folder = None if name is None else tmp_path / name
    with pytest.raises(ConfigError, match=r"holds no run\. Fix: --config RUN"):
        open_run_folder(build({"run": {"folder": folder, "resume": True}}), NOW)
    assert list((tmp_path / "empty").iterdir()) == []


def on_a_cluster(folder: Path, **broker: object) -> RunConfig:
    return build({"run": {"folder": folder}, "cluster": {"address": "auto"}, "broker": broker})


@pytest.mark.parametrize("is_on_a_cluster", [True, False])
def test_a_run_has_keys_of_its_own_for_all_its_starts(
    tmp_path: Path, is_on_a_cluster: bool
) -> None:
    """On loopback, too, where every user of the machine could reach its broker."""
    run = (on_a_cluster if is_on_a_cluster else config_for)(tmp_path / "run")
    config, folder = open_run_folder(run, NOW)
    assert config.broker.keys == folder / "keys"
    known = load(["--config", str(folder / "config.toml")])
    assert known.broker.keys == folder / "keys"
    files = (SERVER_FILE, *FILE_OF.values())
    secrets = [(folder / "keys" / name).read_text() for name in files]
    assert server_keys(folder / "keys")
    assert all(client_keys(folder / "keys", role) for role in Role)
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    for name in files:
        assert stat.S_IMODE((folder / "keys" / name).stat().st_mode) == 0o600

    resuming = known.model_copy(update={"run": known.run.model_copy(update={"resume": True})})
    resumed, _ = open_run_folder(resuming, NOW)
    assert resumed.broker.keys == folder / "keys"
    assert secrets == [(folder / "keys" / name).read_text() for name in files]

    # As a launcher leaves it that dies while it makes them.
    (folder / "keys" / SERVER_FILE).unlink()
    (folder / "config.toml").unlink()
    open_run_folder(run, NOW)
    assert server_keys(folder / "keys").public[Role.LEARNER]
    assert secrets != [(folder / "keys" / name).read_text() for name in files]


def test_keys_that_were_named_are_taken(tmp_path: Path) -> None:
    config, folder = open_run_folder(on_a_cluster(tmp_path / "a", keys=tmp_path / "mine"), NOW)
    assert config.broker.keys == tmp_path / "mine" and not (folder / "keys").exists()


def test_two_launchers_do_not_run_one_folder(tmp_path: Path) -> None:
    told = pytest.raises(ConfigError, match=r"another launcher runs it\. Fix: end that one")
    with owned(tmp_path / "run"), told, owned(tmp_path / "run"):
        pass
    with owned(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("host", "is_alive", "told"),
    [
        ("here", True, r"the launcher with process id \d+ runs it\. Fix: end that one"),
        ("here", False, None),
        ("node-7", True, r"a launcher on node-7 \(if it does no more, remove .*launcher\.json\)"),
        (None, True, None),
    ],
)
def test_where_the_file_system_knows_no_locks_the_launchers_file_tells(
    host: str | None,
    is_alive: bool,
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    document = {
        "host": socket.gethostname() if host == "here" else host,
        "pid": os.getpid() if is_alive else gone.pid,
    }
    if host is not None:
        (tmp_path / "launcher.json").write_text(json.dumps(document))
    expected = pytest.raises(ConfigError, match=told) if told else contextlib.nullcontext()
    with expected, owned(tmp_path):
        pass
    assert capsys.readouterr().err == f"the file system of {tmp_path} knows no locks\n"
