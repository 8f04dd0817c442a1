import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deploy.supervision.ray_connection
from common.errors import VisionOpdError
from deploy.cluster.roles import ROOT
from deploy.supervision.ray_connection import connected_ray

GUEST = """
import asyncio, sys
from deploy.supervision.ray_connection import connected_ray
async def main():
    async with connected_ray(sys.argv[1]):
        import ray
        print(sum(node["Alive"] for node in ray.nodes()))
    print(ray.is_initialized())
asyncio.run(main())
"""


async def test_a_cluster_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(VisionOpdError, match=r"'not an address'.*Fix: check cluster\.address"):
        async with connected_ray("not an address"):
            pass


def test_folders_of_killed_launchers_are_removed_and_others_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f"vopd-ray-{gone.pid}-a", f"vopd-ray-{os.getpid()}-b", "vopd-ray-mine", "other-1-c"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    monkeypatch.setattr(deploy.supervision.ray_connection, "_TEMPORARY", str(tmp_path))
    deploy.supervision.ray_connection._remove_left_folders()
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


async def test_a_ray_of_our_own_ends_with_us_and_a_clusters_goes_on() -> None:
    """The first of two launchers owns it; the second one is a guest there."""
    import ray

    def folders() -> list[Path]:
        return list(Path("/tmp").glob(f"vopd-ray-{os.getpid()}-*"))

    async with connected_ray(None):
        (node,) = ray.nodes()
        assert node["NodeManagerAddress"] == "127.0.0.1" and len(folders()) == 1
        address = ray.get_runtime_context().gcs_address
        guest = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", GUEST, address), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await guest.communicate()
        assert output.decode().split() == ["1", "False"]
        assert ray.nodes()[0]["Alive"]
    assert not ray.is_initialized() and folders() == []


async def test_what_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**options: object) -> None:
        raise RuntimeError("no processes left")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(VisionOpdError, match=r"no Ray at 'local': no processes left\. Fix"):
        async with connected_ray(None):
            pass
    assert list(Path("/tmp").glob(f"vopd-ray-{os.getpid()}-*")) == []
