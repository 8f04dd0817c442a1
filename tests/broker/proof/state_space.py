"""Breadth-first search of all states of an instance: the first violation has the shortest trace."""

import gc
import time
from array import array
from collections import deque
from typing import NamedTuple

from broker.ledger.refusal import Refusal
from tests.broker.proof.canonical import fingerprint
from tests.broker.proof.choices import Event, events
from tests.broker.proof.invariants import check
from tests.broker.proof.model import Model
from tests.broker.proof.state import Instance, State, begin


class Report(NamedTuple):
    instance: Instance
    states: int
    transitions: int
    depth: int  # events to the farthest state
    ends: int  # states in which everything is trained
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.states:>7,} states {self.transitions:>9,} transitions, depth {self.depth}, "
            f"{self.ends:,} ends, {self.seconds:.0f} s: {self.instance}"
        )


class Violation(AssertionError):
    """What was violated, and the shortest way there."""

    def __init__(self, reason: str, trace: list[Event]) -> None:
        lines = [f"{number:>3}. {_text(event)}" for number, event in enumerate(trace, start=1)]
        super().__init__("\n".join([reason, *lines]))
        self.reason = reason
        self.trace = trace


def explore(instance: Instance, max_states: int | None = None) -> Report:
    """Visit every reachable state and prove the invariants in it; then prove that none is a trap.

    Args:
        max_states: give up the proof of liveness and stop after so many; None: all.

    Raises:
        Violation: an invariant does not hold, or a state from which the run cannot end.
    """
    gc.disable()  # the ledgers are trees: nothing to collect, and half of the time would go there
    try:
        return _Search(instance).run(max_states)
    finally:
        gc.enable()


class _Search:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._model = Model(instance)
        self._ids: dict[bytes, int] = {}
        self._parents = array("i")
        self._events: list[Event] = []  # that led to a state first
        self._depths = array("i")
        self._sources, self._targets = array("i"), array("i")  # of transitions without a fault
        self._ends: list[int] = []
        self._transitions = 0

    def run(self, max_states: int | None) -> Report:
        started = time.process_time()
        first = begin(self._instance)
        self._add(fingerprint(first, self._instance), -1, ("begin",))
        queue = deque([first])
        number = 0
        while queue and (max_states is None or number < max_states):
            self._expand(number, queue.popleft(), queue)
            number += 1
        if not queue:
            self._check_liveness()
        seconds = time.process_time() - started
        return Report(
            self._instance,
            len(self._ids),
            self._transitions,
            max(self._depths),
            len(self._ends),
            seconds,
        )

    def _expand(self, number: int, state: State, queue: deque[State]) -> None:
        if state.learner.is_exhausted:
            self._ends.append(number)
        for kind, event in events(state, self._instance):
            after = self._step(number, state, kind, event)
            if after is None:
                continue
            self._transitions += 1
            key = fingerprint(after, self._instance)
            target = self._ids.get(key)
            if target is None:
                target = self._add(key, number, event)
                queue.append(after)
            if kind is None:
                self._sources.append(number)
                self._targets.append(target)

    def _step(self, number: int, state: State, kind: str | None, event: Event) -> State | None:
        try:
            after = self._model.after(state, kind, event)
            if after is not None:
                check(state, after)
        except (AssertionError, Refusal, LookupError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Violation(reason, [*self._trace(number), event]) from error
        return after

    def _add(self, key: bytes, parent: int, event: Event) -> int:
        number = self._ids[key] = len(self._ids)
        self._parents.append(parent)
        self._events.append(event)
        self._depths.append(self._depths[parent] + 1 if number else 0)
        return number

    def _trace(self, number: int) -> list[Event]:
        trace: list[Event] = []
        while number > 0:
            trace.append(self._events[number])
            number = self._parents[number]
        return trace[::-1]

    def _check_liveness(self) -> None:
        """Without more faults, and without luck, every state leads to an end."""
        sources: list[list[int]] = [[] for _ in self._ids]
        for source, target in zip(self._sources, self._targets, strict=True):
            sources[target].append(source)
        leads = bytearray(len(self._ids))
        for end in self._ends:
            leads[end] = 1
        todo = list(self._ends)
        while todo:
            for source in sources[todo.pop()]:
                if not leads[source]:
                    leads[source] = 1
                    todo.append(source)
        trap = leads.find(0)
        if trap >= 0:
            raise Violation("the run cannot end any more", self._trace(trap))


def _text(event: Event) -> str:
    name, *arguments = event
    return f"{name}({', '.join(str(argument) for argument in arguments if argument != '')})"
