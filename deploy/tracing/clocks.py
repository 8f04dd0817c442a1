"""How far the clock of a process is from the broker's: by what cannot have happened in any order.

A server begins a group after the broker leased it, and has its answer before the broker gets it. A
learner has a batch after it was taken, and updates before it acknowledges. Each such pair bounds
the difference from one side. Between the bounds nothing is known: the network's delay is in there.
"""

import math
from dataclasses import dataclass

# Times in the journal are those of the loop's turn, and are read late by as much as it takes.
_NEAR_S = 0.01


@dataclass
class Bounds:
    """Bounds on what must be added to a process's clock."""

    least: float = -math.inf
    most: float = math.inf

    def not_before(self, own: float, broker: float) -> None:
        """The process's `own` came after the broker's moment."""
        self.least = max(self.least, broker - own)

    def not_after(self, own: float, broker: float) -> None:
        """The process's `own` came before the broker's moment."""
        self.most = min(self.most, broker - own)

    @property
    def offset_s(self) -> float:
        """What to add: nothing where that is possible, else the middle."""
        if self.least - _NEAR_S <= 0 <= self.most + _NEAR_S:
            return 0.0
        if math.isinf(self.least) or math.isinf(self.most):
            return self.most if math.isinf(self.least) else self.least
        return (self.least + self.most) / 2

    def said(self, role: str, is_elsewhere: bool = False) -> str:
        """A line on what was moved, and how exactly; empty where nothing is to be said.

        Args:
            is_elsewhere: on another machine than the broker, so that the clocks are two.
        """
        if not self.offset_s:
            unknown = f"({self.least * 1000:+.3g} to {self.most * 1000:+.3g} ms would fit as well)"
            told = f"the clock of {role}, on another machine, fits the broker's as it is {unknown}"
            return told if is_elsewhere else ""
        if self.least > self.most:
            how = "its clock was set, or runs at another speed: some arrows go back in time"
        elif math.isinf(self.most - self.least):
            how = "bounded from one side alone"
        else:
            how = f"to {(self.most - self.least) / 2 * 1000:.3g} ms"
        return f"the clock of {role} is moved by {self.offset_s:+.6f} s to fit the broker's ({how})"
