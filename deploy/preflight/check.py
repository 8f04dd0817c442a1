"""All that can be known of a run before it is started: models, data, journal, context, room."""

from dataclasses import dataclass
from pathlib import Path

from broker.ledger.entry import Rules
from broker.net.transport import zmq_link
from broker.protocol import Role
from broker.service.opening import dataset_of
from broker.storage.recovery import check_journal
from common.config import RunConfig
from common.engines.keys import check_engine
from common.errors import ConfigError
from common.model_folder import with_local_models, with_pinned_models
from common.reading import Reading
from common.scrape.port import scrape_key
from common.source import SampleSource
from common.training_data import open_source
from deploy.cluster.pools import pools_of
from deploy.preflight.context import check_context


@dataclass(frozen=True)
class Checked:
    """A run that may be started."""

    config: RunConfig  # with the commits of its models
    lines: tuple[str, ...]  # what a person is told of it
    reading: Reading | None = None  # of its data, for the broker (`common.kept_reading`)


def check_run(config: RunConfig, folder: Path) -> Checked:
    """Read what the run would read, and write nothing (a model of the hub goes to its cache).

    Raises:
        ConfigError, DataError: it cannot run; the message names key or file, value and fix.
    """
    zmq_link(config.broker, Role.OBSERVER)
    check_engine(config)
    scrape_key(config)
    _check_file("data.train", config.data.train)
    _check_file("data.heldout", config.data.heldout)
    config = with_pinned_models(config)
    local = with_local_models(config)
    source = open_source(local, afresh=True)
    if config.run.resume:
        check_journal(folder / "journal", source, Rules.of(config), dataset_of(config))
    check_context(config, Path(local.model.path), source.samples)
    return Checked(config, (*_models(config), length_line(config, source)), source.reading)


def check_room(config: RunConfig) -> None:
    """A Ray of our own has this machine alone: is it too small? Raises ConfigError."""
    from deploy.cluster.clusters import this_machine
    from deploy.cluster.fit import fit

    pools = pools_of(config, reserves_cpus=False)
    if any(pool.gpus for pool in pools):  # asking for GPUs takes a while
        fit(pools, [this_machine()])


def length_line(config: RunConfig, source: SampleSource) -> str:
    """How many steps the data makes, and what decides: the data or learner.max_steps."""
    samples, epochs = len(source.samples), config.data.epochs
    groups = config.learner.groups_per_step
    steps, left = divmod(source.num_groups, groups)
    line = (
        f"data: {_count(samples, 'sample')} x {_count(epochs, 'epoch')} = "
        f"{_count(steps, 'step')} of {groups}"
    )
    most = config.learner.max_steps
    if most is not None and most < steps:
        return f"{line}, of which learner.max_steps = {most} are trained"
    return f"{line}; {_count(left, 'sample')} left over" if left else line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _check_file(key: str, path: Path | None) -> None:
    if path is None or path.is_file():
        return
    what = "it is a folder" if path.is_dir() else "no such file"
    raise ConfigError(f"{key} = {str(path)!r}: {what}. Fix: name a Parquet file")


def _models(config: RunConfig) -> list[str]:
    return [
        f"{key}: {part.path}, commit {part.revision}"
        for key, part in (("model", config.model), ("teacher", config.teacher))
        if part.revision is not None
    ]
