"""Sizes of images reach the part of a tower that computes with them on its device."""

import pytest
import torch

from common.model_loading import outline_image_text_model
from learner.model.vision import take_sizes_to_device
from tests.tiny_model import make_tiny_checkpoint


def test_glms_positions_are_interpolated_on_the_device(tmp_path) -> None:
    """The meta device stands for a GPU: it takes no tensor of the CPU either."""
    model = outline_image_text_model(str(make_tiny_checkpoint(tmp_path, family="glm4v")))
    embeddings = model.base_model.visual.embeddings
    places = torch.empty(16, device="meta")
    inputs = (torch.empty(16, 24, device="meta"), torch.tensor([16]), torch.tensor([[1, 4, 4]]))
    with pytest.raises(RuntimeError, match="device"):
        embeddings(*inputs, places, places)
    take_sizes_to_device(model)
    assert embeddings(*inputs, places, places).shape == (16, 24)
