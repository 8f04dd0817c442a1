"""Starts an engine server as a child, waits until it serves, notices its death, ends it.

The child leads a session of its own: a Ctrl-C in the terminal reaches this process alone, which
then ends the child and whatever the child has started. Its output goes through a pipe into a log
that is begun anew when it is full.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NoReturn

import aiohttp

from common.addresses import join_address
from common.config import RunConfig
from common.engines import engine_of
from common.engines.keys import (
    KEY_FILE_VARIABLE,
    bearer,
    check_host,
    engine_key_file,
    read_key,
)
from common.errors import EngineError
from common.log_files import LogTail, RotatingLog, spawn_logged
from common.network import free_port

logger = logging.getLogger(__name__)
_PROBE_S = 0.2  # between two looks at a starting engine
_WARM_UP_PROBE_S = 1.0  # the same once it answers that it is not ready
_PROGRESS_S = 10.0  # between two log lines while it starts
_TERM_S = 10.0  # grace between SIGTERM and SIGKILL
_LAST_OUTPUT_S = 1.0  # for what an ended engine wrote to reach its log
_TAIL_BYTES = 4000
_DOING_CHARACTERS = 120
_PORTS_TRIED = 3  # each was free a moment before
_STAMP = re.compile(r"^\[[-0-9]{10} [:0-9]{8}[^\]]*\] *")  # SGLang's: date, time, rank


class EngineLog(LogTail):
    """What one engine wrote."""

    def doing(self) -> str:
        """What it is at: its newest stamped line, or progress bar; else its newest line."""
        lines = self._lines()
        telling = [line for line in lines if _STAMP.match(line) or "it/s" in line]
        newest = (telling or lines or ["importing its packages"])[-1]
        return _STAMP.sub("", newest)[:_DOING_CHARACTERS]

    def says(self, words: str) -> bool:
        """Whether its newest lines have these words, in small letters or capitals."""
        return words in "\n".join(self._lines()).lower()

    def tail(self) -> str:
        return "\n".join(self._lines()[-20:]) or "(no log)"

    def _lines(self) -> list[str]:
        try:
            return [line for line in self.lines(_TAIL_BYTES) if line.strip()]
        except OSError:
            return []


class EngineProcess:
    """A running engine server. `url` says where, `key_file` what it asks for."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        url: str,
        log: EngineLog,
        output: "asyncio.Task[None]",
        key_file: Path | None = None,
    ) -> None:
        self._process = process
        self._log = log
        self._output = output  # ends with the engine's last word
        self.url = url
        self.key_file = key_file
        self.api_key = None if key_file is None else read_key(key_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def watch(self) -> NoReturn:
        """Wait for the process to end, and raise EngineError then."""
        code = await self._process.wait()
        await self._heard()
        raise self._death(code)

    def lost_port(self) -> bool:
        """Whether another program had its port by then: SGLang then waits for itself there."""
        return self._log.says("address already in use")

    async def death(self) -> EngineError | None:
        """What has just ended it; None: it lives. Its connections break before it is known dead."""
        try:
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await self.watch()
        except TimeoutError:
            return None
        except EngineError as death:
            return death

    async def wait_until_healthy(self, timeout_s: float, stop: asyncio.Event) -> None:
        """Wait until it serves, or until `stop` is set.

        Raises:
            EngineError: it died, or does not serve in time.
        """
        death = asyncio.ensure_future(self._process.wait())
        health = asyncio.ensure_future(_first_health(self.url, self.api_key))
        stopped = asyncio.ensure_future(stop.wait())
        ends = (death, health, stopped)
        started = time.monotonic()
        try:
            while (waited_s := time.monotonic() - started) < timeout_s:
                patience_s = min(_PROGRESS_S, timeout_s - waited_s)
                await asyncio.wait(ends, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if death.done():
                    await self._heard()
                    raise self._death(death.result())
                if stopped.done():
                    return
                if health.done():
                    logger.info("engine at %s is up", self.url)
                    return
                if self.lost_port():
                    raise EngineError(f"another program has {self.url}:\n{self._log.tail()}")
                lasted_s = time.monotonic() - started
                logger.info("engine is starting, %.0f s so far: %s", lasted_s, self._log.doing())
            raise EngineError(
                f"the engine did not serve within {timeout_s:g} s. Fix: raise "
                f"rollout.start_timeout_s, or see {self._log.path}\n{self._log.tail()}"
            )
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def stop(self) -> None:
        """SIGTERM, and after its end or a grace SIGKILL to its session; nothing is left behind.

        SIGTERM goes to the server alone: SGLang takes a part that ends before it for a crash.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_TERM_S):
                    await self._process.wait()
            except TimeoutError:
                logger.warning("the engine ignores SIGTERM: killing it")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._heard()
        self._output.cancel()

    async def _heard(self) -> None:
        """All that it wrote is in its log, unless a child of it holds the pipe open."""
        await asyncio.wait([self._output], timeout=_LAST_OUTPUT_S)

    def _death(self, code: int) -> EngineError:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return EngineError(
            f"the engine died ({how}); its log {self._log.path} ends:\n{self._log.tail()}"
        )


@contextlib.asynccontextmanager
async def started_engine(
    config: RunConfig,
    index: int,
    log_folder: Path,
    stop: asyncio.Event,
    further_flags: Sequence[str] = (),
) -> AsyncIterator[EngineProcess]:
    """An engine as the configuration says; ended when the block is left.

    `stop` cuts the wait for it short: the block is then entered all the same.

    Raises:
        ConfigError: the configuration cannot be given to this engine.
        EngineError: it died, or does not serve in time.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    with engine_key_file(config, index) as key_file:
        for _ in range(_PORTS_TRIED):
            engine = await _start(config, index, log_folder, key_file, further_flags)
            try:
                await engine.wait_until_healthy(config.rollout.start_timeout_s, stop)
                break
            except BaseException as error:
                await asyncio.shield(engine.stop())
                is_lost = isinstance(error, EngineError) and engine.lost_port()
                if config.rollout.port or not is_lost:
                    raise
                logger.warning("the port of %s was taken meanwhile: trying another one", engine.url)
        else:
            raise EngineError(f"{_PORTS_TRIED} free ports were taken before the engine had them")
        try:
            yield engine
        finally:
            await asyncio.shield(engine.stop())


async def _start(
    config: RunConfig, index: int, log_folder: Path, key_file: Path, further_flags: Sequence[str]
) -> EngineProcess:
    host = config.rollout.host
    port = config.rollout.port + index if config.rollout.port else free_port(host)
    command = [*engine_command(config, host, port), *further_flags]
    environment = engine_environment(config) | {KEY_FILE_VARIABLE: str(key_file)}
    log = EngineLog(log_folder / f"engine-{index}.log")
    kept = RotatingLog(log.path, config.cluster.log_mib * 2**20, config.cluster.log_files)
    logger.info("starting %s", " ".join(command))
    process, output = await spawn_logged(command, kept, start_new_session=True, env=environment)
    return EngineProcess(process, f"http://{join_address(host, port)}", log, output, key_file)


def engine_command(config: RunConfig, host: str, port: int) -> list[str]:
    """The command line of an engine that listens on `host`:`port`.

    Raises:
        ConfigError: the engine cannot be given it, or others can reach it and no key was agreed on.
    """
    check_host(config, host)
    return engine_of(config).command(config, host, port)


def engine_environment(config: RunConfig) -> dict[str, str]:
    """The environment of an engine that this process starts. Raises ConfigError as above."""
    return engine_of(config).environment(config)


async def _first_health(url: str, api_key: str | None) -> None:
    """Return at the first good answer. A foreign process cannot notify us: it has to be asked.

    SGLang refuses connections for as long as it loads, then answers 503 until it is warm.
    """
    headers, patience = bearer(api_key), aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers=headers, timeout=patience) as session:
        while True:
            pause_s = _PROBE_S
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
                    pause_s = _WARM_UP_PROBE_S
            await asyncio.sleep(pause_s)
