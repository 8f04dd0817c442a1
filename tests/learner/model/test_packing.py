"""Packed rows equal the plain forward of each sequence: layer by layer, and in all gradients.

Holds learner/model/last_layer.py, learner/model/pictures.py.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_5 import modeling_qwen3_5

from common.config import ModelSection
from common.errors import ConfigError
from common.patching import Patching
from common.rendering import Renderer
from learner.model import tree_attention
from learner.model.packing import pack, packed_tokens
from learner.model.ragged_attention import RaggedFlash
from learner.model.student import load_student, prompt_positions, response_hidden_states
from learner.views.inputs import PromptView, view_of
from tests.learner.ragged_on_cpu import ragged_on_cpu  # noqa: F401
from tests.tiny_model import FAMILIES, PROBLEM, make_tiny_checkpoint

SIZES = [(64, 48), (32, 32), (96, 16)]  # pixels at a patch of 8
RESPONSES = [[3, 1, 4], [1, 1], [5, 2, 70, 1]]  # lengths, per group; one is longer than a chunk


def text_view(num_tokens: int, last_position: int) -> PromptView:
    """A prompt without pixels; its last position differs from its length, as after an image."""
    positions = torch.arange(num_tokens) + last_position - num_tokens + 1
    return PromptView(
        torch.arange(100, 100 + num_tokens),
        positions.expand(3, -1),
        torch.zeros(0, 0, 3, dtype=torch.uint8),
        torch.zeros(0, 3, dtype=torch.int64),
        Patching(torch.zeros(3, 256), side=8, merge=2, frames=2),
    )


def test_a_shared_row_is_laid_out_as_documented():
    responses = [[np.array([11, 12, 13]), np.array([21]), np.array([31, 32])], [np.array([41, 42])]]
    row = pack([text_view(3, last_position=7), text_view(2, 1)], responses)
    assert row.input_ids_L.tolist() == [100, 101, 102, 11, 12, 31, 100, 101, 41]
    assert row.position_ids_3L[1].tolist() == [5, 6, 7, 8, 9, 8, 0, 1, 2]
    assert row.places_N.tolist() == [2, 3, 4, 2, 2, 5, 7, 8]
    assert [(tree.root, tree.branches) for tree in row.layout.trees] == [(3, (2, 1)), (2, (1,))]
    assert len(row.input_ids_L) == packed_tokens(3, [3, 1, 2], True) + packed_tokens(2, [2], True)


def test_without_sharing_each_response_is_a_sequence_of_its_own():
    responses = [[np.array([1, 2, 3]), np.array([4])]]
    row = pack([text_view(2, 1)], responses, share_prefix=False)
    assert row.input_ids_L.tolist() == [100, 101, 1, 2, 100, 101]
    assert row.places_N.tolist() == [1, 2, 3, 5]
    assert [(tree.root, tree.branches) for tree in row.layout.trees] == [(4, ()), (2, ())]
    assert len(row.input_ids_L) == packed_tokens(2, [3, 1], False)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp(request.param), family=request.param)


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    config = ModelSection(path=str(checkpoint), gradient_checkpointing=False)
    return load_student(config, torch.device("cpu")).double()


@pytest.fixture(scope="module")
def plain(checkpoint: Path, model):
    """transformers' own model and attention, with the same weights."""
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    ).double()
    plain.load_state_dict(model.state_dict())
    return plain


def views(model, renderer: Renderer) -> list[PromptView]:
    generator = np.random.default_rng(0)
    scale = model.config.vision_config.patch_size // 8 or 1
    prompts = []
    for width, height in SIZES:
        shape = (height * (2 if scale > 1 else 1), width * (2 if scale > 1 else 1), 3)
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        prompt = renderer.prompt(PROBLEM, Image.fromarray(pixels))
        ids, types, grid = map(
            torch.from_numpy,
            (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw),
        )
        positions = prompt_positions(model, ids, types, grid)
        prompts.append(view_of(prompt, positions, renderer.patching))
    return prompts


def plain_hidden_states(model, image_token_id: int, prompt: PromptView, response) -> list:
    """Hidden states that predict the response, after every layer: [T, D] each."""
    ids = torch.cat([prompt.input_ids, torch.from_numpy(response)])
    layers: list[torch.Tensor] = []
    with record_layers(model, layers):
        output = model.base_model(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            mm_token_type_ids=(ids == image_token_id).long()[None],
            pixel_values=prompt.patching.patches([prompt.pixels], torch.float32),
            image_grid_thw=prompt.image_grid_thw,
            use_cache=False,
        )
    states = [*layers, output.last_hidden_state]
    return [layer[0, len(prompt.input_ids) - 1 : -1] for layer in states]


def plain_delta_rule(query, key, value, g, beta, initial_state=None, **_):
    """Token by token in the dtype it is given; transformers' own computes in float32."""
    query, key = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (query, key))
    state = initial_state
    if state is None:
        state = query.new_zeros(len(query), query.shape[2], query.shape[3], value.shape[3])
    outputs = []
    for q, k, v, decay, rate in zip(
        *(t.unbind(1) for t in (query, key, value, g, beta)), strict=True
    ):
        state = state * decay.exp()[..., None, None]
        change = (v - torch.einsum("shkv,shk->shv", state, k)) * rate[..., None]
        state = state + torch.einsum("shk,shv->shkv", k, change)
        outputs.append(torch.einsum("shkv,shk->shv", state, q) * q.shape[-1] ** -0.5)
    return torch.stack(outputs, dim=1), state


def gradients_of(model, output: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (output * direction).sum().backward()
    return {n: copy.deepcopy(p.grad) for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("ragged_on_cpu")
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_outputs_and_all_gradients_equal_the_plain_forward(
    model, plain, checkpoint, share_prefix: bool, device: str, monkeypatch
):
    if device == "gpu":
        monkeypatch.setattr(tree_attention, "kernels_for", lambda tensor: RaggedFlash())
    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", plain_delta_rule)
    renderer = Renderer(str(checkpoint))
    generator = np.random.default_rng(1)
    prompts = views(model, renderer)
    responses = [[generator.integers(8, 20, n) for n in lengths] for lengths in RESPONSES]
    alone = [
        plain_hidden_states(plain, renderer.image_token_id, prompt, response)
        for prompt, group in zip(prompts, responses, strict=True)
        for response in group
    ]
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    direction = torch.randn(expected[-1].shape, dtype=torch.double)
    expected_gradients = gradients_of(plain, expected[-1], direction)

    row = pack(prompts, responses, share_prefix)
    layers = []
    with record_layers(model, layers):
        found = response_hidden_states(model, row, torch.float32)
    assert row.layout.asked_M is not None and layers[-1].shape[1] == len(row.layout.asked_M)
    layers[-1] = layers[-1].new_zeros(layers[0].shape).index_copy(1, row.layout.asked_M, layers[-1])
    for number, (layer, wanted) in enumerate(zip(layers, expected[:-1], strict=True)):
        assert_close(layer[0, row.places_N], wanted, f"layer {number}")
    assert_close(found, expected[-1], "output")
    gradients = gradients_of(model, found, direction)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected_gradients[name], name)


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Norms and decays are computed in float32, whatever the model's dtype."""
    atol = 1e-6 * expected.abs().max().item() + 1e-12
    torch.testing.assert_close(
        found, expected, rtol=1e-5, atol=atol, msg=lambda text: f"{name}: {text}"
    )


class record_layers:
    """Collects the outputs of the decoder layers, [1, L, D] each."""

    def __init__(self, model, found: list) -> None:
        self._layers, self._found = model.base_model.language_model.layers, found

    def __enter__(self) -> None:
        self._handles = [
            layer.register_forward_hook(lambda m, a, out: self._found.append(out.detach()))
            for layer in self._layers
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


@pytest.mark.parametrize("share_prefix", [True, False])
def test_float32_gradients_equal_the_exact_unshared_ones(checkpoint: Path, share_prefix: bool):
    """To 2e-5 of each parameter's gradient; the recurrence of a delta net rounds a little more."""
    model = load_student(ModelSection(path=str(checkpoint)), torch.device("cpu"))  # recomputes
    exact = copy.deepcopy(model).double()
    renderer = Renderer(str(checkpoint))
    generator = np.random.default_rng(1)
    prompts = views(model, renderer)
    responses = [[generator.integers(8, 20, n) for n in lengths] for lengths in RESPONSES]
    direction = torch.randn(sum(map(sum, RESPONSES)), 32) / 10

    def gradients(model, dtype: torch.dtype, share_prefix: bool) -> dict[str, torch.Tensor]:
        row = pack(prompts, responses, share_prefix)
        found = response_hidden_states(model, row, torch.float32)
        return gradients_of(model, found, direction.to(dtype))

    expected = gradients(exact, torch.float64, share_prefix=False)
    found = gradients(model, torch.float32, share_prefix)
    for name, wanted in expected.items():
        error = (found[name] - wanted).norm() / wanted.norm().clamp(min=1e-6)
        assert error < (5e-5 if "linear_attn" in name else 2e-5), (name, error.item())


def test_an_image_goes_through_the_vision_tower_once(model, checkpoint: Path):
    renderer = Renderer(str(checkpoint))
    prompts = views(model, renderer)
    responses = [[np.array([9, 10])] * 3 for _ in prompts]
    seen: list[int] = []
    handle = model.base_model.visual.register_forward_hook(
        lambda m, a, kw, out: seen.append(len(kw["grid_thw"])), with_kwargs=True
    )
    try:
        for share_prefix in (True, False):
            response_hidden_states(model, pack(prompts, responses, share_prefix), torch.float32)
    finally:
        handle.remove()
    assert seen == [len(prompts), len(prompts)]


def test_a_sliding_window_is_refused(tmp_path: Path):
    import json

    folder = make_tiny_checkpoint(tmp_path / "windows", family="qwen2_5_vl")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
        "layer_types": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="sliding_attention"):
        load_student(ModelSection(path=str(folder)), torch.device("cpu"))
