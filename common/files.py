"""Files: their content, writes that outlive a power cut, documents that are whole or absent."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_lines(path: Path, last_bytes: int | None = None) -> list[str]:
    """The lines of a file that others append to, with their ends; none if there is no file.

    Not the last one where it is half written: its writer is still at it, or was killed.
    Raises OSError.

    Args:
        last_bytes: the lines that lie whole within so many bytes of its end; None: all.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        begin = 0 if last_bytes is None else max(0, path.stat().st_size - last_bytes)
        file.seek(max(0, begin - 1))  # a line begins after the end of another
        if begin:
            file.readline()
        lines = file.read().decode().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, onto the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring all that is in a folder, and the folder itself, onto the disk. Raises OSError."""
    for path in (*sorted(folder.rglob("*")), folder):
        sync(path)


def replace_text(path: Path, text: str, is_synced: bool = False) -> None:
    """Replace a file: a reader, also after a crash, sees the old one or the new. Raises OSError.

    Args:
        is_synced: the new one outlives a power cut, too.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
        if is_synced:
            sync(part)
    if is_synced:
        sync(path.parent)


@contextlib.contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """A file to write to, which takes the place of `path` when the block ends well.

    Args:
        writer: tells those apart who may write the same file at once.

    Raises:
        OSError: it cannot.
    """
    part = path.with_name(f".{path.name}{writer and '.'}{writer}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # on a full disk it is in the way
        raise


class NotPrivate(Exception):
    """A secret that others than its owner may use."""

    def __init__(self, mode: int) -> None:
        super().__init__(f"others may use it (mode {mode:o})")
        self.mode = mode


def read_private(path: Path) -> bytes:
    """What a file with a secret holds.

    Raises:
        NotPrivate: others than its owner may read or write it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise NotPrivate(mode)
        return file.read()


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, at every moment. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    os.replace(part, path)


def replace_json(path: Path, document: Mapping[str, Any], is_synced: bool = False) -> None:
    """Replace a file by a JSON document, as `replace_text` does."""
    replace_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n", is_synced)


def json_object_or_empty(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is missing, unreadable or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
