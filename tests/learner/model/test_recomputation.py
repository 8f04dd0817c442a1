"""Layers that are recomputed in the backward pass: which ones, and that nothing depends on it."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from common.config import ModelSection
from learner.checking.lengths import scaled_lengths
from learner.checking.shapes import make_batch, make_model, tenth_of_4b
from learner.model.packing import pack
from learner.model.student import prepare_to_train, response_hidden_states

CPU = torch.device("cpu")


def trained(family: str, recomputed: bool | float) -> tuple[dict[str, Tensor], Any, Counter[Any]]:
    """Gradients, the model, and how often the forward pass of each module has begun."""
    section = ModelSection(gradient_checkpointing=recomputed)
    model = prepare_to_train(make_model(family, tenth_of_4b(4, 512)), section, CPU)
    begun: Counter[Any] = Counter()
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, inputs: begun.update([module]))
    (group,) = make_batch(1, 1, scaled_lengths(200), model, 512).groups
    hidden_ND = response_hidden_states(
        model, pack([group.student], [group.responses]), torch.float32
    )
    hidden_ND.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}, model, begun


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
def test_gradients_are_the_same_whatever_is_recomputed(family: str) -> None:
    expected, _, _ = trained(family, False)
    assert sum(gradient is not None for gradient in expected.values()) > 100
    for recomputed in (True, 0.5):
        found, _, _ = trained(family, recomputed)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recomputed", "decoder", "tower"),
    [
        (False, [1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]),
        (True, [2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2, 2]),
        (0.5, [1, 2, 1, 2], [1, 2, 1, 2, 1, 2, 1, 2]),
        (0.75, [1, 2, 2, 2], [1, 2, 2, 2, 1, 2, 2, 2]),
    ],
)
def test_a_share_of_each_stack_is_recomputed(
    recomputed: bool | float, decoder: list[int], tower: list[int]
) -> None:
    _, model, begun = trained("qwen3_5", recomputed)
    assert [begun[layer] for layer in model.base_model.language_model.layers] == decoder
    assert [begun[block] for block in model.base_model.visual.blocks] == tower
