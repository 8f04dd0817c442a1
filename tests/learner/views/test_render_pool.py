"""Workers that die, hang or never come up are played by a script; real ones render."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import DataError
from common.rendering import RenderedPrompt
from common.training_data import foreseen_source
from common.views.settings import ViewSettings
from learner.model.student import load_student, prompt_positions
from learner.views.inputs import PromptView
from learner.views.pool import RenderPool, WorkerLost
from learner.views.preparation import Preparation
from learner.views.prompts import PromptViews
from learner.views.renderer import ViewRequest
from learner.views.upcoming import UpcomingSamples
from learner.views.worker import WorkerSetup, receive, send
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = LIMIT_S
# Renders zeros; a problem that holds "die", "hang" or "wait" makes it do so.
ACTOR = """
import json, os, socket, sys, time
import numpy as np
from learner.views.worker import receive, send
{first}
link = socket.socket(fileno=int(sys.argv[1])).makefile("rwb")
try:
    receive(link)
    send(link, "ready")
    while True:
        problem = json.loads(receive(link)[0])["sample"]["problem"]
        if "die" in problem:
            os._exit(3)
        if "hang" in problem:
            time.sleep(600)
        if "wait" in problem:
            time.sleep(0.5)  # still under way when it is asked for again
        ids = np.zeros(3, np.int64)
        picture, grid = np.zeros((8, 8, 3), np.uint8), np.ones((1, 3), np.int64)
        send(link, "0" * 64, [ids, ids, picture, grid])
except (EOFError, ConnectionError):
    os._exit(0)
"""


def actor(first: str = "") -> list[str]:
    return [sys.executable, "-c", ACTOR.replace("{first}", first)]


def setup_of(world, **changes) -> WorkerSetup:
    fields = {
        "model_path": world.config.model.path,
        "prompt": world.config.prompt,
        "images": str(world.config.data.train.parent),
        "views": ViewSettings.of(world.config),
        "contrast_pixels": 8,
    }
    return WorkerSetup.model_validate(fields | changes)


def request(world, number: int = 0, problem: str | None = None) -> ViewRequest:
    sample = world.samples[number]
    if problem is not None:
        sample = sample.model_copy(update={"problem": problem})
    return ViewRequest(kind="student", sample=sample, seed=0)


def positions_of(world):
    model = load_student(world.config.model, torch.device("cpu"))
    return functools.partial(prompt_positions, model)


def children() -> set[int]:
    """Processes whose parent is this one, the dead but unburied too."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in listed for pid in path.read_text().split()}


class NeverNeeded:
    """In place of this thread's own renderer."""

    def render(self, requests):
        assert requests == []
        return []


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    before, threads = children(), threading.active_count()
    yield
    assert children() == before
    assert threading.active_count() <= threads


# ---- real workers --------------------------------------------------------------------------------
def test_views_of_the_pool_equal_those_of_the_thread(world, nothing_is_left):
    positions = positions_of(world)
    settings = ViewSettings.of(
        world.changed(teacher={"view": "random_crop"}, student={"view": "degraded"})
    )
    missing = world.samples[3].model_copy(
        update={"sample_id": "gone", "image": world.samples[3].image.model_copy(
            update={"path": "images/gone.png", "sha256": "0" * 64})}
    )  # fmt: skip
    samples, seeds = [*world.samples[:4], missing], [5, 6, 7, 8, 9]

    def views(pool: RenderPool | None) -> PromptViews:
        return PromptViews(
            world.renderer, world.images, settings, positions, contrast_pixels=8, pool=pool
        )

    def all_of(views: PromptViews) -> list[PromptView | DataError]:
        return [
            *views.students(samples, seeds), *views.teachers(samples, seeds),
            *views.contrasts(samples, seeds),
        ]  # fmt: skip

    with RenderPool(2, setup_of(world, views=settings)) as pool:
        ahead = views(pool)
        ahead.look_ahead(samples, seeds)
        wait_until(lambda: not ahead._in_flight)
        assert pool.is_alive and not ahead._pending
        ahead._renderer = None  # from here on, this thread could not render
        unprepared = views(pool)
        for pooled in (ahead, unprepared):
            pooled._renderer = NeverNeeded()
        for found in (all_of(ahead), all_of(unprepared)):
            for ours, theirs in zip(all_of(views(None)), found, strict=True):
                assert type(ours) is type(theirs)
                if isinstance(ours, DataError):
                    assert str(ours) == str(theirs) and "gone.png" in str(ours)
                    continue
                for name in ("input_ids", "position_ids", "pixels", "image_grid_thw"):
                    assert torch.equal(getattr(ours, name), getattr(theirs, name))


PARENT = """
import json, signal, sys, time
from common.types import Sample
from learner.views.pool import RenderPool
from learner.views.worker import WorkerSetup
from learner.views.renderer import ViewRequest

signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: None)
sample = Sample.model_validate_json(sys.argv[2])
request = ViewRequest(kind="student", sample=sample, seed=0)
with RenderPool(1, WorkerSetup.model_validate_json(sys.argv[1])) as pool:
    while not all(worker._process for worker in pool._workers):
        time.sleep(0.01)
    print("started", *(worker._process.pid for worker in pool._workers), flush=True)
    sys.stdin.readline()
    print("rendered", len(pool.submit(request).result(60).input_ids), flush=True)
    sys.stdin.readline()
print("closed", flush=True)
"""


@contextlib.contextmanager
def process_with_a_pool(world) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """In a process group of its own; yields it and its workers' ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, setup_of(world).model_dump_json(),
         world.samples[0].model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        words = process.stdout.readline().split()
        assert words[:1] == ["started"], process.communicate(timeout=WAIT_S)
        yield process, [int(pid) for pid in words[1:]]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=WAIT_S)


def assert_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(is_running, pids)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_signals_to_the_group_leave_workers_to_their_parent(world):
    with process_with_a_pool(world) as (process, workers):
        os.killpg(process.pid, signal.SIGINT)  # while the workers still import
        os.killpg(process.pid, signal.SIGTERM)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("rendered")
        os.killpg(process.pid, signal.SIGINT)  # while they are idle
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate("\n", timeout=WAIT_S)
        assert output == "closed\n" and process.returncode == 0
        assert "Traceback" not in errors and "lost" not in errors
        assert_gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize("is_ready", [False, True])
def test_workers_end_with_a_parent_that_is_killed(world, is_ready):
    with process_with_a_pool(world) as (process, workers):
        if is_ready:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith("rendered")
        process.kill()
        _, errors = process.communicate(timeout=WAIT_S)  # ends when the last worker has
        assert "Traceback" not in errors
        assert_gone(workers)


# ---- workers that fail ---------------------------------------------------------------------------
def test_a_dead_worker_costs_one_view_and_is_started_again(world, nothing_is_left, caplog):
    with RenderPool(1, setup_of(world), command=actor()) as pool:
        futures = [pool.submit(request(world, problem=p)) for p in ("a", "die", "b", "c")]
        with pytest.raises(WorkerLost):
            futures[1].result(WAIT_S)
        for number in (0, 2, 3):
            assert isinstance(futures[number].result(WAIT_S), RenderedPrompt)
        assert pool.is_alive
    assert "a render process was lost (exit code 3); starting it again" in caplog.text


def test_a_pool_that_dies_again_is_given_up_and_fails_what_waits(world, nothing_is_left, caplog):
    with RenderPool(1, setup_of(world), command=actor()) as pool:
        futures = [pool.submit(request(world, problem=p)) for p in ("die", "die", "a", "b")]
        for future in futures:
            with pytest.raises(WorkerLost):
                future.result(WAIT_S)
        assert not pool.is_alive
        with pytest.raises(WorkerLost):
            pool.submit(request(world)).result(0)
    assert "the learner renders by itself from now on" in caplog.text


def test_a_silent_worker_is_given_up(world, nothing_is_left, caplog):
    with RenderPool(1, setup_of(world), render_s=5.0, command=actor()) as pool:
        hung, next_one = (pool.submit(request(world, problem=p)) for p in ("hang", "a"))
        with pytest.raises(WorkerLost):
            hung.result(WAIT_S)
        assert isinstance(next_one.result(WAIT_S), RenderedPrompt)
    assert "did not answer in time" in caplog.text


@pytest.mark.parametrize(
    ("command", "start_s", "reason"),
    [
        (["/no/such/program"], WAIT_S, "could not be started"),
        (actor("raise SystemExit(4)"), WAIT_S, "exit code 4"),
        (actor("time.sleep(600)"), 1.0, "did not answer in time"),
    ],
)
def test_a_worker_that_does_not_come_up_is_given_up(
    world, nothing_is_left, caplog, command, start_s, reason
):
    with RenderPool(1, setup_of(world), start_s=start_s, command=command) as pool:
        with pytest.raises(WorkerLost):
            pool.submit(request(world)).result(WAIT_S)
        assert not pool.is_alive
    assert caplog.text.count(reason) == 2  # it was tried twice


def test_a_view_that_there_is_no_memory_for_fails(world, nothing_is_left, monkeypatch, caplog):
    def no_memory(link):
        raise MemoryError

    with RenderPool(1, setup_of(world), command=actor()) as pool:
        monkeypatch.setattr("learner.views.pool.receive_view", no_memory)
        for future in [pool.submit(request(world)) for _ in range(3)]:
            with pytest.raises(WorkerLost):
                future.result(WAIT_S)
        assert not pool.is_alive
    assert caplog.text.count("could not be taken: MemoryError()") == 2


def test_closing_fails_what_waits_and_does_not_wait_for_a_hung_worker(world, nothing_is_left):
    with RenderPool(1, setup_of(world), command=actor()) as pool:
        assert isinstance(pool.submit(request(world)).result(WAIT_S), RenderedPrompt)
        futures = [pool.submit(request(world, problem=p)) for p in ("hang", "a", "b")]
        time.sleep(0.1)  # the worker is at it, more often than not
        started = time.monotonic()
    assert time.monotonic() - started < WAIT_S  # the worker hangs for ten minutes
    for future in futures:
        with pytest.raises(WorkerLost):
            future.result(0)
    pool.close()  # once more
    with pytest.raises(WorkerLost):
        pool.submit(request(world)).result(0)


def test_closing_at_once_leaves_nothing(world, nothing_is_left, caplog):
    with RenderPool(3, setup_of(world), command=actor("time.sleep(600)")):
        pass
    assert "lost" not in caplog.text


# ---- views with a pool ---------------------------------------------------------------------------
class CountingPool(RenderPool):
    """Notes what is asked of it."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[str, str, int]] = []

    def submit(self, request: ViewRequest) -> Future:
        self.asked.append(request.key)
        return super().submit(request)


def views_on(world, pool: RenderPool, **options) -> PromptViews:
    return PromptViews(
        world.renderer, world.images, ViewSettings.of(world.config),
        lambda ids, types, grid: torch.zeros((3, len(ids)), dtype=torch.int64),
        pool=pool, **options,
    )  # fmt: skip


def until_idle(views: PromptViews) -> None:
    wait_until(lambda: not views._in_flight)


def test_nothing_is_rendered_twice(world, nothing_is_left):
    samples = [s.model_copy(update={"problem": "wait"}) for s in world.samples[:2]]
    with CountingPool(2, setup_of(world), command=actor()) as pool:
        views = views_on(world, pool)
        views.look_ahead(samples, [0, 0])
        views.look_ahead(samples, [0, 0])
        first = views.students(samples)  # in flight
        assert [view.num_tokens for view in first] == [3, 3]
        until_idle(views)
        views.look_ahead(samples, [0, 0])
        assert [a is b for a, b in zip(first, views.students(samples), strict=True)] == [True] * 2
        views.teachers([*samples, samples[0]], [0, 0, 0])
        assert sorted(pool.asked) == sorted(
            (sample.sample_id, kind, 0) for sample in samples for kind in ("student", "teacher")
        )


def test_looking_ahead_stops_where_the_cache_is_full(world, nothing_is_left):
    with CountingPool(1, setup_of(world), command=actor()) as pool:
        (view,) = views_on(world, pool).students(world.samples[11:])
        pool.asked.clear()
        views = views_on(world, pool, cache_bytes=5 * view.num_bytes)
        views._cache.put(("other", "student", 0), view)  # makes room, and shows the size
        views.look_ahead(world.samples[:8], range(8))
        until_idle(views)
        assert (
            pool.asked
            == [(f"s{number}", kind, 0) for number in range(3) for kind in ("student", "teacher")][
                :5
            ]
        )
        taken = views.students(world.samples[:2])  # two have room again
        until_idle(views)
        assert len(pool.asked) == 7 and len(set(pool.asked)) == 7
        assert isinstance(taken[0], PromptView)
        views.look_ahead(world.samples[6:8], [0, 0])  # the others are not expected any longer
        until_idle(views)
        assert pool.asked[7:] == [
            (name, kind, 0) for name in ("s6", "s7") for kind in ("student", "teacher")
        ]


@pytest.mark.parametrize("shares", [((0, 3), (4, 6)), ((1, 2), (5, 7))])
def test_each_rank_has_its_share_of_the_next_step_at_hand(world, nothing_is_left, shares):
    """Whichever it is: it is foreseen from the start, and nothing is rendered twice."""
    config = world.changed(learner={"groups_per_step": 4}, data={"shuffle": False})
    vocabulary = len(world.renderer.tokenizer)
    with CountingPool(1, setup_of(world), command=actor()) as pool:
        views = views_on(world, pool)
        views._renderer = NeverNeeded()
        upcoming = UpcomingSamples(foreseen_source(config), config.run.seed, 4)
        rank = Preparation(config, world.renderer, views, vocabulary, world.samples_by_id, upcoming)
        rank.look_ahead(0)
        for step, share in enumerate(shares, start=1):
            until_idle(views)
            wanted = [(f"s{n}", kind, 0) for n in share for kind in ("student", "teacher")]
            assert set(wanted) <= set(pool.asked)
            batch = rank.prepare(step, [world.group(number) for number in share])
            assert len(batch.refused) == 2  # what the actor draws is not what the rollout saw
        until_idle(views)
        assert len(pool.asked) == len(set(pool.asked)) == 2 * 12  # all that there is


def test_a_dying_pool_never_costs_a_view(world, nothing_is_left):
    deadly = [
        sample.model_copy(update={"problem": sample.problem + "die", "sample_id": f"d{number}"})
        for number, sample in enumerate(world.samples[:3])
    ]
    with RenderPool(1, setup_of(world), command=actor()) as pool:
        views = views_on(world, pool)
        views.look_ahead(deadly, [0] * 3)
        views.look_ahead(world.samples[:3], [0] * 3)
        for found in (views.students(deadly), views.teachers(deadly, [0] * 3)):
            assert all(view.num_tokens > 3 for view in found)  # ours, not the actor's
        assert not pool.is_alive
        views.look_ahead(world.samples[3:6], [0] * 3)
        assert not views._in_flight and not views._pending


def test_a_view_that_is_late_is_rendered_here(world, nothing_is_left, caplog):
    hanging = [
        sample.model_copy(update={"problem": sample.problem + "hang"}) for sample in world.samples
    ]
    with RenderPool(1, setup_of(world), command=actor()) as pool:
        pool.submit(request(world)).result(WAIT_S)  # it is up
        views = views_on(world, pool, wait_s=1.0)
        started = time.monotonic()
        found = views.students(hanging)
        assert time.monotonic() - started < WAIT_S  # one wait for all twelve
        assert all(view.num_tokens > 3 for view in found)
    assert caplog.text.count("no view from the render processes within") == 1


def test_looking_ahead_and_asking_may_overlap(world, nothing_is_left):
    """Two threads, two workers, a cache too small for all: every view comes, and is right."""
    with RenderPool(2, setup_of(world), command=actor()) as pool:
        (view,) = views_on(world, pool).students(world.samples[:1])
        views = views_on(world, pool, cache_bytes=6 * view.num_bytes)
        stop = threading.Event()

        def look_ahead() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                views.look_ahead(world.samples[number % 9 :], [0] * (12 - number % 9))
                time.sleep(0.001)

        thread = threading.Thread(target=look_ahead)
        thread.start()
        try:
            for number in range(60):
                samples = world.samples[number % 7 : number % 7 + 5]
                found = [*views.students(samples), *views.teachers(samples, [0] * 5)]
                assert [view.num_tokens for view in found] == [3] * 10
        finally:
            stop.set()
            thread.join(WAIT_S)
        until_idle(views)


# ---- messages ------------------------------------------------------------------------------------
@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    found = socket.socketpair()
    for end in found:
        end.settimeout(WAIT_S)
    yield found
    for end in found:
        end.close()


def test_arrays_arrive_as_they_were_sent_and_may_be_written(ends):
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-(2**62), 2**62, 5),
        rng.integers(0, 256, (2000, 1000, 3), dtype=np.uint8)[:, ::2],  # 3 MB, not contiguous
        np.empty((0, 3), np.int64),
    ]
    ours, theirs = (end.makefile("rwb") for end in ends)
    thread = threading.Thread(target=send, args=(ours, "two\nlines", arrays))
    thread.start()
    text, found = receive(theirs)
    thread.join()
    assert text == "two\nlines" and len(found) == 3
    for sent, received in zip(arrays, found, strict=True):
        assert received.dtype == sent.dtype and received.flags.writeable
        assert np.array_equal(sent, received)


@pytest.mark.parametrize("message", [b"not json\n", b'{"text": "x"}\n', b'["", 1]\nno array\n'])
def test_what_is_no_message_is_an_error(ends, message):
    ends[0].sendall(message)
    ends[0].close()
    with pytest.raises(ValueError, match=r".+"):
        receive(ends[1].makefile("rwb"))


def test_the_end_of_the_other_side_is_noticed_in_the_middle_of_a_message(ends):
    ours, theirs = (end.makefile("rwb") for end in ends)
    send(ours, "x", [np.zeros(3)])
    content = theirs.read1(10_000)
    ends[0].sendall(content[:-5])
    ours.close()
    ends[0].close()
    with pytest.raises(ValueError, match="EOF"):
        receive(theirs)
    with pytest.raises(EOFError):
        receive(theirs)
    with pytest.raises(ConnectionError):
        for _ in range(2):
            send(theirs, "x")


def test_silence_is_a_timeout(ends):
    ends[1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        receive(ends[1].makefile("rwb"))
