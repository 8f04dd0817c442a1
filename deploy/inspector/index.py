"""The index of a run's trajectories in memory: its numbers as arrays, its texts on disk."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.inspector.index_files import IndexPart, Manifest, read_manifest
from deploy.inspector.index_rows import NUMBERS, SAMPLE, TEXT

_ERRORS = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class Index:
    """A state of the index: a row a trajectory, as they were trained, file by file."""

    manifest: Manifest
    columns: dict[str, np.ndarray]  # [N] by name, as `NUMBERS` says
    sample_codes: np.ndarray  # int32 [N]: places in `samples`
    samples: dict[str, int]  # sample_id -> code

    @property
    def size(self) -> int:
        return len(self.sample_codes)

    def is_valid(self) -> np.ndarray:
        """bool [N]: the rows of steps that no later life of the learner has undone."""
        files = self.manifest.files
        limits = np.full(len(files) + 1, np.iinfo(np.int32).max, np.int64)
        for number, file in enumerate(files):
            later = [other.from_step for other in files if other.life > file.life]
            limits[number] = min(later, default=limits[number])
        found: np.ndarray = self.columns["step"] <= limits[self.columns["file"]]
        return found


_EMPTY = Index(
    Manifest(),
    {name: np.empty(0, kind) for name, kind in NUMBERS.items()},
    np.empty(0, np.int32),
    {},
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
        found = np.zeros(index.size, bool)
        at = 0
        for part in index.manifest.parts:
            if wanted[at : at + part.rows].any():
                begin = at
                for batch in _texts_of(self.folder / part.name):
                    hits = pc.match_substring(batch, text.lower())
                    found[begin : begin + len(batch)] = hits.to_numpy(zero_copy_only=False)
                    begin += len(batch)
            at += part.rows
        found &= wanted
        return found

    def _loaded(self, manifest: Manifest) -> Index:
        """The state of a manifest; rows that are in memory already are taken from there."""
        before = self._now
        same = 0
        for old, new in zip(before.manifest.parts, manifest.parts, strict=False):
            if old != new:
                break
            same += 1
        kept = sum(part.rows for part in manifest.parts[:same])
        samples = dict(before.samples) if kept else {}
        new_parts = [self._read(part, samples) for part in manifest.parts[same:]]
        columns = {
            name: np.concatenate([before.columns[name][:kept], *(p[name] for p in new_parts)])
            for name in NUMBERS
        }
        codes = [before.sample_codes[:kept], *(part[SAMPLE] for part in new_parts)]
        return Index(manifest, columns, np.concatenate(codes), samples)

    def _read(self, part: IndexPart, samples: dict[str, int]) -> dict[str, np.ndarray]:
        """The numbers of a part, and codes of its samples; new samples are added."""
        table = pq.read_table(self.folder / part.name, columns=[*NUMBERS, SAMPLE])
        if table.num_rows != part.rows:
            raise OSError(f"{part.name} has {table.num_rows} rows, not {part.rows}")
        found = {name: table.column(name).to_numpy() for name in NUMBERS}
        coded = table.column(SAMPLE).unify_dictionaries().combine_chunks()
        names = coded.dictionary.to_pylist()
        code_of = np.array([samples.setdefault(name, len(samples)) for name in names], np.int32)
        found[SAMPLE] = code_of[coded.indices.to_numpy()]
        return found


def _texts_of(path: Path) -> Iterator[pa.Array]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(16_384, columns=[TEXT]):
            yield batch.column(0)
