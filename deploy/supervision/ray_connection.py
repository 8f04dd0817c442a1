"""A Ray to place processes on: the named cluster's, or one of our own on this machine.

The local one is bound to loopback and asks everybody for a token. Files and token are in a folder
that its owner alone can enter, and which is gone afterwards.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from common.addresses import split_address
from common.errors import VisionOpdError
from common.lifecycle import signal_handled
from deploy.cluster.process_specs import ROOT
from deploy.supervision.private_folder import TOKEN, places, private_folder, rays_own

_OBJECT_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB; we put nothing there
_ANSWER_S = 10.0  # for the port of a cluster to be opened


@contextlib.asynccontextmanager
async def connected_ray(address: str | None) -> AsyncIterator[None]:
    """Ray for as long as the block runs.

    Args:
        address: of a cluster that runs, or "auto". None means a local one, started and ended.

    Raises:
        VisionOpdError: there is no Ray to be had.
    """
    if address is None:
        with local_ray():
            yield
        return
    _set_environment()
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
    _spare_memory_monitor()
    with private_folder(places()) as folder, _asking_for(folder / TOKEN):
        _keep_to_loopback()
        try:
            # What is started inside ignores SIGHUP: Ray would end, and with it what is to drain.
            with signal_handled(signal.SIGHUP, signal.SIG_IGN):
                _connect(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(rays_own(folder)),
                    **options,
                )
            _check_loopback()
            _check_token()
            yield
        finally:
            _disconnect()


@contextlib.contextmanager
def _asking_for(token: Path) -> Iterator[None]:
    """A Ray that is started inside lets in those alone who know this file's content.

    Whatever the environment says: RAY_AUTH_MODE=disabled is for clusters, a Ray on a machine with
    several users would run anybody's code.
    """
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    names = (*ours, "RAY_AUTH_TOKEN")  # which would go first
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update(ours)
    _reread_token()
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
        _reread_token()


def _reread_token() -> None:
    """Ray reads mode and token once; somebody may have imported it before."""
    if "ray" not in sys.modules:
        return
    with contextlib.suppress(ImportError):  # of an older Ray: `_check_token` says so
        from ray import _raylet

        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _check_token() -> None:
    try:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
    except ImportError:
        is_asked = False
    else:
        is_asked = is_token_auth_enabled()
    if not is_asked:
        raise VisionOpdError(
            "the local Ray asks for no token: every user of this machine could run code in "
            "it. Fix: use the version of Ray that deploy/setup.sh installs"
        )


def _keep_to_loopback() -> None:
    """Ray takes 127.0.0.1 for a mistake and listens on the machine's own address, unless it
    believes that this platform has no clusters."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for its processes
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one: somebody may have imported Ray before


def _spare_memory_monitor() -> None:
    """Ray would kill its newest worker on a machine whose memory is nearly full, by any process.

    That worker's process holds nothing of ours that would help; the kernel chooses better.
    """
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")


def _set_environment() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), *paths]))


async def _must_answer(address: str) -> None:
    """Ray itself would try for minutes. What is no HOST:PORT (auto) is Ray's to find."""
    host, port = split_address(address)
    if port is None:
        return
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, port)
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
        fix = "see its logs" if address == "local" else "check cluster.address"
        raise VisionOpdError(f"no Ray at {address!r}: {error}. Fix: {fix}") from error


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
