"""What the learner computes on: prompts of two views and the responses to them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.group import Trajectory
from common.patching import Patching
from common.rendering import RenderedPrompt


@dataclass(frozen=True)
class PromptView:
    """One prompt, its image placeholder expanded, and its picture."""

    input_ids: Tensor  # int64 [P]
    position_ids: Tensor  # int64 [3, P]: time, height, width
    pixels: Tensor  # uint8 [height, width, 3]
    image_grid_thw: Tensor  # int64 [1, 3]: patches in time, height, width
    patching: Patching  # makes the model's input of the pixels
    sha256: str = ""  # of text and pixels (common.views.showing.shown_digest), where it is known

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_bytes(self) -> int:
        tensors = (self.input_ids, self.position_ids, self.pixels, self.image_grid_thw)
        return sum(tensor.nbytes for tensor in tensors)


def view_of(prompt: RenderedPrompt, position_ids: Tensor, patching: Patching) -> PromptView:
    """A rendered prompt as tensors, which share its memory."""
    ids, pixels, grid = map(
        torch.from_numpy, (prompt.input_ids, prompt.pixels, prompt.image_grid_thw)
    )
    return PromptView(ids, position_ids, pixels, grid, patching, prompt.sha256)


@dataclass(frozen=True)
class PreparedGroup:
    """One group: both views of its sample and the trajectories that are trained on."""

    group_id: str
    student: PromptView
    teacher: PromptView
    responses: tuple[np.ndarray, ...]  # int64 [T] each
    rollout_logprobs: tuple[np.ndarray, ...]  # float32 [T] each, nats
    staleness: tuple[int, ...]  # steps, of each trajectory
    contrast: PromptView | None = None  # teacher's view, its picture pixelated (token_weights)
    sample_id: str = ""  # for figures that name a sample
    trajectories: tuple[Trajectory, ...] = ()  # as rollout sent them, for figures

    @property
    def num_response_tokens(self) -> int:
        return sum(map(len, self.responses))


@dataclass(frozen=True)
class PreparedBatch:
    """The groups of one step."""

    step: int
    groups: tuple[PreparedGroup, ...]
    refused: dict[str, str] = field(default_factory=dict)  # group id -> reason
