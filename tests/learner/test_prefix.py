import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import ModelSection
from common.rendering import Renderer
from learner.inputs import PromptView
from learner.model import load_student, prompt_positions, response_hidden_states
from learner.prefix import branch_mask, build_rows, row_tokens
from tests.tiny_model import PROBLEM

PAD = 0
SIZES = [(64, 48), (32, 32), (96, 16)]
RESPONSES = [[3, 1, 4], [1, 1], [5, 2, 2, 1]]  # lengths, per group


def text_view(num_tokens: int, last_position: int) -> PromptView:
    """A prompt without pixels; its last position differs from its length, as after an image."""
    positions = torch.arange(num_tokens) + last_position - num_tokens + 1
    return PromptView(
        torch.arange(100, 100 + num_tokens),
        positions.expand(3, -1),
        torch.zeros(0, 4),
        torch.zeros(0, 3, dtype=torch.int64),
    )


def test_rows_are_laid_out_as_documented():
    responses = [[np.array([11, 12, 13]), np.array([21]), np.array([31, 32])]]
    rows = build_rows([text_view(3, last_position=7)], responses, PAD)
    assert rows.input_ids_BL.tolist() == [[100, 101, 102, 11, 12, 31]]
    assert rows.position_ids_3BL[1].tolist() == [[5, 6, 7, 8, 9, 8]]
    assert rows.predicting_N.tolist() == [2, 3, 4, 2, 2, 5]
    assert rows.input_ids_BL.shape[1] == row_tokens(3, [3, 1, 2])
    assert rows.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_shorter_rows_are_padded_and_padding_is_never_seen():
    prompts = [text_view(4, 3), text_view(2, 1)]
    responses = [[np.array([1, 2]), np.array([3, 4])], [np.array([5, 6]), np.array([7])]]
    rows = build_rows(prompts, responses, PAD)
    assert rows.input_ids_BL.tolist()[1] == [100, 101, 5, PAD, PAD, PAD]
    mask = rows.attention_mask[1, 0]
    assert not mask[:3, 3:].any()
    assert mask.any(dim=-1).all()  # a row of the softmax without any key would be nan
    assert rows.predicting_N.tolist() == [3, 4, 3, 5, 6 + 1, 6 + 2, 6 + 1]


def test_without_sharing_each_response_has_a_row_and_a_plain_mask():
    responses = [[np.array([1, 2, 3]), np.array([4])]]
    rows = build_rows([text_view(2, 1)], responses, PAD, share_prefix=False)
    assert rows.input_ids_BL.tolist() == [[100, 101, 1, 2], [100, 101, PAD, PAD]]
    assert rows.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert rows.predicting_N.tolist() == [1, 2, 3, 5]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 4))
def test_mask_equals_its_definition(branch_lengths: list[int], prompt: int):
    branch = [0] * prompt + [b for b, n in enumerate(branch_lengths, 1) for _ in range(n)] + [-1]
    mask = branch_mask(torch.tensor([branch]))[0, 0]
    for query in range(len(branch)):
        for key in range(len(branch)):
            expected = key <= query and branch[key] in (0, branch[query])
            assert mask[query, key].item() == expected


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path):
    config = ModelSection(path=str(tiny_checkpoint), gradient_checkpointing=False)
    return load_student(config, torch.device("cpu")).double()


def views(model, renderer: Renderer) -> list[PromptView]:
    generator = np.random.default_rng(0)
    prompts = []
    for width, height in SIZES:
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        prompt = renderer.prompt(PROBLEM, Image.fromarray(pixels))
        ids, types, grid = map(
            torch.from_numpy,
            (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw),
        )
        positions = prompt_positions(model, ids, types, grid)
        prompts.append(
            PromptView(ids, positions, torch.from_numpy(prompt.pixel_values).double(), grid)
        )
    return prompts


def plain_hidden_states(model, renderer: Renderer, prompt: PromptView, response) -> torch.Tensor:
    """The model's ordinary forward pass of one sequence, with its own mask and positions."""
    ids = torch.cat([prompt.input_ids, torch.from_numpy(response)])
    types = (ids == renderer.image_token_id).long()
    hidden = model.base_model(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        mm_token_type_ids=types[None],
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        use_cache=False,
    ).last_hidden_state[0]
    return hidden[len(prompt.input_ids) - 1 : -1]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_and_all_gradients_equal_the_plain_forward(
    model, renderer: Renderer, share_prefix: bool, attention: str
):
    model.set_attn_implementation(attention)
    generator = np.random.default_rng(1)
    prompts = views(model, renderer)
    responses = [[generator.integers(8, 20, n) for n in lengths] for lengths in RESPONSES]

    expected = torch.cat(
        [
            plain_hidden_states(model, renderer, prompt, response)
            for prompt, group in zip(prompts, responses, strict=True)
            for response in group
        ]
    )
    direction = torch.randn(expected.shape, dtype=expected.dtype)
    model.zero_grad()
    (expected * direction).sum().backward()
    expected_gradients = {
        name: copy.deepcopy(p.grad) for name, p in model.named_parameters() if p.grad is not None
    }

    rows = build_rows(prompts, responses, renderer.tokenizer.pad_token_id, share_prefix)
    found = response_hidden_states(model, rows, torch.float32)
    model.zero_grad()
    (found * direction).sum().backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected_gradients.keys()
    assert len(gradients) == len(list(model.parameters()))
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-5, atol=1e-6 * scale + 1e-12, msg=name
        )
