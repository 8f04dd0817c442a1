"""Greedy decoding that no sampling setting of a checkpoint's folder can touch.

transformers 5.19 fills whatever a caller leaves unset from the model's own generation_config.json
(repetition_penalty, no_repeat_ngram_size, min_new_tokens, bad_words_ids, entries of its own ...),
also of a GenerationConfig that the caller passes. Rollouts use none of it. Reported elsewhere:
verl-project/verl#7270, EleutherAI/lm-evaluation-harness#3154.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.views.inputs import PromptView


def greedy_responses(
    model: Any,
    prompts: Sequence[PromptView],
    *,
    image_token_id: int,
    banned: Sequence[int],
    ends: Sequence[int],
    max_tokens: int,
    device: torch.device,
) -> list[np.ndarray]:
    """The likeliest token at each place, for prompts of one length, so that none is padded.

    Args:
        banned: tokens that are never chosen, as in rollouts.
        ends: tokens that end a response; none: all go on to `max_tokens`.

    Returns:
        int64 [T] each, T <= max_tokens, up to and with its first end token if it has one.
    """
    input_ids = torch.stack([prompt.input_ids for prompt in prompts])
    with torch.no_grad():
        output = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=torch.ones_like(input_ids).to(device),
            mm_token_type_ids=(input_ids == image_token_id).long().to(device),
            pixel_values=torch.cat([p.pixel_values for p in prompts]).to(device),
            image_grid_thw=torch.cat([p.image_grid_thw for p in prompts]).to(device),
            generation_config=_greedy_settings(banned, ends, max_tokens),
            # Ranks that share a model go on until the last of them has its answers.
            synced_gpus=isinstance(model.base_model, FSDPModule),
        )
    return [_up_to_end(row, ends) for row in output[:, input_ids.shape[1] :].cpu().numpy()]


def is_cut(response: np.ndarray, ends: Sequence[int]) -> bool:
    """Whether a response of `greedy_responses` was ended by the length limit alone."""
    return len(response) == 0 or int(response[-1]) not in ends


def _greedy_settings(banned: Sequence[int], ends: Sequence[int], max_tokens: int) -> Any:
    from transformers import GenerationConfig

    class Settings(GenerationConfig):  # type: ignore[misc]
        """What is unset here is transformers' own default, whatever the model's folder says."""

        def update(self, defaults_only: bool = False, **values: Any) -> Any:
            if not defaults_only:
                return super().update(**values)
            defaults = self._get_default_generation_params()
            del defaults["max_length"]  # max_new_tokens is there, and one limit is enough
            return super().update(defaults_only=True, **defaults)

    return Settings(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(ends) or None,
        suppress_tokens=list(banned) or None,
    )


def _up_to_end(response: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Without what `generate` fills shorter rows up with."""
    places = np.flatnonzero(np.isin(response, ends))
    return response[: places[0] + 1] if len(places) else response
