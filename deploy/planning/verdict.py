"""What limits a run, in a sentence or two, and what would help: by the run's own rates."""

from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.errors import ConfigError
from deploy.planning.accounting import Account, measured_figures
from deploy.planning.measured import run_folder_rates, run_rates
from deploy.planning.prediction import AS_FAST, FEW_STEPS, best_servers, with_more_staleness
from deploy.planning.rates import WORK_PARTS, Rates
from deploy.planning.run_files import RunFiles, read_run
from deploy.planning.simulation import Outcome, Setup, simulate
from deploy.planning.tables import percent, seconds

_WORK = [part.name for part in WORK_PARTS]
_MUCH = 0.05  # share of the time that is worth a word


@dataclass(frozen=True)
class _Case:
    """A run, its rates, and what it would do with other settings."""

    run: RunFiles
    account: Account
    rates: Rates
    servers: int  # number of servers of the run
    waits: float  # share of the time in which the learner waited
    idle: float  # share of the time in which servers had no group

    @property
    def config(self) -> RunConfig:
        return self.run.config

    def with_servers(self, servers: int) -> Outcome:
        return self._simulated(servers, self.config.broker.max_staleness)

    def with_staleness(self, max_staleness: int) -> Outcome:
        return self._simulated(self.servers, max_staleness)

    @property
    def now(self) -> Outcome:
        return self.with_servers(self.servers)

    @property
    def prepares(self) -> float:
        """Share of the time that batches were complete and not ready yet."""
        return min(self.waits, self.rates.prepare_s.value / self.now.step_s)

    def _simulated(self, servers: int, max_staleness: int) -> Outcome:
        capacity = self.config.rollout.max_concurrent_groups
        return simulate(Setup.of(self.rates, servers, capacity, max_staleness, FEW_STEPS))


def advised_servers(run_folder: Path) -> int:
    """The fewest rollout servers with which a run's steps take no longer than with more.

    Raises:
        ConfigError: no run, or one that has not trained enough steps to tell.
    """
    config, rates = read_run(run_folder).config, run_folder_rates(run_folder)
    return best_servers(rates, config.rollout.max_concurrent_groups, config.broker.max_staleness)


def verdict(run: RunFiles, account: Account) -> list[str]:
    """Sentences, and a command on its line where one would help."""
    try:
        rates = run_rates(run, account.journal)
    except ConfigError as error:
        return [f"not known yet: {error}"]
    figures = measured_figures(run, account)
    there = account.rollout.servers if account.rollout else run.config.rollout.servers
    case = _Case(
        run,
        account,
        rates,
        max(1, round(there)),
        figures.get("learner_idle_share", 0.0),
        figures.get("rollout_idle_share", 0.0),
    )
    return [*_limit(case), *_server_advice(case)]


def _limit(case: _Case) -> list[str]:
    staleness = case.config.broker.max_staleness
    if staleness == 0:
        return _synchronous(case)
    samples_are_late = case.waits - case.prepares > _MUCH
    capacity = case.config.rollout.max_concurrent_groups
    more = with_more_staleness(case.rates, case.servers, capacity, case.now, staleness)
    if samples_are_late and more:
        return [more]
    if samples_are_late and case.waits > case.idle:
        return [
            f"Generation: the learner waited for samples {percent(case.waits)} of the time, the "
            f"servers had nothing to do {percent(case.idle)}."
        ]
    return _learner(case)


def _synchronous(case: _Case) -> list[str]:
    now, then = case.now.step_s, case.with_staleness(1).step_s
    gain = "." if then < now * (1 - AS_FAST) else ": no gain."
    return [
        f"Both sides wait for each other: the learner {percent(case.waits)}, the servers "
        f"{percent(case.idle)} of the time (broker.max_staleness = 0).",
        f"With --broker.max_staleness 1 a step would take {seconds(then)}, not "
        f"{seconds(now)}{gain}",
    ]


def _learner(case: _Case) -> list[str]:
    parts = case.account.parts
    largest = max(_WORK, key=lambda name: parts[name])
    share = parts[largest] / (sum(parts[name] for name in _WORK) or 1.0)
    lines = [
        f"The learner: {largest} is {percent(share)} of its work. It waited "
        f"{percent(case.waits)} of the time; the servers had nothing to do {percent(case.idle)}."
    ]
    if case.prepares > _MUCH:
        lines.append(
            f"It waits {percent(case.prepares)} for images to be decoded: "
            "--learner.render_processes 2 or more would help, if there are cores for it."
        )
    lines.append(
        f"More of it would help: --learner.ranks {2 * case.config.learner.ranks} at the next "
        f"start, on as many GPUs or cores{knob(largest, case.config)}."
    )
    return lines


def knob(part: str, config: RunConfig) -> str:
    """What else makes a part of the learner's work cheaper, if it is not set yet."""
    model = config.model
    knobs = {
        "vision": (
            "--model.freeze_vision_tower true (another training)",
            not model.freeze_vision_tower,
        ),
        "student forward": ("--model.share_prefix true", not model.share_prefix),
        "backward": (
            "--model.gradient_checkpointing false, or 0.5, if memory allows",
            bool(model.gradient_checkpointing),
        ),
        "optimizer": ("--learner.offload false if memory allows", config.learner.offload),
        "teacher update": ("--teacher.offload false if memory allows", config.teacher.offload),
    }
    text, is_open = knobs.get(part, ("", False))
    return f"; or {text}" if is_open else ""


def _server_advice(case: _Case) -> list[str]:
    """Another number of servers, if that is worth it."""
    config = case.config
    advised = best_servers(
        case.rates, config.rollout.max_concurrent_groups, config.broker.max_staleness
    )
    if advised == case.servers:
        return []
    now, then = case.now.step_s, case.with_servers(advised).step_s
    if advised > case.servers and then >= now * (1 - AS_FAST):
        return []
    how = (
        f"{advised} servers instead of {case.servers}: {seconds(then)} a step, not {seconds(now)}, "
        "if each has a machine or GPU to itself."
        if advised > case.servers
        else f"{advised} of the {case.servers} servers would do: {seconds(then)} a step."
    )
    return [how, f"  python -m deploy.scale {case.run.folder} rollout={advised}"]
