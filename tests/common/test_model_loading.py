"""A model is what its files hold, or is refused by the names of what is wrong."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.core_model_loading import revert_weight_conversion

from common.errors import ConfigError
from common.model_loading import load_image_text_model, outline_image_text_model
from tests.tiny_model import FAMILIES, make_tiny_checkpoint, store_as_published

FILE = "model.safetensors"
NORM = "model.language_model.norm.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "model", family="qwen3_5")


def rewrite(folder: Path, changes: Tensors, left_out: list[str] | None = None) -> None:
    tensors = {**load_file(folder / FILE), **changes}
    kept = {name: t for name, t in tensors.items() if name not in (left_out or [])}
    save_file(kept, folder / FILE, metadata={"format": "pt"})


def refusal(folder: Path, key: str = "model.path") -> str:
    with pytest.raises(ConfigError) as caught:
        load_image_text_model(str(folder), key)
    told = str(caught.value)
    assert told.startswith(f"{key} = '{folder}' ") and "Fix: " in told
    assert len(told.splitlines()) == 1
    if "NaN" not in told:  # which the headers do not tell
        with pytest.raises(ConfigError) as caught:
            outline_image_text_model(str(folder), key)
        assert str(caught.value) == told
    return told


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_family_loads_tied_or_not(tmp_path: Path, family: str, is_tied: bool) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", tie_head=is_tied, family=family)
    model = load_image_text_model(str(folder))
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == is_tied
    assert_outlined(outline_image_text_model(str(folder)), model)


def assert_outlined(outline: Any, model: Any) -> None:
    """All that is known of a model before the tensors of its files are read, and no more."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    outlined = dict(outline.named_parameters(remove_duplicate=False))
    assert outlined.keys() == parameters.keys() and all(p.is_meta for p in outlined.values())
    for name, parameter in parameters.items():
        assert (outlined[name].dtype, outlined[name].shape) == (torch.float32, parameter.shape)
    assert len(set(outlined.values())) == len(set(parameters.values()))  # the same are tied
    buffers, expected = dict(outline.named_buffers()), dict(model.named_buffers())
    assert buffers.keys() == expected.keys()
    for name, buffer in expected.items():
        assert buffers[name].dtype == buffer.dtype and torch.equal(buffers[name], buffer), name
    ours, theirs = dict(outline.named_modules()), dict(model.named_modules())
    assert ours.keys() == theirs.keys()
    for name, module in theirs.items():
        assert type(ours[name]) is type(module) and ours[name].training is module.training, name
        assert vars(ours[name]).keys() == vars(module).keys(), name
    for name in ("config", "generation_config"):
        assert getattr(outline, name).to_dict() == getattr(model, name).to_dict()
    assert outline.name_or_path == model.name_or_path
    assert outline.config.name_or_path == model.config.name_or_path
    assert names_in_files(outline) == names_in_files(model)


def names_in_files(model: Any) -> dict[str, str]:
    """What transformers would call the tensors of a loaded model in its files."""
    stand_ins = {name: torch.empty(0, device="meta") for name in model.state_dict()}
    names = {id(tensor): name for name, tensor in stand_ins.items()}
    return {
        stored: names[id(tensor)]
        for stored, tensor in revert_weight_conversion(model, stand_ins).items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_an_outline_converts_only_what_has_other_names_in_its_files(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers takes longer to build its conversions than all else takes."""
    folder = make_tiny_checkpoint(tmp_path / "model", family=family)
    with monkeypatch.context() as patched:
        refused = MagicMock(side_effect=RuntimeError("conversions"))
        patched.setattr("transformers.modeling_utils.get_model_conversion_mapping", refused)
        if family == "qwen2_5_vl":
            with pytest.raises(ConfigError, match="conversions"):
                outline_image_text_model(str(folder))
            return
        before = torch.get_rng_state()
        outline_image_text_model(str(folder))
        assert torch.equal(torch.get_rng_state(), before)


def test_tensors_of_both_dtypes_come_in_float32_unrounded(folder: Path) -> None:
    store_as_published(folder)
    model = load_image_text_model(str(folder))
    for name, tensor in load_file(folder / FILE).items():
        found = model.state_dict()[name]
        assert found.dtype == torch.float32 and torch.equal(found, tensor.float()), name


def test_missing_tensors_are_named_and_counted(folder: Path, caplog) -> None:
    lost = [f"model.language_model.layers.{n}.mlp.up_proj.weight" for n in range(4)]
    rewrite(folder, {}, [*lost, NORM])
    told = refusal(folder)
    assert f"lacks tensors that its model has: {lost[0]}, {lost[1]}, {lost[2]} and 2 more" in told
    assert not caplog.records, "one line tells it, not a table as well"


def test_a_missing_embedding_is_no_tied_head(folder: Path) -> None:
    rewrite(folder, {}, ["model.language_model.embed_tokens.weight"])
    assert "lacks tensors" in refusal(folder) and "embed_tokens" in refusal(folder)


def test_an_untied_head_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", tie_head=False)
    rewrite(folder, {}, ["lm_head.weight"])
    assert "lacks tensors that its model has: lm_head.weight." in refusal(folder)


def test_unknown_tensors_are_named_but_for_those_that_the_class_leaves_aside(folder: Path) -> None:
    rewrite(folder, {"mtp.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)})
    load_image_text_model(str(folder))
    rewrite(folder, {"model.language_model.layers.7.extra": torch.zeros(2)})
    told = refusal(folder)
    assert "has tensors that its model does not know: model.language_model.layers.7.extra." in told


def test_tensors_of_another_shape_are_named_with_both(folder: Path) -> None:
    rewrite(folder, {NORM: torch.ones(31)}, ["model.visual.pos_embed.weight"])
    told = refusal(folder, "teacher.path")
    assert f"of another shape than its config.json says: {NORM} ([31], not [32])" in told
    assert "lacks tensors that its model has: model.visual.pos_embed.weight" in told


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_named(folder: Path, value: float, dtype: torch.dtype) -> None:
    spoilt = load_file(folder / FILE)[NORM].to(dtype)
    spoilt[3] = value
    rewrite(folder, {NORM: spoilt})
    assert f"has tensors with NaN or infinity: {NORM}." in refusal(folder)


def test_another_kind_of_model_is_one_line(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "qwen3_5"', '"model_type": "new"'))
    assert "cannot be loaded: " in refusal(folder) and "Qwen3-VL" in refusal(folder)


def test_a_config_of_the_wrong_types_is_one_line(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "wide"'))
    assert "cannot be loaded: " in refusal(folder)
