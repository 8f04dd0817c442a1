"""Adapters start as the base model, train alone, and merge into weights of the base's names."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import CheckpointError, ConfigError
from learner.model.lora import (
    AdaptedLinear,
    adapter_state,
    add_adapters,
    base_names,
    iterate_merged,
    load_adapters,
    merged_weight,
)
from tests.tiny_model import FAMILIES, PATCH_SIZES, image_start, make_tiny_checkpoint

RANK, ALPHA, SEED = 3, 6.0, 5
LAYERS = {"qwen3_vl": 2, "qwen2_5_vl": 2, "qwen3_5": 4, "glm4v": 2}
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
DELTA_NET = [f"linear_attn.in_proj_{part}" for part in ("qkv", "z", "b", "a")]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
MLP_OF_GLM = ["mlp.gate_up_proj", "mlp.down_proj"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    return {
        (family, is_tied): make_tiny_checkpoint(tmp_path_factory.mktemp(family), 0, is_tied, family)
        for family in FAMILIES
        for is_tied in (True, False)
    }


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(checkpoints, family: str) -> Any:
    return load(checkpoints[family, True])


def load(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()


def adapted(base: Any, seed: int = SEED) -> Any:
    model = copy.deepcopy(base)
    add_adapters(model, RANK, ALPHA, seed)
    return model


def with_random_adapters(base: Any) -> Any:
    model = adapted(base)
    for adapter in adapter_state(model).values():
        adapter.normal_(std=0.1)
    return model


def hidden_states(model: Any, family: str) -> Tensor:
    made = torch.Generator().manual_seed(0)
    start, image = image_start(model.config), model.config.image_token_id
    ids = torch.tensor([[8, 9, start] + [image] * 4 + [10, 11, 12, 13, 14]])
    return model.base_model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == image).long(),
        pixel_values=torch.randn(16, 6 * PATCH_SIZES[family] ** 2, generator=made),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        use_cache=False,
    ).last_hidden_state


def test_every_linear_layer_of_the_decoder_is_adapted_and_nothing_else(base, family: str):
    model = adapted(base)
    names = {n for n, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    expected = set()
    for number in range(LAYERS[family]):
        is_delta = family == "qwen3_5" and number < 3
        mlp = MLP_OF_GLM if family == "glm4v" else MLP
        parts = [*DELTA_NET, "linear_attn.out_proj"] if is_delta else ATTENTION
        expected |= {f"model.language_model.layers.{number}.{p}" for p in [*parts, *mlp]}
    assert names == expected
    for name in names:
        linear = base.get_submodule(name)
        assert model.get_parameter(f"{name}.lora_a").shape == (RANK, linear.in_features)
        assert model.get_parameter(f"{name}.lora_b").shape == (linear.out_features, RANK)


def test_names_in_the_state_dict_are_the_bases_and_the_adapters(base):
    model = adapted(base)
    names = set(model.state_dict())
    assert set(base.state_dict()) < names
    assert names - set(base.state_dict()) == set(adapter_state(model))


def test_at_first_the_model_is_the_base_model_bit_by_bit(base, family: str):
    assert torch.equal(hidden_states(adapted(base), family), hidden_states(base, family))


def test_the_seed_alone_makes_the_adapters(base):
    one, same, other = (adapter_state(adapted(base, seed)) for seed in (1, 1, 2))
    for name, adapter in one.items():
        assert torch.equal(adapter, same[name])
        assert torch.equal(adapter, other[name]) == name.endswith("lora_b")
    firsts = [a.flatten() for n, a in one.items() if n.endswith("lora_a") and a.shape[1] == 32]
    assert len({tuple(a.tolist()) for a in firsts}) == len(firsts), "layers share an adapter"
    assert torch.cat(firsts).std().item() == pytest.approx(32**-0.5, rel=0.1)


@pytest.mark.parametrize("is_vision_frozen", [True, False])
def test_gradients_are_the_adapters_and_the_vision_towers_if_it_is_trained(
    base, family: str, is_vision_frozen: bool
):
    base.base_model.visual.requires_grad_(not is_vision_frozen)
    model = with_random_adapters(base)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    hidden_states(model, family).square().mean().backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    vision = {name for name, _ in model.named_parameters() if name.startswith("model.visual.")}
    assert vision
    assert found == set(adapter_state(model)) | (set() if is_vision_frozen else vision)


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(base, family: str):
    base.base_model.visual.requires_grad_(False)
    model = adapted(base)
    target = torch.randn_like(hidden_states(base, family))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = (hidden_states(model, family) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(after < before for before, after in itertools.pairwise(losses)), losses
    for name, tensor in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("is_tied", [True, False])
def test_merged_names_and_shapes_are_the_base_models(checkpoints, family: str, is_tied: bool):
    base = load(checkpoints[family, is_tied])
    model = with_random_adapters(base)
    merged = dict(iterate_merged(model))
    expected = dict(base.state_dict())
    if is_tied:
        del expected["lm_head.weight"]  # the embedding again
    assert list(merged) == list(expected) == base_names(model) == base_names(base)
    assert [name for name, _ in iterate_merged(model)] == list(merged)
    for name, tensor in merged.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        is_changed = isinstance(model.get_submodule(name.rpartition(".")[0]), AdaptedLinear)
        assert torch.equal(tensor, expected[name]) != (is_changed and name.endswith("weight"))


def test_the_merged_weight_is_w_and_the_scaled_product(base):
    model = with_random_adapters(base)
    layer = model.base_model.language_model.layers[0].mlp.down_proj
    expected = layer.weight.double() + ALPHA / RANK * layer.lora_b.double() @ layer.lora_a.double()
    found = merged_weight(model, "model.language_model.layers.0.mlp.down_proj.weight")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_merged_weights_compute_what_adapters_compute(base, family: str):
    model = with_random_adapters(base)
    expected = hidden_states(model, family)
    assert (expected - hidden_states(base, family)).abs().max() > 0.1
    base.load_state_dict(dict(iterate_merged(model)), strict=False)
    torch.testing.assert_close(hidden_states(base, family), expected, rtol=1e-5, atol=1e-5)


def test_a_resumed_run_has_the_adapters_again(base, family: str, tmp_path: Path):
    model = with_random_adapters(base)
    save_file(adapter_state(model), tmp_path / "adapters.safetensors")
    resumed = adapted(base, seed=SEED + 1)
    load_adapters(resumed, load_file(tmp_path / "adapters.safetensors"))
    assert torch.equal(hidden_states(resumed, family), hidden_states(model, family))


def test_adapters_of_another_model_or_rank_are_refused_and_nothing_is_changed(base):
    model = with_random_adapters(base)
    before = {name: adapter.clone() for name, adapter in adapter_state(model).items()}
    name = next(iter(before))
    fewer = {n: torch.zeros_like(a) for n, a in before.items() if n != name}
    with pytest.raises(CheckpointError, match=rf"1 adapters .*{name}\. Fix: "):
        load_adapters(model, fewer)
    last = next(reversed(before))
    wide = {**{n: torch.zeros_like(a) for n, a in before.items()}, last: torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=rf"{last} has the shape \(2, 2\), not .* Fix: "):
        load_adapters(model, wide)
    for name, adapter in adapter_state(model).items():
        assert torch.equal(adapter, before[name])


def test_a_model_without_decoder_layers_is_refused():
    model = nn.Module()
    model.base_model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"model.lora_rank = 4: .* Fix: model.lora_rank = 0"):
        add_adapters(model, 4, ALPHA, SEED)


def test_under_autocast_adapters_compute_in_bfloat16():
    layers = nn.ModuleList([nn.Linear(16, 8, bias=True)])
    model = nn.Module()
    model.base_model = nn.Module()
    model.base_model.language_model, model.base_model.visual = nn.Module(), nn.Module()
    model.base_model.language_model.layers = layers
    add_adapters(model, 2, ALPHA, SEED)
    layers[0].lora_b.data.normal_()
    given = torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layers[0](given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layers[0](given), rtol=0.05, atol=0.1)
