"""The stream of groups: every epoch's samples in a seeded order, any position at any time."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from broker.data_health import DataRows, RefusedRow, data_fault
from broker.quarantine import Quarantine
from common.config import RunConfig
from common.control_tokens import control_tokens_of_folder
from common.dataset import read_samples
from common.errors import ConfigError
from common.types import Sample

logger = logging.getLogger(__name__)
_MAX_LOGGED_PROBLEMS = 20


class Assignment(NamedTuple):
    """What one place in the stream asks for; the same in every attempt and every run."""

    group_id: str  # "<epoch>/<position>"
    sample: Sample
    sampling_seed: int  # [0, 2**31)


class SampleSource:
    """`epochs` passes over `samples`, one after the other.

    `rows` tells of those that were left out; None: none were.

    Orders and sampling seeds are SHA-256 of (seed, epoch, sample_id): they depend neither on a
    library's random generator, nor on how often a sample is tried, nor on the order of the file.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        rows: DataRows | None = None,
    ) -> None:
        self.samples = list(samples)
        self.rows = rows or DataRows(len(self.samples))
        self.num_groups = len(self.samples) * epochs
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = -1  # whose order is at hand
        self._order: list[Sample] = []

    def facts(self) -> dict[str, Any]:
        """What the stream depends on, for a journal to know it again."""
        content = "\n".join(sample.model_dump_json() for sample in self.samples)
        return {
            "samples": hashlib.sha256(content.encode()).hexdigest(),
            "epochs": self.num_groups // len(self.samples),
            "shuffle": self._shuffle,
            "seed": self._seed,
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


def open_source(config: RunConfig) -> SampleSource:
    """The training samples of a run. Bad rows are logged and left out.

    Raises:
        ConfigError: no dataset, not enough for one step, or too many rows that are of no use.
        DataError: the file is unusable.
    """
    path = config.data.train
    if path is None:
        raise ConfigError("data.train is not set. Fix: name a Parquet file of samples")
    samples, problems = read_samples(path, control_tokens_of_folder(Path(config.model.path)))
    for problem in problems[:_MAX_LOGGED_PROBLEMS]:
        logger.warning("left out: %s", problem)
    logger.info("%s: %d samples, %d bad rows left out", path, len(samples), len(problems))
    refused = tuple(RefusedRow(None, None, problem) for problem in problems)
    rows = DataRows(len(samples), refused, config.data.max_refused_share)
    fault = data_fault(rows, Quarantine())
    if fault is not None:
        raise ConfigError(fault)
    source = SampleSource(
        samples,
        epochs=config.data.epochs,
        shuffle=config.data.shuffle,
        seed=config.run.seed,
        rows=rows,
    )
    if source.num_groups < config.learner.groups_per_step:
        raise ConfigError(
            f"learner.groups_per_step = {config.learner.groups_per_step} but data.train has "
            f"{len(samples)} usable samples x data.epochs = {config.data.epochs}: less than one "
            "step. Fix: lower groups_per_step, raise epochs, or give more samples"
        )
    return source
