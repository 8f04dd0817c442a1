"""Requests of the learner: batches, checkpoints, pushes, the end."""

from typing import ClassVar

from pydantic import Field

from broker.protocol.request import LEARNER, Done, HeldRequest, MemberRequest, Reason, WaitS
from common.types import Count, Identifier, Record, WeightUpdate
from common.wire import Limits


class Resumed(Record):
    history: int  # announcements name it
    version: int


class Resume(MemberRequest[Resumed], senders=LEARNER):
    """First request of a new learner: it starts at `step`; what was trained later is undone."""

    step: Count


class Batch(Record):
    """`num_groups` is 0 when `wait_s` ran out; `exhausted` when the data is used up.

    `groups` are as many as fit into one message, from the first that was asked for.
    """

    attached: ClassVar[str] = "groups"
    step: int
    groups: tuple[bytes, ...]  # record batches (common.group_batch)
    num_groups: int = 0  # of this rank in this step
    batch_id: int = 0  # which batch this is: the same step taken anew is another one
    exhausted: bool = False


class TakeBatch(HeldRequest[Batch], senders=LEARNER):
    """A learner rank wants its groups of step `step`. Held until all of them are there.

    Asking again for a step that is not acknowledged returns the same groups.
    """

    step: int = Field(ge=1, lt=2**31)  # 1-based; trains version step - 1 into version step
    rank: Count = 0
    world_size: int = Field(1, ge=1, lt=2**31)
    first: Count = 0  # groups to leave out: a large batch comes in several replies
    batch_id: Count = 0  # `batch_id` of the replies before, where there are any


class Acknowledged(Record):
    """`is_complete` means that all ranks have acknowledged: the version is `step`."""

    step: int
    is_complete: bool


_REASONS = Limits(16 * 2**20, 16, 2**16, 2**17)  # a reason for each group of a step


class AckBatch(HeldRequest[Acknowledged], senders=LEARNER, limits=_REASONS):
    """A rank has trained step `step` on its groups; when all have, the learner's version is `step`.

    `refused` groups were not trained on: the learner's own guard or renderer rejected them.
    """

    step: int = Field(ge=1, lt=2**31)
    batch_id: Count  # `batch_id` of the batch that it was trained on
    rank: Count = 0
    refused: dict[Identifier, Reason] = Field(default_factory=dict)  # by group id
    wait_s: WaitS = 0.0  # seconds to wait for the other ranks


class CommitStep(MemberRequest[Done], senders=LEARNER):
    """A checkpoint of `step` is about to be made valid; the reply says that its steps are durable.

    `oldest` is the oldest checkpoint that will be kept: no rewind goes behind it.
    """

    step: Count
    oldest: Count


_TENSORS = Limits(2**62, 2**16, 2**17, 2**21)  # names and shapes of all tensors


class AnnounceWeights(MemberRequest[Done], senders=LEARNER, limits=_TENSORS):
    """The learner is about to push these weights."""

    update: WeightUpdate


class Members(Record):
    """Live rollout servers, by member id."""

    acknowledged: dict[str, int]  # newest version (-1: none)
    ranks: dict[str, int]  # in a push group; 0: not known yet to a broker that has restarted


class WatchMembers(HeldRequest[Members], senders=LEARNER, needs_store=False):
    """The learner asks for the rollout servers, once there are at least `at_least`."""

    at_least: Count


class Finish(MemberRequest[Done], senders=LEARNER):
    """The learner has trained its last step: rollout servers may end."""

    reason: Reason
