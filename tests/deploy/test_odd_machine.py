"""The quickstart on a machine that is unlike the one it was written on, in several ways at once."""

import json
import os
from pathlib import Path

import pytest

from common.network import local_address_towards
from tests.deploy.quickstart.support import SMALL, Launched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(320)]
NOBODY_THERE = "http://127.0.0.1:9"


def test_dead_proxies_ipv6_and_a_missing_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an empty CUDA_VISIBLE_DEVICES matter, a HOME that cannot be written, or Ray's
    threshold for killing the newest worker when others have filled the memory."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOBODY_THERE)
        monkeypatch.setenv(name.upper(), NOBODY_THERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    addresses: tuple[str, ...] = ()
    if local_address_towards("::1"):
        addresses = ("--broker.address", "tcp://[::1]:0", "--rollout.host", "::1")
        addresses += ("--weights.host", "::1")
    run = Launched(tmp_path / "run", *SMALL, *addresses, "--learner.max_steps", "2")
    assert run.wait() == 0, run.output()
    assert "starting again" not in run.output()
    broker = json.loads((run.folder / "broker.json").read_text())["address"]
    assert not addresses or broker.startswith("tcp://[::1]:")
    assert os.stat(run.folder).st_mode & 0o777 == 0o700
