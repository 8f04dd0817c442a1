"""Ranks that write one checkpoint: the first hears what went wrong elsewhere, all hear the end."""

import errno
from typing import Any

import pytest

from common.errors import CheckpointError
from learner.checkpoint.fellows import Fellows
from learner.ranks import ALONE, Ranks
from tests.learner.rank_processes import run_on_ranks


def raised(act: Any) -> list[Any]:
    with pytest.raises((OSError, CheckpointError)) as caught:
        act()
    return [type(caught.value).__name__, getattr(caught.value, "errno", None), str(caught.value)]


def second_fails_once(ranks: Ranks, error: Exception) -> list[Any]:
    """What each rank heard; the first tries again, as on a disk that has room again."""
    fellows, tries = Fellows(ranks), iter([error, None])

    def act() -> dict[str, Any]:
        failure = next(tries)
        if ranks.rank == 1 and failure is not None:
            raise failure
        return {"rank": ranks.rank}

    if ranks.writes:
        told = [raised(lambda: fellows.lead(act)), fellows.lead(act)]
        fellows.end()
    else:
        fellows.follow(act)
        told = []
    fellows.close()
    return told


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (OSError(errno.ENOSPC, "full"), ["OSError", errno.ENOSPC]),
        (ValueError("odd"), ["CheckpointError", None]),
    ],
)
def test_another_rank_s_error_is_the_first_one_s(error: Exception, heard: list[Any]) -> None:
    failure, answers = run_on_ranks(second_fails_once, 3, error)[0]
    assert failure[:2] == heard and "rank 1: " in failure[2]
    assert answers == [{"rank": 0}, {"rank": 1}, {"rank": 2}]


def all_end_badly(ranks: Ranks) -> list[Any]:
    fellows = Fellows(ranks)

    def fail() -> dict[str, Any]:
        raise OSError(errno.EIO, f"disk of {ranks.rank}")

    def write() -> dict[str, Any]:
        return fail() if ranks.rank < 2 else {}

    if ranks.writes:
        told = raised(lambda: fellows.lead(write))
        fellows.end(ValueError("it is over"))
    else:
        told = raised(lambda: fellows.follow(write))
    fellows.close()
    return told


def test_who_failed_raises_its_own_error_and_others_the_first_one_s() -> None:
    own, second, third = run_on_ranks(all_end_badly, 3)
    assert own[:2] == second[:2] == ["OSError", errno.EIO]
    assert "disk of 0" in own[2] and "disk of 1" in second[2]
    assert third == ["CheckpointError", None, "it is over"]


def test_alone_a_rank_leads_itself() -> None:
    fellows = Fellows(ALONE)
    assert fellows.lead(lambda: {"x": 1}) == [{"x": 1}]
    fellows.end()
    fellows.close()
