"""Our own engine, on plain transformers: for CPUs and tests. It runs in our environment."""

import os
import sys
from typing import TYPE_CHECKING

from common.cpu_threads import sleeping_threads
from common.engines.kind import ROOT, EngineKind

if TYPE_CHECKING:
    from common.config import RunConfig


def _command(config: "RunConfig", host: str, port: int) -> list[str]:
    options = ["--model-path", config.model.path, "--host", host, "--port", str(port)]
    options += ["--dtype", config.weights.dtype, "--stop-with-parent"]
    options += ["--update-timeout-s", f"{config.weights.timeout_s:g}"]
    if config.rollout.deterministic:
        options.append("--deterministic")
    if config.rollout.threads is not None:
        options += ["--threads", str(config.rollout.threads)]
    return [sys.executable, "-m", "rollout.embedded", *options]


def _environment(config: "RunConfig") -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **sleeping_threads(), "PYTHONPATH": os.pathsep.join(paths)}
    if config.rollout.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.rollout.threads)
    return environment


EMBEDDED = EngineKind(
    name="embedded",
    title="the embedded engine",
    command=_command,
    environment=_environment,
    own=None,
    serving_flags=lambda config, _: ["--thinking"] if config.prompt.thinking else [],
    server_gpus=lambda config: (1, "1"),
    is_deterministic=True,
    keeps_copies=True,
)
