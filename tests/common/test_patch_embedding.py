"""Patches are multiplied as transformers convolves them.

Holds common/forwards.py.
"""

import copy

import pytest
import torch

from common.model_loading import load_image_text_model
from common.patch_embedding import multiply_patches
from tests.tiny_model import FAMILIES, make_tiny_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_the_product_is_the_convolution(family, tmp_path) -> None:
    plain = load_image_text_model(str(make_tiny_checkpoint(tmp_path, seed=0, family=family)))
    plain = plain.double().model.visual.patch_embed
    ours = copy.deepcopy(plain)
    multiply_patches(ours)
    patches = torch.randn(6, plain.proj.weight[0].numel(), dtype=torch.float64)
    outputs = [module(patches) for module in (plain, ours)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
    towards = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(towards)
    expected = {name: p.grad for name, p in plain.named_parameters()}
    assert {name for name, _ in ours.named_parameters()} == set(expected)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-12)


def test_overlapping_patches_stay_a_convolution() -> None:
    class PatchEmbed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Conv3d(3, 4, 2, stride=1)

    module = PatchEmbed()
    multiply_patches(module)
    assert type(module) is PatchEmbed
