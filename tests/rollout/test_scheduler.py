"""The compute thread: determinism under load, fairness, failures that cost one batch."""

import threading

import numpy as np
import pytest
import torch

from rollout.embedded.sampler import Prompt, SamplingLaw, generate, new_sequences, prompt_logprobs
from rollout.embedded.scheduler import Job, Limits, Scheduler


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
    law = SamplingLaw(max_new_tokens=tokens, logit_bias=bans)
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


def test_limits_bound_a_batch(model):
    scheduler = Scheduler(model, limits=Limits(max_sequences=4), threads=1)
    jobs = [job(seed=number) for number in range(5)]
    scheduler._waiting.extend(jobs)
    assert [each.rid for each in scheduler._take_batch()] == ["job-0", "job-1"]
    assert [each.rid for each in scheduler._waiting] == ["job-2", "job-3", "job-4"]


def test_a_failing_batch_costs_its_jobs_and_not_the_engine(scheduler):
    broken = job(tokens=3)
    beyond = torch.full((4,), 10_000)  # outside the vocabulary
    broken.sequences = new_sequences(
        Prompt(beyond, torch.zeros(4, dtype=torch.int64)), SamplingLaw(3), 1, 0
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
