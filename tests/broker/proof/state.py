"""What the model checker explores: a real ledger, what is on the network, servers and a learner.

Weights are the list of steps behind them (`Weights`); the real thing, not what anybody says of it.
The parts are immutable and shared between states; only the ledger is copied.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.ledger.entry import Owner, Rules
from broker.ledger.ledger import Ledger
from broker.protocol import Role
from tests.broker.proof.snapshot import copy_ledger
from tests.broker.support import make_rules, make_source

Attempt = tuple[int, int]  # (order of the group, attempt)
Weights = tuple[int, ...]  # which life of the learner trained each step
Message = tuple[Any, ...]  # (kind, sender, ...): still on the network; it may arrive or not

SERVER, SILENCE, LAPSE, LEARNER, NET, STALE, BROKEN, REFUSE, DAMAGE, POWER = (
    "server", "silence", "lapse", "learner", "net", "stale", "broken", "refuse", "damage", "power"
)  # fmt: skip
LUCK = "luck"  # what was on its way from a dead life arrives: may happen, must not be needed


@dataclass(frozen=True)
class Instance:
    """A small system, and how many faults of which kinds may befall it on one path."""

    num_samples: int
    groups_per_step: int
    staleness: int
    faults: int
    kinds: tuple[str, ...]
    servers: int = 2
    ranks: int = 1
    keep: int = 1  # checkpoints
    max_attempts: int = 1
    lease_size: int = 1  # groups a lease request asks for
    acks_are_slow: bool = False  # of weights: always, and not only when a fault delays them

    @property
    def rules(self) -> Rules:
        return make_rules(self.groups_per_step, self.staleness, max_attempts=self.max_attempts)

    def __str__(self) -> str:
        return (
            f"{self.num_samples} samples, P {self.groups_per_step}, S {self.staleness}, "
            f"{self.servers} servers{', slow acks' * self.acks_are_slow}, {self.ranks} ranks, "
            f"up to {self.faults} of "
            f"{' '.join(self.kinds)}"
        )


class Held(NamedTuple):
    """A lease that a server knows of, and the weights with which it began to generate."""

    order: int
    attempt: int
    born: Weights


class Claim(NamedTuple):
    """What a server says that it serves."""

    history: int
    version: int


class Request(NamedTuple):
    """For leases; sent again as it was until it is answered."""

    request_id: bytes
    claim: Claim


class Server(NamedTuple):
    number: int
    life: int = 1
    is_alive: bool = True
    engine: Weights | None = None  # None: no weights yet, serves nothing
    claim: Claim | None = None
    owes_ack: bool = False  # the broker does not know of `claim` yet
    held: tuple[Held, ...] = ()
    asking: Request | None = None
    unheard: tuple[Attempt, ...] = ()  # leases that it got in an answer that was lost
    num_requests: int = 0
    served: int = -1  # the newest version of this history that it has told the broker

    @property
    def owner(self) -> Owner:
        return (f"rollout-{self.number}", self.life)


class Trained(NamedTuple):
    """One step of the learner: what really went into it."""

    life: int
    groups: tuple[Attempt, ...]
    refused: tuple[Attempt, ...] = ()


class Learner(NamedTuple):
    """All its ranks; they start, train and die together."""

    life: int
    history: int
    steps: tuple[Trained, ...]  # its weights; the last is not acknowledged while `has_trained`
    shards: tuple[tuple[Attempt, ...] | None, ...]  # by rank, of the step under way
    takings: tuple[int, ...]  # by rank: which batch those are of
    done: tuple[bool, ...]  # by rank: told that the step is complete
    is_alive: bool = True
    has_trained: bool = False
    is_exhausted: bool = False

    @property
    def version(self) -> int:
        return len(self.steps) - self.has_trained

    def owner(self, rank: int) -> Owner:
        return (f"learner-{rank}", self.life)


class Content(NamedTuple):
    """What a group that the broker took in was really generated with."""

    attempt: int
    oldest: Weights
    newest: Weights


@dataclass(slots=True)
class State:
    ledger: Ledger
    servers: list[Server]
    learner: Learner
    faults_left: int
    checkpoints: tuple[tuple[Trained, ...], ...] = ((),)  # oldest first
    network: frozenset[Message] = frozenset()
    surviving: tuple[Trained, ...] = ()  # acknowledged steps that were not undone
    acknowledged: dict[int, Message] = field(default_factory=dict)  # by rank, of the open step
    contents: dict[int, Content] = field(default_factory=dict)  # by order, of groups taken in
    quarantined: frozenset[int] = frozenset()
    freed: int = 0
    now: float = 0.0
    has_lagged: bool = False  # an engine was staler than it had said
    may_refuse: bool = False  # the broker has lost something that the learner relies on

    def copy(self) -> "State":
        return State(
            copy_ledger(self.ledger),
            self.servers.copy(),
            self.learner,
            self.faults_left,
            self.checkpoints,
            self.network,
            self.surviving,
            self.acknowledged.copy(),
            self.contents.copy(),
            self.quarantined,
            self.freed,
            self.now,
            self.has_lagged,
            self.may_refuse,
        )

    @property
    def weights(self) -> Weights:
        """The weights of the newest acknowledged step."""
        return tuple(step.life for step in self.surviving)


def begin(instance: Instance) -> State:
    """All servers and the learner have said hello; the learner starts at step 0."""
    ledger = Ledger(make_source(instance.num_samples), instance.rules)
    learner = new_learner(instance, life=1, history=0, steps=())
    servers = [Server(number) for number in range(instance.servers)]
    for server in servers:
        ledger.join(server.owner, Role.ROLLOUT)
    for rank in range(instance.ranks):
        ledger.join(learner.owner(rank), Role.LEARNER)
    ledger.rewind(learner.owner(0), 0)
    return State(ledger, servers, learner, instance.faults)


def new_learner(instance: Instance, life: int, history: int, steps: tuple[Trained, ...]) -> Learner:
    ranks = instance.ranks
    return Learner(life, history, steps, (None,) * ranks, (0,) * ranks, (False,) * ranks)
