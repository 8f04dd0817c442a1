"""A run of Weights & Biases. WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and its key are W&B's own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WandbRun:
    """A new run.

    Args:
        told: as `learner.figures.trackers.about` makes it.
    """

    def __init__(self, run_folder: Path, told: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", told["project"]),
            group=told["group"],
            name=told["name"],
            config=told["config"],
            dir=run_folder,
            # No output, no code, no state of the repository.
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        self._run.finish()
