"""The teacher's weights: a moving average of the student's, frozen, or the student itself."""

import copy
from typing import Literal

import torch
from torch import nn


class Teacher:
    """Owns the teacher's float32 master weights; the forward pass computes in the student's dtype.

    Args:
        student: its float32 parameters are the teacher's start.
        policy: "ema", "frozen", or "current" (no copy is kept).
        ema_rate: teacher = (1 - rate) * teacher + rate * student after every step.
    """

    def __init__(
        self, student: nn.Module, policy: Literal["ema", "frozen", "current"], ema_rate: float
    ) -> None:
        self._student = student
        self._rate = ema_rate if policy == "ema" else 0.0
        self.model = student if policy == "current" else _frozen_copy(student)

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step that was made: every parameter moves, buffers stay (spec 3.2)."""
        if self.model is self._student or self._rate == 0:
            return
        pairs = zip(self.model.parameters(), self._student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.lerp_(student, self._rate)


def _frozen_copy(student: nn.Module) -> nn.Module:
    model = copy.deepcopy(student).eval()
    return model.requires_grad_(False)
