"""A Ray to place processes on: the named cluster's, or one of our own on this machine.

The local one is bound to loopback, in a temporary folder that is gone afterwards.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from common.errors import VisionOpdError
from deploy.cluster.roles import ROOT

_OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB; we put nothing there
_ANSWER_S = 10.0  # for the port of a cluster to be opened
_TEMPORARY = "/tmp"  # whatever TMPDIR says: paths of Unix sockets have 107 bytes at most
_FOLDER_PREFIX = "vopd-ray-"


@contextlib.asynccontextmanager
async def connected_ray(address: str | None) -> AsyncIterator[None]:
    """Ray for as long as the block runs.

    Args:
        address: of a cluster that runs, or "auto"; None: a local one is started and ended.

    Raises:
        VisionOpdError: there is no Ray to be had.
    """
    _set_environment()
    if address is None:
        with local_ray():
            yield
        return
    await _must_answer(address)
    await asyncio.to_thread(_connect, address=address)
    try:
        yield
    finally:
        _disconnect()


@contextlib.contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """A Ray of our own on this machine's loopback.

    Args:
        options: further ones of `ray.init`.
    """
    _set_environment()
    _keep_to_loopback()
    _remove_left_folders()
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=_TEMPORARY)
    try:
        with _children_outlive_the_terminal():
            _connect(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
                **options,
            )
        _check_loopback()
        yield
    finally:
        _disconnect()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _children_outlive_the_terminal() -> Iterator[None]:
    """What is started inside ignores SIGHUP: Ray would end, and with it what is to drain."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _keep_to_loopback() -> None:
    """Ray takes 127.0.0.1 for a mistake and listens on the machine's own address, unless it
    believes that this platform has no clusters."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for its processes
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one: somebody may have imported Ray before


def _set_environment() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), *paths]))


async def _must_answer(address: str) -> None:
    """Ray itself would try for minutes. What is no HOST:PORT (auto) is Ray's to find."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError) as error:
        reason = str(error) or f"no answer within {_ANSWER_S:g} s"
        raise VisionOpdError(
            f"no Ray at {address!r}: {reason}. Fix: check cluster.address"
        ) from error
    writer.close()


def _connect(address: str, **options: Any) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        mend = "see its logs" if address == "local" else "check cluster.address"
        raise VisionOpdError(f"no Ray at {address!r}: {error}. Fix: {mend}") from error


def _check_loopback() -> None:
    import ray

    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if addresses != {"127.0.0.1"}:
        raise VisionOpdError(
            f"the local Ray listens on {', '.join(sorted(addresses))}, not on loopback alone. "
            "Fix: use the version of Ray that deploy/setup.sh installs"
        )


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
