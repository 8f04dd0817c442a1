"""AdamW, the learning-rate schedule, clipping, and the refusal of gradients that are not finite."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from common.config import OptimizerSection

logger = logging.getLogger(__name__)


def learning_rate(step: int, config: OptimizerSection, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (1-based).

    Linear warm-up over `warmup_steps`: 0, 1/w, 2/w, ... as published, or 1/w, 2/w, ... without the
    idle first step. Then constant, or linear down to `final_lr_share` of lr at `total_steps`.
    """
    done = step - 1 if config.warmup_from_zero else step
    if done < config.warmup_steps:
        return config.lr * done / config.warmup_steps
    decay_steps = total_steps - config.warmup_steps - (1 if config.warmup_from_zero else 0)
    progress = min(1.0, (done - config.warmup_steps) / decay_steps) if decay_steps > 0 else 1.0
    return config.lr * (1 - (1 - config.final_lr_share) * progress)


class Optimizer:
    """AdamW over every trainable parameter, all with the same weight decay (as published)."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], config: OptimizerSection, total_steps: int
    ) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._config = config
        self._total_steps = total_steps
        self.skipped_steps = 0
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, step: int) -> tuple[float, float, bool]:
        """Clip, update and clear the gradients.

        Returns:
            Gradient norm before clipping, the learning rate, and whether the update was made: a
            norm that is not finite costs this step's update and is counted.
        """
        lr = learning_rate(step, self._config, self._total_steps)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm).item()
        is_finite = norm < float("inf")  # false for nan too
        if is_finite:
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
        else:
            self.skipped_steps += 1
            logger.warning("step %d: gradient norm is %s; no update made", step, norm)
        self._adamw.zero_grad(set_to_none=True)
        return norm, lr, is_finite

    def clear(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Tensors and plain values only, so that it loads with `weights_only`."""
        return {"adamw": self._adamw.state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over moments and counts; the settings stay those of the configuration.

        Raises:
            ValueError: it is of other parameters.
        """
        moments, (group,) = state["adamw"]["state"], state["adamw"]["param_groups"]
        shapes = {number: values["exp_avg"].shape for number, values in moments.items()}
        ours = [parameter.shape for parameter in self._parameters]
        if len(group["params"]) != len(ours) or any(ours[n] != shapes[n] for n in shapes):
            raise ValueError("it is of other trainable parameters")
        settings = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": moments, "param_groups": settings})
        self.skipped_steps = state["skipped_steps"]
