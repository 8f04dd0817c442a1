"""What must hold within a group."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.group import Responses, Trajectory, VersionSpan
from common.types import FinishReason


def spans(*lengths_and_versions: tuple[int, int]) -> tuple[VersionSpan, ...]:
    result, start = [], 0
    for length, version in lengths_and_versions:
        result.append(VersionSpan(version=version, start=start, end=start + length))
        start += length
    return tuple(result)


def trajectory(**changes: object) -> Trajectory:
    fields: dict[str, object] = {
        "index": 0,
        "response_token_ids": np.arange(3, dtype=np.int32),
        "rollout_logprobs": np.full(3, -0.5, dtype=np.float32),
        "version_spans": spans((3, 7)),
        "cache_version": 7,
        "finish_reason": FinishReason.STOP,
    }
    return Trajectory(**fields | changes)


def test_trajectory_tells_its_tokens_and_versions() -> None:
    mixed = trajectory(version_spans=spans((1, 5), (2, 6)))
    assert (mixed.num_tokens, mixed.oldest_version, mixed.newest_version) == (3, 5, 6)


def test_an_old_cache_makes_a_trajectory_old() -> None:
    cached = trajectory(cache_version=4)
    assert (cached.oldest_version, cached.newest_version) == (4, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response_token_ids": np.zeros(0, np.int32)}, "3 log-probs for 0 tokens"),
        ({"rollout_logprobs": np.zeros(2, np.float32)}, "2 log-probs for 3 tokens"),
        ({"rollout_logprobs": np.array([0, np.nan, 0], np.float32)}, "finite"),
        ({"rollout_logprobs": np.array([0, -np.inf, 0], np.float32)}, "finite"),
        ({"rollout_logprobs": np.array([0, 0.5, 0], np.float32)}, "<= 0"),
        ({"response_token_ids": np.zeros(3, np.int64)}, "int32 vector"),
        ({"response_token_ids": np.zeros((3, 1), np.int32)}, "int32 vector"),
        ({"response_token_ids": [1, 2, 3]}, "int32 vector"),
        ({"version_spans": ()}, "cover 0 of 3"),
        ({"version_spans": spans((2, 1))}, "cover 2 of 3"),
        ({"version_spans": (VersionSpan(version=0, start=1, end=3),)}, "gap"),
        ({"version_spans": (VersionSpan(version=0, start=0, end=0),)}, "gap"),
        ({"version_spans": spans((4, 1))}, "cover 4 of 3"),
        ({"version_spans": spans((3, -1))}, "version of a span"),
        ({"cache_version": 2**31}, "no int32"),
        ({"version_spans": spans((3, 2**31))}, "no int32"),
        ({"finish_reason": "tired"}, "tired"),
        ({"index": -1}, "index"),
        ({"cache_version": -1}, "cache_version"),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_an_inconsistent_trajectory_is_refused(
    changes: dict[str, object], message: str, others: int
) -> None:
    with pytest.raises(ValueError, match=message):
        Responses.of((*[trajectory()] * others, trajectory(**changes)))


def test_an_empty_response_is_refused() -> None:
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="empty response"):
        Responses.of((trajectory(), replace(trajectory(), 
            response_token_ids=nothing[0], rollout_logprobs=nothing[1], version_spans=()
        )))  # fmt: skip


@pytest.mark.parametrize(
    "columns",
    [
        {"span_ends": [1, 1, 3]},
        {"span_ends": [2, 1, 3]},
        {"span_ends": [0, 3, 3]},
        {"span_ends": [1, 3, 2]},
        {"span_ends": [-(2**31), 3, 3]},
        {"span_offsets": [0, 3, 3]},
        {"span_offsets": [0, -1, 3]},
        {"offsets": [0, 7, 6]},
        {"offsets": [0, 2**31 - 1, -5]},
    ],
)
def test_columns_that_no_trajectories_make_are_refused(columns: dict[str, Any]) -> None:
    good = Responses.of((trajectory(version_spans=spans((1, 5), (2, 6))), trajectory(index=1)))
    assert good.span_ends == [1, 3, 3] and good.offsets == [0, 3, 6]
    with pytest.raises(ValueError):
        replace(good, **columns).check()


def test_responses_count_over_their_trajectories() -> None:
    rows = (trajectory(), trajectory(index=1, version_spans=spans((1, 4), (2, 8))))
    responses = Responses.of(rows)
    assert responses.oldest_version == 4 and responses.newest_version == 8
    assert responses.num_tokens == 6 and responses.lengths == [3, 3]
    again = responses.rows()
    assert [t.version_spans for t in again] == [t.version_spans for t in rows]
    assert [t.index for t in again] == [0, 1] and len(responses) == 2
