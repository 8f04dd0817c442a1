import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker.ledger.shards import split_by_load

LOADS = st.lists(st.integers(1, 10_000), max_size=40)


@given(LOADS, st.integers(1, 8))
def test_every_index_is_in_one_part(loads: list[int], parts: int) -> None:
    split = split_by_load(loads, parts)
    assert len(split) == parts
    assert sorted(itertools.chain(*split)) == list(range(len(loads)))
    assert all(part == tuple(sorted(part)) for part in split)
    assert split == split_by_load(loads, parts)
    assert sum(not part for part in split) == max(0, parts - len(loads))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(2, 3))
def test_the_heaviest_part_is_within_grahams_bound_of_the_best(
    loads: list[int], parts: int
) -> None:
    def heaviest(owner: tuple[int, ...]) -> int:
        return max(
            sum(n for n, o in zip(loads, owner, strict=True) if o == p) for p in range(parts)
        )

    best = min(heaviest(owner) for owner in itertools.product(range(parts), repeat=len(loads)))
    ours = max(sum(loads[i] for i in part) for part in split_by_load(loads, parts))
    assert best <= ours <= best * (4 / 3 - 1 / (3 * parts)) + 1e-9


def test_differencing_finds_what_longest_first_does_not() -> None:
    """8, 7, 6, 5, 4 in two: longest first gives 17 and 13, differencing 16 and 14."""
    loads = [8, 7, 6, 5, 4]
    assert max(sum(loads[i] for i in part) for part in split_by_load(loads, 2)) == 16


def test_real_groups_are_within_a_percent_of_an_even_split() -> None:
    """96 groups of 3,200 to 5,000 tokens over 8 ranks."""
    loads = [3200 + (index * 7919) % 1800 for index in range(96)]
    split = split_by_load(loads, 8)
    even = sum(loads) / 8
    assert max(sum(loads[i] for i in part) for part in split) < 1.01 * even
