"""Builds the index of a run's trajectories, a round a line of its input:

    python -m deploy.inspector.indexing RUN FOLDER

The inspector starts it at low priority and asks for a round whenever somebody looks; it ends when
its input does, so with the inspector. Killed at any time, it goes on from its last manifest.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from common.locks import Lock, try_lock
from common.trained import FOLDER as TRAINED
from common.trained import TrainedFile, TrainedStream, trained_files
from deploy.inspector.index_files import (
    LOCK,
    IndexedFile,
    Manifest,
    head_of,
    read_manifest,
    remove_others,
    with_rows,
    write_manifest,
)
from deploy.inspector.index_rows import index_rows
from deploy.inspector.tokens import FILE as TOKENIZER
from deploy.inspector.tokens import TokenTexts

_ROWS_A_COMMIT = 65_536
_NICE = 15


class IndexWriter:
    """Brings an index up to date. Only one process at a time does: `writing`.

    Args:
        rows_a_commit: after so many rows the index is written, so that they can be seen.
    """

    def __init__(self, run: Path, folder: Path, rows_a_commit: int = _ROWS_A_COMMIT) -> None:
        self._run = run
        self._folder = folder
        self._texts = TokenTexts(run)
        self._rows_a_commit = rows_a_commit

    def round(self) -> Manifest:
        """Index what is there now. Raises OSError where the index cannot be written."""
        manifest = self._usable() or Manifest(texts=self._texts_id())
        remove_others(self._folder, manifest)
        for file in trained_files(self._run / TRAINED):
            manifest = self._index(file, manifest)
        if manifest != read_manifest(self._folder):
            write_manifest(self._folder, manifest)
        return manifest

    def _usable(self) -> Manifest | None:
        """The index as it is on disk. None means that it is to be made anew."""
        manifest = read_manifest(self._folder)
        if manifest is None or manifest.texts != self._texts_id():
            return None
        try:
            for part in manifest.parts:
                pa.parquet.read_metadata(self._folder / part.name)
            for file in manifest.files:
                path = self._run / TRAINED / file.name
                if path.stat().st_size < file.offset or head_of(path, file.offset) != file.head:
                    return None
        except (OSError, pa.ArrowException):
            return None
        return manifest

    def _texts_id(self) -> str:
        try:
            return hashlib.sha256((self._run / TOKENIZER).read_bytes()).hexdigest()
        except OSError:
            return ""

    def _index(self, file: TrainedFile, manifest: Manifest) -> Manifest:
        """The manifest with what is new in a file."""
        known = {found.name: (number, found) for number, found in enumerate(manifest.files)}
        number, before = known.get(file.path.name, (len(known), None))
        size = file.path.stat().st_size
        if before is not None and before.seen_bytes == size:
            return manifest
        try:
            stream = TrainedStream(file.path)
        except (OSError, ValueError):
            return manifest
        with contextlib.closing(stream):
            offset = stream.start if before is None else before.offset
            waiting: list[pa.RecordBatch] = []
            rows = 0
            for begin, end, batch in stream.batches(offset):
                if batch.num_rows:
                    waiting.append(index_rows(batch, number, begin, self._texts.texts))
                rows, offset = rows + batch.num_rows, end
                if rows >= self._rows_a_commit:
                    manifest = self._with(manifest, file, stream, number, offset, 0, waiting)
                    write_manifest(self._folder, manifest)
                    waiting, rows = [], 0
            return self._with(manifest, file, stream, number, offset, size, waiting)

    def _with(
        self,
        manifest: Manifest,
        file: TrainedFile,
        stream: TrainedStream,
        number: int,
        offset: int,
        seen_bytes: int,
        waiting: list[pa.RecordBatch],
    ) -> Manifest:
        head = head_of(file.path, offset)
        entry = IndexedFile(file.path.name, file.life, stream.from_step, offset, seen_bytes, head)
        files = (*manifest.files[:number], entry, *manifest.files[number + 1 :])
        parts = manifest.parts
        if waiting:
            parts = with_rows(self._folder, parts, pa.Table.from_batches(waiting))
        return Manifest(files, parts, manifest.texts, manifest.problems)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[bool]:
    """Whether this process may write the index: no other one does meanwhile. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        yield try_lock(file.fileno()) is not Lock.HELD


def main() -> None:
    run, folder = map(Path, sys.argv[1:])
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    writer = IndexWriter(run, folder)
    for _ in sys.stdin:
        try:
            with writing(folder) as may_write:
                if may_write:
                    writer.round()
        except OSError as error:
            print(f"error: {error}", flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    main()
