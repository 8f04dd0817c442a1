"""Prompts and responses -> one packed row for the model, without padding.

With a shared prefix each group is a tree: its prompt is there once, and its n responses branch off.
Without, each response is a separate sequence with a copy of the prompt (but the image still goes
through the vision tower once). A branch holds all of its response but the last token,
which predicts nothing that is trained on; response token 0 is predicted by the prompt's last token,
whatever the branch. Axes: L tokens of the row, N response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from learner.model.layout import Layout, plan_layout
from learner.model.pictures import Pictures, pictures_of
from learner.model.transfer import on_device
from learner.views.inputs import PromptView


@dataclass(frozen=True)
class PackedRow:
    """Inputs of one forward pass, and where its predictions of response tokens are."""

    input_ids_L: Tensor  # int64
    position_ids_3L: Tensor  # int64
    layout: Layout
    pictures: Pictures
    ids_on_host: np.ndarray  # input_ids_L
    grid_thw_on_host: Tensor  # int64 [images, 3]
    image_of_root: tuple[int, ...]  # row of the grids of each image in the row, in its order
    predicting_N: Tensor  # int64 into layout.asked_M, ordered by group, trajectory and token

    @property
    def places_N(self) -> Tensor:
        """int64 into the row: where each response token is predicted."""
        assert self.layout.asked_M is not None
        return self.layout.asked_M.index_select(0, self.predicting_N)

    def to(self, device: torch.device) -> "PackedRow":
        """The row with all but what is for the host on `device`; the host does not wait for it."""
        return on_device(self, device)


def pack(
    prompts: Sequence[PromptView],
    responses: Sequence[Sequence[np.ndarray]],
    share_prefix: bool = True,
) -> PackedRow:
    """One row for several groups.

    Args:
        responses: for each prompt its responses, int64 [T] each, T >= 1.
    """
    groups = list(zip(prompts, responses, strict=True))
    firsts = np.cumsum([0, *(len(p.image_grid_thw) for p in prompts)]).tolist()
    images = [
        range(first, first + len(p.image_grid_thw))
        for first, (p, branches) in zip(firsts[:-1], groups, strict=True)
        for _ in range(1 if share_prefix else len(branches))
    ]
    pieces = [_shared(*group) if share_prefix else _alone(*group) for group in groups]
    sizes = [size for piece in pieces for size in piece.sizes]
    starts = np.cumsum([0, *(len(piece.input_ids) for piece in pieces)]).tolist()
    places_N = np.concatenate(
        [start + piece.predicting for start, piece in zip(starts[:-1], pieces, strict=True)]
    )
    asked_M, predicting_N = np.unique(places_N, return_inverse=True)
    ids_L = np.concatenate([piece.input_ids for piece in pieces])
    return PackedRow(
        input_ids_L=torch.from_numpy(ids_L),
        position_ids_3L=torch.cat([piece.position_ids for piece in pieces], dim=1),
        layout=replace(plan_layout(sizes), asked_M=torch.from_numpy(asked_M)),
        pictures=pictures_of(prompts),
        ids_on_host=ids_L,
        grid_thw_on_host=torch.cat([p.image_grid_thw for p in prompts]),
        image_of_root=tuple(image for several in images for image in several),
        predicting_N=torch.from_numpy(predicting_N),
    )


def packed_tokens(
    num_prompt_tokens: int, response_lengths: Sequence[int], share_prefix: bool
) -> int:
    """Tokens that one group takes in a row."""
    prompts = 1 if share_prefix else len(response_lengths)
    return prompts * num_prompt_tokens + sum(response_lengths) - len(response_lengths)


@dataclass(frozen=True)
class _Piece:
    """The part of a row that one group takes."""

    input_ids: np.ndarray  # int64 [L]
    position_ids: Tensor  # int64 [3, L]
    sizes: list[tuple[int, list[int]]]  # of its trees
    predicting: np.ndarray  # int64 [N], within the part


def _shared(prompt: PromptView, responses: Sequence[np.ndarray]) -> _Piece:
    inside = [len(response) - 1 for response in responses]
    last = prompt.num_tokens - 1
    starts = np.cumsum([prompt.num_tokens, *inside])
    predicting = [
        np.concatenate([[last], np.arange(start, start + length)])
        for start, length in zip(starts, inside, strict=False)
    ]
    return _Piece(
        np.concatenate([prompt.input_ids.numpy(), *(response[:-1] for response in responses)]),
        torch.cat([prompt.position_ids, *(_after(prompt, length) for length in inside)], dim=1),
        [(prompt.num_tokens, inside)],
        np.concatenate(predicting),
    )


def _alone(prompt: PromptView, responses: Sequence[np.ndarray]) -> _Piece:
    ids, positions, sizes, predicting = [], [], [], []
    start = 0
    for response in responses:
        length = prompt.num_tokens + len(response) - 1
        ids += [prompt.input_ids.numpy(), response[:-1]]
        positions += [prompt.position_ids, _after(prompt, len(response) - 1)]
        sizes.append((length, list[int]()))
        predicting.append(np.arange(start + prompt.num_tokens - 1, start + length))
        start += length
    return _Piece(
        np.concatenate(ids), torch.cat(positions, dim=1), sizes, np.concatenate(predicting)
    )


def _after(prompt: PromptView, length: int) -> Tensor:
    """int64 [3, length]: positions of a branch, which continues where the prompt ends."""
    return prompt.position_ids[:, -1:] + 1 + torch.arange(length)
