"""What the commands that ask a model have in common: signals, errors, exit codes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from common import lifecycle
from common.command_line import refusing
from common.logs import configure_logging

INTERRUPTED = 130  # exit code, as a shell has it of Ctrl-C


def run_command(what: str, work: Callable[[asyncio.Event], Awaitable[int]]) -> NoReturn:
    """End the process with the code that `work` returns, or that of its error.

    Args:
        what: the command does, for messages.
        work: gets the event that the first Ctrl-C sets.
    """
    configure_logging("evaluate")
    with refusing(what):
        raise SystemExit(lifecycle.run(work))
