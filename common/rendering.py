"""(problem text, picture) -> token ids and pixels. The only user of the processor.

Rollout, student and teacher all render here, so there is one pixel path and one template
(the published code has two, spec section 1.6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import DataError

IMAGE_PLACEHOLDER = "<image>"
_VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the model takes it; image placeholders are expanded."""

    input_ids: np.ndarray  # int64 [P]
    mm_token_type_ids: np.ndarray  # int64 [P]: 1 at image tokens, 0 elsewhere
    pixel_values: np.ndarray  # float32 [patches, channels * temporal * patch * patch]
    image_grid_thw: np.ndarray  # int64 [1, 3]: patches in time, height, width


class Renderer:
    """Applies a checkpoint's chat template and processor."""

    def __init__(self, model_path: str) -> None:
        from transformers import AutoProcessor

        self._processor: Any = AutoProcessor.from_pretrained(model_path)
        self.tokenizer: Any = self._processor.tokenizer
        vocabulary = self.tokenizer.get_vocab()
        self.vision_token_ids = [vocabulary[t] for t in _VISION_TOKENS if t in vocabulary]
        self.image_token_id: int = vocabulary["<|image_pad|>"]

    def text(self, problem: str) -> str:
        """The prompt's text: user turn, one image part, and the generation prompt."""
        before, found, after = problem.partition(IMAGE_PLACEHOLDER)
        if not found or IMAGE_PLACEHOLDER in after:
            raise DataError(f"problem must hold {IMAGE_PLACEHOLDER!r} exactly once: {problem!r}")
        parts = [{"type": "text", "text": before}] if before else []
        parts += [{"type": "image"}, {"type": "text", "text": after}]
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        return rendered

    def prompt_token_ids(self, problem: str) -> np.ndarray:
        """int32 [P]: the prompt with ONE placeholder for the image, as rollout engines want it."""
        ids = self.tokenizer(self.text(problem), add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)

    def prompt(self, problem: str, picture: Image.Image) -> RenderedPrompt:
        """The prompt with its pixels and the image placeholders expanded."""
        return self.prompts([problem], [picture])[0]

    def prompts(
        self, problems: Sequence[str], pictures: Sequence[Image.Image]
    ) -> list[RenderedPrompt]:
        """Several prompts in one call of the processor, which is cheaper than one call each."""
        batch = self._processor(
            text=[self.text(problem) for problem in problems],
            images=list(pictures),
            return_tensors="np",
            padding=True,
            add_special_tokens=False,
        )
        grids = np.asarray(batch["image_grid_thw"], dtype=np.int64)
        pixels = np.asarray(batch["pixel_values"], dtype=np.float32)
        is_token = np.asarray(batch["attention_mask"], dtype=bool)
        return [
            RenderedPrompt(
                input_ids=np.asarray(batch["input_ids"][row][is_token[row]], dtype=np.int64),
                mm_token_type_ids=np.asarray(
                    batch["mm_token_type_ids"][row][is_token[row]], dtype=np.int64
                ),
                pixel_values=part,
                image_grid_thw=grids[row : row + 1],
            )
            for row, part in enumerate(np.split(pixels, np.cumsum(grids.prod(axis=1))[:-1]))
        ]

    def save(self, folder: str | Path) -> None:
        """Write tokenizer, processor and chat template, so that `folder` can be loaded again."""
        self._processor.save_pretrained(folder)

    def decode(self, token_ids: np.ndarray | list[int]) -> str:
        """Text of response tokens, special tokens left out."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token_texts(self, token_ids: np.ndarray | list[int]) -> list[str]:
        """Each token's own text, special tokens kept."""
        return [self.tokenizer.decode([int(token)]) for token in token_ids]
