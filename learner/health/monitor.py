"""The health gates over a run: their memory in RUN/health.json, pauses and roll-backs."""

import json
import logging
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence

from common.config import RunConfig
from common.errors import CheckpointError, FinalError
from common.files import replace_json
from common.full_disk import when_there_is_room
from learner.health.gates import HealthGates, Verdict
from learner.ranks import Ranks

logger = logging.getLogger(__name__)
_FILE = "health.json"
_LOOK_S = 1.0  # between looks for the end of the run, while paused


class HealthStop(FinalError):
    """A gate ended the run."""


class RollBack(Exception):
    """A gate asks for a roll-back to an earlier checkpoint. Not an error."""

    def __init__(self, step: int, reasons: tuple[str, ...]) -> None:
        super().__init__(f"to step {step}")
        self.step = step
        self.reasons = reasons


class HealthMonitor:
    """The gates of a learner's process, which outlive roll-backs.

    Raises:
        CheckpointError: RUN/health.json is not what an earlier life of the run wrote.
    """

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        assert config.run.folder is not None
        self._config = config.health
        self._path = config.run.folder / _FILE
        self._ranks = ranks
        self._gates = HealthGates(config.health)
        # SimpleQueue: `resume` is called by a signal handler, which may break into a get().
        self._resumes: queue.SimpleQueue[None] = queue.SimpleQueue()
        if self._path.exists():
            self._restore()

    @property
    def lr_factor(self) -> float:
        """Factor on the learning rate, smaller after each roll-back: the same would fail again."""
        return self._config.roll_back_lr_factor**self._gates.roll_backs

    @property
    def num_alarms(self) -> int:
        """Gates that have acted and whose figures are still out of bounds."""
        return len(self._gates.alarms)

    def goes_on_from(self, step: int) -> None:
        """Forget what was found against later steps."""
        self._gates.undo_after(step)

    def look(self, step: int, metrics: Mapping[str, float], worst_sample: str = "") -> Verdict:
        verdict = self._gates.look(step, metrics, worst_sample)
        if verdict.action != "none":
            for reason in verdict.reasons:
                logger.warning("step %d: %s: %s", step, verdict.action.replace("_", " "), reason)
        if self._ranks.writes:
            state = self._gates.state()
            when_there_is_room(lambda: replace_json(self._path, state), self._path)
        return verdict

    def _restore(self) -> None:
        try:
            self._gates.restore(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._path}: it cannot be read: {error}. "
                "Fix: remove it to begin with new baselines"
            ) from error
        except CheckpointError as error:
            raise CheckpointError(f"{self._path}: {error}") from error

    def resume(self) -> None:
        """End a pause. Safe in a signal handler."""
        self._resumes.put(None)

    def pause(self, is_over: Callable[[], bool]) -> float:
        """Wait until SIGUSR1 comes to any rank's process, or the run is over; all ranks call it.

        `begin_pause` comes first.

        Returns:
            The seconds that it took.
        """
        began = time.monotonic()
        logger.warning("paused. To go on: kill -USR1 %d", os.getpid())
        while not self._ranks.any(self.wait_for_resume(_LOOK_S) or is_over()):
            pass
        logger.info("going on after %.1f s", time.monotonic() - began)
        return time.monotonic() - began

    def begin_pause(self) -> None:
        """Forget what was asked for before."""
        while not self._resumes.empty():
            self._resumes.get()

    def wait_for_resume(self, timeout_s: float) -> bool:
        try:
            self._resumes.get(timeout=timeout_s)
        except queue.Empty:
            return False
        return True


def newest_good(targets: Sequence[int], verdict: Verdict, judged: int) -> int | None:
    """The newest checkpoint whose weights no gate has found anything against.

    A step's figures are of the weights before it, and so are those of its samples: gone back to
    these, the run would meet the same figures again. Only if nothing older is left they must do:
    the steps after them are made with another learning rate, at least.

    Args:
        targets: versions that can be gone back to, oldest first.
        judged: the version of the weights that the figures are of, less that of their step.

    Returns:
        None when all of them are from after it went wrong.
    """
    assert verdict.since is not None, "no gate has acted"
    before = [version for version in targets if version < verdict.since]
    good = [version for version in before if version < verdict.since + judged]
    return max(good or before, default=None)


def stop(verdict: Verdict, target: int | None) -> HealthStop:
    """The error that ends a run.

    Args:
        target: the newest checkpoint from before it went wrong; None when there is none.
    """
    if target is None:
        kept = (
            f"no checkpoint from before step {verdict.since} is kept "
            "(checkpoint.every_steps, checkpoint.keep)"
        )
        fix = "start anew"
    else:
        kept = f"the newest checkpoint from before it is of step {target}"
        fix = "export that, or remove those after it and resume,"
    return HealthStop(
        f"stopped by a health gate: {'; '.join(verdict.reasons)}; {kept}. Fix: {fix} with another "
        "setting (a lower optimizer.lr, say); the section [health] sets the bounds, health.action "
        "= warn lets a run go on"
    )
