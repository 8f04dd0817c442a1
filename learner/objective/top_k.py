"""The K largest of very many columns, exactly, without a selection over all of them."""

import torch
from torch import Tensor

_BLOCK = 64  # columns; near sqrt(V / K), where the two small selections are smallest


def top_k_ids(values_TV: Tensor, k: int) -> Tensor:
    """int64 [T, k]: ids of the k largest values of each row, in any order, ties in any way.

    The k blocks with the largest maxima hold a top k: outside of them nothing is larger than any of
    these k maxima. So it is enough to select among block maxima and then among k blocks.
    """
    num_columns = values_TV.shape[1]
    num_blocks = num_columns // _BLOCK
    if num_blocks <= 2 * k:
        return values_TV.topk(k, dim=1, sorted=False).indices
    blocked = num_blocks * _BLOCK
    maxima_TN = values_TV[:, :blocked].view(-1, num_blocks, _BLOCK).amax(dim=2)
    blocks_Tk = maxima_TN.topk(k, dim=1, sorted=False).indices
    inside_B = torch.arange(_BLOCK, device=values_TV.device)
    rest_R = torch.arange(blocked, num_columns, device=values_TV.device)
    candidates_TC = torch.cat(
        [
            (blocks_Tk[:, :, None] * _BLOCK + inside_B).flatten(1),
            rest_R.expand(len(values_TV), -1),
        ],
        dim=1,
    )
    chosen_Tk = values_TV.gather(1, candidates_TC).topk(k, dim=1, sorted=False).indices
    return candidates_TC.gather(1, chosen_Tk)
