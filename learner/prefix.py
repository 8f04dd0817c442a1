"""One row a group: the n responses branch off a prompt that is computed once.

    tokens     p0 p1 p2 p3 | a1 a2 | b1 b2 b3 | pad
    branch      0  0  0  0 |  1  1 |  2  2  2 | -1
    position    0  1  2  3 |  4  5 |  4  5  6 |

A token sees the prompt and its own branch, up to itself. A branch holds all of its response but the
last token, which predicts nothing that is trained on. Response token 0 is predicted by the prompt's
last token, whatever the branch. With one response a row this is the ordinary causal sequence, which
is what `share_prefix = false` uses. Axes: B rows, L tokens, N response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from learner.inputs import PromptView

PADDING = -1


@dataclass(frozen=True)
class Rows:
    """Inputs of one forward pass, and where its predictions of response tokens are."""

    input_ids_BL: Tensor  # int64
    position_ids_3BL: Tensor  # int64
    attention_mask: Tensor  # bool [B, 1, L, L] with branches; int64 [B, L] without
    pixel_values: Tensor
    image_grid_thw: Tensor
    predicting_N: Tensor  # int64 into B * L, ordered by group, trajectory and token

    def to(self, device: torch.device) -> "Rows":
        moved = {name: value.to(device) for name, value in vars(self).items()}
        return replace(self, **moved)


def build_rows(
    prompts: Sequence[PromptView],
    responses: Sequence[Sequence[np.ndarray]],
    pad_token_id: int,
    share_prefix: bool = True,
) -> Rows:
    """Rows for several groups, padded on the right to the longest.

    Args:
        responses: for each prompt its responses, int64 [T] each, T >= 1.
    """
    if not share_prefix:
        prompts = [p for p, branches in zip(prompts, responses, strict=True) for _ in branches]
        responses = [[branch] for branches in responses for branch in branches]
    rows = [
        _row(p.num_tokens, [len(r) for r in b]) for p, b in zip(prompts, responses, strict=True)
    ]
    length = max(len(row.branch) for row in rows)
    branch_BL = _pad([row.branch for row in rows], length, PADDING)
    input_ids = [_token_ids(p, b) for p, b in zip(prompts, responses, strict=True)]
    positions = [_positions(p, row) for p, row in zip(prompts, rows, strict=True)]
    predicting = [row.predicting + number * length for number, row in enumerate(rows)]
    has_branches = any(len(branches) > 1 for branches in responses)
    return Rows(
        input_ids_BL=torch.from_numpy(_pad(input_ids, length, pad_token_id)),
        position_ids_3BL=torch.stack(
            [torch.nn.functional.pad(p, (0, length - p.shape[1])) for p in positions], dim=1
        ),
        attention_mask=branch_mask(torch.from_numpy(branch_BL))
        if has_branches
        else torch.from_numpy((branch_BL != PADDING).astype(np.int64)),
        pixel_values=torch.cat([p.pixel_values for p in prompts]),
        image_grid_thw=torch.cat([p.image_grid_thw for p in prompts]),
        predicting_N=torch.from_numpy(np.concatenate(predicting)),
    )


def branch_mask(branch_BL: Tensor) -> Tensor:
    """Who sees whom: bool [B, 1, L, L], query by key. Padding is seen by padding alone."""
    query_BL1, key_B1L = branch_BL[:, :, None], branch_BL[:, None, :]
    length = branch_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=branch_BL.device).tril()
    return (((key_B1L == 0) | (key_B1L == query_BL1)) & causal_LL)[:, None]


def row_tokens(num_prompt_tokens: int, response_lengths: Sequence[int]) -> int:
    """Length of the row of one group."""
    return num_prompt_tokens + sum(response_lengths) - len(response_lengths)


@dataclass(frozen=True)
class _Row:
    branch: np.ndarray  # int64 [L]: 0 the prompt, i the i-th response
    offset: np.ndarray  # int64 [L - P]: place within its branch
    predicting: np.ndarray  # int64 [N]: index of the token that predicts each response token


def _row(num_prompt_tokens: int, response_lengths: Sequence[int]) -> _Row:
    lengths = np.asarray(response_lengths)
    inside = lengths - 1
    starts = num_prompt_tokens + np.cumsum(inside) - inside  # of each branch
    branch = np.repeat(np.arange(1, len(lengths) + 1), inside)
    offset = np.arange(inside.sum()) - np.repeat(starts - num_prompt_tokens, inside)
    firsts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(firsts, lengths)  # within its response
    predicting = np.where(place == 0, num_prompt_tokens - 1, np.repeat(starts, lengths) + place - 1)
    prompt = np.zeros(num_prompt_tokens, dtype=np.int64)
    return _Row(np.concatenate([prompt, branch]), offset, predicting)


def _token_ids(prompt: PromptView, branches: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([prompt.input_ids.numpy(), *(branch[:-1] for branch in branches)])


def _positions(prompt: PromptView, row: _Row) -> Tensor:
    """int64 [3, L]: every branch goes on where the prompt ends (spec 3.6)."""
    after_3N = prompt.position_ids[:, -1:] + 1 + torch.from_numpy(row.offset)
    return torch.cat([prompt.position_ids, after_3N], dim=1)


def _pad(rows: Sequence[np.ndarray], length: int, value: int) -> np.ndarray:
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
