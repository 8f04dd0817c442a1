import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import VisionOpdError
from deploy.supervision.private_folder import places, private_folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for sockets; pytest's does not."""
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as name:
        yield Path(name)


def test_it_is_closed_to_others_whatever_the_umask_and_gone_afterwards(short: Path) -> None:
    before = os.umask(0)
    try:
        with private_folder([short]) as folder:
            assert folder.parent == short
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
            first = (folder / "token").read_text("ascii")
    finally:
        os.umask(before)
    assert list(short.iterdir()) == []
    with private_folder([short]) as other:
        assert other != folder and (other / "token").read_text("ascii") != first


def test_places_that_cannot_hold_it_are_passed_over(short: Path) -> None:
    missing, long = Path("/missing"), short / ("long" * 30)
    long.mkdir()
    with private_folder([missing, long, short]) as folder:
        assert folder.parent == short
    with (
        pytest.raises(VisionOpdError) as refused,
        private_folder([missing, long]),
    ):
        pass
    assert f"{missing}: No such file or directory" in str(refused.value)
    assert "too long for Unix sockets" in str(refused.value)
    assert "Fix: make /tmp writable, or set TMPDIR" in str(refused.value)


def test_tmp_comes_before_a_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch/of/somebody")
    assert places() == [Path("/tmp"), Path("/scratch/of/somebody"), Path("/dev/shm")]


def test_folders_of_killed_launchers_are_removed_and_others_kept(short: Path) -> None:
    """A process id that is nobody's here may be alive in another container: its lock tells."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = ["left", "locked", "linked"]
    left, locked, linked = (short / f"vopd-ray-{gone.pid}-{name}" for name in names)
    elsewhere = short / "elsewhere"
    mine = short / f"vopd-ray-{os.getpid()}-mine"
    kept = [mine, locked, elsewhere, short / "vopd-ray-mine", short / "other-1-c"]
    for path in (left, *kept):
        (path / "session").mkdir(parents=True)
    linked.symlink_to(elsewhere)
    lock = os.open(locked, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with private_folder([short]):
        pass
    os.close(lock)
    assert set(short.iterdir()) == {*kept, linked}
    assert (elsewhere / "session").is_dir()
