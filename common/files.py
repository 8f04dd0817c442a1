"""Files, by content."""

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
