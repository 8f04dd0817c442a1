"""Rotation: nothing lost, no line split, never an error."""

import asyncio
import errno
import io
import os
import random
import sys
from pathlib import Path

import pytest

from common.log_files import RotatingLog, process_of, processes_in, pump, segments
from tests.waiting import LIMIT_S


def contents(path: Path) -> list[bytes]:
    """The contents of all files, the oldest first."""
    return [where.read_bytes() for where, _ in reversed(segments(path))]


def test_a_full_file_becomes_number_one_and_the_oldest_goes(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "logs" / "learner.log", max_bytes=10, files=3)
    for i in range(5):
        log.write(b"line %d\n" % i)
    log.close()
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["learner.log", "learner.log.1", "learner.log.2"]
    assert contents(tmp_path / "logs" / "learner.log") == [b"line 2\n", b"line 3\n", b"line 4\n"]


@pytest.mark.parametrize("seed", range(20))
def test_any_chunks_keep_every_line_whole_and_in_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = [b"%d " % i + b"x" * rng.randrange(60) + b"\n" for i in range(200)]
    output = b"".join(lines)
    path = tmp_path / "a.log"
    log = RotatingLog(path, max_bytes=100, files=1000)
    while output:
        size = rng.choice((1, 7, 50, 100, 101, 1000))
        log.write(output[:size])
        output = output[size:]
    log.close()
    files = contents(path)
    assert b"".join(files) == b"".join(lines)
    assert len(files) > 20
    assert all(file.endswith(b"\n") for file in files)
    # At most the rest of a line that was begun before the file was full.
    assert all(len(file) - len(file.splitlines()[-1]) - 1 <= 100 for file in files)


def test_a_line_longer_than_a_file_is_split(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = RotatingLog(path, max_bytes=10, files=9)
    log.write(b"short\n" + b"y" * 25)
    log.write(b"z\nend\n")
    log.close()
    assert contents(path) == [b"short\n", b"y" * 10, b"y" * 10, b"y" * 5 + b"z\n", b"end\n"]


def test_one_file_alone_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = RotatingLog(path, max_bytes=10, files=1)
    for i in range(4):
        log.write(b"line %d\n" % i)
    log.close()
    assert contents(path) == [b"line 3\n"] and len(list(tmp_path.iterdir())) == 1


def test_an_existing_file_is_appended_to_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\ncut o")
    log = RotatingLog(path, max_bytes=24, files=2)
    log.write(b"after\n")
    log.write(b"later\n")
    log.close()
    assert contents(path) == [b"before\ncut o\nafter\n", b"later\n"]


def test_files_beyond_a_smaller_limit_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for index in range(1, 6):
        path.with_name(f"a.log.{index}").write_bytes(b"%d\n" % index)
    log = RotatingLog(path, max_bytes=4, files=3)
    log.write(b"abc\nnew\n")
    log.close()
    assert contents(path) == [b"1\n", b"abc\n", b"new\n"]


def test_two_writers_of_one_log_follow_each_others_rotation(tmp_path: Path) -> None:
    """A grandchild holds the pipe of a process that was started again."""
    path = tmp_path / "a.log"
    old, new = (RotatingLog(path, max_bytes=16, files=9) for _ in range(2))
    for i in range(6):
        old.write(b"old %d\n" % i)
        new.write(b"new %d\n" % i)
    old.close()
    new.close()
    lines = b"".join(contents(path)).splitlines()
    assert lines == [b"%s %d" % (who, i) for i in range(6) for who in (b"old", b"new")]
    assert all(len(file) <= 16 for file in contents(path))


class FullDisk:
    """In place of os files: takes `room` bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        real = io.FileIO.write
        disk = self

        class File(io.FileIO):
            def write(self, content: bytes) -> int:  # type: ignore[override]
                if disk.room == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written = real(self, bytes(content[: disk.room]))
                disk.room -= written
                return written

        monkeypatch.setattr("common.log_files.io.FileIO", File)


def test_a_full_disk_costs_lines_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    path = tmp_path / "rollout-0.log"
    log = RotatingLog(path, max_bytes=1000, files=2)
    log.write(b"kept\n")
    disk.room = 4
    for _ in range(3):
        log.write(b"nine byte\n")
    disk.room = 10**9
    log.write(b"again\n")
    log.write(b"and on\n")
    log.close()
    kept, torn, told, *rest = path.read_bytes().splitlines()
    assert (kept, torn, rest) == (b"kept", b"nine", [b"again", b"and on"])
    assert b"WARNING rollout-0 common.log_files: 26 bytes of the output were dropped here" in told
    assert b"No space left on device" in told


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder belongs")
    log = RotatingLog(tmp_path / "logs" / "a.log", max_bytes=1000, files=2)
    log.write(b"lost\n")
    (tmp_path / "logs").unlink()
    log.write(b"kept\n")
    log.close()
    told, kept = (tmp_path / "logs" / "a.log").read_bytes().splitlines()
    assert b"5 bytes of the output were dropped" in told and kept == b"kept"


async def test_pump_copies_the_output_of_a_process_to_its_end(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(20000): print('line', i)\nsys.stderr.write('at the end')"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    path = tmp_path / "a.log"
    async with asyncio.timeout(LIMIT_S):
        await pump(process.stdout, RotatingLog(path, max_bytes=50_000, files=100))
        assert await process.wait() == 0
    expected = [b"line %d" % i for i in range(20000)] + [b"at the end"]
    assert b"".join(contents(path)).splitlines() == expected
    assert len(contents(path)) > 3


async def test_pump_holds_a_fast_process_back_instead_of_growing(tmp_path: Path) -> None:
    """A disk that stands still: the writer is stopped by the pipe, and nothing piles up here."""
    reader = asyncio.StreamReader(limit=2**16)
    pausing = Transport()
    reader.set_transport(pausing)
    log = StuckLog(tmp_path / "a.log")
    pumping = asyncio.create_task(pump(reader, log))
    fed = 0
    while not pausing.is_paused:
        reader.feed_data(b"x" * 2**16)
        fed += 2**16
        assert fed < 2**22
        await asyncio.sleep(0.01)  # in which the pump takes what it can
    assert fed <= 4 * 2**16
    log.goes_on.set()
    reader.feed_eof()
    async with asyncio.timeout(LIMIT_S):
        await pumping
    assert log.num_bytes == fed and log.is_closed


class Transport(asyncio.ReadTransport):
    is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class StuckLog(RotatingLog):
    def __init__(self, path: Path) -> None:
        import threading

        super().__init__(path, 1, 1)
        self.goes_on = threading.Event()
        self.num_bytes = 0
        self.is_closed = False

    def write(self, chunk: bytes) -> None:
        assert self.goes_on.wait(LIMIT_S)
        self.num_bytes += len(chunk)

    def close(self) -> None:
        self.is_closed = True


def test_names_of_logs(tmp_path: Path) -> None:
    for name in ("rollout-0.log", "rollout-0.log.1", "old.log.3", "notes.txt", "a.log.gz", "x.1"):
        (tmp_path / name).touch()
    assert processes_in(tmp_path) == ["old", "rollout-0"]
    assert processes_in(tmp_path / "none") == []
    assert process_of(Path("engine-12.log.10")) == "engine-12"
