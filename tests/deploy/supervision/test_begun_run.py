"""What a run folder was like before, and when it may be brought back."""

import time
from pathlib import Path

from common.config_cli import build
from deploy.supervision.begun_run import begun


def test_a_new_run_without_a_checkpoint_leaves_nothing_but_logs(tmp_path: Path) -> None:
    config = build({"run": {"folder": tmp_path / "runs" / "new"}})
    with begun(config, time.localtime()) as (_, folder, footprint):
        (folder / "journal").mkdir()
        assert not footprint.has_new_checkpoints
        footprint.restore(keeps_logs=True)
        assert {path.name for path in folder.iterdir()} == {"logs"}


def test_a_checkpoint_shows_that_steps_were_trained(tmp_path: Path) -> None:
    config = build({"run": {"folder": tmp_path / "new"}})
    with begun(config, time.localtime()) as (config, folder, footprint):
        (folder / "checkpoints" / "step-000001").mkdir(parents=True)
        assert footprint.has_new_checkpoints
    resumed = config.model_copy(update={"run": config.run.model_copy(update={"resume": True})})
    with begun(resumed, time.localtime()) as (_, folder, footprint):
        assert not footprint.has_new_checkpoints
        (folder / "checkpoints" / "step-000002").mkdir()
        assert footprint.has_new_checkpoints
