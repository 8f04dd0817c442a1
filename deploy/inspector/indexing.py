"""Builds the index of a run's trajectories, a round a line of its input:

    python -m deploy.inspector.indexing RUN FOLDER

The inspector starts it at low priority and asks for a round whenever somebody looks; it ends when
its input does, so with the inspector. Killed at any time, it goes on from its last manifest.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from common.locks import Lock, try_lock
from common.trained import FOLDER as TRAINED
from common.trained import TrainedFile, TrainedStream, trained_files
from deploy.inspector.index_files import (
    LOCK,
    IndexedFile,
    Manifest,
    check_part,
    head_of,
    read_manifest,
    remove_others,
    text_bytes,
    with_rows,
    write_manifest,
)
from deploy.inspector.index_rows import index_rows
from deploy.inspector.tokens import TokenDecoder

_ROWS_A_BLOCK = 65_536
_BYTES_A_BLOCK = 16 * 2**20  # of texts
_NICE = 19


class IndexWriter:
    """Brings an index up to date. Only one process at a time does: `writing`.

    Args:
        rows_a_block, bytes_a_block: after so many rows, or bytes of their texts, the index is
            written, so that they can be seen, and are not held any longer.
    """

    def __init__(
        self,
        run: Path,
        folder: Path,
        rows_a_block: int = _ROWS_A_BLOCK,
        bytes_a_block: int = _BYTES_A_BLOCK,
    ) -> None:
        self._run = run
        self._folder = folder
        self._texts = TokenDecoder(run)
        self._rows_a_block, self._bytes_a_block = rows_a_block, bytes_a_block
        self._written: Manifest | None = None  # by this process

    def round(self) -> Manifest:
        """Index what is there now. Raises OSError where the index cannot be written."""
        texts = self._texts.digest()
        manifest = self._usable(texts) or Manifest(texts=texts)
        for file in trained_files(self._run / TRAINED):
            manifest = self._index(file, manifest)
        if manifest != self._written:
            self._write(manifest)
        remove_others(self._folder, manifest)
        return manifest

    def _usable(self, texts: str) -> Manifest | None:
        """The index as it is on disk. None means that it is to be made anew."""
        manifest = read_manifest(self._folder)
        if manifest is None or manifest.texts != texts:
            return None
        try:
            for part in manifest.parts:
                check_part(self._folder, part)
            for file in manifest.files:
                path = self._run / TRAINED / file.name
                size = path.stat().st_size  # a file that has gone has no rows any more
                if not file.problem and (
                    size < file.offset or head_of(path, file.offset) != file.head
                ):
                    return None
        except (OSError, pa.ArrowException):
            return None
        return manifest

    def _index(self, file: TrainedFile, manifest: Manifest) -> Manifest:
        """The manifest with what is new in a file; it is written as it grows."""
        while True:
            known = {found.name: place for place, found in enumerate(manifest.files)}
            place = known.get(file.path.name, len(known))
            before = manifest.files[place] if place < len(known) else None
            size = file.path.stat().st_size
            if before is not None and before.seen_bytes == size:
                return manifest
            entry, table = self._block(file, place, before, size)
            parts = manifest.parts
            if table is not None:
                parts = with_rows(self._folder, parts, table)
            files = (*manifest.files[:place], entry, *manifest.files[place + 1 :])
            manifest = replace(manifest, files=files, parts=parts)
            self._write(manifest)

    def _write(self, manifest: Manifest) -> None:
        write_manifest(self._folder, manifest)
        self._written = manifest

    def _block(
        self, file: TrainedFile, place: int, before: IndexedFile | None, size: int
    ) -> tuple[IndexedFile, pa.Table | None]:
        """How far the file is indexed after the next rows, and these; None means no rows.

        The file is mapped anew for each block: what was read of it does not stay in memory.
        """
        try:
            stream = TrainedStream(file.path)
        except (OSError, ValueError) as error:
            return IndexedFile.unreadable(file.path.name, file.life, size, str(error)), None
        with contextlib.closing(stream):
            offset = stream.start if before is None else before.offset
            batches: list[pa.RecordBatch] = []
            rows, text, seen = 0, 0, size
            for begin, end, batch in stream.batches(offset):
                if batch.num_rows:
                    batches.append(index_rows(batch, place, begin, self._texts.texts))
                    text += text_bytes(batches[-1])
                rows, offset = rows + batch.num_rows, end
                if rows >= self._rows_a_block or text >= self._bytes_a_block:
                    seen = offset  # there may be more
                    break
            head = head_of(file.path, offset)
            entry = IndexedFile(file.path.name, file.life, stream.from_step, offset, seen, head)
        return entry, pa.Table.from_batches(batches) if batches else None


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
