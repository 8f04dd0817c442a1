"""Request -> model inputs: the checkpoint's own processor, one placeholder an image expanded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from rollout.embedded.pictures import decode
from rollout.embedded.requests import BadRequest, GenerateBody
from rollout.embedded.sampler import Prompt


class PromptBuilder:
    """A checkpoint's processor: parsed requests become prompts, and tokens text.

    Args:
        context_tokens: bound of an expanded prompt together with its response.
    """

    def __init__(self, model_path: str, image_token_id: int | None, context_tokens: int) -> None:
        from transformers import AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(model_path, trust_remote_code=False)
        self.tokenizer: Any = self.processor.tokenizer
        self._image_processor: Any = self.processor.image_processor
        self._image_token_id = image_token_id
        self.context_tokens = context_tokens

    def build(self, body: GenerateBody) -> Prompt:
        """The prompt of a request. Raises BadRequest when it cannot be one."""
        ids = body.input_ids
        if ids is None:
            ids = tuple(self.tokenizer(body.text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise BadRequest("the prompt is empty")
        placeholders = ids.count(self._image_token_id) if self._image_token_id is not None else 0
        if placeholders != len(body.images):
            raise BadRequest(
                f"the prompt has {placeholders} image placeholders but {len(body.images)} images "
                "came with it; give one placeholder an image, not expanded"
            )
        pixel_values, grids = self._pixels(body.images)
        prompt = self._expanded(ids, pixel_values, grids)
        self._check_length(len(prompt), body)
        return prompt

    def _check_length(self, num_tokens: int, body: GenerateBody) -> None:
        if num_tokens >= self.context_tokens:
            raise BadRequest(
                f"The input ({num_tokens} tokens) is longer than the model's context length "
                f"({self.context_tokens} tokens)."
            )
        total = num_tokens + body.law.max_new_tokens
        if total > self.context_tokens:
            raise BadRequest(
                f"Requested token count exceeds the model's maximum context length of "
                f"{self.context_tokens} tokens: {num_tokens} of the prompt and "
                f"{body.law.max_new_tokens} of the completion make {total}."
            )
        if body.score_from is not None and body.law.max_new_tokens == 0:
            raise BadRequest("logprob_start_len needs max_new_tokens of 1 or more here")
        if body.score_from is not None and body.score_from > num_tokens:
            raise BadRequest(
                f"logprob_start_len={body.score_from} is higher than the number of input tokens, "
                f"{num_tokens}."
            )

    def text(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        decoded: str = self.tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens
        )
        return decoded

    def _pixels(self, images: Sequence[bytes]) -> tuple[Tensor | None, Tensor | None]:
        if not images:
            return None, None
        pictures = [decode(content, number) for number, content in enumerate(images)]
        try:
            batch = self._image_processor(images=pictures, return_tensors="pt")
        except ValueError as error:  # for instance an extreme aspect ratio
            raise BadRequest(f"image_data cannot be processed: {error}") from error
        return batch["pixel_values"], batch["image_grid_thw"]

    def _expanded(
        self, ids: Sequence[int], pixel_values: Tensor | None, grids: Tensor | None
    ) -> Prompt:
        counts: list[int] = []
        if grids is not None:
            counts = (grids.prod(dim=-1) // self._image_processor.merge_size**2).tolist()
        remaining = iter(counts)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * (next(remaining) if token == self._image_token_id else 1)
        input_ids = torch.tensor(expanded)
        is_image = torch.zeros_like(input_ids)
        if counts:
            is_image = torch.eq(input_ids, self._image_token_id or 0).long()
        return Prompt(input_ids, is_image, pixel_values, grids)
