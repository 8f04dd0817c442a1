import json
import math
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.families import FAMILIES
from deploy.planning.shape import KNOWN, shape_of
from tests.deploy.planning.shapes import SHAPE, TOWER

CHECKPOINT = Path(__file__).parents[3] / "deploy" / "quickstart" / "checkpoint"


def test_parameters_by_hand():
    blocks = 2 * (4 * 4 * 4 + 2 * 4 * 8)
    merger = 16 * 16 + 16 * 6
    assert TOWER.parameters == blocks + merger + 3 * 2 * 2 * 4 == 656
    attention = 6 * 6 + 6 * 6 + 2 * 6 * 3  # queries, output; keys and values of one head
    assert SHAPE.layer_parameters == 3 * (attention + 3 * 6 * 10) == 864
    assert SHAPE.parameters == 864 + 50 * 6 + 656  # the head is tied
    assert SHAPE.kv_numbers == 2 * 3 * 3


def test_operations_by_hand():
    # 2 for each parameter; attention: 2 for q k and 2 for the values, each of 2 heads of 3
    assert SHAPE.operations(20, 10) == 20 * (2 * 864 + 3 * (2 + 2) * 6 * 10)
    patches = 5 * 4
    expected = 2 * 256 * patches + 2 * 4 * 4 * patches**2 + 2 * 352 * 5
    assert TOWER.operations(5) == expected


def test_adapters_by_hand():
    # q and o: 6 > 6; k and v: 6 > 3; gate, up and down: 6 > 10 or back
    assert SHAPE.lora_parameters(4) == 3 * 4 * (2 * 12 + 2 * 9 + 3 * 16)


def test_the_quickstarts_size_is_that_of_its_file():
    content = (CHECKPOINT / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8 : 8 + length])
    tensors.pop("__metadata__", None)
    stored = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    assert shape_of(str(CHECKPOINT)).parameters == pytest.approx(stored, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_transformers_models(family, tmp_path):
    import torch
    import transformers

    import common.torchvision_compat  # noqa: F401

    config = transformers.AutoConfig.for_model(family)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    config.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    layers = model.base_model.language_model.layers
    count = sum(p.numel() for p in layers.parameters())
    assert shape.layer_parameters == pytest.approx(count, rel=0.01)
    vision = sum(p.numel() for p in model.base_model.visual.parameters())
    assert shape.tower.parameters == pytest.approx(vision, rel=0.01)
    whole = sum({id(p): p.numel() for p in model.parameters()}.values())
    assert shape.parameters == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen3.5-4B", 4.5), ("Qwen3.5-9B", 9.4), ("Qwen3-VL-2B", 2.1), ("Qwen3-VL-8B", 8.8)],
)
def test_known_models_have_about_the_size_in_their_name(name, billions):
    assert KNOWN[name].parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_names_with_a_suffix_are_known_too():
    assert shape_of("Qwen/Qwen3-VL-8B-Instruct") is KNOWN["Qwen3-VL-8B"]
    assert shape_of("Qwen/Qwen3.5-4B") is KNOWN["Qwen3.5-4B"]


@pytest.mark.parametrize("path", ["somebody/other-7B", "Qwen/Qwen3.5-4BX"])
def test_an_unknown_model_is_refused_with_a_fix(path):
    with pytest.raises(ConfigError, match=r"model\.path = .*Fix: name a local folder"):
        shape_of(path)


def test_a_config_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    with pytest.raises(ConfigError, match="does not tell the size"):
        shape_of(str(tmp_path))
