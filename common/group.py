"""The trajectories of one sample, as columns.

A group holds what its n trajectories share, and `Responses`: one array for the tokens of them all,
one for the log-probs, and offsets that say which are whose. As bytes: `common.group_batch`.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple, Self

import numpy as np

from common.types import FinishReason, PolicyVersion, ShownView

_LOWEST = float(np.finfo(np.float32).min)
_LARGEST = 2**31 - 1  # of a version: the columns are int32
_HIGHEST = 1e-3  # of a log-prob: rounding may leave it above 0


class VersionSpan(NamedTuple):
    """Response tokens [start, end) came from the weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, eq=False, slots=True)
class Trajectory:
    """One response, sampled by a rollout engine from the student's view of a sample."""

    index: int  # within its group
    response_token_ids: np.ndarray  # int32 [T], with the end-of-turn token when it was sampled
    rollout_logprobs: np.ndarray  # float32 [T], nats, at the sampling temperature
    version_spans: tuple[VersionSpan, ...]  # as the engine reported them, covering [0, T)
    cache_version: int  # oldest weights behind any KV, prefix or image-cache entry
    finish_reason: FinishReason

    @property
    def num_tokens(self) -> int:
        return len(self.response_token_ids)

    @property
    def oldest_version(self) -> PolicyVersion:
        """Oldest weights behind any token, or any cache entry that a token was computed from."""
        return PolicyVersion(min(self.cache_version, *(s.version for s in self.version_spans)))

    @property
    def newest_version(self) -> PolicyVersion:
        return PolicyVersion(max(span.version for span in self.version_spans))


@dataclass(frozen=True, eq=False)
class Responses:
    """n responses to one prompt, column by column: arrays of T tokens in all, lists of the rest."""

    indices: list[int]  # [n], of the trajectories within their group
    offsets: list[int]  # [n + 1], of token ids and log-probs
    token_ids: np.ndarray  # int32 [T]
    logprobs: np.ndarray  # float32 [T], nats, at the sampling temperature
    span_offsets: list[int]  # [n + 1], of versions and ends
    span_versions: list[int]  # [S], of the weights behind a span of tokens
    span_ends: list[int]  # [S], first token of the response behind the span
    cache_versions: list[int]  # [n], oldest weights behind any cache entry
    finish_reasons: list[FinishReason]  # [n]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Self:
        """The columns of at least one trajectory. Raises ValueError as `check`."""
        ids = [trajectory.response_token_ids for trajectory in trajectories]
        logprobs = [trajectory.rollout_logprobs for trajectory in trajectories]
        for row, (tokens, values) in enumerate(zip(ids, logprobs, strict=True)):
            _check_vector(f"response_token_ids of trajectory {row}", tokens, np.int32)
            _check_vector(f"rollout_logprobs of trajectory {row}", values, np.float32)
            _check_length(row, len(values), len(tokens))
            if not len(tokens):
                raise ValueError(f"empty response: trajectory {row}")
            _check_starts(row, trajectories[row].version_spans)
        spans = [trajectory.version_spans for trajectory in trajectories]
        responses = cls(
            indices=[t.index for t in trajectories],
            offsets=[0, *accumulate(map(len, ids))],
            token_ids=np.concatenate(ids),
            logprobs=np.concatenate(logprobs),
            span_offsets=[0, *accumulate(map(len, spans))],
            span_versions=[span.version for row_spans in spans for span in row_spans],
            span_ends=[span.end for row_spans in spans for span in row_spans],
            cache_versions=[t.cache_version for t in trajectories],
            finish_reasons=[FinishReason(t.finish_reason) for t in trajectories],
        )
        responses.check()
        return responses

    def check(self) -> None:
        """Check all that must hold within a group.

        Raises:
            ValueError: columns of different lengths, an empty response, a log-prob that is none,
                spans that do not cover the response, a negative version.
        """
        n = len(self.finish_reasons)
        per_row = (self.offsets, self.span_offsets, (*self.indices, 0), (*self.cache_versions, 0))
        if not n or set(map(len, per_row)) != {n + 1}:
            raise ValueError("columns of different lengths")
        _check_offsets(self.offsets, self.token_ids, self.logprobs)
        _check_offsets(self.span_offsets, self.span_versions, self.span_ends)
        if min(self.lengths) <= 0:
            raise ValueError("empty response")
        lowest = float(np.minimum.reduce(self.logprobs))
        highest = float(np.maximum.reduce(self.logprobs))
        if not (lowest >= _LOWEST and highest <= _HIGHEST):  # also false for NaN
            raise ValueError("rollout log-probs must be finite and <= 0")
        are_single = self.span_offsets == list(range(n + 1))  # a span each, as nearly always
        if not are_single or self.span_ends != self.lengths:
            self._check_spans()
        for column in (self.indices, self.cache_versions, self.span_versions):
            if min(column) < 0 or max(column) > _LARGEST:
                raise ValueError("index, cache_version or version of a span is no int32 >= 0")

    def _check_spans(self) -> None:
        for length, (first, last) in zip(self.lengths, pairwise(self.span_offsets), strict=True):
            _check_cover(self.span_ends[first:last], length)

    def __len__(self) -> int:
        return len(self.finish_reasons)

    @cached_property
    def lengths(self) -> list[int]:
        """[n], response tokens of each."""
        return [end - start for start, end in pairwise(self.offsets)]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def oldest_version(self) -> PolicyVersion:
        return PolicyVersion(min(min(self.span_versions), min(self.cache_versions)))

    @property
    def newest_version(self) -> PolicyVersion:
        return PolicyVersion(max(self.span_versions))

    def rows(self) -> tuple[Trajectory, ...]:
        """The trajectories one by one, which share the arrays' memory."""
        rows = zip(
            self.indices,
            pairwise(self.offsets),
            pairwise(self.span_offsets),
            self.cache_versions,
            self.finish_reasons,
            strict=True,
        )
        return tuple(
            Trajectory(
                index,
                self.token_ids[start:end],
                self.logprobs[start:end],
                self._spans(*span),
                cache_version,
                reason,
            )
            for index, (start, end), span, cache_version, reason in rows
        )

    def _spans(self, first: int, last: int) -> tuple[VersionSpan, ...]:
        ends = self.span_ends[first:last]
        return tuple(map(VersionSpan, self.span_versions[first:last], [0, *ends], ends))


@dataclass(frozen=True, eq=False)
class Group:
    """All trajectories of one sample; a group is complete or it does not exist."""

    group_id: str
    attempt: int
    sample_id: str
    view: ShownView
    prompt_token_ids: np.ndarray  # int32 [P], ONE placeholder an image
    num_prompt_tokens: int  # as the engine counted them, placeholders expanded
    responses: Responses

    @cached_property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """One by one: for people, tests, and what is not done for every group of a run."""
        return self.responses.rows()


def _check_vector(name: str, value: np.ndarray, dtype: type) -> None:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype != dtype:
        raise ValueError(f"{name}: expected a {np.dtype(dtype).name} vector")


def _check_length(row: int, num_logprobs: int, num_tokens: int) -> None:
    if num_logprobs != num_tokens:
        raise ValueError(f"{num_logprobs} log-probs for {num_tokens} tokens of trajectory {row}")


def _check_starts(row: int, spans: tuple[VersionSpan, ...]) -> None:
    covered = 0
    for span in spans:
        if span.start != covered or span.end <= span.start:
            raise ValueError(
                f"version spans must cover the response without gap or overlap: trajectory {row}"
            )
        covered = span.end


def _check_offsets(offsets: list[int], *columns: Sized) -> None:
    fits = all(len(column) == offsets[-1] for column in columns)
    if offsets[0] != 0 or offsets != sorted(offsets) or not fits:
        raise ValueError("a column's offsets do not fit its values")


def _check_cover(ends: list[int], length: int) -> None:
    covered = 0
    for end in ends:
        if end <= covered:
            raise ValueError("version spans must cover the response without gap or overlap")
        covered = end
    if covered != length:
        raise ValueError(f"version spans cover {covered} of {length} tokens")
