"""What outlives a roll-back: the gates' memory, signals; and what must not: the models.

Holds learner/signals.py.
"""

import os
import signal
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import RunConfig
from common.errors import CheckpointError
from learner import assembly
from learner.health.gates import Verdict
from learner.health.monitor import HealthMonitor, RollBack, newest_good, stop
from learner.ranks import ALONE, Ranks
from learner.signals import Signals

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def verdict(since: int) -> Verdict:
    return Verdict("roll_back", ("it is long",), {}, since)


def config_in(folder: Path) -> RunConfig:
    health = {"action": "roll_back", "patience": 1, "warmup_steps": 1, "length_growth": 1.5}
    return RunConfig.model_validate(
        {
            "run": {"folder": folder},
            "health": health,
            "checkpoint": {"every_steps": 1, "keep": 3},
            "learner": {"device": "cpu"},
        }
    )


# ---- where it goes back to -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("targets", "judged", "expected"),
    [
        ([1, 2, 3, 4, 5], -1, 2),  # the figures of step 4 are of the weights of step 3
        ([1, 2, 3, 4, 5], 0, 3),  # measured with those of step 4
        ([3, 4, 5], -1, 3),  # nothing older
        ([4, 5], -1, None),
        ([4, 5], 0, None),
        ([], 0, None),
    ],
)
def test_it_goes_back_to_weights_that_no_gate_holds_anything_against(
    targets: list[int], judged: int, expected: int | None
) -> None:
    assert newest_good(targets, verdict(since=4), judged) == expected


def test_the_error_that_ends_a_run_names_what_is_left() -> None:
    assert "the newest checkpoint from before it is of step 2. Fix: " in str(stop(verdict(4), 2))
    assert "no checkpoint from before step 4 is kept" in str(stop(verdict(4), None))
    for target in (2, None):
        assert "it is long" in str(stop(verdict(4), target))


# ---- health.json ---------------------------------------------------------------------------------
def test_a_new_watch_remembers_what_the_one_before_has_seen(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    first = HealthMonitor(config, ALONE)
    for step, tokens in enumerate((2.0, 2.0, 9.0), start=1):
        action = first.look(step, {"learner/response_mean_tokens": tokens}).action
    assert action == "roll_back" and first.num_alarms == 1 and first.lr_factor == 0.5
    second = HealthMonitor(config, ALONE)
    assert (second.num_alarms, second.lr_factor) == (1, 0.5)
    second.goes_on_from(2)
    assert second.num_alarms == 0 and second.lr_factor == 0.5
    assert HealthMonitor(config_in(tmp_path / "other"), ALONE).lr_factor == 1.0


def test_only_the_first_rank_writes_it(tmp_path: Path) -> None:
    second = replace(ALONE, rank=1, world_size=2)
    HealthMonitor(config_in(tmp_path), second).look(1, {"learner/response_mean_tokens": 2.0})
    assert not (tmp_path / "health.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": 3}', '{"step": -1}'])
def test_a_memory_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "health.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"health\.json: .*Fix: .*remove it"):
        HealthMonitor(config_in(tmp_path), ALONE)


def test_a_resume_from_before_the_pause_does_not_end_it(tmp_path: Path) -> None:
    watch = HealthMonitor(config_in(tmp_path), ALONE)
    watch.resume()
    watch.resume()
    watch.begin_pause()
    assert not watch.wait_for_resume(0.01)
    watch.resume()
    assert watch.wait_for_resume(0.01)


# ---- signals -------------------------------------------------------------------------------------
class Interruptible:
    """Stands in for a feed."""

    num_interruptions = 0

    def interrupt(self) -> None:
        self.num_interruptions += 1


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interruption_outlives_its_feed(handlers: None) -> None:
    signals, first, second = Signals(lambda: None), Interruptible(), Interruptible()
    signals.attach(first)
    signals.detach()
    os.kill(os.getpid(), signal.SIGTERM)  # while the next model is loaded
    assert first.num_interruptions == 0
    signals.attach(second)
    assert second.num_interruptions == 1


def test_a_second_signal_ends_the_process_at_once(
    handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    signals, feed = Signals(lambda: None), Interruptible()
    signals.attach(feed)
    os.kill(os.getpid(), signal.SIGINT)
    assert feed.num_interruptions == 1 and codes == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]


def test_a_user_signal_resumes(handlers: None) -> None:
    resumed: list[int] = []
    signals = Signals(lambda: resumed.append(1))
    signals.attach(Interruptible())
    os.kill(os.getpid(), signal.SIGUSR1)
    assert resumed == [1]


# ---- memory --------------------------------------------------------------------------------------
class Large:
    """Stands in for a life's model: it is in a cycle, as a session and its checkpointer are."""

    def __init__(self) -> None:
        self.myself = self


def test_nothing_of_a_life_is_left_when_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives: list[weakref.ref[Large]] = []

    def live(config: RunConfig, ranks: Ranks, process: object) -> None:
        assert all(life() is None for life in lives), "two models do not fit"
        model = Large()
        lives.append(weakref.ref(model))
        if len(lives) < 3:
            raise RollBack(1, ("it is long",))

    monkeypatch.setattr(assembly, "_run_once", live)
    monkeypatch.setattr(assembly, "discard_after", lambda folder, step: None)
    assembly.run(config_in(tmp_path), began=0.0)
    assert len(lives) == 3
