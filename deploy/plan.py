"""How to divide the machines, before a run: python -m deploy.plan [--config FILE] [options]

    --config FILE, --section.key value   as for the launcher; without any, the quickstart
    --gpus N        divide N GPUs (default: those of this machine, or that the pools ask for)
    --gpu NAME      of this kind, such as H100 (default: this machine's, or H100)
    --cluster FILE  divide the GPUs of a described cluster
    --calibrate     measure: run a few steps as configured, on the machines that are here
    --steps K       that many (default 6)
    --rates FILE    JSON of rates: written after --calibrate, read without it
    --json FILE     the plan as JSON; as RUN/plan.json, deploy.explain compares the run with it

It predicts, for each split of the GPUs between rollout and learner, seconds a step, idle shares,
staleness, memory and the time of a weight push, by the broker's own ledger in virtual time, and
recommends a split, or the synchronous algorithm where that is as fast.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import exit_with, load
from common.engines import engine_of
from common.errors import ConfigError, VisionOpdError
from common.files import replace_json
from common.output import ends_with_its_reader
from deploy.cluster.process_specs import ROOT
from deploy.options import split_options
from deploy.planning.assumed import assumed_rates
from deploy.planning.calibrate import STEPS, calibrate
from deploy.planning.layout import (
    Layout,
    Machines,
    configured_layout,
    configured_machines,
    described_machines,
    layouts,
)
from deploy.planning.micro_batches import sized
from deploy.planning.plan_text import Question, page, to_plan_json
from deploy.planning.prediction import make_plan
from deploy.planning.rates import Rates, read_rates, write_rates
from deploy.planning.shape import ModelShape, shape_of
from deploy.planning.workload import Workload, workload_of

QUICKSTART = ROOT / "deploy" / "configs" / "quickstart.toml"
PUBLISHED_STEPS = 65


@dataclass
class Options:
    gpus: int | None = None
    gpu: str | None = None
    cluster: Path | None = None
    calibrate: bool = False
    steps: int = STEPS
    rates: Path | None = None
    json: Path | None = None


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    try:
        options, arguments = split_arguments(arguments)
        _plan(options, arguments)
    except ConfigError as error:
        exit_with(error)
    except VisionOpdError as error:
        sys.exit(f"no plan: {error}")


def split_arguments(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Our own options, and those of the configuration.

    Raises:
        ConfigError: an option without a value, or with one that is no number.
    """
    values = dict.fromkeys((f"--{field.name}" for field in fields(Options)), "VALUE")
    del values["--calibrate"]
    given, rest = split_options(arguments, ("--calibrate",), values)
    options = {name.removeprefix("--"): value for name, value in given.items()}
    return Options(**{name: _value(name, value) for name, value in options.items()}), rest


def _value(name: str, text: str) -> Any:
    if name == "calibrate":
        return True
    if name not in ("gpus", "steps"):
        return text if name == "gpu" else Path(text)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--{name} {text}: no positive number. Fix: --{name} 8")
    return int(text)


def _plan(options: Options, given: list[str]) -> None:
    arguments = given
    if not any(argument.partition("=")[0] == "--config" for argument in given):
        arguments = ["--config", str(QUICKSTART), *given]
    config = load(arguments)
    _make_data(config)
    shape = shape_of(config.model.path)
    work = workload_of(config, shape)
    machines = _machines(config, options)
    found = layouts(config, machines)
    if not found:
        _, told = engine_of(config).server_gpus(config)
        raise ConfigError(
            f"{machines.gpus} GPUs cannot be divided: a server takes {told}, and "
            f"{config.learner.groups_per_step} groups a step (learner.groups_per_step) must be "
            "enough for all ranks. Fix: change one of them"
        )
    measured = _measured(config, options, arguments, (shape, work))

    def rates_of(layout: Layout) -> Rates:
        if measured is not None:
            return measured.for_ranks(layout.ranks, layout.shards(config))
        sized_config = sized(config, shape, work, layout, machines.learner_device)
        return assumed_rates(sized_config, shape, work, machines, layout)

    plan = make_plan(config, shape, work, machines, found, rates_of)
    question = Question(config, tuple(given), shape, work, machines, _steps(config))
    print(page(question, plan), end="")
    if options.json is not None:
        replace_json(options.json, to_plan_json(question, plan))
        print(f"\nwritten: {options.json}")


def _measured(
    config: RunConfig,
    options: Options,
    arguments: Sequence[str],
    model: tuple[ModelShape, Workload],
) -> Rates | None:
    """Rates from a calibration or a file; None means that everything is to be assumed."""
    if not options.calibrate:
        return None if options.rates is None else read_rates(options.rates)
    here = _local_machines(config) or configured_machines(config, None, options.gpu)
    configured = configured_layout(config, here)
    sized_config = sized(config, *model, configured, here.learner_device)
    assumed = assumed_rates(sized_config, *model, here, configured)
    rates = calibrate(
        config, arguments, options.steps, assumed, lambda line: print(line, flush=True)
    )
    if options.rates is not None:
        write_rates(options.rates, rates)
        print(f"rates: {options.rates}\n")
    return rates


def _machines(config: RunConfig, options: Options) -> Machines:
    if options.cluster is not None:
        from deploy.cluster.clusters import read_cluster

        return described_machines(read_cluster(options.cluster), options.gpu)
    if options.gpus is None and not config.rollout_pool.gpus and not config.learner_pool.gpus:
        local = _local_machines(config, options.gpu)
        if local is not None:
            return local
    return configured_machines(config, options.gpus, options.gpu)


def _local_machines(config: RunConfig, gpu: str | None = None) -> Machines | None:
    """The GPUs of this machine; None means that it has none, or that the run is to use none."""
    from deploy.cluster.clusters import this_machine

    node = this_machine()
    if not node.gpus or config.learner.device == "cpu":
        return None
    return described_machines([node], gpu)


def _steps(config: RunConfig) -> int:
    """Steps of the whole run, as far as the data is here to be counted."""
    path = config.data.train
    if path is None or not path.is_file():
        return config.learner.max_steps or PUBLISHED_STEPS
    import pyarrow.parquet as pq

    rows = int(pq.read_metadata(path).num_rows) * config.data.epochs
    steps = max(1, rows // config.learner.groups_per_step)
    return min(steps, config.learner.max_steps or steps)


def _make_data(config: RunConfig) -> None:
    """The quickstart's own world, whose images are to be measured."""
    from deploy.quickstart.own import ensure_own_dataset

    if config.data.train is not None:
        ensure_own_dataset(config.data.train, report=lambda line: print(line, flush=True))


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
