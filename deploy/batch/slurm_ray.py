"""What the batch script of a Slurm job (slurm_job.sh) asks of Python.

python -m deploy.batch.slurm_ray address HOST           this machine's address on the way to HOST
python -m deploy.batch.slurm_ray port ADDRESS           a port that is free there
python -m deploy.batch.slurm_ray joined ADDRESS PORT    both as one, IPv6 in brackets
python -m deploy.batch.slurm_ray token                  a secret for Ray
python -m deploy.batch.slurm_ray wait ADDRESS N SECONDS returns when Ray has N machines
"""

import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from common.addresses import join_address, split_address
from common.network import free_port, local_address_towards

_POLL_S = 0.5
_CONNECT_S = 2.0


def no_client_server(parameters: Any, is_head: bool) -> None:
    """Keep a port closed that nothing needs. Ray calls it before it starts (RAY_START_HOOK)."""
    parameters.ray_client_server_port = None


def address(host: str) -> str:
    found = local_address_towards(host)
    if found is None:
        raise SystemExit(f"no way to {host} from {socket.gethostname()}. Fix: the network, or DNS")
    return found


def wait(ray_address: str, machines: str, seconds: str) -> str:
    """Wait for the machines; SystemExit if there are too few after that time."""
    needed, deadline = int(machines), time.monotonic() + float(seconds)
    there = 0
    while time.monotonic() < deadline:
        if _listens(ray_address):
            there = _count(ray_address)
            if there >= needed:
                return f"Ray has {there} of {needed} machines"
        time.sleep(_POLL_S)
    raise SystemExit(
        f"Ray has {there} of {needed} machines after {seconds} s. Fix: see above why the others "
        "did not join"
    )


def _listens(ray_address: str) -> bool:
    """Whether a Ray listens there: its own attempt to connect would take a long time."""
    host, number = split_address(ray_address)
    try:
        with socket.create_connection((host, number or 0), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def _count(ray_address: str) -> int:
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ray.exceptions.RayError):
            return 0  # it is starting
    return sum(bool(node["Alive"]) for node in ray.nodes())


def main(argv: list[str]) -> None:
    commands: dict[str, Callable[..., object]] = {
        "address": address,
        "joined": join_address,
        "port": free_port,
        "token": lambda: secrets.token_hex(32),
        "wait": wait,
    }
    print(commands[argv[0]](*argv[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
