"""What servers submit: receipts of real groups, made once each."""

from dataclasses import replace

from broker.ledger.entry import Receipt
from common.group import Group, VersionSpan
from common.source import SampleSource
from common.types import GroupLease
from tests.broker.support import make_group
from tests.groups import with_trajectories


def num_tokens(order: int, attempt: int) -> int:
    """The length of one response. Another attempt has others, so ranks then get other shards."""
    return 2 + (order + attempt) % 2


class Receipts:
    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self._known: dict[tuple[int, ...], Receipt] = {}

    def receipt(self, order: int, attempt: int, born: int, newest: int, cache: int) -> Receipt:
        """A group's receipt whose weights changed meanwhile from `born` to `newest`."""
        key = (order, attempt, born, newest, cache)
        if key not in self._known:
            lease = GroupLease(
                group_id=self._source.at(order).group_id,
                attempt=attempt,
                sample=self._source.at(order).sample,
                num_trajectories=2,
                sampling_seed=0,
                lease_s=1.0,
            )
            self._known[key] = Receipt.of(_group(lease, *key))
        return self._known[key]


def _group(
    lease: GroupLease, order: int, attempt: int, born: int, newest: int, cache: int
) -> Group:
    length = num_tokens(order, attempt)
    spans = (
        VersionSpan(version=born, start=0, end=1),
        VersionSpan(version=newest, start=1, end=length),
    )
    group = make_group(lease, born, tokens=length)
    mixed = replace(group.trajectories[0], version_spans=spans, cache_version=cache)
    return with_trajectories(group, [replace(mixed, index=i) for i in range(2)])
