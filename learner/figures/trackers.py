"""Where a run's figures go beside RUN/metrics.jsonl: the trackers that run.trackers names.

TensorBoard's file is written here. W&B and MLflow are programs of their own
(`learner.figures.tracker_program`), which read RUN/metrics.jsonl: a step tells them with one byte
that there is more, and waits neither for them nor for their servers. That file is the queue, so
that nothing is lost while one of them is slow; one that fails or hangs is done without.

A learner that goes on from a checkpoint begins a new run of W&B or MLflow, and gives it all rows
that stay, those of earlier lives first. So each is whole and has one row a step, and steps that
were undone are only in the older ones. (Rewinding a run is not for offline ones, and not for all
servers.) Curves are over the figure `step`: measurements come after rows of later steps.
"""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from common.config import RunConfig
from common.errors import ConfigError
from learner.figures.tensorboard import TensorboardFile

logger = logging.getLogger(__name__)
_CLOSE_S = 20.0  # for what a server has not been sent yet
_CODE = Path(__file__).resolve().parents[2]
_TOLD = ("model", "prompt", "data", "student", "teacher", "objective", "learner", "optimizer")


class Tracker(Protocol):
    """Something that shows figures over steps."""

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Take a row; None is a value that was not finite. Returns soon."""

    def close(self) -> None:
        """Take no more, within a bounded time."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not there. TensorBoard may be missing."""
    for name in names:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"run.trackers = {','.join(names)}: {name} is not installed. "
                f'Fix: pip install -e ".[{name}]" with the learner\'s Python'
            )


def open_trackers(
    config: RunConfig, step: int, is_over: Callable[[], bool] = lambda: False
) -> Iterator[Tracker]:
    """The trackers of a run, whose metrics.jsonl is there.

    Args:
        step: that the run goes on from.
        is_over: whether to wait for a full disk no longer.
    """
    folder = config.run.folder
    assert folder is not None
    for name in dict.fromkeys(config.run.trackers):
        try:
            if name == "tensorboard":
                yield TensorboardFile(folder / "tensorboard", step, is_over)
            else:
                yield TrackerProcess(name, _command(name, folder, about(config, step)))
        except ImportError:
            logger.info("%s is not installed: the run goes on without it", name)
        except OSError as error:
            logger.warning("%s does not start: %s. The run goes on without it", name, error)


def about(config: RunConfig, step: int) -> dict[str, Any]:
    """What is said of a run: its project, its name there, and the keys that decide what is learnt.

    Its name tells lives of one run apart.
    """
    assert config.run.folder is not None
    name = config.run.folder.name
    tree = config.model_dump(mode="json", include=set(_TOLD))
    keys = {f"{section}.{key}": value for section in _TOLD for key, value in tree[section].items()}
    return {
        "project": config.run.name,
        "group": name,
        "name": f"{name} (from step {step})" if step else name,
        "config": keys | {"run.seed": config.run.seed},
    }


def _command(name: str, folder: Path, told: dict[str, Any]) -> list[str]:
    program = [sys.executable, "-m", "learner.figures.tracker_program"]
    return [*program, name, str(folder), json.dumps(told)]


class TrackerProcess:
    """A tracker that reads RUN/metrics.jsonl by itself.

    Args:
        command: ends when its standard input does, on which a byte says that there is more to read.
        close_s: seconds for its end.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str], close_s: float = _CLOSE_S) -> None:
        self._name = name
        self._close_s = close_s
        self._is_lost = False
        paths = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for the run; and its helpers end with it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        try:
            self._pipe.write(b".")  # a full pipe is no loss: what is in it says the same
        except OSError:
            self._lose(f"it ended with code {self._process.poll()}")

    def close(self) -> None:
        with suppress(OSError):
            self._pipe.close()
        try:
            code = self._process.wait(self._close_s)
            if code:
                self._lose(f"it ended with code {code}")
        except subprocess.TimeoutExpired:
            self._lose(f"it did not end within {self._close_s:g} s")
        with suppress(ProcessLookupError):  # with its helpers
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            logger.warning(
                "%s has not all figures: %s. The run goes on; RUN/metrics.jsonl has them",
                self._name, reason,
            )  # fmt: skip
