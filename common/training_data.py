"""From data.train to the stream of groups: read with all checks once, then always the same list."""

import logging
from pathlib import Path

from common.config import RunConfig
from common.data_health import DataRows, RefusedRow, data_fault
from common.dataset import read_columns
from common.errors import ConfigError
from common.journal_file import has_journal
from common.kept_reading import kept_reading
from common.reading import Reading, read_again, read_checked, settings_digest
from common.source import SampleSource

logger = logging.getLogger(__name__)
_MAX_LOGGED_PROBLEMS = 20
_PICTURES_A_LINE = 20_000


def open_source(config: RunConfig, afresh: bool = False) -> SampleSource:
    """The training samples of a run. Bad rows are logged and left out.

    The first time the pictures are looked at, too; a run that goes on keeps to what was found then.

    Args:
        afresh: look at the pictures unless the run has begun, even if its folder holds a reading:
            for the process that writes one (`common.kept_reading.keep`).

    Raises:
        ConfigError: no dataset, not enough for one step, or too many rows that are of no use.
        DataError: the file is unusable.
    """
    path = _path_of(config)
    read_columns(path, config.data.keep_columns)  # the learner keeps them: are they there?
    reading = _as_kept(config, path, afresh) or read_checked(config, path, _tell)
    _log(reading)
    source = _source(config, reading)
    if (fault := data_fault(source.rows)) is not None:
        raise ConfigError(fault)
    return source


def foreseen_source(config: RunConfig) -> SampleSource:
    """The stream for processes other than the broker: quick, and nearly always the same list.

    Pictures are not looked at; where the run folder is at hand, what the broker found counts.
    Raises as `open_source`.
    """
    kept = kept_reading(config.run.folder)
    bad_rows = None if kept is None else kept.bad_rows
    return _source(config, read_again(config, _path_of(config), bad_rows))


def _as_kept(config: RunConfig, path: Path, afresh: bool) -> Reading | None:
    """The reading that was made before; None means none, or one to be made anew."""
    folder = config.run.folder
    kept = kept_reading(folder, None if afresh else settings_digest(config))
    if folder is None or kept is None:
        return None
    reading = read_again(config, path, kept.bad_rows)
    if (kept.num_rows, kept.digest) == (reading.num_rows, reading.digest):
        return reading
    # Another data set than the run began with: the broker refuses it, by name.
    return read_again(config, path, None) if has_journal(folder) else None


def _path_of(config: RunConfig) -> Path:
    if config.data.train is None:
        raise ConfigError("data.train is not set. Fix: name a Parquet file of samples")
    return config.data.train


def _source(config: RunConfig, reading: Reading) -> SampleSource:
    reading.check_any()
    source = SampleSource(
        reading.samples,
        epochs=config.data.epochs,
        shuffle=config.data.shuffle,
        seed=config.run.seed,
        reading=reading,
        rows=_rows(config, reading),
        student=config.student.model_dump(mode="json"),
    )
    if source.num_groups < config.learner.groups_per_step:
        first = f" The first row left out: {reading.bad_rows[0]}." if reading.bad_rows else ""
        raise ConfigError(
            f"learner.groups_per_step = {config.learner.groups_per_step} but data.train has "
            f"{len(reading.samples)} usable samples x data.epochs = {config.data.epochs}: less "
            f"than one step.{first} Fix: lower groups_per_step, raise epochs, or give more samples"
        )
    return source


def _rows(config: RunConfig, reading: Reading) -> DataRows:
    refused = tuple(RefusedRow(row.row, row.sample_id, row.reason) for row in reading.bad_rows)
    return DataRows(len(reading.samples), refused, config.data.max_refused_share)


def _tell(done: int, of: int) -> None:
    if done % _PICTURES_A_LINE == 0:
        logger.info("looked at the pictures of %d of %d samples", done, of)


def _log(reading: Reading) -> None:
    for row in reading.bad_rows[:_MAX_LOGGED_PROBLEMS]:
        logger.warning("left out: %s %s", reading.path, row)
    for warning in reading.warnings:
        logger.warning("%s %s", reading.path, warning)
    counts = (len(reading.samples), len(reading.bad_rows))
    logger.info("%s: %d samples, %d bad rows left out", reading.path, *counts)
