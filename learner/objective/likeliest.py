"""The likeliest tokens at each position, for people who look at one. Axes: T rows, K tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.head import MixedHeads, slices, wide_dtype, without_grad, write_logits
from learner.objective.normaliser import normaliser_and_entropy
from learner.objective.plan import plan_chunks
from learner.objective.top_k import top_k_ids


@dataclass(frozen=True)
class Likeliest:
    """The K likeliest tokens of each row, the likeliest first."""

    ids_TK: Tensor  # int64
    probabilities_TK: Tensor  # float32 (float64 where hidden states are), of the whole vocabulary


@torch.no_grad()
def likeliest_tokens(
    heads: MixedHeads, k: int, temperature: float, chunk_elements: int | None = None
) -> Likeliest:
    """The likeliest tokens at the sampling temperature; banned ids are among them (equation 1).

    Args:
        k: a smaller vocabulary has no more than all its tokens.
        chunk_elements: as in `learner.objective.loss.objective`.
    """
    heads = tuple((weight, without_grad(head)) for weight, head in heads)
    first = heads[0][1]
    num_rows, vocabulary = len(first.hidden_TD), first.weight_VD.shape[0]
    k = min(k, vocabulary)
    plan = plan_chunks(num_rows, vocabulary, first.hidden_TD.device, chunk_elements)
    buffer = first.hidden_TD.new_empty(plan.rows, vocabulary, dtype=wide_dtype(first))
    ids_TK = torch.empty(num_rows, k, dtype=torch.int64, device=buffer.device)
    probabilities_TK = buffer.new_empty(num_rows, k)
    for rows in slices(num_rows, plan.rows):
        logits_TV = buffer[: rows.stop - rows.start]
        write_logits(heads, rows, temperature, plan.width, logits_TV)
        some_TK = top_k_ids(logits_TV, k)
        found_TK, order_TK = logits_TV.gather(1, some_TK).sort(dim=1, descending=True)
        ids_TK[rows] = some_TK.gather(1, order_TK)
        normaliser, _ = normaliser_and_entropy(logits_TV, plan.group, keep_logits=False)
        probabilities_TK[rows] = normaliser.logprobs(found_TK).exp()
    return Likeliest(ids_TK, probabilities_TK)
