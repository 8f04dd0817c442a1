"""The trajectories of one sample, as columns.

A group holds what its n trajectories share, and `Responses`: one array for the tokens of them all,
one for the log-probs, and offsets that say which are whose. As bytes: `common.group_batch`.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from common.types import FinishReason, PolicyVersion, ShownView

_LOWEST = np.finfo(np.float32).min
_HIGHEST = 1e-3  # of a log-prob: rounding may leave it above 0


class VersionSpan(NamedTuple):
    """Response tokens [start, end) came from the weights of `version`."""

    version: int
    start: int
    end: int


class Trajectory(NamedTuple):
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
    """n responses to one prompt, column by column; S version spans, T response tokens in all."""

    indices: np.ndarray  # int32 [n], of the trajectories within their group
    offsets: np.ndarray  # int32 [n + 1], of token ids and log-probs
    token_ids: np.ndarray  # int32 [T]
    logprobs: np.ndarray  # float32 [T], nats, at the sampling temperature
    span_offsets: np.ndarray  # int32 [n + 1], of versions and ends
    span_versions: np.ndarray  # int32 [S], of the weights behind a span of tokens
    span_ends: np.ndarray  # int32 [S], first token of the response behind the span
    cache_versions: np.ndarray  # int32 [n], oldest weights behind any cache entry
    finish_reasons: tuple[FinishReason, ...]

    @classmethod
    def of(cls, trajectories: tuple[Trajectory, ...]) -> Self:
        """The columns of at least one trajectory. Raises ValueError as `check`."""
        ids = [trajectory.response_token_ids for trajectory in trajectories]
        logprobs = [trajectory.rollout_logprobs for trajectory in trajectories]
        for row, (tokens, values) in enumerate(zip(ids, logprobs, strict=True)):
            _check_vector(f"response_token_ids of trajectory {row}", tokens, np.int32)
            _check_vector(f"rollout_logprobs of trajectory {row}", values, np.float32)
            _check_length(row, len(values), len(tokens))
            _check_starts(row, trajectories[row].version_spans)
        spans = [trajectory.version_spans for trajectory in trajectories]
        responses = cls(
            indices=np.array([t.index for t in trajectories], np.int32),
            offsets=_offsets(ids),
            token_ids=np.concatenate(ids),
            logprobs=np.concatenate(logprobs),
            span_offsets=_offsets(spans),
            span_versions=np.array([s.version for row in spans for s in row], np.int32),
            span_ends=np.array([s.end for row in spans for s in row], np.int32),
            cache_versions=np.array([t.cache_version for t in trajectories], np.int32),
            finish_reasons=tuple(FinishReason(t.finish_reason) for t in trajectories),
        )
        responses.check()
        return responses

    def check(self) -> None:
        """Check all that must hold within a group, whole columns at a time.

        Offsets must begin at 0 and lengths of columns agree with them already.

        Raises:
            ValueError: an empty response, a log-prob that is none, spans that do not cover, ...
        """
        if not (self.offsets[1:] > self.offsets[:-1]).all():  # a difference might overflow
            raise ValueError("empty response")
        lowest, highest = self.logprobs.min(), self.logprobs.max()
        if not (lowest >= _LOWEST and highest <= _HIGHEST):  # also false for NaN
            raise ValueError("rollout log-probs must be finite and <= 0")
        self._check_spans()
        if min(self.indices.min(), self.cache_versions.min(), self.span_versions.min()) < 0:
            raise ValueError("index, cache_version and versions of spans must be >= 0")

    def _check_spans(self) -> None:
        first, last = self.span_offsets[:-1], self.span_offsets[1:]
        if (first >= last).any():
            row = int(np.argmax(first >= last))
            raise ValueError(f"version spans cover 0 of {self.lengths[row]} tokens")
        is_further = np.ones(len(self.span_ends), bool)
        is_further[1:] = self.span_ends[1:] > self.span_ends[:-1]
        is_further[first] = self.span_ends[first] > 0
        if not is_further.all():
            raise ValueError("version spans must cover the response without gap or overlap")
        covered = self.span_ends[last - 1]
        if not np.array_equal(covered, self.lengths):
            row = int(np.argmax(covered != self.lengths))
            raise ValueError(f"version spans cover {covered[row]} of {self.lengths[row]} tokens")

    def __len__(self) -> int:
        return len(self.finish_reasons)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [n], response tokens of each."""
        lengths: np.ndarray = self.offsets[1:] - self.offsets[:-1]
        return lengths

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def oldest_version(self) -> PolicyVersion:
        return PolicyVersion(int(min(self.span_versions.min(), self.cache_versions.min())))

    @property
    def newest_version(self) -> PolicyVersion:
        return PolicyVersion(int(self.span_versions.max()))

    def rows(self) -> tuple[Trajectory, ...]:
        """The trajectories one by one, which share the columns' memory."""
        spans = pairwise(self.span_offsets.tolist())
        tokens = pairwise(self.offsets.tolist())
        rows = zip(
            self.indices.tolist(),
            tokens,
            spans,
            self.cache_versions.tolist(),
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
        ends = self.span_ends[first:last].tolist()
        versions = self.span_versions[first:last].tolist()
        return tuple(map(VersionSpan, versions, [0, *ends[:-1]], ends))


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


def _offsets(rows: list[np.ndarray] | list[tuple[VersionSpan, ...]]) -> np.ndarray:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return offsets


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
