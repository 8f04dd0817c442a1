"""Held-out samples between the learner, which orders measurements, and servers, which answer."""

import logging

from broker import protocol as p
from broker.ledger.evaluations import Evaluations, Lease, News
from broker.ledger.refusal import Refusal
from broker.service.handlers import Call, Held, handles
from broker.service.recorder import LedgerRecorder

logger = logging.getLogger(__name__)
_ANSWERS_A_REPLY = 256


class EvaluationRequests:
    """Handlers of the requests that orders of measurements and their answers are made of."""

    def __init__(self, recorder: LedgerRecorder, evaluations: Evaluations) -> None:
        self._recorder = recorder
        self._evaluations = evaluations

    @handles(p.OrderMeasurement)
    def order(self, request: p.OrderMeasurement, call: Call) -> p.Done:
        ledger = self._recorder.ledger
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
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.DropMeasurement)
    def drop(self, request: p.DropMeasurement, call: Call) -> p.Done:
        self._evaluations.drop(request.number)
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.SubmitAnswers)
    def submit(self, request: p.SubmitAnswers, call: Call) -> p.Done:
        self._evaluations.submit(request.owner, request.number, request.answers, request.given_back)
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.LeaseAnswers)
    def lease(self, request: p.LeaseAnswers, call: Call) -> Held[p.AnswerLease]:
        owner = request.owner
        self._evaluations.note(owner, request.history, request.serving_version, request.pinned)

        def answer(now: float) -> p.AnswerLease | None:
            if self._recorder.is_finished:
                return p.AnswerLease(finished=True)
            lease = self._evaluations.lease(owner, call.request_id, request.max_items, now)
            return None if lease is None else _reply(lease)

        return Held(answer, lambda: p.AnswerLease(finished=self._recorder.is_finished))

    @handles(p.ReadMeasurement)
    def read(self, request: p.ReadMeasurement, call: Call) -> Held[p.MeasurementNews]:
        def news() -> News | None:
            return self._evaluations.news(
                request.number, request.seen, request.is_pinned, _ANSWERS_A_REPLY
            )

        def answer(now: float) -> p.MeasurementNews | None:
            found = news()
            return None if found is None else p.MeasurementNews(**found._asdict())

        return Held(answer, lambda: p.MeasurementNews(answers=(), is_pinned=request.is_pinned))


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
