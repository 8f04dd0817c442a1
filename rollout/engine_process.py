"""Starts an engine server as a child, waits until it serves, notices its death, ends it.

The child leads a session of its own: a Ctrl-C in the terminal reaches this process alone, which
then ends the child and whatever the child has started. Its output goes to a log file.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from common.config import RunConfig
from common.errors import EngineError

logger = logging.getLogger(__name__)
_PROBE_S = 0.2  # between two looks at a starting engine
_PROGRESS_S = 10.0  # between two log lines while it starts
_TERM_S = 10.0  # grace between SIGTERM and SIGKILL
_TAIL_BYTES = 4000


class EngineProcess:
    """A running engine server. `url` says where."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self._process = process
        self._log = log
        self.url = url

    @property
    def pid(self) -> int:
        return self._process.pid

    async def watch(self) -> None:
        """Returns never; raises EngineError as soon as the process has ended."""
        code = await self._process.wait()
        raise self._death(code)

    async def wait_until_healthy(self, timeout_s: float, stop: asyncio.Event) -> None:
        """Returns when it serves, or when `stop` is set.

        Raises:
            EngineError: it died, or does not serve in time.
        """
        death = asyncio.ensure_future(self._process.wait())
        health = asyncio.ensure_future(_first_health(self.url))
        stopped = asyncio.ensure_future(stop.wait())
        ends = (death, health, stopped)
        started = time.monotonic()
        try:
            while (waited_s := time.monotonic() - started) < timeout_s:
                patience_s = min(_PROGRESS_S, timeout_s - waited_s)
                await asyncio.wait(ends, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if death.done():
                    raise self._death(death.result())
                if stopped.done():
                    return
                if health.done():
                    logger.info("engine at %s is up", self.url)
                    return
                logger.info("engine is starting, %.0f s so far", time.monotonic() - started)
            raise EngineError(
                f"the engine did not serve within {timeout_s:g} s. Fix: raise "
                f"rollout.start_timeout_s, or see {self._log}\n{self._tail()}"
            )
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def stop(self) -> None:
        """SIGTERM to the whole session, SIGKILL after a grace; nothing is left behind."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_TERM_S):
                    await self._process.wait()
            except TimeoutError:
                logger.warning("the engine ignores SIGTERM: killing it")
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _death(self, code: int) -> EngineError:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return EngineError(f"the engine died ({how}); its log {self._log} ends:\n{self._tail()}")

    def _tail(self) -> str:
        try:
            content = self._log.read_bytes()[-_TAIL_BYTES:]
        except OSError:
            return "(no log)"
        return "\n".join(content.decode(errors="replace").splitlines()[-20:])


@contextlib.asynccontextmanager
async def started_engine(
    config: RunConfig, index: int, log_folder: Path, stop: asyncio.Event
) -> AsyncIterator[EngineProcess]:
    """An engine as the configuration says; ended when the block is left.

    `stop` cuts the wait for it short: the block is then entered all the same.
    """
    host = config.rollout.host
    port = config.rollout.port + index if config.rollout.port else free_port(host)
    command = engine_command(config, host, port)
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / f"engine-{index}.log"
    logger.info("starting %s", " ".join(command))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=_environment(config),
        )
    engine = EngineProcess(process, f"http://{host}:{port}", log)
    try:
        await engine.wait_until_healthy(config.rollout.start_timeout_s, stop)
        yield engine
    finally:
        await asyncio.shield(engine.stop())


def engine_command(config: RunConfig, host: str, port: int) -> list[str]:
    """The command line of an engine."""
    where = ["--model-path", config.model.path, "--host", host, "--port", str(port)]
    if config.rollout.engine == "sglang":
        dtype = ["--dtype", config.weights.dtype]
        return [sys.executable, "-m", "sglang.launch_server", *where, *dtype]
    options = ["--dtype", config.weights.dtype, "--stop-with-parent"]
    options += ["--update-timeout-s", f"{config.weights.timeout_s:g}"]
    if config.rollout.deterministic:
        options.append("--deterministic")
    if config.rollout.threads is not None:
        options += ["--threads", str(config.rollout.threads)]
    return [sys.executable, "-m", "rollout.embedded", *where, *options]


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(config: RunConfig) -> dict[str, str]:
    project = str(Path(__file__).resolve().parent.parent)
    paths = [project, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if config.rollout.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.rollout.threads)
    if _is_loopback(config.weights.host):
        # gloo would listen on the interface of the machine's name, which loopback may not reach.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _is_loopback(host: str) -> bool:
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        is_loopback = host == "localhost"
    return is_loopback and "lo" in (name for _, name in socket.if_nameindex())


async def _first_health(url: str) -> None:
    """Returns at the first good answer. A foreign process cannot wake us: it has to be asked."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(_PROBE_S)
