"""Held-out samples between the learner, which orders measurements, and servers, which answer."""

import logging

from pydantic import BaseModel

from broker import protocol as p
from broker.ledger.evaluations import Evaluations, Lease, News
from broker.ledger.refusal import Refusal
from broker.service.counter import Counter, Handler, PollMaker
from broker.service.polls import Answer, Empty

logger = logging.getLogger(__name__)
_ANSWERS_A_REPLY = 256


class EvaluationDesk:
    def __init__(self, counter: Counter, evaluations: Evaluations) -> None:
        self._counter = counter
        self._evaluations = evaluations
        self.handlers: dict[type[BaseModel], Handler] = {
            p.OrderMeasurement: self._on_order,
            p.DropMeasurement: self._on_drop,
            p.SubmitAnswers: self._on_submit,
        }
        self.poll_makers: dict[type[BaseModel], PollMaker] = {
            p.LeaseAnswers: self._lease_poll,
            p.ReadMeasurement: self._read_poll,
        }

    def _on_order(self, request: p.OrderMeasurement, now: float) -> BaseModel:
        ledger = self._counter.ledger
        if request.history != ledger.history:
            raise Refusal("bad_request", f"history {request.history} is over: {ledger.history}")
        self._evaluations.order(
            request.number,
            request.history,
            request.version,
            request.sample_ids,
            request.num_urgent,
            request.max_tokens,
            request.is_last,
        )
        logger.info("version %d: %d held-out samples", request.version, len(request.sample_ids))
        return p.Done(finished=self._counter.is_finished)

    def _on_drop(self, request: p.DropMeasurement, now: float) -> BaseModel:
        self._evaluations.drop(request.number)
        return p.Done(finished=self._counter.is_finished)

    def _on_submit(self, request: p.SubmitAnswers, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        self._evaluations.submit(owner, request.number, request.answers, request.given_back)
        return p.Done(finished=self._counter.is_finished)

    def _lease_poll(self, request: p.LeaseAnswers, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)
        self._evaluations.note(owner, request.history, request.serving_version, request.pinned)

        def answer(now: float) -> p.AnswerLease | None:
            if self._counter.is_finished:
                return p.AnswerLease(finished=True)
            lease = self._evaluations.lease(owner, request_id, request.max_items, now)
            return None if lease is None else _reply(lease)

        return answer, lambda: p.AnswerLease(finished=self._counter.is_finished)

    def _read_poll(self, request: p.ReadMeasurement, request_id: bytes) -> tuple[Answer, Empty]:
        def news() -> News | None:
            return self._evaluations.news(
                request.number, request.seen, request.is_pinned, _ANSWERS_A_REPLY
            )

        def answer(now: float) -> p.MeasurementNews | None:
            found = news()
            return None if found is None else p.MeasurementNews(**found._asdict())

        return answer, lambda: p.MeasurementNews(answers=(), is_pinned=request.is_pinned)


def _reply(lease: Lease) -> p.AnswerLease:
    order = lease.order
    return p.AnswerLease(
        number=order.number,
        version=order.version,
        max_tokens=order.max_tokens,
        is_urgent=lease.is_urgent,
        is_last=order.is_last,
        items=lease.items,
    )
