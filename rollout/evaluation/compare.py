"""Two results of the same questions, item by item: what was gained and lost, and is it chance?

An item counts where both runs got a reply to it; an undecided reply is not right. Sets that only
one of them has are left out, and so are items, but both are told.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from common.errors import ConfigError
from common.statistics import gap_interval, mcnemar_exact
from rollout.evaluation.identity import changes, flat
from rollout.evaluation.stored_result import StoredItem, StoredResult, StoredSet

_LEAST_A_PART = 4  # items for each value of a field on average: pairs and names are no categories


class IdentityDifference(NamedTuple):
    """A key of the identity in which two results differ."""

    key: str  # "max_tokens", "sets.vstar.revision"
    a: Any  # None means that it is not there
    b: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.a!r} in A and {self.b!r} in B"


class Interval(NamedTuple):
    """B minus A, as a share of the items, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """Items that both runs answered, by who was right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def of(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def right_a(self) -> int:
        return self.both + self.only_a

    @property
    def right_b(self) -> int:
        return self.both + self.only_b

    @property
    def difference(self) -> Interval:
        return Interval(*gap_interval(self.both, self.only_b, self.only_a, self.neither))

    @property
    def p(self) -> float:
        """Two-sided p of McNemar's exact test."""
        return mcnemar_exact(self.only_a, self.only_b)


class Pair(NamedTuple):
    """One item in both results."""

    a: StoredItem
    b: StoredItem

    @property
    def is_right(self) -> tuple[bool, bool]:
        return self.a.outcome == "right", self.b.outcome == "right"

    @property
    def change(self) -> Literal["gained", "lost", "kept"]:
        was, now = self.is_right
        return "kept" if was == now else "gained" if now else "lost"


@dataclass(frozen=True)
class SetComparison:
    """One set in both results."""

    name: str
    a: StoredSet
    b: StoredSet
    whole: Counts
    parts: Mapping[str, Counts]  # keys as "category = single"
    moves: Mapping[tuple[str, str], int]  # items by outcome in A and in B, failed ones too
    changed: tuple[Pair, ...]  # gained and lost, in the order of the set
    only_in_a: int  # items that the other result lacks
    only_in_b: int


@dataclass(frozen=True)
class ResultComparison:
    """Two results side by side."""

    a: StoredResult
    b: StoredResult
    sets: Mapping[str, SetComparison]
    despite: tuple[IdentityDifference, ...]  # differences that were allowed
    left_out: tuple[str, ...]  # sets that only one result has


def compare(a: StoredResult, b: StoredResult, despite: Collection[str] = ()) -> ResultComparison:
    """Compare what two runs made of the same questions.

    Args:
        despite: keys in which they may differ: "max_tokens"; "judge" stands for all keys in it,
            "limit" for that of all sets.

    Raises:
        ConfigError: they differ in another key, have no set in common, or there is no such key.
    """
    shared = [name for name in a.sets if name in b.sets]
    if not shared:
        raise ConfigError(
            f"A has the sets {', '.join(a.sets) or '(none)'}, B {', '.join(b.sets) or '(none)'}: "
            "none in common. Fix: measure both on the same set"
        )
    differences = tuple(identity_differences(a.identity, b.identity, shared))
    _check_keys(despite, (a.identity, b.identity))
    refused = [d for d in differences if not any(_covers(key, d.key) for key in despite)]
    if refused:
        keys = ",".join(difference.key for difference in refused)
        raise ConfigError(
            f"these results differ in more than the model: {'; '.join(map(str, refused))}. Fix: "
            f"measure both alike, or compare all the same by --despite {keys}"
        )
    left_out = tuple(sorted(set(a.sets) ^ set(b.sets)))
    sets = {name: compare_sets(name, a.sets[name], b.sets[name]) for name in shared}
    return ResultComparison(a, b, sets, differences, left_out)


def identity_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], sets: Sequence[str]
) -> Iterator[IdentityDifference]:
    """Yield keys with other values, in their order.

    Args:
        sets: the sets whose keys count.
    """
    for found in changes(_of_sets(a, sets), _of_sets(b, sets)):
        yield IdentityDifference(*found)


def compare_sets(name: str, a: StoredSet, b: StoredSet) -> SetComparison:
    """Pair the items of a set by their ids."""
    others = {item.id: item for item in b.items}
    pairs = [Pair(item, others[item.id]) for item in a.items if item.id in others]
    answered = [pair for pair in pairs if "failed" not in (pair.a.outcome, pair.b.outcome)]
    return SetComparison(
        name,
        a,
        b,
        whole=counts_of(pair.is_right for pair in answered),
        parts=dict(_parts(answered)),
        moves=Counter((pair.a.outcome, pair.b.outcome) for pair in pairs),
        changed=tuple(pair for pair in answered if pair.change != "kept"),
        only_in_a=len(a.items) - len(pairs),
        only_in_b=len(b.items) - len(pairs),
    )


def counts_of(pairs: Iterable[tuple[bool, bool]]) -> Counts:
    """Count items by whether A, and whether B, was right."""
    found = Counter(pairs)
    return Counts(found[True, True], found[True, False], found[False, True], found[False, False])


def _parts(pairs: Sequence[Pair]) -> Iterator[tuple[str, Counts]]:
    """The items with each value of each field that divides them into categories."""
    for field in dict.fromkeys(name for pair in pairs for name in pair.a.fields):
        groups: dict[str, list[Pair]] = {}
        for pair in pairs:
            if (value := pair.a.fields.get(field)) is not None:
                groups.setdefault(value, []).append(pair)
        if 1 < len(groups) <= len(pairs) / _LEAST_A_PART:
            for value in sorted(groups):
                yield f"{field} = {value}", counts_of(pair.is_right for pair in groups[value])


def _check_keys(despite: Collection[str], identities: Iterable[Mapping[str, Any]]) -> None:
    known = dict.fromkeys(key for identity in identities for key, _ in flat(identity))
    for name in despite:
        if not any(_covers(name, key) for key in known):
            raise ConfigError(
                f"--despite {name}: no such key. Fix: choose from {', '.join(sorted(known))}"
            )


def _covers(name: str, key: str) -> bool:
    """A key itself, all that is below it, or a set's key without the set's name."""
    return name == key or key.startswith(f"{name}.") or key.rpartition(".")[2] == name


def _of_sets(identity: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    kept = {name: value for name, value in identity.get("sets", {}).items() if name in sets}
    return {**identity, "sets": kept}
