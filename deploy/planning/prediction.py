"""Every split of the machines with what it would do, and the one to choose."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from common.config import RunConfig
from common.engines import engine_of
from deploy.planning.layout import Layout, Machines
from deploy.planning.memory import LearnerMemory, ServerMemory, learner_memory, server_memory
from deploy.planning.micro_batches import sized
from deploy.planning.rates import Rates
from deploy.planning.shape import ModelShape
from deploy.planning.simulation import STEPS, Outcome, Setup, simulate
from deploy.planning.workload import Workload

FEW_STEPS = 24  # of a simulation that only compares
AS_FAST = 0.03  # relative difference below which two times are the same: rates are no better
WAITING = 0.1  # share of the time, more than rounding and preparation cost
RatesOf = Callable[[Layout], Rates]


@dataclass(frozen=True)
class Prediction:
    """One split, at one bound of staleness."""

    layout: Layout
    max_staleness: int
    capacity: int  # groups that a server generates at once
    outcome: Outcome
    rates: Rates
    learner_memory: LearnerMemory
    server_memory: ServerMemory
    learner_fits: bool
    server_fits: bool

    @property
    def step_s(self) -> float:
        return self.outcome.step_s

    @property
    def fits(self) -> bool:
        return self.learner_fits and self.server_fits

    @property
    def is_synchronous(self) -> bool:
        return self.max_staleness == 0


@dataclass(frozen=True)
class Plan:
    """All predictions, and the choice among those that fit in memory.

    `synchronous` is the best split with max_staleness = 0, `overlapping` the best of the others.
    """

    predictions: tuple[Prediction, ...]
    synchronous: Prediction | None
    overlapping: Prediction | None

    @property
    def best(self) -> Prediction | None:
        """Synchronous, if that is as fast: it is exact, and simpler."""
        if self.synchronous is None or self.overlapping is None:
            return self.synchronous or self.overlapping
        is_as_fast = self.synchronous.step_s <= self.overlapping.step_s * (1 + AS_FAST)
        return self.synchronous if is_as_fast else self.overlapping


def make_plan(
    config: RunConfig,
    shape: ModelShape,
    work: Workload,
    machines: Machines,
    layouts: Sequence[Layout],
    rates_of: RatesOf,
) -> Plan:
    device = machines.learner_device

    def predict(layout: Layout, max_staleness: int, rates: Rates) -> Prediction:
        of_learner = learner_memory(sized(config, shape, work, layout, device), shape, work, layout)
        kept = of_learner.total if layout.is_shared else 0.0
        of_server = server_memory(config, shape, work, layout, machines.rollout_device, kept)
        capacity, outcome = _with_best_capacity(
            config, rates, layout.servers, max_staleness, max(1, of_server.groups)
        )
        return Prediction(
            layout=layout,
            max_staleness=max_staleness,
            capacity=capacity,
            outcome=outcome,
            rates=rates,
            learner_memory=of_learner,
            server_memory=of_server,
            learner_fits=not device.is_gpu or of_learner.total <= device.memory,
            server_fits=not machines.rollout_device.is_gpu or of_server.fits,
        )

    found = [
        predict(layout, staleness, rates_of(layout))
        for layout in layouts
        for staleness in _stalenesses(config, layout)
    ]
    fitting = [p for p in found if p.fits]
    return Plan(
        tuple(found),
        _fastest([p for p in fitting if p.is_synchronous]),
        _fastest([p for p in fitting if not p.is_synchronous]),
    )


def _with_best_capacity(
    config: RunConfig, rates: Rates, servers: int, max_staleness: int, configured: int
) -> tuple[int, Outcome]:
    """Groups at once of a server: as configured, unless some servers would take all of a step.

    A server asks for as many groups as it may, and gets them while there are any.

    Args:
        configured: groups a server, of which no more than have room.
    """
    steps = max(8, min(config.learner.max_steps or STEPS, STEPS))
    even = math.ceil(rates.groups_per_step / servers)
    found: dict[int, Outcome] = {}
    for capacity in {configured, min(configured, even)}:
        setup = Setup.of(rates, servers, capacity, max_staleness, steps)
        found[capacity] = simulate(replace(setup, max_leases=config.broker.max_leases))
    best = min(found, key=lambda capacity: found[capacity].step_s)
    is_worth_it = found[best].step_s < found[configured].step_s * (1 - AS_FAST)
    chosen = best if is_worth_it else configured
    return chosen, found[chosen]


def _stalenesses(config: RunConfig, layout: Layout) -> tuple[int, ...]:
    """With both sides on the same GPUs nothing can overlap."""
    if layout.is_shared:
        return (0,)
    return (0, max(1, config.broker.max_staleness))


def _fastest(predictions: Sequence[Prediction]) -> Prediction | None:
    """The one with fewest servers and least staleness among those as fast as the fastest."""
    if not predictions:
        return None
    limit = min(p.step_s for p in predictions) * (1 + AS_FAST / 3)
    return min(
        (p for p in predictions if p.step_s <= limit),
        key=lambda p: (p.layout.servers, p.max_staleness, p.step_s),
    )


def best_servers(rates: Rates, capacity: int, max_staleness: int, most: int = 64) -> int:
    """The fewest servers with which a step takes no longer than with any more of them.

    Args:
        capacity: groups that one server generates at once.
        most: servers there may be.
    """
    useful = min(most, rates.groups_per_step * (max_staleness + 1))

    def step_s(servers: int) -> float:
        return simulate(Setup.of(rates, servers, capacity, max_staleness, FEW_STEPS)).step_s

    limit = step_s(useful) * (1 + AS_FAST)
    high = 1  # mostly a few are enough: fewer simulations than from the middle
    while high < useful and step_s(high) > limit:
        high *= 2
    low, high = high // 2 + 1, min(high, useful)
    while low < high:  # more servers never make a step much longer
        middle = (low + high) // 2
        low, high = (low, middle) if step_s(middle) <= limit else (middle + 1, high)
    return low


def with_more_staleness(rates: Rates, servers: int, capacity: int, now: Outcome, s: int) -> str:
    """A word on max_staleness = s, where neither side is busy: more steps could be under way.

    Empty where that is not so, or would not help.
    """
    if s == 0 or min(now.learner_idle_share, now.rollout_idle_share) < WAITING:
        return ""
    then = simulate(Setup.of(rates, servers, capacity, s + 1))
    if then.step_s > now.step_s * (1 - AS_FAST):
        return ""
    return f"Both sides wait: with max_staleness = {s + 1} a step would take {then.step_s:.2f} s."


def total_s(prediction: Prediction, config: RunConfig, steps: int) -> float:
    """Seconds of the whole run: start, steps, the last measurement and checkpoints."""
    rates = prediction.rates
    every = config.checkpoint.every_steps
    return (
        rates.startup_s.value
        + steps * prediction.step_s
        + _measuring_s(config, steps, rates.evaluation_sample_s.value, prediction.step_s)
        + (steps // every if every else 0) * rates.checkpoint_s.value
    )


def _measuring_s(config: RunConfig, steps: int, sample_s: float, step_s: float) -> float:
    """Seconds that training stands still for measurements: for the last one, when it is over.

    For the others, where servers keep no copy of the weights that are measured, the next push waits
    for what does not fit beside a step.
    """
    path, evaluation = config.data.heldout, config.evaluation
    if path is None or not path.is_file():
        return 0.0
    rows = int(pq.read_metadata(path).num_rows)
    last_s = min(rows, evaluation.samples or rows) * sample_s
    if engine_of(config).keeps_copies:
        return last_s
    every = evaluation.every_steps
    times = math.ceil(steps / every) - 1 if every else 0
    between_s = min(rows, evaluation.interim_samples) * sample_s
    return last_s + max(0.0, last_s - step_s) + times * max(0.0, between_s - step_s)
