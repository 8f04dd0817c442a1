"""The stream of groups: every epoch's samples in a seeded order, any position at any time."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.data_health import DataRows
from common.reading import Reading
from common.types import Sample


class Assignment(NamedTuple):
    """What one place in the stream asks for; the same in every attempt and every run."""

    group_id: str  # "<epoch>/<position>"
    sample: Sample
    sampling_seed: int  # [0, 2**31)


class SampleSource:
    """`epochs` passes over `samples`, one after the other.

    Orders and sampling seeds are SHA-256 of (seed, epoch, sample_id): they depend neither on a
    library's random generator, nor on how often a sample is tried, nor on the order of the file.

    Args:
        reading: where the samples come from; None means from elsewhere.
        rows: tells of rows that were left out; None means that none were.
        student: how rollouts are shown samples (the section of the configuration, as JSON). It
            decides nothing here, but what was generated otherwise is of no use.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        reading: Reading | None = None,
        rows: DataRows | None = None,
        student: Mapping[str, Any] | None = None,
    ) -> None:
        self.reading = reading
        self.samples = list(samples)
        self.rows = rows or DataRows(len(self.samples))
        self.num_groups = len(self.samples) * epochs
        self._shuffle = shuffle
        self._seed = seed
        self._student = {name: _scalar(value) for name, value in (student or {}).items()}
        self._epoch = -1  # the epoch of `_order`
        self._order: list[Sample] = []

    def facts(self) -> dict[str, Any]:
        """What the stream depends on, for a journal to know it again."""
        content = "\n".join(sample.model_dump_json() for sample in self.samples)
        return {
            "samples": hashlib.sha256(content.encode()).hexdigest(),
            "epochs": self.num_groups // len(self.samples),
            "shuffle": self._shuffle,
            "seed": self._seed,
            "student": self._student,
        }

    def at(self, index: int) -> Assignment:
        """The group at `index` in [0, num_groups)."""
        epoch, position = divmod(index, len(self.samples))
        if epoch != self._epoch:
            self._order = self._order_of(epoch)
            self._epoch = epoch
        sample = self._order[position]
        digest = self._digest("sampling", epoch, sample)
        return Assignment(f"{epoch}/{position}", sample, int.from_bytes(digest[:4]) >> 1)

    def _order_of(self, epoch: int) -> list[Sample]:
        if not self._shuffle:
            return self.samples
        return sorted(self.samples, key=lambda sample: self._digest("order", epoch, sample))

    def _digest(self, purpose: str, epoch: int, sample: Sample) -> bytes:
        text = f"{purpose}/{self._seed}/{epoch}/{sample.sample_id}"
        return hashlib.sha256(text.encode()).digest()


def _scalar(value: Any) -> Any:
    """A value of the journal: lists become one text, as they would come back as another type."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value
