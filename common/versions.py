"""What this process is made of, as far as two processes of a run must agree on it."""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path

from common.engines import ENGINES

CODE = "code"  # digest of what both ends of the wire share
MEANING = ("transformers", "tokenizers", "pillow", "torchvision")  # other tokens, other pixels
COLLECTIVES = ("nccl",)  # told by members that meet in a group of it
NUMBERS = ("python", "numpy", *ENGINES)  # a difference is only told
_SHARED = ("common", "broker")
_ROOT = Path(__file__).resolve().parents[1]
_DIGITS = 16


@functools.cache
def _found() -> dict[str, str]:
    found = {"python": platform.python_version()}
    digest = code_digest(_ROOT)
    if digest is not None:
        found[CODE] = digest
    for package in (*MEANING, "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a broker needs no transformers
    return found


def versions() -> dict[str, str]:
    """Versions of our code, Python, and the packages that tokens and pixels depend on, by name.

    What is not installed is left out. Nothing is imported; the first call takes some milliseconds.
    The code's is what lay on the disk then, so it is best called when the process starts.
    """
    return dict(_found())


def code_digest(root: Path) -> str | None:
    """Digest of the sources of common/ and broker/ under `root`. None means that there are none."""
    digest = hashlib.sha256()
    is_empty = True
    for path in _sources(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
        is_empty = False
    return None if is_empty else digest.hexdigest()[:_DIGITS]


def _sources(root: Path) -> Iterator[Path]:
    for package in _SHARED:
        yield from sorted((root / package).rglob("*.py"))
