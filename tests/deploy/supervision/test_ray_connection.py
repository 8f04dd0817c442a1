import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

from common.errors import VisionOpdError
from deploy.cluster.process_specs import ROOT
from deploy.supervision import ray_connection
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
STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=None, timeout=10)
    print("answered")
except Exception as error:
    print("refused" if "token" in str(error).lower() else repr(error))
"""


async def test_a_cluster_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(VisionOpdError, match=r"'not an address'.*Fix: check cluster\.address"):
        async with connected_ray("not an address"):
            pass


async def test_a_ray_of_our_own_ends_with_us_and_a_clusters_goes_on() -> None:
    """The first of two launchers owns it; the second one is a guest there."""
    import ray

    def folders() -> list[Path]:
        return list(Path("/tmp").glob(f"vopd-ray-{os.getpid()}-*"))

    token_of_others = os.environ.get("RAY_AUTH_TOKEN_PATH")
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
    assert os.environ.get("RAY_AUTH_TOKEN_PATH") == token_of_others


async def test_nobody_else_enters_our_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not its folder, whatever modes Ray gives to what is in it; nor its ports without our token.

    The environment asks for a Ray without a token, for a token of its own, for a proxy, and for
    a worker to be killed as soon as 1 % of the memory is in use.
    """
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.delenv("RAY_memory_monitor_refresh_ms", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    async with connected_ray(None):
        (folder,) = Path("/tmp").glob(f"vopd-ray-{os.getpid()}-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
        assert (folder / "r").stat().st_mode & 0o777 == 0o777  # Ray's doing: the reason for ours
        assert len((folder / "token").read_text("ascii")) == 64
        address = ray.get_runtime_context().gcs_address
        asked = await asyncio.gather(*(_ask(address, token) for token in ("b" * 64, None)))
        assert asked == ["refused", "answered"]
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()  # not killed
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and os.environ["RAY_AUTH_TOKEN"] == "a" * 64
    assert list(tmp_path.iterdir()) == []  # no token in ~/.ray


async def _ask(address: str, token: str | None) -> str:
    """What Ray says to somebody with this token, or with that of our environment."""
    other = {} if token is None else {"RAY_AUTH_TOKEN": token}
    environment = {**os.environ, **other}
    if token is not None:
        del environment["RAY_AUTH_TOKEN_PATH"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STRANGER, address),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode().strip()


async def test_a_ray_that_knows_no_token_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.authentication import authentication_utils

    monkeypatch.setattr(authentication_utils, "is_token_auth_enabled", lambda: False)
    with pytest.raises(VisionOpdError, match=r"asks for no token.*Fix: use the version"):
        ray_connection._check_token()


async def test_what_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**options: object) -> None:
        raise RuntimeError("no processes left")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(VisionOpdError, match=r"no Ray at 'local': no processes left\. Fix"):
        async with connected_ray(None):
            pass
    assert list(Path("/tmp").glob(f"vopd-ray-{os.getpid()}-*")) == []
