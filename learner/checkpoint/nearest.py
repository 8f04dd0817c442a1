"""Which kept weights are nearest to those that a step began from."""

from pathlib import Path
from typing import NamedTuple

from common.errors import CheckpointError
from learner.checkpoint.cut import Trained
from learner.checkpoint.folder import list_checkpoints, read_state, version_of
from learner.checkpoint.restore import load_student, load_teacher


class KeptWeights(NamedTuple):
    """Student and teacher of one version."""

    version: int
    path: Path | None  # of the checkpoint; None means the start of the run

    @staticmethod
    def of(path: Path) -> "KeptWeights":
        """Those of a checkpoint. Raises CheckpointError."""
        return KeptWeights(read_state(path)["version"], path)

    def load_into(self, trainer: Trained) -> None:
        """Load what a step reads, into models as the run starts with. Raises CheckpointError."""
        if self.path is not None:
            state = read_state(self.path)
            load_student(self.path, trainer.model, state["names_in_files"])
            load_teacher(self.path, trainer.teacher)
        trainer.version = self.version


def nearest_kept(folder: Path, version: int, has_start: bool) -> KeptWeights:
    """The newest checkpoint up to `version`; where none is left, whatever is nearest to it.

    Args:
        folder: of the run's checkpoints.
        has_start: whether the model that the run started from is still there.

    Raises:
        CheckpointError: nothing is kept.
    """
    kept = [KeptWeights(version_of(path), path) for path in list_checkpoints(folder)]
    if before := [weights for weights in kept if weights.version <= version]:
        return before[-1]
    start = [KeptWeights(0, None)] if has_start else []
    if not start + kept:
        raise CheckpointError(
            f"{folder} holds no checkpoint, and the model that the run started from is gone. Fix: "
            "bring either back (checkpoint.every_steps keeps some while a run lasts)"
        )
    return min(start + kept, key=lambda weights: abs(weights.version - version))
