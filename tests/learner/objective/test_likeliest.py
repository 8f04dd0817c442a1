"""The likeliest tokens against a plain softmax."""

import pytest
import torch

from learner.objective.head import HeadInputs
from learner.objective.likeliest import likeliest_tokens


@pytest.mark.parametrize(("vocabulary", "k"), [(50, 60), (700, 3)])
@pytest.mark.parametrize("chunk_elements", [None, 1, 2000])
def test_the_likeliest_tokens_are_those_of_a_plain_softmax_in_order(vocabulary, k, chunk_elements):
    torch.manual_seed(0)
    models = [
        HeadInputs(torch.randn(5, width), torch.randn(vocabulary, width), softcap=cap)
        for width, cap in ((8, None), (6, 2.0))
    ]
    found = likeliest_tokens(((0.25, models[0]), (0.75, models[1])), k, 0.7, chunk_elements)
    first, second = (m.hidden_TD @ m.weight_VD.T for m in models)
    logits = 0.25 * first + 0.75 * 2.0 * torch.tanh(second / 2.0)
    plain = torch.softmax(logits / 0.7, dim=1).topk(min(k, vocabulary), dim=1)
    assert torch.equal(found.ids_TK, plain.indices)
    torch.testing.assert_close(found.probabilities_TK, plain.values)


def test_of_no_rows_there_are_no_tokens():
    head = HeadInputs(torch.zeros(0, 4), torch.randn(9, 4))
    assert likeliest_tokens(((1.0, head),), 2, 1.0).ids_TK.shape == (0, 2)
