"""The compute thread: determinism under load, fairness, failures that cost one batch."""

import copy
import threading
import time
from collections import deque
from contextlib import closing

import numpy as np
import pytest
import torch

from rollout.embedded.job import BatchLimits, Job, take_batch
from rollout.embedded.pinned import SHARE, PinnedJobs
from rollout.embedded.sampler import Prompt, RequestLaw, generate, new_sequences, prompt_logprobs
from rollout.embedded.scheduler import Scheduler


@pytest.fixture
def scheduler(model):
    with_threads = threading.active_count()
    scheduler = Scheduler(model, version="0", threads=1)
    scheduler.start()
    yield scheduler
    scheduler.close()
    assert threading.active_count() == with_threads


def prompt(length: int, seed: int = 0) -> Prompt:
    ids = np.random.default_rng(seed).integers(7, 28, length)
    return Prompt(torch.tensor(ids), torch.zeros(length, dtype=torch.int64))


def job(length: int = 9, *, tokens: int = 12, n: int = 2, seed: int = 0) -> Job:
    bans = tuple((token, -1e9) for token in range(7))
    law = RequestLaw(max_new_tokens=tokens, logit_bias=bans)
    return Job(f"job-{seed}", new_sequences(prompt(length, seed), law, n, seed))


def results(job: Job) -> list[tuple[list[int], list[float]]]:
    return [(s.token_ids, s.logprobs) for s in job.sequences]


def test_one_job_a_batch_is_bit_equal_under_any_load(model):
    """The same job alone, by the pure sampler, and between others of the same shape."""
    alone = job(seed=1)
    law = alone.sequences[0].law
    expected = [(s.token_ids, s.logprobs) for s in generate(model, prompt(9, 1), law, 2, 1)]
    for load in (0, 5, 11):
        scheduler = Scheduler(model, one_job_a_batch=True, threads=1)
        scheduler.start()
        try:
            others = [job(9 + number % 2, seed=100 + number) for number in range(load)]
            watched = job(seed=1)
            for each in [*others[: load // 2], watched, *others[load // 2 :]]:
                scheduler.submit(each)
            for each in [*others, watched]:
                each.done.result(60)
        finally:
            scheduler.close()
        assert results(watched) == expected


def test_a_job_knows_when_it_was_computed(scheduler):
    asked = time.monotonic()
    each = job(tokens=5, n=3)
    scheduler.submit(each)
    each.done.result(60)
    assert each.began is not None and each.first_token is not None
    assert asked <= each.began < each.first_token <= min(each.ended.values())
    assert each.ended.keys() == {0, 1, 2} and max(each.ended.values()) <= time.monotonic()


def test_jobs_of_equal_length_share_a_batch_and_stay_exact(scheduler, model):
    jobs = [job(9 if number % 3 else 12, seed=number) for number in range(9)]
    for each in jobs:
        scheduler.submit(each)
    for number, each in enumerate(jobs):
        each.done.result(60)
        law = each.sequences[0].law
        single = generate(model, each.sequences[0].prompt, law, 2, number)
        for found, expected in zip(each.sequences, single, strict=True):
            assert found.token_ids == expected.token_ids
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)


def test_a_new_job_starts_while_a_long_one_runs(scheduler):
    long, short = job(tokens=900, seed=1), job(5, tokens=3, seed=2)
    scheduler.submit(long)
    scheduler.submit(short)
    short.done.result(60)
    assert not long.done.done()
    scheduler.abort(lambda each: each is long).result(60)
    assert {s.finish_reason["type"] for s in long.sequences} == {"abort"}


def test_a_scored_job_brings_the_prompts_logprobs(scheduler, model):
    scored = job(12, tokens=2)
    scored.score_from = 4
    other = job(12, tokens=2, seed=1)
    for each in (scored, other):
        scheduler.submit(each)
        each.done.result(60)
    assert scored.prompt_logprobs == prompt_logprobs(model, prompt(12), 4)
    assert other.prompt_logprobs == []


def test_limits_bound_a_batch():
    waiting = deque(job(seed=number) for number in range(5))
    taken = take_batch(waiting, BatchLimits(max_sequences=4))
    assert [each.rid for each in taken] == ["job-0", "job-1"]
    assert [each.rid for each in waiting] == ["job-2", "job-3", "job-4"]


def test_a_failing_batch_costs_its_jobs_and_not_the_engine(scheduler):
    broken = job(tokens=3)
    beyond = torch.full((4,), 10_000)  # outside the vocabulary
    broken.sequences = new_sequences(
        Prompt(beyond, torch.zeros(4, dtype=torch.int64)), RequestLaw(3), 1, 0
    )
    scheduler.submit(broken)
    with pytest.raises(IndexError):
        broken.done.result(60)
    good = job()
    scheduler.submit(good)
    good.done.result(60)
    assert scheduler.num_jobs == 0


def test_a_client_that_goes_away_harms_nobody(scheduler):
    """Its command is dropped before its turn and finished after it; the thread lives on."""
    started, gate = threading.Event(), threading.Event()
    under_way = scheduler.run(lambda: started.set() or gate.wait(60))
    waiting = scheduler.pause("retract")
    started.wait(60)
    assert not under_way.cancel() and waiting.cancel()
    gate.set()
    assert under_way.result(60) and not scheduler.is_paused
    good = job()
    scheduler.submit(good)
    assert not good.done.cancel()
    good.done.result(60)


def test_close_aborts_what_is_left(model):
    scheduler = Scheduler(model, threads=1)
    scheduler.start()
    running = job(tokens=900)
    scheduler.submit(running)
    scheduler.close()
    assert running.done.result(0) is None
    assert running.sequences[0].finish_reason["type"] == "abort"
    with pytest.raises(RuntimeError):
        scheduler.submit(job())


def test_what_fails_between_two_steps_fails_its_job_alone(scheduler):
    def fail() -> None:
        raise LookupError("no such text")

    bad, good = job(seed=1), job(seed=2)
    bad.after_step.append(fail)
    for each in (bad, good):
        scheduler.submit(each)
    with pytest.raises(LookupError, match="no such text"):
        bad.done.result(60)
    good.done.result(60)
    assert len(bad.sequences[0].token_ids) < len(good.sequences[0].token_ids) == 12


def test_a_sequence_that_is_finished_between_two_steps_computes_no_more(scheduler):
    each = job(tokens=12, n=2)
    first = each.sequences[0]

    def end_first() -> None:
        if len(first.token_ids) == 3:
            first.finish_reason = {"type": "stop", "matched": "x"}

    each.after_step.append(end_first)
    scheduler.submit(each)
    each.done.result(60)
    assert [len(sequence.token_ids) for sequence in each.sequences] == [3, 12]


# ---- pinned weights ------------------------------------------------------------------------------
@pytest.fixture
def changing(other_model):
    """A model whose weights a test may change."""
    return copy.deepcopy(other_model)


def pinned_job(length: int = 9, *, tokens: int = 6, seed: int = 0, version: str = "0") -> Job:
    law = RequestLaw(tokens, temperature=0, logit_bias=tuple((token, -1e9) for token in range(7)))
    sequences = new_sequences(prompt(length, seed), law, 1, seed)
    return Job(f"pinned-{seed}", sequences, pinned=version)


def test_pinned_weights_answer_as_they_were_whatever_is_served_now(model, changing):
    with closing(model_server(changing)) as scheduler:
        assert scheduler.pin("0").result(60) and not scheduler.pin("1").result(60)
        scheduler.run(lambda: changing.load_state_dict(model.state_dict())).result(60)
        scheduler.run(lambda: setattr(scheduler, "version", "1")).result(60)
        # More than fit a batch, of two lengths, beside jobs on the new weights.
        jobs = [pinned_job(9 + number % 2, seed=number) for number in range(5)]
        served = job(seed=50)
        for each in [*jobs, served]:
            scheduler.submit(each)
        for each in [*jobs, served]:
            each.done.result(60)
        original = scheduler._pinned._models["0"]
        for number, each in enumerate(jobs):
            (sequence,) = each.sequences
            (expected,) = generate(original, sequence.prompt, sequence.law, 1, number)
            assert sequence.token_ids == expected.token_ids
            assert set(sequence.versions) == {"0"}
        assert {v for s in served.sequences for v in s.versions} == {"1"}
        assert scheduler.num_jobs == 0 and scheduler.tokens_generated == 5 * 6 + 2 * 12
        different = [pinned_job(seed=number) for number in range(8)]
        new = [generate(model, e.sequences[0].prompt, e.sequences[0].law, 1, 0) for e in different]
        old = [
            generate(original, e.sequences[0].prompt, e.sequences[0].law, 1, 0) for e in different
        ]
        assert [s.token_ids for (s,) in new] != [s.token_ids for (s,) in old], "it would not show"


def model_server(model) -> Scheduler:
    scheduler = Scheduler(model, version="0", threads=1)
    scheduler.start()
    return scheduler


def test_jobs_of_weights_that_are_not_pinned_any_more_fail_alone(scheduler):
    assert scheduler.pin("0").result(60) and scheduler.pinned_versions == ("0",)
    scheduler.pause("retract").result(60)
    lost, good = pinned_job(), job()
    for each in (lost, good):
        scheduler.submit(each)
    scheduler.unpin("0").result(60)
    scheduler.resume().result(60)
    with pytest.raises(KeyError):
        lost.done.result(60)
    good.done.result(60)


def test_a_pause_keeps_what_pinned_weights_have_computed(scheduler):
    scheduler.pin("0").result(60)
    long = pinned_job(tokens=400)
    scheduler.submit(long)
    while not long.sequences[0].token_ids:
        scheduler.run(lambda: None).result(60)
    scheduler.pause("retract").result(60)
    assert scheduler.unfinished_jobs() == [], "an update does not wait for it"
    assert scheduler.run(lambda: scheduler.can_flush).result(60)
    scheduler.resume().result(60)
    long.done.result(60)
    assert long.sequences[0].num_retractions == 0


def test_aborted_pinned_jobs_keep_their_tokens_and_leave_nothing(scheduler):
    scheduler.pin("0").result(60)
    jobs = [pinned_job(9, tokens=900, seed=1), pinned_job(12, tokens=900, seed=2)]
    for each in jobs:
        scheduler.submit(each)
    scheduler.abort(lambda each: True).result(60)
    for each in jobs:
        each.done.result(60)
        assert each.sequences[0].finish_reason["type"] == "abort"
    assert not scheduler._pinned.has_work


def test_pinned_jobs_get_their_share_beside_other_work_and_all_of_it_alone():
    pinned = PinnedJobs()
    assert not pinned.is_due(is_alone=True)
    pinned.submit(pinned_job())
    turns = []
    for _ in range(400):
        turns.append(pinned.is_due(is_alone=False))
        pinned.note(**{"own_s" if turns[-1] else "others_s": 1.0})
    assert sum(turns) == pytest.approx(400 * SHARE, abs=2)
    assert all(pinned.is_due(is_alone=True) for _ in range(3))
