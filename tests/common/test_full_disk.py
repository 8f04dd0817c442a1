import errno
import io
import os
from pathlib import Path

import pytest

from common.files import replace_text
from common.full_disk import DiskFull, append_whole, is_full, waits_for_room, when_there_is_room
from tests.small_disk import small_disk


def refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def test_a_writer_waits_for_room_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    refusals = [refusal(errno.ENOSPC), *(refusal(errno.EDQUOT) for _ in range(6))]
    answers: list[OSError | str] = [*refusals, "written"]
    slept: list[float] = []
    waits: list[bool] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        waits.append(waits_for_room())

    def act() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert when_there_is_room(act, tmp_path / "file", sleep=sleep) == "written"
    assert slept == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert waits == [True] * 7 and not waits_for_room()
    assert caplog.messages == [
        f"{tmp_path / 'file'} cannot be written: No space left on device. Fix: free space on its "
        "disk. This waits for it, and nothing is lost",
        f"there is room for {tmp_path / 'file'} after 0 s",
    ]


def test_it_waits_no_longer_than_it_is_to_and_for_nothing_else(tmp_path: Path) -> None:
    def full() -> None:
        raise refusal(errno.ENOSPC)

    def broken() -> None:
        raise refusal(errno.EIO)

    over = iter([False, False, True])
    with pytest.raises(DiskFull, match=r"file is not written: No space left on device"):
        when_there_is_room(full, tmp_path / "file", lambda: next(over), lambda seconds: None)
    with pytest.raises(OSError, match=r"Input/output error"):
        when_there_is_room(broken, tmp_path / "file")
    assert not is_full(refusal(errno.EIO)) and not is_full(ValueError())


def test_a_line_is_appended_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk.folder / "rows"
        with io.FileIO(path, "a") as file:
            append_whole(file, b"first\n")
            disk.fill()
            with pytest.raises(OSError, match=r"No space left"):
                append_whole(file, bytes(8192))  # the rest of its block would take some of it
            assert path.read_bytes() == b"first\n"
            disk.free()
            append_whole(file, b"second\n")
        assert path.read_bytes() == b"first\nsecond\n"


def test_a_document_that_finds_no_room_leaves_the_old_one_alone(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        replace_text(disk.folder / "text", "old")
        disk.fill()
        with pytest.raises(OSError, match=r"No space left"):
            replace_text(disk.folder / "text", "new")
        disk.free()
        assert [path.name for path in disk.folder.iterdir()] == ["text"]
        assert (disk.folder / "text").read_text() == "old"
