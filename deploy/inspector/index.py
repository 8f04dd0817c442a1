"""The index of a run's trajectories in memory: its numbers as arrays, its texts on disk."""

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from deploy.inspector.index_files import IndexedFile, IndexPart, Manifest, read_manifest
from deploy.inspector.index_rows import NUMBERS, SAMPLE

_ERRORS = (OSError, LookupError, pa.ArrowException)
_THREADS = 4  # of a search


@dataclass(frozen=True)
class Index:
    """A state of the index: a row a trajectory, as they were trained, file by file."""

    manifest: Manifest
    columns: dict[str, np.ndarray]  # [N] by name, as `NUMBERS` says
    sample_codes: np.ndarray  # int32 [N]: places in `samples`
    samples: pa.Array  # sample_ids by their codes

    @property
    def size(self) -> int:
        return len(self.sample_codes)

    def code_of(self, sample_id: str) -> int:
        """A sample's place in `samples`; -1 if it was never trained."""
        import pyarrow.compute as pc  # 0.1 s, which no first page needs

        return int(pc.index(self.samples, sample_id).as_py())

    def is_valid(self) -> np.ndarray:
        """bool [N]: the rows of steps that no later life of the learner has undone."""
        files = self.manifest.files
        limits = np.array([_limit(file, files) for file in files], np.int64)
        found: np.ndarray = self.columns["step"] <= limits[self.columns["file"]]
        return found


def _limit(file: IndexedFile, files: Sequence[IndexedFile]) -> int:
    """The last step of a file that counts."""
    later = (other.from_step for other in files if other.life > file.life)
    return min(later, default=np.iinfo(np.int32).max)


_EMPTY = Index(
    Manifest(),
    {name: np.empty(0, kind) for name, kind in NUMBERS.items()},
    np.empty(0, np.int32),
    pa.array([], pa.string()),
)


class IndexReader:
    """Gives the newest state of an index on disk. Any thread may ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._now = _EMPTY

    def now(self) -> Index:
        """The state on disk, or nothing where there is none."""
        with self._lock:
            for _ in range(3):  # a part may be merged into another one meanwhile
                manifest = read_manifest(self.folder) or Manifest()
                if manifest.parts == self._now.manifest.parts:
                    now = self._now
                    self._now = Index(manifest, now.columns, now.sample_codes, now.samples)
                    return self._now
                try:
                    self._now = self._loaded(manifest)
                except _ERRORS:
                    continue
                return self._now
            self._now = _EMPTY
            return self._now

    def matching(self, index: Index, text: str, wanted: np.ndarray) -> np.ndarray:
        """bool [N]: the wanted rows whose text holds this one, in upper or lower case.

        Args:
            wanted: bool [N]; parts without such a row are not looked at.

        Raises:
            OSError: a part is no longer there.
        """
        # Arrow's search for plain text takes five times as long as RE2 for the same.
        pattern = re.escape(text.casefold())
        ends = np.cumsum([part.rows for part in index.manifest.parts]).tolist()

        def of_part(part: IndexPart, end: int) -> np.ndarray:
            rows = wanted[end - part.rows : end]
            return rows & _hits(part.texts(self.folder), pattern) if rows.any() else rows

        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(of_part, index.manifest.parts, ends))
        return np.concatenate(found) if found else wanted

    def _loaded(self, manifest: Manifest) -> Index:
        """The state of a manifest; rows that are in memory already are taken from there."""
        before = self._now
        same = 0
        for old, new in zip(before.manifest.parts, manifest.parts, strict=False):
            if old != new:
                break
            same += 1
        kept = sum(part.rows for part in manifest.parts[:same])
        tables = [self._read(part) for part in manifest.parts[same:]]
        columns = {
            name: np.concatenate(
                [before.columns[name][:kept], *(t.column(name).to_numpy() for t in tables)]
            )
            for name in NUMBERS
        }
        known = pa.DictionaryArray.from_arrays(before.sample_codes[:kept], before.samples)
        chunks = [known, *(c for table in tables for c in table.column(SAMPLE).chunks)]
        coded = pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
        return Index(manifest, columns, coded.indices.to_numpy(), coded.dictionary)

    def _read(self, part: IndexPart) -> pa.Table:
        """The numbers of a part, mapped."""
        with pa.memory_map(str(part.numbers(self.folder))) as file:
            table = pa.ipc.open_file(file).read_all()
        if table.num_rows != part.rows:
            raise OSError(f"{part.name} has {table.num_rows} rows, not {part.rows}")
        return table


def _hits(path: Path, pattern: str) -> np.ndarray:
    """bool [N]: the rows of a part's texts that a pattern matches somewhere. Raises OSError."""
    import pyarrow.compute as pc

    with pa.OSFile(str(path)) as file:
        texts = pa.ipc.open_file(file)
        blocks = (texts.get_batch(n).column(0) for n in range(texts.num_record_batches))
        found = [pc.match_substring_regex(block, pattern) for block in blocks]
    return np.concatenate([hits.to_numpy(zero_copy_only=False) for hits in found])
