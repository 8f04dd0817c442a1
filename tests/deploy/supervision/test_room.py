from pathlib import Path

from deploy.supervision.room import RoomWatch
from tests.small_disk import small_disk


def test_a_full_disk_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    told: list[str] = []
    times = iter([10.0, 52.4])
    with small_disk(tmp_path / "disk", 256) as disk:
        watch = RoomWatch(disk.folder, told.append, clock=lambda: next(times))
        watch.look()
        assert told == [] and not watch.is_full
        disk.fill()
        watch.look()
        watch.look()
        assert watch.is_full
        disk.free()
        watch.look()
        watch.look()
        assert not watch.is_full and list(disk.folder.iterdir()) == []
    assert told == [
        f"the disk of {disk.folder} is full (No space left on device): the run waits, and loses "
        "nothing. Fix: free space there; it goes on by itself",
        f"the disk of {disk.folder} has room again after 42 s",
    ]


def test_a_folder_that_is_gone_is_not_called_full(tmp_path: Path) -> None:
    told: list[str] = []
    RoomWatch(tmp_path / "gone", told.append).look()
    assert told == []


def test_a_learner_whose_checkpoint_does_not_fit_is_told_too(tmp_path: Path) -> None:
    told: list[str] = []
    waits = iter([False, True, True, False])
    watch = RoomWatch(tmp_path, told.append, lambda: next(waits), clock=lambda: 0.0)
    for _ in range(4):
        watch.look()
    full, room = told
    assert (
        f"{tmp_path} is full (a file of the learner does not fit, see logs/learner-0.log)" in full
    )
    assert "has room again" in room
