"""One run of the real broker and its real clients in a virtual world, decided by one seed.

Real: ledger, service, server loop, client, journal, segments, recovery. Virtual: time, network,
disk. Played: rollout engines (they generate nothing but a note of the weights they had) and the
learner (its weights are the list of groups that it was trained on).

Faults for a while: every process is killed and comes back, the broker's machine loses power, the
disk fills up, members are cut off, messages are late, lost, repeated and reordered, leases lapse,
samples are broken, engines fail. Then all is well, and the run must end as if nothing had happened.
python -m tests.broker.proof.simulator SEED tells one run.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from broker.client import BrokerClient, RequestRefused, heartbeat_forever
from broker.ledger.entry import Rules
from broker.protocol import Blame, Role, Verdict
from broker.service.images import DatasetImages
from broker.service.opening import open_durable
from broker.service.server import BrokerServer
from broker.service.service import BrokerService
from broker.storage.durable import DurableStore
from broker.storage.frames import CorruptJournal
from broker.storage.recovery import recover
from broker.storage.store import StoreFailure
from common.errors import BrokerUnavailable, ProtocolError
from common.group import Group, Responses, Trajectory, VersionSpan
from common.images import ImageStore
from common.source import SampleSource
from common.types import FinishReason, GroupAddress, GroupLease, WeightBucket, WeightUpdate
from tests.broker.fingerprint import fingerprint
from tests.broker.proof.virtual import Network, SimDisk, SimLink, SimListener, VirtualLoop
from tests.broker.support import make_sample
from tests.seen import SEEN

logger = logging.getLogger(__name__)
FAULTS_S = 120.0  # virtual seconds until all is well
PATIENCE_S = 3000.0  # virtual seconds that a healthy rest may take
LEASE_S = 20.0
MEMBER_TIMEOUT_S = 4.0
Weights = tuple[str, ...]  # what the learner was trained on: one entry a step, "0/0 0/1" ...
Refused = (RequestRefused, BrokerUnavailable, ProtocolError)


_MAX_ATTEMPTS = 9  # no group meets so many deaths and lapses in a row by chance
_FIRST_REST_S = 0.05


@dataclass
class Plan:
    """What a seed decides before the run."""

    rules: Rules
    num_samples: int
    epochs: int
    servers: int
    ranks: int
    fsync: Any
    faultiness: float  # 0 to 1
    checkpoint_steps: int
    broken: frozenset[str]  # samples that cannot be generated
    unreadable: frozenset[str]  # samples that the learner refuses

    @classmethod
    def of(cls, rng: random.Random) -> "Plan":
        groups_per_step = rng.randint(1, 3)
        names = [f"s{number}" for number in range(rng.randint(4, 14))]
        return cls(
            rules=Rules(
                groups_per_step=groups_per_step,
                max_staleness=rng.choice((0, 0, 1, 1, 2)),
                trajectories_per_sample=2,
                lease_s=LEASE_S,
                max_attempts=_MAX_ATTEMPTS,
                max_steps=None,
                max_leases=rng.choice((2, 256)),
                first_rest_s=_FIRST_REST_S,
            ),
            num_samples=len(names),
            epochs=rng.choice((1, 1, 2)),
            servers=rng.randint(1, 3),
            ranks=rng.randint(1, min(2, groups_per_step)),
            fsync=rng.choice(("always", "interval", "never")),
            faultiness=rng.choice((0.0, 0.2, 0.2, 0.5, 0.5, 1.0, 1.0, 1.0)),
            checkpoint_steps=rng.randint(1, 3),
            broken=frozenset(n for n in names if rng.random() < 0.05),
            unreadable=frozenset(n for n in names if rng.random() < 0.05),
        )


@dataclass
class Checkpoint:
    step: int
    weights: Weights


@dataclass
class Outcome:
    """What one run came to."""

    weights: Weights
    staleness: int  # the highest that was trained
    seconds: float  # virtual
    kills: int
    messages: int
    digest: str  # of everything that happened
    faults: dict[str, int] = field(default_factory=dict)


class Simulation:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.plan = Plan.of(self.rng)
        self.network = Network(self.rng, self.plan.faultiness)
        self.disk = SimDisk(self.rng)
        samples = [make_sample(number) for number in range(self.plan.num_samples)]
        self.samples = samples
        self.checkpoints = [Checkpoint(0, ())]  # what the learner's disk holds; two are kept
        self.engines: dict[str, Weights] = {}  # weights that an engine serves, by member
        self.published: dict[
            tuple[int, int, int], Weights
        ] = {}  # by learner life, version, attempt
        self.notes: list[tuple[Weights, ...]] = []  # of each generated trajectory: weights it had
        self.processes: dict[str, asyncio.Task[None]] = {}
        self.learner_lives = 0
        self.kills = 0
        self.highest_staleness = 0
        self.final: Weights | None = None
        self.service: BrokerService | None = None  # of the broker that lives; None: none does
        self.done = asyncio.Event()
        self.is_healthy = False
        self.faults: dict[str, int] = {}
        self.log = hashlib.sha256()

    # ---- the run ---------------------------------------------------------------------------------
    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            names = ["broker", *(f"rollout-{i}" for i in range(self.plan.servers)), "learner"]
            keepers = [tasks.create_task(self._keep_alive(name), name=name) for name in names]
            nemesis = tasks.create_task(self._nemesis())
            async with asyncio.timeout(FAULTS_S + PATIENCE_S):
                await self.done.wait()
            self._check_recovery()
            for task in [*keepers, nemesis]:
                task.cancel()
        assert self.final is not None
        self._check_end(len(self.final))
        check_weights(self.final, self.plan, self._source())
        return Outcome(
            self.final,
            self.highest_staleness,
            loop.time(),
            self.kills,
            self.network.num_sent,
            self.log.hexdigest(),
            self.faults,
        )

    def note(self, *what: Any) -> None:
        """Into the log that two runs of one seed must agree on."""
        now = asyncio.get_running_loop().time()
        line = f"{now:.6f} {' '.join(map(str, what))}"
        logger.info("%s", line)
        self.log.update(line.encode())

    async def _keep_alive(self, name: str) -> None:
        """Start a process again whenever it ends, until the run is over."""
        role: Callable[[str], Coroutine[Any, Any, None]]
        role = {"b": self._broker, "r": self._rollout, "l": self._learner}[name[0]]
        while not self.done.is_set():
            process = asyncio.create_task(role(name), name=f"{name}-process")
            self.processes[name] = process
            try:
                await asyncio.wait((process,))
            finally:
                process.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                error = first_error(process.exception())
                if error is not None and not isinstance(error, Refused):
                    raise error
                self.note(name, "ended", repr(error)[:80])
            await asyncio.sleep(self.rng.uniform(0.1, 2.0))

    def kill(self, name: str) -> None:
        """SIGKILL: nothing that it does from here on reaches anybody."""
        self.note("kill", name)
        self.kills += 1
        self._count(f"kill {name.split('-')[0]}")
        if name == "broker":
            self.network.listener = None
            self._check_recovery()
            self.service = None
        for link in self.network.links.values():
            if link.name.startswith(name):
                link.is_cut = True
        self.processes[name].cancel()

    # ---- faults ----------------------------------------------------------------------------------
    async def _nemesis(self) -> None:
        loop = asyncio.get_running_loop()
        while self.plan.faultiness and loop.time() < FAULTS_S:
            await asyncio.sleep(self.rng.expovariate(self.plan.faultiness / 4.0))
            name = self.rng.choice(list(self.processes))
            fault = self.rng.choice(("kill", "kill", "power", "full", "cut"))
            if fault == "kill":
                self.kill(name)
            elif fault == "power":
                self._count("power")
                self.kill("broker")
                self.disk.lose_power()
            elif fault == "full":
                self._count("full disk")
                self.disk.is_full = True
                loop.call_later(self.rng.uniform(1, 15), self._free_disk)
            else:
                self._count("cut off")
                self.network.cut_off.add(name)
                loop.call_later(self.rng.uniform(1, 15), self.network.cut_off.discard, name)
        self.note("healthy")
        self.is_healthy = True
        self.network.is_faulty = self.disk.is_full = False
        self.network.cut_off.clear()

    def _free_disk(self) -> None:
        self.disk.is_full = False

    def _count(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def _may(self, share: float) -> bool:
        return not self.is_healthy and self.rng.random() < share * self.plan.faultiness

    # ---- broker ----------------------------------------------------------------------------------
    def _source(self) -> SampleSource:
        return SampleSource(self.samples, epochs=self.plan.epochs, seed=0)

    async def _broker(self, name: str) -> None:
        try:
            await self._serve()
        finally:
            self.service = None

    async def _serve(self) -> None:
        try:
            service, store, started_at = self._open()
        except StoreFailure as failure:  # the disk is full: it cannot even start
            raise BrokerUnavailable(str(failure)) from failure
        dataset_images = DatasetImages(ImageStore(Path(".")), [])
        server = BrokerServer(
            service,
            dataset_images,
            SimListener(self.network),
            max_frame_bytes=2**20,
            started_at=started_at,
        )
        async with server, asyncio.TaskGroup() as tasks:
            if self.plan.fsync == "interval":
                tasks.create_task(store.sync_at_intervals())
            await server.serve(asyncio.Event(), 1.0)

    def _client(self, name: str, role: Role) -> BrokerClient:
        identity = self.rng.getrandbits(40).to_bytes(5)
        return BrokerClient(
            "sim://broker",
            name,
            role,
            request_timeout_s=1.0,
            tries=8,
            patience_s=60.0,
            link=SimLink(self.network, name, identity),
            rng=random.Random(self.rng.getrandbits(32)),
        )

    def _open(self) -> tuple[BrokerService, DurableStore, float]:
        """A broker on what the one before has left. Raises StoreFailure."""
        try:
            opened = open_durable(
                self.disk,
                self._source(),
                self.plan.rules,
                fsync=self.plan.fsync,
                member_timeout_s=MEMBER_TIMEOUT_S,
                segment_bytes=4000,
            )
        except CorruptJournal as error:
            raise AssertionError("a journal that nobody damaged is corrupt") from error
        self.service = opened[0]
        self._check_recovery()
        return opened

    def _check_recovery(self) -> None:
        """The journal tells what the broker knows, if one lives and has flushed what it knows.

        A dead one proves nothing: since then, power cuts may have shortened the journal, and
        openings that failed may have lengthened it.
        """
        if self.service is None:
            return
        store = self.service.store
        if store.failure is None and not store.is_dirty:
            found = recover(self.disk, self._source(), self.plan.rules)
            assert found is not None
            assert fingerprint(found.ledger) == fingerprint(self.service.ledger)

    def _check_end(self, num_steps: int) -> None:
        """Whatever state the run has left the journal in, another broker goes on from it."""
        self._free_disk()
        service, _, _ = self._open()
        assert service.ledger.version == service.ledger.steps.committed == num_steps

    # ---- rollout ---------------------------------------------------------------------------------
    async def _rollout(self, name: str) -> None:
        self.engines[name] = ()
        async with self._client(name, Role.ROLLOUT) as broker, asyncio.TaskGroup() as tasks:
            worker = RolloutPlayer(self, name, broker, tasks)
            tasks.create_task(heartbeat_forever(broker, dict, 1.0, asyncio.Event()))
            tasks.create_task(worker.follow_weights())
            await worker.work()

    # ---- learner ---------------------------------------------------------------------------------
    async def _learner(self, name: str) -> None:
        self.learner_lives += 1
        life = self.learner_lives
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            clients = [
                await stack.enter_async_context(self._client(f"learner-{rank}", Role.LEARNER))
                for rank in range(self.plan.ranks)
            ]
            for client in clients:
                tasks.create_task(heartbeat_forever(client, dict, 1.0, asyncio.Event()))
            self.final = await LearnerPlayer(self, life, clients).train()
            self.note("trained", self.final)
            self.done.set()


class RolloutPlayer:
    """Leases, waits for as long as a generation takes, submits."""

    def __init__(
        self, world: Simulation, name: str, broker: BrokerClient, tasks: asyncio.TaskGroup
    ) -> None:
        self.world = world
        self.name = name
        self.broker = broker
        self.tasks = tasks
        self.serving: tuple[int, int] | None = None  # history, version
        self.is_serving = asyncio.Event()

    async def follow_weights(self) -> None:
        serial = 0
        while True:
            news = await self.broker.watch_weights(serial, wait_s=3)
            serial = max(serial, news.serial)
            if news.update is None or self.name not in news.update.recipients:
                continue
            update = news.update
            await asyncio.sleep(self.world.rng.uniform(0.0, 0.5))
            assert isinstance(update.source, GroupAddress)
            key = (update.source.port, update.version, update.attempt)
            self.world.engines[self.name] = self.world.published[key]
            self.serving = (update.history, update.version)
            self.is_serving.set()
            await self.broker.ack_weights(update.version, update.history)

    async def work(self) -> None:
        while True:
            await self.is_serving.wait()
            assert self.serving is not None
            history, version = self.serving
            count = self.world.rng.randint(1, 4)
            reply = await self.broker.lease(count, version, 3, history)
            for lease in reply.leases:
                self.tasks.create_task(self.serve(lease))

    async def serve(self, lease: GroupLease) -> None:
        world, rng = self.world, self.world.rng
        before = world.engines[self.name]
        await asyncio.sleep(rng.uniform(0.05, 0.6))
        if world._may(0.1):
            await asyncio.sleep(rng.uniform(1, 2 * LEASE_S))  # it lapses meanwhile, perhaps
        after = world.engines[self.name]
        if world._may(0.1):
            await self.broker.give_back(lease.group_id, lease.attempt, "engine error", Blame.NOBODY)
            return
        if lease.sample.sample_id in world.plan.broken:
            await self.broker.give_back(lease.group_id, lease.attempt, "broken", Blame.SAMPLE)
            return
        world.notes.append((before, after))
        group = self._group(lease, len(world.notes) - 1, len(before), len(after))
        verdict = await self.broker.submit(group)
        if world._may(0.1):
            assert await self.broker.submit(group) in (Verdict.DUPLICATE, Verdict.FENCED)
        world.note(self.name, lease.group_id, lease.attempt, verdict)

    def _group(self, lease: GroupLease, note: int, old: int, new: int) -> Group:
        """Token 0 says which weights it was made of, for the learner to judge."""
        length = self.world.rng.randint(2, 9)
        cut = self.world.rng.randint(1, length - 1)
        spans = (
            VersionSpan(version=old, start=0, end=cut),
            VersionSpan(version=new, start=cut, end=length),
        )
        trajectory = {
            "response_token_ids": np.array([note, *range(length - 1)], dtype=np.int32),
            "rollout_logprobs": np.full(length, -1.0, dtype=np.float32),
            "version_spans": spans,
            "cache_version": old,
            "finish_reason": FinishReason.STOP,
        }
        return Group(
            group_id=lease.group_id,
            attempt=lease.attempt,
            sample_id=lease.sample.sample_id,
            view=SEEN,
            prompt_token_ids=np.arange(3, dtype=np.int32),
            num_prompt_tokens=5,
            responses=Responses.of(
                tuple(
                    Trajectory(index=index, **trajectory) for index in range(lease.num_trajectories)
                )
            ),
        )


class LearnerPlayer:
    """Resumes from the newest checkpoint and trains to the end. One client a rank."""

    def __init__(self, world: Simulation, life: int, clients: list[BrokerClient]) -> None:
        self.world = world
        self.life = life
        self.clients = clients
        self.attempt = 0

    async def train(self) -> Weights:
        newest = self.world.checkpoints[-1]
        resumed = await self.clients[0].resume(newest.step)
        self.history = resumed.history
        weights = newest.weights
        assert resumed.version == len(weights), "the broker is elsewhere"
        async with asyncio.TaskGroup() as tasks:
            self.weights = weights
            pushing = tasks.create_task(self._push_until_all_serve())
            while True:
                groups = await self._take(len(self.weights) + 1)
                if groups is None:
                    break
                self.weights = await self._train_step(groups)
                if len(self.weights) % self.world.plan.checkpoint_steps == 0:
                    await self._checkpoint()
            await self._checkpoint()
            pushing.cancel()
        return self.weights

    async def _take(self, step: int) -> list[list[Group]] | None:
        """The groups by rank; None: there is no such step."""
        shards: list[list[Group]] = []
        for rank, client in enumerate(self.clients):
            batch = await client.take(step, 5, rank, len(self.clients))
            while not batch.groups and not batch.exhausted:
                batch = await client.take(step, 5, rank, len(self.clients))
            if batch.exhausted:
                return None
            shards.append(list(batch.groups))
        return shards

    async def _train_step(self, shards: list[list[Group]]) -> Weights:
        world, step = self.world, len(self.weights) + 1
        refused: list[dict[str, str]] = []
        for groups in shards:
            for group in groups:
                self._check(group, step)
            broken = [g.group_id for g in groups if g.sample_id in world.plan.unreadable]
            refused.append(dict.fromkeys(broken, "cannot be rendered"))
        names = sorted(
            (g.group_id for groups in shards for g in groups),
            key=lambda name: [int(part) for part in name.split("/")],
        )
        await asyncio.sleep(world.rng.uniform(0.05, 1.0))
        acks = [
            client.ack(step, refused[rank], rank, wait_s=5)
            for rank, client in enumerate(self.clients)
        ]
        replies = await asyncio.gather(*acks)
        while not all(reply.is_complete for reply in replies):
            replies = [await c.ack(step, refused[r], r, 5) for r, c in enumerate(self.clients)]
        world.note("step", step, *names)
        return (*self.weights, " ".join(names))

    def _check(self, group: Group, step: int) -> None:
        """Only weights of this very history made it, and none that are too old."""
        world = self.world
        allowed = world.plan.rules.max_staleness
        assert len(group.trajectories) == world.plan.rules.trajectories_per_sample
        for trajectory in group.trajectories:
            for made_by in world.notes[int(trajectory.response_token_ids[0])]:
                assert made_by == self.weights[: len(made_by)], "weights of an undone history"
                staleness = step - 1 - len(made_by)
                assert 0 <= staleness <= allowed, f"{staleness} steps stale"
                world.highest_staleness = max(world.highest_staleness, staleness)

    async def _checkpoint(self) -> None:
        """Write, commit, rename; a kill can come between any two."""
        world, step = self.world, len(self.weights)
        await asyncio.sleep(world.rng.uniform(0.01, 0.2))
        await self.clients[0].commit(step, world.checkpoints[0].step)
        await asyncio.sleep(world.rng.uniform(0.0, 0.1))
        if world.checkpoints[-1].step < step:
            world.checkpoints = [*world.checkpoints, Checkpoint(step, self.weights)]
        await asyncio.sleep(world.rng.uniform(0.0, 0.1))
        world.checkpoints = world.checkpoints[-2:]

    async def _push_until_all_serve(self) -> None:
        """Announce the newest weights whenever a live server is without them."""
        client = self.clients[0]
        while True:
            members = await client.watch_members(1, 2)
            version = len(self.weights)
            behind = [name for name, served in members.acknowledged.items() if served < version]
            if behind:
                self.attempt += 1
                update = self._update(version, behind)
                self.world.published[self.life, version, self.attempt] = self.weights
                await client.announce(update)
            await asyncio.sleep(0.3)

    def _update(self, version: int, members: list[str]) -> WeightUpdate:
        ranks = {member: rank for rank, member in enumerate(members, start=1)}
        bucket = WeightBucket(names=("w",), dtypes=("float32",), shapes=((1,),), num_bytes=4)
        group = GroupAddress(
            name="g", host="h", port=self.life, backend="gloo", world_size=1 + len(ranks)
        )
        return WeightUpdate(
            version=version,
            history=self.history,
            attempt=self.attempt,
            recipients=ranks,
            source=group,
            buckets=(bucket,),
        )


def check_weights(weights: Weights, plan: Plan, source: SampleSource) -> None:
    """Every sample trained once an epoch, in order, but for broken ones and a short rest.

    One that the learner has refused may be left out in later epochs: it depends on whether it was
    issued again before.
    """
    trained = [name for step in weights for name in step.split()]
    assert all(len(step.split()) == plan.rules.groups_per_step for step in weights)
    order = [source.at(index) for index in range(source.num_groups)]
    refused_before = {
        each.group_id
        for each in order
        if each.sample.sample_id in plan.unreadable and not each.group_id.startswith("0/")
    }
    left_out = refused_before - set(trained)
    whole = [
        each.group_id
        for each in order
        if each.sample.sample_id not in plan.broken and each.group_id not in left_out
    ]
    assert trained == whole[: len(trained)], f"{trained} is not the beginning of {whole}"
    assert len(whole) - len(trained) < plan.rules.groups_per_step


def simulate(seed: int) -> Outcome:
    """Run one seed. Raises whatever goes wrong."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_simulate(seed))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


async def _simulate(seed: int) -> Outcome:
    return await Simulation(seed).run()


def first_error(error: BaseException | None) -> BaseException | None:
    """What was wrong at first, inside groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        # an assertion says more than the refusals that follow from it
        error = min(error.exceptions, key=lambda each: isinstance(first_error(each), Refused))
    return error


def main() -> None:
    """SEED: one run, told in full. FIRST LAST: those seeds but the last; figures as JSON."""
    if len(sys.argv) == 2:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(simulate(int(sys.argv[1])))
        return
    logging.disable(logging.CRITICAL)
    totals: Counter[str] = Counter()
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            outcome = simulate(seed)
        except BaseException as error:
            print(f"seed {seed}: {first_error(error)!r}", file=sys.stderr)
            print(f"python -m tests.broker.proof.simulator {seed} tells it again", file=sys.stderr)
            raise SystemExit(1) from error
        totals += Counter(runs=1, messages=outcome.messages, steps=len(outcome.weights))
        totals += Counter({**outcome.faults, f"staleness {outcome.staleness}": 1})
        totals["virtual_s"] += round(outcome.seconds)
    print(json.dumps(totals))


if __name__ == "__main__":
    main()
