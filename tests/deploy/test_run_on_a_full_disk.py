"""The quickstart on a disk of its own that becomes full for a while."""

from pathlib import Path

import pytest

from tests.deploy.quickstart.support import SMALL, Launched
from tests.small_disk import small_disk

pytestmark = pytest.mark.timeout(320)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 120 * 1024) as disk:
        run = Launched(
            *(disk.folder / "run", *SMALL, "--learner.max_steps", "6"),
            *("--checkpoint.every_steps", "2", "--evaluation.every_steps", "0"),
            output=tmp_path / "output",
        )
        run.wait_for_step(1)
        disk.fill()
        told = f"the disk of {run.folder} is full (No space left on device): the run waits"
        run.wait_until_output(told)
        disk.free()
        assert run.wait() == 0, run.output()
        output = run.output()
        assert output.count(told) == 1
        assert output.count(f"the disk of {run.folder} has room again after ") == 1
        assert "starting again" not in output  # nobody died
        logs = "".join(path.read_text() for path in (run.folder / "logs").iterdir())
        assert "Traceback" not in output + logs and "Logging error" not in output + logs
        steps = [row["step"] for row in run.metrics() if "learner/loss_nats" in row]
        assert steps == [1, 2, 3, 4, 5, 6]


def test_a_start_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        disk.fill()
        run = Launched(disk.folder / "run", *SMALL, output=tmp_path / "output")
        assert run.wait() == 2
        last = run.output().splitlines()[-1]
        assert last.startswith("refused: ") and "No space left on device. Fix: free" in last
        assert "Traceback" not in run.output()
