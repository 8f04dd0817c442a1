"""What families declare is there in transformers; who is not registered is refused by name."""

import json
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

from common import families
from common.errors import ConfigError
from common.families import FAMILIES, TITLES, family_named, family_of_folder, find_family
from common.families.family import Family
from common.model_files import check_model_files
from tests import tiny_model
from tests.tiny_model import make_tiny_checkpoint


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def outline(family, tmp_path_factory):
    """Its tiny model, on the meta device."""
    from common.model_loading import outline_image_text_model

    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), family=family.model_type)
    assert family_of_folder(folder) is family
    return outline_image_text_model(str(folder))


def test_every_family_has_a_tiny_model() -> None:
    assert FAMILIES.keys() == set(tiny_model.FAMILIES) == tiny_model._CONFIGS.keys()


def test_every_family_of_the_package_is_registered() -> None:
    modules = [import_module(m.name) for m in iter_modules(families.__path__, "common.families.")]
    declared = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, Family)}
    assert sorted(family.model_type for family in declared.values()) == sorted(FAMILIES)


def test_what_stays_float32_is_in_the_model(family, outline) -> None:
    names = outline.state_dict().keys()
    kept = family.float32
    for end in (*kept.served, *kept.computed, *kept.stored):
        assert any(name.endswith(end) for name in names), end


def test_fused_classes_are_in_the_model(family, outline) -> None:
    kinds = {type(module).__name__ for module in outline.modules()}
    assert family.fused and family.fused.keys() <= kinds


def test_kinds_of_layers_are_those_of_the_model(family, outline) -> None:
    kinds = getattr(outline.config.get_text_config(), "layer_types", None) or ["full_attention"]
    assert set(kinds) == set(family.layer_kinds)


def test_vision_tokens_hold_the_placeholder(family) -> None:
    assert family.placeholder in family.vision_tokens


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "qwen3_vl"}, "qwen3_vl"),
        ({"text_config": {"model_type": "qwen3_5_text"}}, "qwen3_5"),
        ({"model_type": "qwen3_vl_moe", "text_config": "odd"}, None),
        ({}, None),
    ],
)
def test_a_family_is_found_by_the_models_config(config, found) -> None:
    family = find_family(config)
    assert (family and family.model_type) == found


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        family_named("other_vl", "model.path = 'a'")
    told = str(caught.value)
    assert told.startswith("model.path = 'a' cannot be loaded: its model_type 'other_vl'")
    assert ", ".join(FAMILIES) in told and f"Fix: choose a model of the {TITLES} family" in told


def test_an_unknown_family_is_refused_before_any_process_starts(tmp_path) -> None:
    folder = make_tiny_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_vl"}))
    with pytest.raises(ConfigError, match=r"teacher\.path = .* 'qwen2_vl' .*Fix: choose"):
        check_model_files(folder, "teacher.path = x")


def test_families_need_no_torch() -> None:
    code = "import sys, common.families; print(sys.modules.keys() & {'torch', 'transformers'})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "set()\n"
