"""A Ray cluster over the three hosts: its head on a, further nodes on b and c, labelled pool=HOST.

    with RayHosts() as cluster:
        cluster.run_on("a", command)        # a driver: RAY_ADDRESS and the token are in its env
        cluster.hosts.cut("b")              # for less than lost_after_s: Ray only waits
        cluster.kill("c"), cluster.restart("c")

A node takes 170 MiB of memory, the head 370 MiB, and each worker with an actor 50 MiB more. All
that Ray starts lives in its host's namespace, and is gone at the end with it.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hosts.namespaces import HOSTS, Hosts

ROOT = Path(__file__).resolve().parents[2]
HEAD = "a"
PORT = 6379
START_S = 60.0  # for one node; alone on the machine it takes three seconds, the head eight
_OBJECT_STORE_BYTES = 78 * 2**20  # Ray's least is 75 MiB; nothing is put there
_FAILED_CHECKS = 3  # of a node's health in a row
_PREFIX = "vopd-rh-"
_TEMPORARY = "/tmp"  # whatever TMPDIR says: paths of Unix sockets have 107 bytes at most


class RayHosts:
    """Use it as a context manager, after `why_not` of `namespaces.py` has been asked.

    Args:
        lost_after_s: about how long a node may be silent before Ray gives it up. One that is given
            up never comes back by itself: its raylet ends as soon as it is told, and `restart`
            brings a new one.
        cpus: that each node says it has.
    """

    def __init__(self, lost_after_s: float = 4.0, cpus: int = 4) -> None:
        self.hosts = Hosts()
        self.address = f"{self.hosts.address(HEAD)}:{PORT}"
        self._lost_after_s = lost_after_s
        self._cpus = cpus
        self._folder = Path()
        self._nodes_started = 0
        self._token = secrets.token_hex(32)

    def __enter__(self) -> Self:
        # The pid says to whom it belongs, should that be killed before it can remove it.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_TEMPORARY))
        try:
            _remove_left_folders()
            self.hosts.__enter__()
            self._finish_start(self._start(HEAD))
            for process in [self._start(host) for host in HOSTS if host != HEAD]:
                self._finish_start(process)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.hosts.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def token_env(self) -> dict[str, str]:
        """What every process of the cluster needs in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}

    @property
    def driver_env(self) -> dict[str, str]:
        """The same for one that is to find the cluster by itself."""
        return {**self.token_env, "RAY_ADDRESS": self.address, "RAY_USAGE_STATS_ENABLED": "0"}

    def run_on(
        self,
        host: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> str:
        """What a driver says on standard output; AssertionError when it fails."""
        return self.hosts.run(
            host, command, {**self.driver_env, **(env or {})}, timeout_s, cwd=ROOT
        )

    def popen_on(
        self,
        host: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> "subprocess.Popen[bytes]":
        """A driver that runs beside the test (`Hosts.popen`)."""
        options.setdefault("cwd", ROOT)
        return self.hosts.popen(host, command, {**self.driver_env, **(env or {})}, **options)

    def kill(self, host: str) -> None:
        """The machine is lost, with its Ray node and whatever else ran there."""
        self.hosts.kill(host)

    def restart(self, host: str) -> None:
        """It is back, with a new Ray node, which has joined when this returns."""
        self.kill(host)
        self.hosts.heal(host)
        self._finish_start(self._start(host))

    def _start(self, host: str) -> "subprocess.Popen[bytes]":
        self._nodes_started += 1
        folder = self._folder / str(self._nodes_started)  # that of a killed node is not clean
        where = ("--head", "--port", str(PORT), "--include-dashboard", "false")
        if host != HEAD:
            where = ("--address", self.address)
        command = (
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *where),
            *("--node-ip-address", self.hosts.address(host), "--temp-dir", str(folder)),
            *("--labels", f"pool={host}", "--num-cpus", str(self._cpus), "--num-gpus", "0"),
            *("--object-store-memory", str(_OBJECT_STORE_BYTES), "--disable-usage-stats"),
        )
        environment = {**self.token_env, **self._health_checks(), "PYTHONPATH": str(ROOT)}
        output = self._folder / f"{self._nodes_started}.out"
        return self.hosts.popen(host, command, environment, output, cwd=ROOT)

    def _finish_start(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_S
        try:
            code = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            told = "\n".join(file.read_text() for file in sorted(self._folder.glob("*.out")))
            raise AssertionError(f"a Ray node does not start (exit code {code}):\n{told}")

    def _health_checks(self) -> dict[str, str]:
        check_ms = str(int(self._lost_after_s * 1000 / (2 * _FAILED_CHECKS)))
        return {
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": check_ms,
            "RAY_health_check_timeout_ms": check_ms,
            "RAY_health_check_failure_threshold": str(_FAILED_CHECKS),
        }


def _remove_left_folders() -> None:
    """Those of test processes that were killed before they could."""
    for folder in Path(_TEMPORARY).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
