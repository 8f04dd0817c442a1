import numpy as np
import pytest
from pydantic import ValidationError

from common.types import Box, FinishReason, Group, ImageRef, Sample, Trajectory, VersionSpan
from tests.seen import SEEN

pytestmark = pytest.mark.smoke

IMAGE = ImageRef(sha256="0" * 64, path="a.png", width=4, height=3)
SAMPLE = Sample(sample_id="s", problem="<image>?", image=IMAGE, box=None, crop=IMAGE)


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
    return Trajectory.model_validate(fields | changes)


def test_trajectory_tells_its_tokens_and_versions() -> None:
    mixed = trajectory(version_spans=spans((1, 5), (2, 6)))
    assert (mixed.num_tokens, mixed.oldest_version, mixed.newest_version) == (3, 5, 6)


def test_an_old_cache_makes_a_trajectory_old() -> None:
    cached = trajectory(cache_version=4)
    assert (cached.oldest_version, cached.newest_version) == (4, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response_token_ids": np.zeros(0, np.int32)}, "empty response"),
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
        ({"finish_reason": "tired"}, "finish_reason"),
        ({"index": -1}, "index"),
        ({"cache_version": -1}, "cache_version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_inconsistent_trajectory_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        trajectory(**changes)


def test_group_counts_over_its_trajectories() -> None:
    group = Group(
        group_id="0/0",
        attempt=0,
        sample=SAMPLE,
        view=SEEN,
        prompt_token_ids=np.arange(2, dtype=np.int32),
        num_prompt_tokens=9,
        trajectories=(trajectory(), trajectory(index=1, version_spans=spans((1, 4), (2, 8)))),
    )
    assert group.oldest_version == 4 and group.num_response_tokens == 6


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (3, 0, 2, 5), (0, 5, 5, 5), (-1, 0, 5, 5)])
def test_an_empty_or_negative_box_is_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValidationError):
        Box(**dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)))


def test_records_are_frozen_and_convert_nothing() -> None:
    with pytest.raises(ValidationError):
        SAMPLE.problem = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        VersionSpan.model_validate({"version": "3", "start": 0, "end": 1})
