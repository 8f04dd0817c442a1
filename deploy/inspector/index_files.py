"""The index of a run's trajectories on disk: parts, and a manifest that names those that count.

    RUN/inspector/manifest.json         parts, and how far each file of RUN/trained is in them
    RUN/inspector/part-*.numbers.arrow  what is held in memory, read by memory map
    RUN/inspector/part-*.texts.arrow    texts, compressed: searches read them block by block
    RUN/inspector/lock                  held by the process that writes

It is derived: it may be deleted at any time, also while it is used. A part is never changed, and
the manifest is replaced as a whole, so that a reader sees one state, and a writer that is killed
leaves the one before. Where the run folder cannot be written, the index is in a cache folder.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from common.files import replace_json, replacing
from common.trained import FOLDER as TRAINED
from common.trained import trained_files
from deploy.inspector.index_rows import IN_MEMORY, SEARCHED, TEXT

FOLDER, MANIFEST, LOCK = "inspector", "manifest.json", "lock"
FORMAT = 2
_BLOCK_ROWS, _BLOCK_BYTES = 16_384, 4 * 2**20  # of texts that a search holds at once, at most
_MAX_ROWS, _MAX_BYTES = 131_072, 64 * 2**20  # of a part, and of its texts
_HEAD_BYTES = 2**16
_NEVER = 2**31 - 1  # a step that no run comes to


@dataclass(frozen=True)
class IndexedFile:
    """How far a file of RUN/trained is indexed."""

    name: str
    life: int
    from_step: int
    offset: int  # of the first batch that is not indexed
    seen_bytes: int  # size of the file when it was looked at last
    head: str  # digest of its first bytes: is it the same file?
    problem: str = ""  # why it is not indexed

    @classmethod
    def unreadable(cls, name: str, life: int, seen_bytes: int, problem: str) -> Self:
        """A file that cannot be indexed, until it changes."""
        return cls(name, life, _NEVER, 0, seen_bytes, _head(b""), problem)


@dataclass(frozen=True)
class IndexPart:
    """Rows in two files, which are never changed."""

    name: str
    rows: int
    text_bytes: int

    def numbers(self, folder: Path) -> Path:
        return folder / f"{self.name}.numbers.arrow"

    def texts(self, folder: Path) -> Path:
        return folder / f"{self.name}.texts.arrow"


@dataclass(frozen=True)
class Manifest:
    """A state of the index."""

    files: tuple[IndexedFile, ...] = ()
    parts: tuple[IndexPart, ...] = ()
    texts: str = ""  # tells one tokenizer from another

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def covers(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is of these files, as large as they are, and of no other."""
        return {file.name: file.seen_bytes for file in self.files} == sizes

    def unread(self, sizes: Mapping[str, int], is_over: bool) -> list[str]:
        """A line on each file of a life that is over which cannot be read to its end.

        Args:
            sizes: of the files as they are, bytes.
            is_over: the run is.
        """
        newest = max((file.life for file in self.files), default=0)
        return [
            f"{file.name}: from byte {file.offset} of {file.seen_bytes} on it cannot be read (its "
            "writer was killed, or it is damaged); trajectories after that are not shown"
            for file in self.files
            if not file.problem
            and file.offset < file.seen_bytes == sizes.get(file.name)
            and (is_over or file.life < newest)
        ]


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
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the state. Raises OSError."""
    replace_json(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)})


def with_rows(folder: Path, parts: tuple[IndexPart, ...], new: pa.Table) -> tuple[IndexPart, ...]:
    """Write rows, together with those of small parts at the end: few parts remain. Raises OSError.

    The parts that it replaces are still there: somebody may read them.
    """
    kept, tables = list(parts), [new]
    rows, size = new.num_rows, text_bytes(new)
    while kept and kept[-1].rows <= 2 * rows:
        part = kept[-1]
        if rows + part.rows > _MAX_ROWS or size + part.text_bytes > _MAX_BYTES:
            break
        rows, size = rows + part.rows, size + part.text_bytes
        tables.insert(0, _read(folder, kept.pop()))
    part = IndexPart(f"part-{secrets.token_hex(6)}", rows, size)
    table = pa.concat_tables(tables).combine_chunks().unify_dictionaries()
    _write(part.numbers(folder), table.select(IN_MEMORY.names), None)
    _write(part.texts(folder), table.select(SEARCHED.names), "lz4")
    return (*kept, part)


def text_bytes(rows: pa.Table | pa.RecordBatch) -> int:
    """What the texts of some rows take in memory."""
    size: int = rows.column(TEXT).nbytes
    return size


def _read(folder: Path, part: IndexPart) -> pa.Table:
    with (
        pa.OSFile(str(part.numbers(folder))) as numbers,
        pa.OSFile(str(part.texts(folder))) as text,
    ):
        table = pa.ipc.open_file(numbers).read_all()
        texts = pa.ipc.open_file(text).read_all()
    for name in SEARCHED.names:
        table = table.append_column(name, texts.column(name))
    return table


def check_part(folder: Path, part: IndexPart) -> None:
    """Raise OSError or ArrowException where a part is not whole."""
    for path in (part.numbers(folder), part.texts(folder)):
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_file(file)  # it looks for the end


def _write(path: Path, table: pa.Table, compression: str | None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with replacing(path) as part, pa.ipc.new_file(str(part), table.schema, options=options) as file:
        file.write_table(table, max_chunksize=_rows_a_block(table) if compression else None)


def _rows_a_block(table: pa.Table) -> int:
    by_bytes: int = table.num_rows * _BLOCK_BYTES // max(text_bytes(table), 1)
    return min(max(by_bytes, 1), _BLOCK_ROWS)


def remove_others(folder: Path, kept: Manifest) -> None:
    """Remove parts that do not count, whole or not. Only the writer that holds the lock may."""
    names = {path.name for p in kept.parts for path in (p.numbers(folder), p.texts(folder))}
    for path in (*folder.glob("part-*.arrow"), *folder.glob(".part-*.part")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def head_of(path: Path, offset: int) -> str:
    """A digest of a file's first bytes, up to `offset`. Raises OSError."""
    with path.open("rb") as file:
        return _head(file.read(min(offset, _HEAD_BYTES)))


def _head(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def trained_sizes(run: Path) -> dict[str, int]:
    """Bytes of each file of RUN/trained."""
    sizes = {}
    for file in trained_files(run / TRAINED):
        with contextlib.suppress(OSError):
            sizes[file.path.name] = file.path.stat().st_size
    return sizes


def index_folder(run: Path, cache: Path) -> Path:
    """Where the index of a run is: in its folder, or, where that cannot be written, in the cache.

    A whole index in the folder of a run that is over is used in any case.

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
    manifest = read_manifest(own)
    if manifest is not None and manifest.covers(trained_sizes(run)):
        return own
    return cache / hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """This user's cache folder for indexes of runs that cannot be written to."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vision-opd" / FOLDER
