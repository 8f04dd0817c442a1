"""common.prepare.archives: split archives are unpacked, and nothing in one leaves its folder."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import DataError
from common.prepare.archives import Limits, archives_in, unpack, unpack_all
from tests.common.prepare.support import member, split, tar_gz


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.jpg")}


FILES = (("a.jpg", b"first"), ("deep/er/b.jpg", bytes(range(256)) * 999))


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_split_archive_is_one_archive(tmp_path: Path, parts: int) -> None:
    split(tar_gz(*FILES), tmp_path / "from/images", "images.tar.gz", parts)
    assert list(archives_in(tmp_path / "from")) == ["images/images.tar.gz"]
    told: list[str] = []
    assert unpack_all(tmp_path / "from", tmp_path / "root", told.append)
    assert tree(tmp_path / "root") == {f"images/{name}": content for name, content in FILES}
    assert told[-1] == "images/images.tar.gz: 2 files"


def test_each_archive_goes_into_its_own_folder_and_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("images", "teacher_images"):
        split(tar_gz(("a.jpg", name.encode())), tmp_path / "from" / name, f"{name}.tar.gz", 1)
    (tmp_path / "from/notes.tar.gz.txt~").write_bytes(b"none")
    unpack_all(tmp_path / "from", tmp_path / "root")
    assert tree(tmp_path / "root") == {
        "images/a.jpg": b"images",
        "teacher_images/a.jpg": b"teacher_images",
    }
    assert not unpack_all(tmp_path / "root", tmp_path / "other")


def test_what_was_unpacked_is_not_read_again_and_what_was_cut_goes_on(tmp_path: Path) -> None:
    (part,) = split(tar_gz(*FILES), tmp_path / "from", "images.tar.gz", 1)
    whole = part.read_bytes()
    part.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=r"damaged or cut off.*Fix: download it anew"):
        unpack_all(tmp_path / "from", tmp_path / "root")
    first = tmp_path / "root/a.jpg"
    before = first.stat().st_ino
    part.write_bytes(whole)
    unpack_all(tmp_path / "from", tmp_path / "root")
    assert first.stat().st_ino == before and len(tree(tmp_path / "root")) == 2
    part.write_bytes(b"?" * len(whole))  # not looked into: its name and size are the same
    assert unpack_all(tmp_path / "from", tmp_path / "root")


HOSTILE: dict[str, Callable[[Path], tarfile.TarInfo]] = {
    "up": lambda folder: member("../out.jpg", size=1),
    "up in the middle": lambda folder: member("a/../../out.jpg", size=1),
    "absolute": lambda folder: member(f"{folder}/out.jpg", size=1),
    "link": lambda folder: member("out.jpg", type=tarfile.SYMTYPE, linkname=f"{folder}/out.jpg"),
    "link inside": lambda folder: member("b.jpg", type=tarfile.SYMTYPE, linkname="a.jpg"),
    "hard link": lambda folder: member("b.jpg", type=tarfile.LNKTYPE, linkname="/etc/hostname"),
    "device": lambda folder: member("b.jpg", type=tarfile.CHRTYPE),
    "pipe": lambda folder: member("b.jpg", type=tarfile.FIFOTYPE),
    "long name that leads out": lambda folder: member("x/" * 90 + "../" * 91 + "out.jpg", size=1),
    "large": lambda folder: member("b.jpg", size=2001),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_holds_what_no_archive_of_pictures_does_is_refused(
    tmp_path: Path, kind: str
) -> None:
    hostile = HOSTILE[kind](tmp_path)
    parts = split(tar_gz(("a.jpg", b"a"), hostile), tmp_path / "from", "x.tar.gz", 2)
    limits = Limits(members=10, file_bytes=2000, total_bytes=3000)
    with pytest.raises(DataError, match=r"x\.tar\.gz.*Fix: this is not what was published"):
        unpack(parts, tmp_path / "root/images", limits)
    assert sorted(p.name for p in tmp_path.rglob("*.jpg")) == ["a.jpg"]
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


@pytest.mark.parametrize("limits", [Limits(members=1), Limits(total_bytes=300)])
def test_an_archive_ends_at_its_limits(tmp_path: Path, limits: Limits) -> None:
    parts = split(tar_gz(("a.jpg", b"a" * 200), ("b.jpg", b"b" * 200)), tmp_path, "x.tar.gz", 1)
    with pytest.raises(DataError, match="larger than Limits"):
        unpack(parts, tmp_path / "root", limits)
    assert [p.name for p in tmp_path.rglob("*.jpg")] == ["a.jpg"]


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = member("x", type=tarfile.XHDTYPE, size=2**30).tobuf()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header + bytes(2**21)))
    with pytest.raises(DataError, match="a header of 1073741824 bytes"):
        unpack([tmp_path / "x.tar.gz"], tmp_path / "root")


def test_what_is_unpacked_may_be_written_and_not_run(tmp_path: Path) -> None:
    parts = split(tar_gz(member("a.jpg", size=1, mode=0o4777)), tmp_path, "x.tar.gz", 1)
    unpack(parts, tmp_path / "root")
    assert (tmp_path / "root/a.jpg").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", gzip.compress(b"no tar" * 200)],
    ids=["nothing", "no gzip", "no tar"],  # of their own: a gzip header holds the time
)
def test_what_is_no_archive_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or cut off.*Fix: download it anew"):
        unpack([tmp_path / "x.tar.gz"], tmp_path / "root")
