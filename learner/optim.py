"""AdamW, the learning-rate schedule, clipping, and the refusal of gradients that are not finite."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.config import OptimizerSection
from learner.model.sharding import clip_gradients

logger = logging.getLogger(__name__)
_PARTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW's state


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
    """AdamW over every trainable parameter, all with the same weight decay (as published).

    Args:
        parameters: as of `model.named_parameters()`; without names they are called by their number.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter | tuple[str, nn.Parameter]],
        config: OptimizerSection,
        total_steps: int,
    ) -> None:
        named = dict(
            (str(number), item) if isinstance(item, Tensor) else item
            for number, item in enumerate(parameters)
        )
        self._named = {name: p for name, p in named.items() if p.requires_grad}
        self._parameters = list(self._named.values())
        self._config = config
        self._total_steps = total_steps
        self.skipped_steps = 0
        self.lr_factor = 1.0  # beside the schedule: what roll-backs ask for
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
        lr = self.lr_factor * learning_rate(step, self._config, self._total_steps)
        norm = clip_gradients(self._parameters, self._config.max_grad_norm)
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

    def before_update(self, act: Callable[[], None]) -> RemovableHandle:
        """Call `act` whenever parameters and moments are about to change, until it is removed."""
        return self._adamw.register_step_pre_hook(lambda *_: act())

    def clear(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    @property
    def parameter_names(self) -> list[str]:
        """Names of all parameters that are trained, whether they were updated yet or not."""
        return list(self._named)

    def tensors(self) -> dict[str, Tensor]:
        """The state as it lives: exp_avg.NAME, exp_avg_sq.NAME and step.NAME.

        A parameter that never had a gradient has none. Moments have their parameter's form and
        are sharded as it is; counts are float32 [].
        """
        return {
            f"{part}.{name}": self._adamw.state[parameter][part]
            for name, parameter in self._named.items()
            if parameter in self._adamw.state
            for part in _PARTS
        }

    def make_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Begin anew with a state of zeros for these parameters; `tensors` of it, to be filled.

        Settings stay those of the configuration.

        Raises:
            ValueError: a name is of no trainable parameter.
        """
        chosen = list(names)
        unknown = sorted(set(chosen) - self._named.keys())
        if unknown:
            raise ValueError(f"it is of other trainable parameters: {unknown[0]} is not among ours")
        self._adamw.state.clear()
        self.clear()
        for name in chosen:
            parameter = self._named[name]
            self._adamw.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        return self.tensors()
