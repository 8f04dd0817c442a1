"""Files that must outlive a power cut, and documents that are whole or not there."""

import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """A file's content, or a folder's names, reach the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """The same for all that is in a folder, and the folder itself."""
    for path in (*sorted(folder.rglob("*")), folder):
        sync(path)


def replace_json(path: Path, document: dict[str, Any]) -> None:
    """A reader, or whoever comes after a crash, sees the old document or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sync(part)
    os.replace(part, path)
    sync(path.parent)
