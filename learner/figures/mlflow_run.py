"""A run of MLflow: on the server of MLFLOW_TRACKING_URI, or as files in RUN/mlflow."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VALUE_LENGTH = 6000  # of a parameter, as MLflow allows


class MlflowRun:
    """A new run.

    Args:
        told: as `learner.figures.trackers.about` makes it.
    """

    def __init__(self, run_folder: Path, told: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # 3.17 asks for it
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        default = (run_folder / "mlflow").absolute().as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", default))
        project = self._client.get_experiment_by_name(told["project"])
        number = (
            project.experiment_id if project else self._client.create_experiment(told["project"])
        )
        run = self._client.create_run(number, run_name=told["name"], tags={"run": told["group"]})
        self._run_id = run.info.run_id
        params = [Param(key, str(v)[:_VALUE_LENGTH]) for key, v in told["config"].items()]
        for begin in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self._run_id, params=params[begin : begin + 100])

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        now_ms = time.time_ns() // 1_000_000
        metrics = [self._metric(name, value, now_ms, step) for name, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
