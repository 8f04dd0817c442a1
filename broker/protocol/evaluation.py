"""Held-out questions: the learner orders measurements, rollout servers answer them greedily."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from broker.protocol.request import LEARNER, ROLLOUT, Done, HeldRequest, MemberRequest, Reason
from common.types import Count, Identifier, Int32Array, LongCount, Record, Sample
from common.wire import Limits


class EvaluationView(StrEnum):
    """The picture that a held-out question is asked about."""

    FULL = "full"  # as the student sees it
    CROP = "crop"  # the evidence


class Answer(Record):
    """A greedy answer to one item, or why there is none."""

    index: Count
    token_ids: Int32Array  # [T], with the end-of-turn token; [0] with an error
    is_cut: bool = False  # the length limit ended it
    error: Reason = ""  # why the sample cannot be asked; empty means that it was


_SAMPLE_NAMES = Limits(16 * 2**20, 2**16, 16, 2**17)  # room for all held-out samples


class OrderMeasurement(MemberRequest[Done], senders=LEARNER, limits=_SAMPLE_NAMES):
    """The learner wants held-out samples answered, greedily, by the weights of one version."""

    number: LongCount  # random; the same order again changes nothing
    history: Count
    version: Count
    sample_ids: tuple[Identifier, ...] = Field(min_length=1, max_length=2**16)
    num_urgent: Count = 0  # how many of the first samples training waits for
    max_tokens: int = Field(gt=0, lt=2**31)  # most tokens of an answer
    is_last: bool = False  # nothing is trained beside it


class MeasurementNews(Record):
    answers: tuple[Answer, ...]  # some of the answers that the reader has not seen
    is_pinned: bool  # a server has a copy of the weights, so that the next push does no harm


class ReadMeasurement(HeldRequest[MeasurementNews], senders=LEARNER):
    """Held until there are answers beyond the `seen`, or `is_pinned` is no longer right."""

    number: LongCount
    seen: Count
    is_pinned: bool


class DropMeasurement(MemberRequest[Done], senders=LEARNER):
    """The learner waits for no more answers of this measurement."""

    number: LongCount


class AskedItem(Record):
    """One view of one held-out sample."""

    index: Count  # in its measurement
    sample: Sample
    view: Annotated[EvaluationView, Field(strict=False)]


class AnswerLease(Record):
    """Items of one measurement to be answered with `version`; none when `wait_s` ran out."""

    number: int = 0
    version: int = 0
    max_tokens: int = 0
    is_urgent: bool = False  # the learner stands still until they are answered
    is_last: bool = False  # nothing is trained beside it
    items: tuple[AskedItem, ...] = ()
    finished: bool = False


class LeaseAnswers(HeldRequest[AnswerLease], senders=ROLLOUT):
    """A rollout server can answer held-out questions with these weights."""

    history: Count
    serving_version: Count  # version of the weights that its engine generates with now
    pinned: tuple[Count, ...] = Field((), max_length=8)  # versions that it has a copy of
    max_items: int = Field(gt=0, le=1024)


_ANSWERS = Limits(16 * 2**20, 1024, 16, 2**14)


class SubmitAnswers(MemberRequest[Done], senders=ROLLOUT, limits=_ANSWERS):
    """Answers to leased items, and items that this server will not answer."""

    number: LongCount
    answers: tuple[Answer, ...] = Field((), max_length=1024)
    given_back: tuple[Count, ...] = Field((), max_length=1024)  # indices of items
