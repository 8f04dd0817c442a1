"""What Ray runs on a pool's machine: an actor that starts one process, waits for it and stops it.

Ray runs no logic of ours beside that. The process's output goes through a pipe into a log of the
run folder that is begun anew when it is full. When the actor's worker dies, so does the process.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.files import replace_private
from common.lifecycle import die_with_parent
from common.log_files import RotatingLog, spawn_logged
from common.network import free_port, interface_towards, is_loopback
from deploy.cluster.process_specs import INTERFACE_VARIABLES, ROOT, Location

_LAST_OUTPUT_S = 1.0  # that children of an ended process may hold its pipe open


@dataclass(frozen=True)
class StartRequest:
    """What to run, and how its output is kept."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: str
    log_bytes: int
    log_files: int
    files: Mapping[str, bytes] = field(
        default_factory=dict
    )  # to write where they are not there yet
    set_up: tuple[str, ...] | None = None  # runs to its end first


class CannotStart(Exception):
    """A process's environment could not be made on this machine, or it does not run here."""


class ProcessActor:
    """One process, on the machine where this object lives.

    Args:
        host: address of this machine. None means as Ray knows it.
    """

    def __init__(self, host: str | None = None) -> None:
        self._host = host
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None

    async def location(self) -> Location:
        """Where this is, with a port that is free at this moment."""
        host = self._host or _ray_address()
        name = socket.gethostname() if is_loopback(host) else host
        return Location(name, host, interface_towards(host) or "", free_port(host))

    async def start(self, request: StartRequest) -> int:
        """Start the process; returns its pid.

        Raises:
            CannotStart: the message says why.
        """
        for name, content in request.files.items():
            _write_if_other(Path(name), content)
        log = RotatingLog(Path(request.log), request.log_bytes, request.log_files)
        if request.set_up is not None:
            await self._spawn(request.set_up, request.environment, log)
            if await self.wait():
                raise CannotStart(f"{' '.join(request.set_up)} failed. Fix: see {request.log}")
        return await self._spawn(request.command, request.environment, log)

    async def _spawn(
        self, command: tuple[str, ...], environment: Mapping[str, str], log: RotatingLog
    ) -> int:
        try:
            self._process, self._output = await spawn_logged(
                command,
                log,
                env={**os.environ, **environment, **_own_interfaces()},
                cwd=ROOT,
                start_new_session=True,  # a Ctrl-C in the terminal is the launcher's to handle
                preexec_fn=die_with_parent,  # its Ray worker: another life may begin at once
            )
        except OSError as error:
            raise CannotStart(
                f"{command[0]} does not run in {ROOT} on {socket.gethostname()}: {error.strerror}. "
                "Fix: have both there, or name another `python` in the process's pool"
            ) from None
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, when there is one; negative: the signal that ended it."""
        assert self._process is not None and self._output is not None
        code = await self._process.wait()
        await asyncio.wait([self._output], timeout=_LAST_OUTPUT_S)
        return code

    async def signal(self, number: int) -> None:
        """Signal the process; SIGKILL reaches everything in its session."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


def _own_interfaces() -> dict[str, str]:
    """Network interfaces that this machine's own environment names: its owner knows best."""
    return {name: os.environ[name] for name in INTERFACE_VARIABLES if name in os.environ}


def _ray_address() -> str:
    import ray

    address: str = ray.util.get_node_ip_address()
    return address


def _write_if_other(path: Path, content: bytes) -> None:
    """Whole, and for its owner alone: it may be a key. Where the folder is shared, it is there."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_private(path, content)
