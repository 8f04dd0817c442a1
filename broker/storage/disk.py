"""The few things that the store does to files. Tests put a simulated disk in its place."""

import logging
import os
import uuid
from pathlib import Path
from typing import Protocol

from common.errors import ConfigError
from common.locks import Lock, try_lock

logger = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Disk(Protocol):
    """Append-only files in one folder, by name. Every method may raise OSError."""

    @property
    def boot(self) -> str:
        """Changes whenever the machine has been started."""

    def names(self) -> list[str]: ...

    def size(self, name: str) -> int:
        """Bytes; 0 when there is no such file."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes: ...

    def append(self, name: str, content: bytes) -> None:
        """Hand it to the system: it outlives this process, not a power cut. May fail half-way."""

    def sync(self, name: str) -> None:
        """Everything appended so far outlives a power cut, the file's name included."""

    def truncate(self, name: str, size: int) -> None: ...

    def delete(self, name: str) -> None: ...

    def close(self) -> None: ...


class FolderDisk:
    """Files of one folder, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, int] = {}
        self._unsynced_names = True
        self._locked: int | None = None

    @property
    def boot(self) -> str:
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return uuid.uuid4().hex  # no telling: then it counts as started anew

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def append(self, name: str, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor(name), rest) :]

    def sync(self, name: str) -> None:
        os.fsync(self._descriptor(name))
        if self._unsynced_names:
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._unsynced_names = False

    def truncate(self, name: str, size: int) -> None:
        os.ftruncate(self._descriptor(name), size)

    def delete(self, name: str) -> None:
        if (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)
        (self.folder / name).unlink()

    def lock(self) -> None:
        """Keep other processes from locking this folder for as long as this one lives.

        Raises:
            ConfigError: another process holds it.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        lock = try_lock(descriptor)
        if lock is Lock.HELD:
            os.close(descriptor)
            raise ConfigError(
                f"run.folder: another broker works on {self.folder}. "
                "Fix: end it first, or name another run.folder"
            )
        if lock is Lock.UNKNOWN:
            logger.warning("the file system of %s knows no locks", self.folder)
        self._locked = descriptor

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._unsynced_names |= not (self.folder / name).exists()
            self._open[name] = os.open(self.folder / name, flags, 0o600)
        return self._open[name]
