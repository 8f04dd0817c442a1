"""Folders that are no model to train: each is refused with what is missing and what would do."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import ConfigError
from common.model_files import INDEX, SINGLE, Use, check_model_files, some_of
from tests.tiny_model import FAMILIES, make_tiny_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def refusal(folder: Path, use: Use | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_model_files(folder, f"model.path = '{folder}'", use or Use())
    told = str(caught.value)
    assert told.startswith(f"model.path = '{folder}'") and "Fix: " in told
    assert len(told.splitlines()) == 1
    return told


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def split(folder: Path) -> dict[str, str]:
    """Two files and an index, as large models have them; where each tensor is."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_pass_in_one_file_and_in_several(tmp_path: Path, family: str) -> None:
    folder = make_tiny_checkpoint(tmp_path / family, family=family)
    check_model_files(folder, "model.path")
    split(folder)
    check_model_files(folder, "model.path")


def cut(folder: Path) -> None:
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[:-8])


def cut_in_its_header(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:100])


def text_alone(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config["text_config"], "architectures": ["Qwen3ForCausalLM"]}))


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-VL-4B"}')


def without_a_file(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_a_tensor_elsewhere(folder: Path) -> None:
    weight_map = split(folder)
    path = folder / "model-00002-of-00002.safetensors"
    left = load_file(path)
    lost = next(name for name, file in weight_map.items() if file == path.name)
    del left[lost]
    save_file(left, path)


def with_both(folder: Path) -> None:
    copy = (folder / SINGLE).read_bytes()
    split(folder)
    (folder / SINGLE).write_bytes(copy)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], r"is empty\. Fix: name a"),
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json\."),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be re"),
    "list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json is no JSON object"),
    "text": (text_alone, r"text alone \(Qwen3ForCausalLM\).*image-text model of the Qwen3\.5"),
    "adapter": (adapter, r"holds an adapter \(LoRA\) of Qwen/Qwen3-VL-4B.*merge_and_unload"),
    "quantized": (
        lambda f: change(f / "config.json", quantization_config={"quant_method": "fp8"}),
        r"is quantized \(fp8\).*name the model without",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"has no tokenizer: tokenizer"),
    "no processor": (
        lambda f: [path.unlink() for path in f.glob("*processor_config.json")],
        r"has no image processor: preprocessor_config\.json or processor_config\.json is missing",
    ),
    "no weights": (lambda f: (f / SINGLE).unlink(), r"has no weights: model\.safetensors or"),
    "other weights": (
        lambda f: (f / SINGLE).rename(f / "ema.safetensors"),
        r"has no weights \(only ema\.safetensors\)",
    ),
    "pickled": (
        lambda f: (f / SINGLE).rename(f / "pytorch_model.bin"),
        r"pickled weights only \(pytorch_model\.bin\).*save_pretrained",
    ),
    "cut": (cut, r"model\.safetensors has \d+ bytes, and by its header \d+: it is cut off"),
    "cut early": (cut_in_its_header, r"no safetensors file \(its header is cut off\)"),
    "nothing in it": (lambda f: (f / SINGLE).write_bytes(b""), r"is no safetensors file"),
    "pointer": (
        lambda f: (f / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        r"\(a pointer of Git LFS\).*git lfs pull",
    ),
    "lost file": (without_a_file, r"names files that are missing: model-00002-of-00002"),
    "lost tensor": (with_a_tensor_elsewhere, r"tensors are not in the files that .* names"),
    "no map": (lambda f: (f / INDEX).write_text("{}"), r"has no weight_map"),
    "both": (with_both, r"transformers reads the one, SGLang the other"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_cannot_be_trained_is_named(folder: Path, kind: str) -> None:
    spoil, message = SPOILT[kind]
    spoil(folder)
    assert re.search(message, refusal(folder)), refusal(folder)


def test_no_folder_a_file_and_a_cache_of_the_hub_are_told_apart(tmp_path: Path) -> None:
    assert "is no folder here" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refusal(tmp_path / "file")
    (tmp_path / "models--Org--Name" / "snapshots").mkdir(parents=True)
    assert "one of the folders in snapshots/" in refusal(tmp_path / "models--Org--Name")


def test_only_what_is_used_is_asked_for(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    check_model_files(folder, "teacher.path", Use(prompts=False))
    (folder / SINGLE).unlink()
    assert "no weights" in refusal(folder, Use(prompts=False))
    (folder / "vocab.json").touch()
    check_model_files(folder, "model.path", Use(weights=False))


def test_links_into_a_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).rename(tmp_path / "blob")
    (folder / SINGLE).symlink_to("../blob")
    check_model_files(folder, "model.path")
    (tmp_path / "blob").unlink()
    assert "has no weights: " in refusal(folder)


def test_many_names_are_counted() -> None:
    assert some_of({"b", "a"}) == "a, b"
    assert some_of(f"t{n}" for n in range(9)) == "t0, t1, t2 and 6 more"


def test_a_file_of_the_librarys_own_is_read(tmp_path: Path, folder: Path) -> None:
    save_file({"odd": torch.zeros(3, dtype=torch.uint8)}, folder / SINGLE, metadata={"a": "b"})
    check_model_files(folder, "model.path")
    save_file({}, folder / SINGLE)
    check_model_files(folder, "model.path")
