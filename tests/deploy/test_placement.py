import os
import subprocess
import sys
from pathlib import Path

import pytest

import deploy.placement
from common.config_cli import build
from common.errors import VisionOpdError
from deploy.placement import connected_ray


async def test_a_cluster_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    config = build({"cluster": {"address": "not an address"}})
    with pytest.raises(VisionOpdError, match=r"'not an address'.*Fix: check cluster.address"):
        async with connected_ray(config, tmp_path):
            pass


def test_folders_of_killed_launchers_are_removed_and_others_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f"vopd-ray-{gone.pid}-a", f"vopd-ray-{os.getpid()}-b", "vopd-ray-mine", "other-1-c"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    monkeypatch.setattr(deploy.placement, "_TEMPORARY", str(tmp_path))
    deploy.placement._remove_left_folders()
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_a_local_ray_has_room_for_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the last one would wait for ever on a small machine."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    config = build({"rollout": {"servers": 2}, "cluster": {"learner_ranks": 3}})
    assert deploy.placement._cpus_needed(config) == 5
