"""Unpack tar.gz archives, split ones too, so that all that is in them stays in one folder.

NAME.tar.gz, or its parts NAME.tar.gz* in the order of their names, is read as one stream and goes
into the folder that the archive itself is in, below another root. Only plain files and folders are
taken; a link, a device, a path that leads out, or sizes beyond the limits refuse the archive, for
it is not what was published. What was unpacked before is not written again.
"""

import io
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from common.dataset_paths import leaves
from common.errors import DataError
from common.files import json_object_or_empty, replace_json

_NAME = re.compile(r"(?P<stem>.+\.tar\.gz)[-._a-z0-9]*")
_DONE = ".unpacked.json"  # in the root: the parts of each archive that was unpacked whole
_MAX_HEADER_BYTES = 2**20  # tarfile reads a member's extended header into memory
_READ_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold; Vision-OPD-6K stays far below."""

    members: int = 1_000_000
    file_bytes: int = 2**28
    total_bytes: int = 200 * 2**30


LIMITS = Limits()


def archives_in(folder: Path) -> dict[str, list[Path]]:
    """The parts of each archive in a folder and the folders in it, by the archive's path there."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("**/*.tar.gz*")):
        if path.is_file() and (match := _NAME.fullmatch(path.name)):
            where = path.relative_to(folder).with_name(match["stem"])
            found.setdefault(where.as_posix(), []).append(path)
    return found


def unpack_all(
    folder: Path,
    root: Path,
    report: Callable[[str], None] = lambda line: None,
) -> bool:
    """Unpack every archive of `folder`; return whether there was one.

    Raises:
        DataError: an archive is damaged, cut off, or holds what it must not.
        OSError: it cannot be written.
    """
    found = archives_in(folder)
    for name, parts in found.items():
        done = json_object_or_empty(root / _DONE)
        content = [[p.name, p.stat().st_size] for p in parts]
        if done.get(name) == content:
            continue
        report(f"unpacking {name} ({len(parts)} part{'s' if len(parts) > 1 else ''})")
        count = unpack(parts, (root / name).parent)
        replace_json(root / _DONE, {**done, name: content})
        report(f"{name}: {count} files")
    return bool(found)


def unpack(parts: Sequence[Path], target: Path, limits: Limits = LIMITS) -> int:
    """Unpack one archive into `target`; return how many files. Raises as `unpack_all`."""
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with (
            _Joined(parts) as joined,
            tarfile.open(fileobj=joined, mode="r|gz", tarinfo=_Header) as archive,
        ):
            for member in _checked(archive, target, limits):
                if member.isfile():
                    _write(archive.extractfile(member), member.size, target / member.name)
                    count += 1
    except _Refused as error:
        raise DataError(f"{parts[0]}: {error}. Fix: this is not what was published") from None
    except (OSError, *_READ_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        fix = "download it anew, all of its parts"
        raise DataError(f"{parts[0]} is damaged or cut off: {error}. Fix: {fix}") from error
    return count


class _Refused(Exception):
    """A member that no archive of pictures has."""


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not (header.isfile() or header.isdir()) and header.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


class _Joined(io.RawIOBase):
    """Several files as one, read one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._left = list(paths)
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._file is not None or self._left:
            if self._file is None:
                self._file = self._left.pop(0).open("rb")
            if count := self._file.readinto(buffer):  # type: ignore[attr-defined]
                return int(count)
            self._file.close()
            self._file = None
        return 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _checked(archive: tarfile.TarFile, target: Path, limits: Limits) -> Iterator[tarfile.TarInfo]:
    total = 0
    for number, member in enumerate(archive, start=1):
        name = repr(member.name[:200])
        if not (member.isdir() or (member.isfile() and not member.issparse())):
            raise _Refused(f"{name} is neither a file nor a folder")
        if leaves(member.name, target) or member.name.startswith("/") or "\0" in member.name:
            raise _Refused(f"{name} leads out of the folder")
        total += member.size
        if member.size > limits.file_bytes or total > limits.total_bytes or number > limits.members:
            raise _Refused(f"at {name} it is larger than {limits}")
        try:
            tarfile.data_filter(member, str(target))  # the standard library's own rules besides
        except tarfile.FilterError as error:
            raise _Refused(str(error)) from None
        yield member


def _write(source: Any, size: int, path: Path) -> None:
    """Write a file whole or not at all, with the permissions of a new file."""
    if path.is_file() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.part")
    with part.open("wb") as file:
        shutil.copyfileobj(source, file)
    if part.stat().st_size != size:
        raise EOFError("a file in it is cut off")
    os.replace(part, path)
