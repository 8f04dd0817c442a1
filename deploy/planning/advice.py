"""What would make a run faster, from its own measured rates."""

from pathlib import Path

from deploy.planning.measured import run_folder_rates
from deploy.planning.prediction import best_servers
from deploy.planning.run_files import read_run


def advised_servers(run_folder: Path) -> int:
    """The fewest rollout servers with which this run's steps take no longer than with more.

    Raises:
        ConfigError: no run, or one that has not trained enough steps to tell.
    """
    config = read_run(run_folder).config
    rates = run_folder_rates(run_folder)
    return best_servers(rates, config.rollout.max_concurrent_groups, config.broker.max_staleness)
