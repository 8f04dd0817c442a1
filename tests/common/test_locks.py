import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from common.locks import Lock, try_lock, waiting_lock


def test_a_lock_is_one_holders_until_it_closes(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    assert try_lock(one) is Lock.TAKEN
    assert try_lock(other) is Lock.HELD
    os.close(one)
    assert try_lock(other) is Lock.TAKEN
    os.close(other)


def test_a_waiting_lock_lets_one_in_after_the_other(tmp_path: Path) -> None:
    inside: list[str] = []
    has_begun = threading.Event()

    def second() -> None:
        has_begun.set()
        with waiting_lock(tmp_path / ".lock"):
            inside.append("second")

    with waiting_lock(tmp_path / ".lock") as lock:
        assert lock is Lock.TAKEN
        thread = threading.Thread(target=second)
        thread.start()
        has_begun.wait()
        inside.append("first")
    thread.join()
    assert inside == ["first", "second"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_from_one_that_fails(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert try_lock(0) is Lock.UNKNOWN
    with waiting_lock(tmp_path / ".lock") as lock:
        assert lock is Lock.UNKNOWN
    code = errno.EIO
    with pytest.raises(OSError, match=r"Input/output error"):
        try_lock(0)
