"""A page for a run, or for two beside each other, live or over: python -m deploy.inspect RUN [RUN2]

It reads the run folders and changes nothing in them, except that an index is kept in RUN/inspector.
The page is served on loopback until Ctrl-C; on another address (--host) a token is asked for, which
is in the address that is printed. With --export FILE a page is written instead, which holds what it
shows and can be sent.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.http_gate import names_loopback
from common.lifecycle import run as run_until_stopped
from common.output import ends_with_its_reader
from deploy.inspector.answers import InspectorAnswers
from deploy.inspector.inspected_run import InspectedRun
from deploy.inspector.scores import TokenScores
from deploy.inspector.server import serving

_PORT, _LAST_PORT = 8017, 2**16 - 1
_ANY = ("", "0.0.0.0", "::")
_NICE = 10  # a run on the same cores goes first
_KEYS = "ab"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("other", type=Path, metavar="RUN2", nargs="?", help="a second one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=_PORT, help=f"0: a free one (default {_PORT})")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="write one file, and end")
    given = parser.parse_args(argv)
    folders = [folder for folder in (given.run, given.other) if folder is not None]
    try:
        with contextlib.ExitStack() as stack:
            runs = [
                stack.enter_context(InspectedRun(key, folder))
                for key, folder in zip(_KEYS, folders, strict=False)
            ]
            if given.export is not None:
                print(_exported(InspectorAnswers(runs), given.export))
            else:
                serve(InspectorAnswers(runs), given.host, given.port)
    except ConfigError as error:
        from common.config_cli import exit_with  # with the configuration it takes 0.2 s to load

        exit_with(error)


def _exported(answers: InspectorAnswers, path: Path) -> Path:
    from deploy.inspector.export import write_export

    try:
        return write_export(answers, path)
    except OSError as error:
        raise ConfigError(
            f"--export {path}: it cannot be written: {error.strerror}. Fix: name another file"
        ) from None


def serve(answers: InspectorAnswers, host: str, port: int) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigError: it cannot listen there.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port}: no port. Fix: 0 (a free one) to {_LAST_PORT}")
    token = None if names_loopback(host) else secrets.token_urlsafe(24)

    async def until_stopped(stop: asyncio.Event) -> None:
        async with TokenScores() as scores, serving(answers, scores, host, port, token) as found:
            name = _name_of(host)
            print(f"http://{name}:{found}/{f'?token={token}' if token else ''}", flush=True)
            await stop.wait()

    try:
        run_until_stopped(until_stopped)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}. Fix: take another port (0: a "
            "free one), and an address of this machine"
        ) from None


def _name_of(host: str) -> str:
    """What a browser asks for; of all addresses of this machine that is its name."""
    if host in _ANY:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    with ends_with_its_reader():
        os.nice(_NICE)
        main()
