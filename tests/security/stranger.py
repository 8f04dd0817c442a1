"""Another user of the machine: a program that gives up root, tries what it is told, and reports.

    python tests/security/stranger.py <WISHES.json >ANSWERS.json

A wish is {"kind": ..., ...}; its answer is a list or text, in the same order. What it sends is what
any honest client might send: it looks for doors that are open, not for walls that break.
"""

import base64
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import zmq

NOBODY = 65534
_PATIENCE_S = 5.0
_LISTEN_S = 1.0  # to somebody who may have nothing to say


def main() -> None:
    _import_the_rest()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    wishes = json.load(sys.stdin)
    json.dump([KINDS[wish.pop("kind")](**wish) for wish in wishes], sys.stdout)


def _import_the_rest() -> None:
    """What Python and gRPC load at first use: the other user may not be able to read it."""
    "localhost".encode("idna")
    ask_grpc("127.0.0.1", 9, "/nobody/listens")


def ask_http(
    host: str, port: int, method: str, path: str, headers: dict[str, str], body: str | None = None
) -> list[Any]:
    """[status, beginning of the answer]."""
    line = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    try:
        line.request(method, path, body, headers)
        answer = line.getresponse()
        return [answer.status, answer.read(200).decode(errors="replace")]
    except (OSError, http.client.HTTPException) as error:
        return [0, repr(error)]
    finally:
        line.close()


def ask_broker(address: str, frames: list[str]) -> list[str]:
    """The answers to all frames (base64) within a while, in base64."""
    context = zmq.Context()
    line = context.socket(zmq.DEALER)
    line.connect(address)
    for number, frame in enumerate(frames):
        line.send_multipart([b"%d" % number, base64.b64decode(frame)], zmq.NOBLOCK)
    answers, deadline = [], time.monotonic() + _LISTEN_S
    while (left_s := deadline - time.monotonic()) > 0 and len(answers) < len(frames):
        if line.poll(int(left_s * 1000)):
            answers.append(base64.b64encode(line.recv_multipart()[-1]).decode())
    context.destroy(linger=0)
    return answers


def ask_grpc(host: str, port: int, method: str) -> str:
    """Name of the status of an empty request."""
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def listen_to(host: str, port: int) -> str:
    """What somebody says who was sent nothing, in hexadecimal; the error where there is no way."""
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as line:
            line.settimeout(_LISTEN_S)
            try:
                return line.recv(200).hex()
            except TimeoutError:
                return ""
    except OSError as error:
        return repr(error)


def connect_unix(path: str) -> str:
    """ "open", or the error. A path that begins with @ is an abstract name."""
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(address)
        except OSError as error:
            return type(error).__name__
    return "open"


def look_through(folder: str) -> dict[str, list[str]]:
    """All that can be read, and all that can be written to, below a folder."""
    found: dict[str, list[str]] = {"readable": [], "writable": []}
    for here, _, files in os.walk(folder):
        if os.access(here, os.W_OK):
            found["writable"].append(here)
        for path in (Path(here, name) for name in files):
            if os.access(path, os.W_OK):
                found["writable"].append(str(path))
            try:
                with path.open("rb"):
                    found["readable"].append(str(path))
            except OSError:
                pass
    return found


def look_into(pid: int) -> list[str]:
    """What of a process is open to us."""
    found = []
    for part in ("environ", "mem", "fd", "maps"):
        path = Path(f"/proc/{pid}/{part}")
        try:
            if part == "fd":
                os.listdir(path)
            else:
                path.open("rb").close()
            found.append(part)
        except OSError:
            pass
    try:
        os.kill(pid, 0)  # asks whether a signal might be sent
        found.append("signals")
    except OSError:
        pass
    return found


KINDS: dict[str, Callable[..., Any]] = {
    "http": ask_http,
    "broker": ask_broker,
    "grpc": ask_grpc,
    "listen": listen_to,
    "unix": connect_unix,
    "files": look_through,
    "process": look_into,
}

if __name__ == "__main__":
    main()
