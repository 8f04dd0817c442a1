"""What an engine declares of itself."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError

if TYPE_CHECKING:
    from common.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class OwnEnvironment:
    """A Python environment of an engine, which has none of our packages."""

    goal: str  # of deploy/setup.sh, which makes it
    with_ours: tuple[str, ...]  # goals of deploy/setup.sh that make it and ours for rollout servers
    folder: Path
    holds: str  # the package that it is made for, with its version
    key: str  # of the configuration, to name the Python of another one
    named: "Callable[[RunConfig], Path | None]"  # that key's value

    def find_python(self, config: "RunConfig") -> Path:
        """Its Python. Not resolved: a link into a venv means that venv.

        Raises:
            ConfigError: there is none.
        """
        named = self.named(config)
        python = (named or self.folder / "bin" / "python").absolute()
        if os.access(python, os.X_OK) and python.is_file():
            return python
        if named is not None:
            raise ConfigError(
                f"{self.key} = {str(named)!r}: no such program. Fix: name the Python of an "
                f"environment with {self.holds}, or leave it out and run deploy/setup.sh "
                f"{self.goal}"
            )
        raise ConfigError(
            f'rollout.engine = "{config.rollout.engine}" needs an environment of its own, and '
            f"{python} is missing. Fix: run deploy/setup.sh {self.goal}, or set {self.key}"
        )


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """One kind of engine. Functions raise ConfigError for what the configuration cannot mean."""

    name: str  # value of rollout.engine
    title: str  # its name in messages
    command: "Callable[[RunConfig, str, int], list[str]]"  # of a server; host and port are given
    environment: "Callable[[RunConfig], dict[str, str]]"  # of a server that this process starts
    own: OwnEnvironment | None  # the Python environment that it runs in. None means ours
    # What serving a checkpoint adds to the command, given the chat templates that may be used.
    serving_flags: "Callable[[RunConfig, Sequence[str]], list[str]]"
    server_gpus: "Callable[[RunConfig], tuple[int, str]]"  # GPUs of one server; the same in words
    is_deterministic: bool  # it can generate the same whatever else is in the batch
    keeps_copies: bool  # it can keep weights for a measurement while newer ones come
    check: "Callable[[RunConfig], None]" = lambda config: None  # looks for nothing on the machine
    check_folder: Callable[[Path], None] = lambda folder: None  # of a checkpoint to be served
    # Tokens of prompt and response together, and the key that limits them. None means that no key
    # does.
    context_limit: "Callable[[RunConfig], tuple[int, str] | None]" = lambda config: None
