"""The index of a run's trajectories on disk: Parquet parts, and a manifest that names them.

    RUN/inspector/manifest.json   which parts count, and how far each file of RUN/trained is in them
    RUN/inspector/part-*.parquet  rows of `deploy.inspector.index_rows.SCHEMA`
    RUN/inspector/lock            held by the process that writes

It is derived: it may be deleted at any time, also while it is used. A part is never changed, and
the manifest is replaced as a whole, so that a reader sees one state, and a writer that is killed
leaves the one before. Where the run folder cannot be written, the index is in a cache folder.
"""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.files import replace_json
from deploy.inspector.index_rows import SCHEMA

FOLDER, MANIFEST, LOCK = "inspector", "manifest.json", "lock"
FORMAT = 1
_GROUP_ROWS = 16_384  # what a search holds in memory at once
_MAX_ROWS = 131_072  # of a part
_HEAD_BYTES = 2**16


@dataclass(frozen=True)
class IndexedFile:
    """How far a file of RUN/trained is indexed."""

    name: str
    life: int
    from_step: int
    offset: int  # of the first batch that is not indexed
    seen_bytes: int  # size of the file when it was looked at last
    head: str  # digest of its first bytes: is it the same file?


@dataclass(frozen=True)
class IndexPart:
    name: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """A state of the index."""

    files: tuple[IndexedFile, ...] = ()
    parts: tuple[IndexPart, ...] = ()
    texts: str = ""  # tells one tokenizer from another
    problems: tuple[str, ...] = field(default=())  # files that cannot be indexed

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def read_manifest(folder: Path) -> Manifest | None:
    """The state of an index. None means that there is none, or one that is damaged or foreign."""
    try:
        document: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            return None
        return Manifest(
            tuple(IndexedFile(**found) for found in document["files"]),
            tuple(IndexPart(**found) for found in document["parts"]),
            str(document["texts"]),
            tuple(map(str, document["problems"])),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the state. Raises OSError."""
    replace_json(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)})


def with_rows(folder: Path, parts: tuple[IndexPart, ...], new: pa.Table) -> tuple[IndexPart, ...]:
    """Write rows, together with those of small parts at the end: few parts remain. Raises OSError.

    The parts that it replaces are still there.
    """
    kept, tables = list(parts), [new]
    rows = new.num_rows
    while kept and kept[-1].rows <= 2 * rows and rows + kept[-1].rows <= _MAX_ROWS:
        part = kept.pop()
        rows += part.rows
        tables.insert(0, pq.read_table(folder / part.name, schema=SCHEMA))
    name = f"part-{secrets.token_hex(6)}.parquet"
    _write(folder / name, pa.concat_tables(tables).unify_dictionaries())
    return (*kept, IndexPart(name, rows))


def _write(path: Path, table: pa.Table) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(
            table,
            part,
            compression="lz4",
            use_dictionary=["sample"],
            row_group_size=_GROUP_ROWS,
            write_statistics=False,
        )
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_others(folder: Path, kept: Manifest) -> None:
    """Remove parts that do not count, whole or not. Only the writer that holds the lock may."""
    names = {part.name for part in kept.parts}
    for path in (*folder.glob("part-*.parquet"), *folder.glob(".*.part")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def head_of(path: Path, offset: int) -> str:
    """A digest of a file's first bytes, up to `offset`. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(min(offset, _HEAD_BYTES))).hexdigest()


def index_folder(run: Path, cache: Path) -> Path:
    """Where the index of a run is: in its folder, or, where that cannot be written, in the cache.

    Args:
        cache: of this user.
    """
    own = run / FOLDER
    try:
        own.mkdir(exist_ok=True)
        if os.access(own, os.W_OK):
            return own
    except OSError:
        pass
    if read_manifest(own) is not None:
        return own
    return cache / hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """This user's cache folder for indexes of runs that cannot be written to."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vision-opd" / FOLDER
