"""Where a run's figures go beside RUN/metrics.jsonl: the trackers that run.trackers names.

TensorBoard's file is written here. W&B and MLflow are programs of their own
(`learner.figures.tracker_program`), which read RUN/metrics.jsonl: a step tells them with one byte
that there is more, and waits neither for them nor for their servers. That file is the queue, so
that nothing is lost while one of them is slow; one that fails or hangs is done without. They have
logs of their own: they may outlive a killed learner for a while, whose own log ends with it.

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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from common.config import RunConfig
from common.errors import ConfigError
from learner.figures.tensorboard import TensorboardFile

logger = logging.getLogger(__name__)
_CLOSE_S = 20.0  # for what a server has not been sent yet
_ORPHAN_S = 25.0  # the same without a learner, which would have ended it by then
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
                command = _command(name, folder, about(config, step))
                yield TrackerProcess(name, command, folder / "logs" / f"{name}.log")
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
    return [*program, name, str(folder), json.dumps(told), str(_ORPHAN_S)]


class TrackerProcess:
    """A tracker that reads RUN/metrics.jsonl by itself.

    Args:
        command: ends when its standard input does, on which a byte says that there is more to read.
        log: a file that its output is appended to.
        close_s: seconds for its end.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, close_s: float = _CLOSE_S
    ) -> None:
        self._name = name
        self._log = log
        self._close_s = close_s
        self._is_lost = self._is_closing = False
        paths = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                bufsize=0,
                start_new_session=True,  # a Ctrl-C is for the run; and its helpers end with it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        self._watch = threading.Thread(target=self._await_end, name=f"{name} end", daemon=True)
        self._watch.start()

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        with suppress(OSError):  # it has ended, which is told of where it is noticed
            self._pipe.write(b".")  # a full pipe is no loss: what is in it says the same

    def close(self) -> None:
        self._is_closing = True
        with suppress(OSError):
            self._pipe.close()
        self._watch.join(self._close_s)
        if self._watch.is_alive():
            self._lose(f"it did not end within {self._close_s:g} s")
            self._kill_group()
            self._watch.join()
        self._process.wait()  # only here is its id given back

    def _await_end(self) -> None:
        """Notice its end without giving back its id, which is that of its helpers' group."""
        end = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        self._kill_group()
        if end.si_status or not self._is_closing:
            code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            self._lose(f"it ended with code {code}, see {self._log}")

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            logger.warning(
                "%s has not all figures: %s. The run goes on; RUN/metrics.jsonl has them",
                self._name, reason,
            )  # fmt: skip
