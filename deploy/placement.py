"""Ray places the processes: one actor a process, which starts it, waits for it and stops it.

Ray runs no logic of ours beside that. On one machine it is a local Ray, bound to loopback, in a
temporary folder that is gone afterwards.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.errors import VisionOpdError
from common.lifecycle import stop_with_parent
from deploy.roles import ROOT, Role

logger = logging.getLogger(__name__)
_OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB; we put nothing there
_START_TIMEOUT_S = 60.0
_TEMPORARY = "/tmp"  # whatever TMPDIR says: paths of Unix sockets have 107 bytes at most
_FOLDER_PREFIX = "vopd-ray-"


class ProcessActor:
    """Runs in a Ray worker on the machine that Ray chose."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], log: str) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log = Path(log)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        """Start the process, its output appended to the log; returns its pid."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                cwd=ROOT,
                start_new_session=True,  # a Ctrl-C in the terminal is the launcher's to handle
                preexec_fn=stop_with_parent,  # its Ray worker, however that ends
            )
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, when there is one; negative: the signal that ended it."""
        assert self._process is not None
        return await self._process.wait()

    async def signal(self, number: int) -> None:
        """Signal the process; SIGKILL reaches everything in its session."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


class Placed:
    """A handle on one placed process."""

    def __init__(self, role: Role, actor: Any) -> None:
        self.role = role
        self._actor = actor

    async def start(self) -> None:
        """Raises VisionOpdError when the cluster has no room for it."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                pid = await _answer(self._actor.start.remote())
        except TimeoutError:
            raise VisionOpdError(
                f"{self.role.name} found no place within {_START_TIMEOUT_S:.0f} s: it needs "
                f"{self.role.cpus:g} CPUs and {self.role.gpus:g} GPUs. Fix: free some, or lower "
                "[cluster] in the config"
            ) from None
        logger.info("%s started, pid %d", self.role.name, pid)

    async def wait(self) -> int | None:
        """The exit code; None when the machine or the Ray worker was lost."""
        import ray

        try:
            code: int = await _answer(self._actor.wait.remote())
        except ray.exceptions.RayError:
            return None
        return code

    async def signal(self, number: int) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(5):
                await _answer(self._actor.signal.remote(number))


class Placement:
    """Makes actors on a connected Ray."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder

    def place(self, role: Role) -> Placed:
        import ray

        actor_class = ray.remote(ProcessActor)
        log = str(self._log_folder / f"{role.name}.log")
        options = actor_class.options(num_cpus=role.cpus, num_gpus=role.gpus, max_restarts=0)
        return Placed(role, options.remote(role.command, role.environment, log))


@contextlib.asynccontextmanager
async def connected_ray(config: RunConfig, log_folder: Path) -> AsyncIterator[Placement]:
    """A Ray to place processes on: the named cluster's, or one of our own on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    if config.cluster.address is not None:
        await asyncio.to_thread(_connect, address=config.cluster.address)
        try:
            yield Placement(log_folder)
        finally:
            _disconnect()
        return
    # Ray takes 127.0.0.1 for a mistake and listens on the machine's own address, unless it believes
    # that this platform has no clusters.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    _remove_left_folders()
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=_TEMPORARY)
    try:
        _connect(
            address="local",
            num_cpus=_cpus_needed(config),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield Placement(log_folder)
    finally:
        _disconnect()
        shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str, **options: Any) -> None:
    """Raises VisionOpdError when there is no Ray to be had."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        mend = "see its logs" if address == "local" else "check cluster.address"
        raise VisionOpdError(f"no Ray at {address!r}: {error}. Fix: {mend}") from error


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _remove_left_folders() -> None:
    """Remove what launchers that were killed could not."""
    for folder in Path(_TEMPORARY).glob(f"{_FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def _cpus_needed(config: RunConfig) -> int:
    """Ray's count is a reservation, not a limit: a laptop with one core may run everything."""
    cluster = config.cluster
    learners = cluster.learner_ranks * cluster.learner_cpus
    needed = config.rollout.servers * cluster.rollout_cpus + learners
    return max(os.cpu_count() or 1, int(needed + 0.999))


async def _answer(reference: Any) -> Any:
    return await reference
