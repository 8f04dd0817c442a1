"""Three hosts on one machine: network namespaces with addresses of their own, on one bridge.

    a  10.77.0.1     b  10.77.0.2     c  10.77.0.3
    |  net0          |  net0          |  net0
    +----------------+----------------+---------- bridge, in a fourth namespace

Nothing of it is seen from the machine's own network, so that several pytest processes may each have
the same addresses. The hosts share the file system, the clock and the machine's name. `/proc` is
shared too: processes see one another, which real hosts' do not.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pytest

HOSTS = ("a", "b", "c")
INTERFACE = "net0"  # of every host, beside its lo
_NETWORK = "10.77.0."
_PREFIX = "vopd"
_END_S = 10.0  # for killed processes to be gone
_PAUSE_S = 0.02


class Hosts:
    """Use it as a context manager: at its end all processes on the hosts are killed.

    Raises:
        OSError, subprocess.CalledProcessError: namespaces cannot be made here (`why_not`).
    """

    def __init__(self) -> None:
        self._tag = f"{_PREFIX}{os.getpid()}"
        self._switch = f"{self._tag}-switch"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        _remove_left_namespaces()
        try:
            self._make()
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

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for host in HOSTS:
            name = self.namespace(host)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            ends = (INTERFACE, "type", "veth", "peer", "name", _port(host), "netns", self._switch)
            _ip("-n", name, "link", "add", *ends)
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", self._switch, "link", "set", _port(host), "up")
            self.heal(host)

    def close(self) -> None:
        for name in map(self.namespace, HOSTS):
            _kill_all(name)
        for process in self._processes:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                pipe.close()
        for name in (*map(self.namespace, HOSTS), self._switch):
            subprocess.run(("ip", "netns", "delete", name), capture_output=True)

    def namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    def address(self, host: str) -> str:
        return f"{_NETWORK}{HOSTS.index(host) + 1}"

    def popen(
        self,
        host: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
        **options: Any,
    ) -> "subprocess.Popen[bytes]":
        """Start a process on a host; its pid is the command's.

        Args:
            env: on top of this process's environment.
            output: file to which its output is appended; none: as `options` of Popen say.
        """
        inside = ("ip", "netns", "exec", self.namespace(host), *command)
        with contextlib.ExitStack() as files:
            if output is not None:
                log: IO[bytes] = files.enter_context(output.open("ab"))
                options |= {"stdout": log, "stderr": log}
            process = subprocess.Popen(inside, env={**os.environ, **(env or {})}, **options)
        self._processes.append(process)
        return process

    def run(
        self,
        host: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        **options: Any,
    ) -> str:
        """What a command says on standard output.

        Raises:
            AssertionError: it failed, or took too long; with all that it said.
        """
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.popen(host, command, env, **options)
        try:
            told, complaints = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            told, complaints = process.communicate()
            raise AssertionError(
                f"{command} took {timeout_s:g} s on {host}: {told!r} {complaints!r}"
            ) from None
        assert process.returncode == 0, f"{command} on {host}: {told!r} {complaints.decode()}"
        return told.decode()

    def cut(self, host: str) -> None:
        """Unplug the host at the switch: packets vanish both ways, and nobody is told."""
        _ip("-n", self._switch, "link", "set", _port(host), "nomaster")

    def heal(self, host: str) -> None:
        _ip("-n", self._switch, "link", "set", _port(host), "master", "bridge")

    def kill(self, host: str) -> None:
        """The machine is lost: it is cut off, so that no packet says so, and everything on it dies.

        `heal` brings it back, with nothing running: whoever still talks to it is then refused.
        """
        self.cut(host)
        _kill_all(self.namespace(host))
        for process in self._processes:
            process.poll()
        # The kernel would still send what is left of closed sockets, as a lost machine does not.
        forget = ("ip", "netns", "exec", self.namespace(host), "ss", "--kill", "--tcp")
        subprocess.run((*forget, "state", "all"), check=True, capture_output=True)

    def pids(self, host: str) -> list[int]:
        """The ids of all processes on the host."""
        return _living(self.namespace(host))


@contextlib.contextmanager
def hosts_or_skip() -> Iterator[Hosts]:
    """Skips the test where namespaces cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with Hosts() as hosts:
        yield hosts


def why_not() -> str | None:
    """Why there can be no namespaces here; none: there can."""
    name = f"{_PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "bridge", "type", "bridge")
        _ip("netns", "exec", name, "ss", "--version")
        return None
    except OSError as error:
        return f"iproute2 is not installed: {error}"
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.decode().strip()}"
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(("ip", "netns", "delete", name), capture_output=True)


def _port(host: str) -> str:
    """At the switch."""
    return f"port-{host}"


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True)


def _remove_left_namespaces() -> None:
    """Those of pytest processes that were killed before they could."""
    told = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True).stdout
    for name in (line.split()[0] for line in told.splitlines() if line.startswith(_PREFIX)):
        owner = name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _kill_all(name)
            subprocess.run(("ip", "netns", "delete", name), capture_output=True)


def _kill_all(namespace: str) -> None:
    """Also those that others start meanwhile."""
    deadline = time.monotonic() + _END_S
    while pids := _living(namespace):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, f"processes {pids} do not die"
        time.sleep(_PAUSE_S)


def _living(namespace: str) -> list[int]:
    command = ("ip", "netns", "pids", namespace)
    told = subprocess.run(command, capture_output=True, text=True).stdout
    return [pid for pid in map(int, told.split()) if not is_gone(pid)]


def is_gone(pid: int) -> bool:
    """Whether it has ended, be it that nobody has asked how yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True  # gone by now
    return state in ("Z", "X")
