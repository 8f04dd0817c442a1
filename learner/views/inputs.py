"""What the learner computes on: prompts of two views and the responses to them."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PromptView:
    """One prompt as the model takes it, image placeholders expanded."""

    input_ids: Tensor  # int64 [P]
    position_ids: Tensor  # int64 [3, P]: time, height, width
    pixel_values: Tensor  # float32 [patches, values of a patch]
    image_grid_thw: Tensor  # int64 [images, 3]
    sha256: str = ""  # of text and pixels (common.views.showing.shown_digest), where it is known

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_bytes(self) -> int:
        tensors = (self.input_ids, self.position_ids, self.pixel_values, self.image_grid_thw)
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class PreparedGroup:
    """One group: both views of its sample and the trajectories that are trained on."""

    group_id: str
    student: PromptView
    teacher: PromptView
    responses: tuple[np.ndarray, ...]  # int64 [T] each
    rollout_logprobs: tuple[np.ndarray, ...]  # float32 [T] each, nats
    staleness: tuple[int, ...]  # steps, of each trajectory
    contrast: PromptView | None = None  # teacher's view pixelated (token_weights)
    sample_id: str = ""  # for figures that name a sample

    @property
    def num_response_tokens(self) -> int:
        return sum(map(len, self.responses))


@dataclass(frozen=True)
class PreparedBatch:
    """The groups of one step."""

    step: int
    groups: tuple[PreparedGroup, ...]
    refused: dict[str, str] = field(default_factory=dict)  # group id -> reason
