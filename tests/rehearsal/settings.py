"""What a rehearsal changes of the published configuration: paths, sizes, counts and the device.

Everything else is as in deploy/configs/vision_opd_qwen3_5_4b.toml: objective, teacher, optimizer,
precision, prompt, sampling, staleness and verification of pushes.
"""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy" / "configs" / "vision_opd_qwen3_5_4b.toml"

NUM_STEPS = 6
GROUPS_PER_STEP = 4
CHECKPOINT_EVERY = 2  # steps
PATHS = frozenset({"model.path", "model.revision", "data.train", "run.folder", "broker.address"})
SIZES = frozenset(
    {
        "learner.ranks", "learner.groups_per_step", "learner.max_steps",
        "rollout.trajectories_per_sample", "rollout.max_response_tokens",
        "checkpoint.every_steps", "sglang.context_tokens", "sglang.max_total_tokens",
    }
)  # fmt: skip
DEVICE = frozenset({"learner.device", "learner.threads"})
ALLOWED = PATHS | SIZES | DEVICE

_COUNTS = {
    "learner.ranks": "2",
    "learner.groups_per_step": str(GROUPS_PER_STEP),
    "learner.max_steps": str(NUM_STEPS),
    "rollout.trajectories_per_sample": "4",
    "checkpoint.every_steps": str(CHECKPOINT_EVERY),
}
_TINY_SIZES = {  # of a model that has nothing to say
    "rollout.trajectories_per_sample": "2",
    "rollout.max_response_tokens": "16",
    "sglang.context_tokens": "4096",
    "sglang.max_total_tokens": "32768",
}
_WITHOUT_GPU = {"learner.device": "cpu", "learner.threads": "1"}


def overrides(
    model: str, dataset: Path, run_folder: Path, *, is_tiny: bool, has_gpu: bool
) -> dict[str, str]:
    """Values by key of the configuration; the keys are in ALLOWED."""
    return {
        "model.path": model,
        "data.train": str(dataset),
        "run.folder": str(run_folder),
        "broker.address": "tcp://127.0.0.1:0",  # other runs may be on this machine
        **_COUNTS,
        **(_TINY_SIZES if is_tiny else {}),
        **({} if has_gpu else _WITHOUT_GPU),
    }


def as_arguments(values: Mapping[str, str]) -> list[str]:
    """For a command line, the configuration file first."""
    flags = [word for key, value in values.items() for word in (f"--{key}", value)]
    return ["--config", str(CONFIG), *flags]
