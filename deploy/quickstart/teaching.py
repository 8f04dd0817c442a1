"""Views and their questions -> training batches; one image serves all questions about it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from deploy.quickstart.lessons import Exercise, View
from deploy.quickstart.pixels import pixel_batch
from deploy.quickstart.scenes import GRID, Tag, answer, question

COLORLESS_QUESTION = "Which digit is on the tag?"
WORD_WEIGHT = 6.0  # of the words that have to be seen: the digit, and a colour that was not named
NOT_LEARNT = -100  # label of tokens that are not learnt


@dataclass(frozen=True)
class Batch:
    """Views of one size, each with several questions that do not see each other."""

    inputs: dict[str, torch.Tensor]  # of the model's inner part, ids [B, L]
    labels: torch.Tensor  # int64 [B, L]: the next token, or NOT_LEARNT
    weights: torch.Tensor  # float32 [B, L]
    is_digit: torch.Tensor  # bool [B, L]: a digit that is learnt as the answer to a full question


class Branch(NamedTuple):
    """One question and its answer, padded to the length of all others."""

    ids: list[int]
    labels: list[int]  # the next token, or NOT_LEARNT
    weights: list[float]
    digit_at: int  # where the digit is the next token


class Teaching:
    """Turns views into batches. The image is computed once for all questions about it."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._head = self._encode("<|im_start|>user\n<|vision_start|>")
        self._pad = tokenizer.pad_token_id
        self._branches: dict[tuple[str, int, bool, bool], Branch] = {}
        self._branch_length = len(self._branch(Tag("red", 0, 0, 0), False, True).ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def batch(self, views: list[View], exercise: Exercise, rng: np.random.Generator) -> Batch:
        rows = [self._row(view, exercise, rng) for view in views]
        ids, labels, weights, is_digit = (torch.tensor(part) for part in zip(*rows, strict=True))
        pixels, grid = pixel_batch([view.pixels for view in views])
        prefix = ids.shape[1] - exercise.questions_per_view * self._branch_length
        inputs = {
            "input_ids": ids,
            "pixel_values": pixels,
            "image_grid_thw": grid,
            "mm_token_type_ids": (ids == self._image_token).int(),
            "position_ids": self._positions(ids, grid, prefix, exercise.questions_per_view),
            "attention_mask": self._mask(ids, prefix, exercise.questions_per_view),
        }
        return Batch(inputs, labels, weights, is_digit)

    def _row(
        self, view: View, exercise: Exercise, rng: np.random.Generator
    ) -> tuple[list[int], list[int], list[float], list[bool]]:
        height, width, _ = view.pixels.shape
        ids = self._head + [self._image_token] * ((height // GRID) * (width // GRID))
        labels, weights = [NOT_LEARNT] * len(ids), [0.0] * len(ids)
        is_digit = [False] * len(ids)
        order = np.resize(rng.permutation(len(view.tags)), exercise.questions_per_view)
        for number, index in enumerate(order):
            names_color = exercise.names_colors and number == 0
            branch = self._branch(view.tags[index], names_color, exercise.tells_digit)
            ids = ids + branch.ids
            labels += branch.labels
            weights += branch.weights
            asked = exercise.tells_digit and not names_color
            is_digit += [asked and at == branch.digit_at for at in range(len(branch.ids))]
        return ids, labels, weights, is_digit

    def _branch(self, tag: Tag, names_color: bool, tells_digit: bool) -> Branch:
        key = (tag.color, tag.digit, names_color, tells_digit)
        if key not in self._branches:
            self._branches[key] = self._make_branch(tag, names_color, tells_digit)
        return self._branches[key]

    def _make_branch(self, tag: Tag, names_color: bool, tells_digit: bool) -> Branch:
        asked = COLORLESS_QUESTION if names_color else question(tag.color)
        prompt = self._encode(
            f"<|vision_end|>\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        reply = self._encode(answer(tag) + "<|im_end|>")
        padding = 1 if names_color else 0  # its question is one word shorter
        labels = [NOT_LEARNT] * (len(prompt) - 1) + reply + [NOT_LEARNT] * (padding + 1)
        digit_at = labels.index(*self._encode(f" {tag.digit}"))
        color_at = labels.index(*self._encode(f" {tag.color}"))
        weights = [0.0 if label == NOT_LEARNT else 1.0 for label in labels]
        weights[digit_at] = WORD_WEIGHT
        if names_color:
            weights[color_at] = WORD_WEIGHT
        if not tells_digit:
            labels[digit_at] = NOT_LEARNT
        return Branch(prompt + reply + [self._pad] * padding, labels, weights, digit_at)

    def _positions(
        self, ids: torch.Tensor, grid: torch.Tensor, prefix: int, questions: int
    ) -> torch.Tensor:
        """int64 [3, B, L]: every question follows the image directly."""
        start, _ = self._model.model.get_rope_index(
            ids[:1, : prefix + 1],
            mm_token_type_ids=(ids[:1, : prefix + 1] == self._image_token).int(),
            image_grid_thw=grid[:1],
        )
        branch = start[:, :, prefix:] + torch.arange(self._branch_length)
        row = torch.cat([start[:, :, :prefix], *[branch] * questions], dim=2)
        return row.expand(3, len(ids), -1)

    def _mask(self, ids: torch.Tensor, prefix: int, questions: int) -> torch.Tensor:
        """bool [B, 1, L, L]: a token sees the image and what stands before it in its question."""
        branch = torch.arange(questions).repeat_interleave(self._branch_length)
        owner = torch.cat([torch.full((prefix,), -1), branch])
        at = torch.arange(len(owner))
        visible = (owner[None] == -1) | (owner[None] == owner[:, None])
        mask = visible & (at[None] <= at[:, None])
        return mask.expand(len(ids), 1, -1, -1)
