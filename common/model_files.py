"""Whether a folder holds a model that can be trained, by its small files and headers alone.

This takes milliseconds and imports nothing heavy, so it comes before any process is started. What
only a loaded model can tell is `common.model_loading`'s.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.families import TITLES, family_named

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_SHOWN = 3
_LFS_POINTER = b"version "  # how such a file begins
_PARTS = {  # what a prompt with a picture needs: any file of a line
    "tokenizer": ("tokenizer.json", "vocab.json", "tokenizer.model"),
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}


@dataclass(frozen=True)
class Use:
    """What a process wants of a model's folder."""

    weights: bool = True
    prompts: bool = True  # tokenizer and image processor


ALL = Use()


def check_model_files(folder: Path, where: str, use: Use = ALL) -> None:
    """Refuse a folder that cannot be a model to train, with what is missing and what would do.

    Args:
        where: how the message calls it: key of the configuration, and value.

    Raises:
        ConfigError: it is empty, an adapter, of text alone, of an unknown family, quantized,
            pickled, or incomplete.
    """
    _check_kind(folder, where)
    _check_config(_read_object(folder / "config.json", where), where)
    if use.prompts:
        _check_parts(folder, where)
    if use.weights:
        _check_weights(folder, where)


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's tensors, all in its folder.

    Raises:
        OSError, ValueError: its index is unreadable, or names a file elsewhere.
    """
    if not (folder / INDEX).exists():
        return [folder / SINGLE]
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    names = sorted(set(weight_map.values()))
    for name in names:
        # By its name alone: the hub's cache keeps the file itself behind a link.
        if Path(name).name != name or name == "..":
            raise ValueError(f"{INDEX} names {name!r}, which is no file of this folder")
    return [folder / name for name in names]


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header as it stands, and where the tensors' bytes begin.

    Raises:
        OSError, ValueError, struct.error: it is none.
    """
    return _header(path, path.stat().st_size)


def some_of(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_SHOWN])
    more = len(ordered) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


# ---- what kind of folder -------------------------------------------------------------------------
def _check_kind(folder: Path, where: str) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is no folder here"
        raise ConfigError(f"{where} {what}. Fix: name a Hugging Face folder of a model")
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        base = _text(_read_object(folder / "adapter_config.json", where), "base_model_name_or_path")
        raise ConfigError(
            f"{where} holds an adapter (LoRA) of {base}, not a model. Fix: merge it (peft: "
            "merge_and_unload, then save_pretrained) and name the merged folder"
        )
    if (folder / "snapshots").is_dir():
        raise ConfigError(
            f"{where} is a cache folder of the hub. Fix: name the model as on the hub "
            "(ORGANISATION/NAME), or one of the folders in snapshots/"
        )
    what = "has no config.json" if any(folder.iterdir()) else "is empty"
    raise ConfigError(f"{where} {what}. Fix: name a Hugging Face folder of a model")


def _check_config(config: Mapping[str, Any], where: str) -> None:
    kind = (config.get("architectures") or [config.get("model_type", "unknown")])[0]
    if not isinstance(config.get("vision_config"), dict):
        raise ConfigError(
            f"{where} is a model of text alone ({kind}): its config.json has no vision_config. "
            f"Fix: name an image-text model of the {TITLES} family"
        )
    family_named(config.get("model_type"), where)
    if config.get("quantization_config"):
        method = _text(config["quantization_config"], "quant_method")
        raise ConfigError(
            f"{where} is quantized ({method}), and training needs the weights themselves. "
            "Fix: name the model without quantization (sglang.quantization quantizes servers)"
        )


def _check_parts(folder: Path, where: str) -> None:
    for part, names in _PARTS.items():
        if not any((folder / name).is_file() for name in names):
            raise ConfigError(
                f"{where} has no {part}: {' or '.join(names)} is missing. "
                "Fix: copy it from the model that these weights come from"
            )


# ---- weights -------------------------------------------------------------------------------------
def _check_weights(folder: Path, where: str) -> None:
    if (folder / INDEX).is_file():
        _check_indexed(folder, where)
    elif (folder / SINGLE).exists():
        _tensor_names(folder / SINGLE, where)
    else:
        raise _no_weights(folder, where)


def _check_indexed(folder: Path, where: str) -> None:
    weight_map = _read_object(folder / INDEX, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{where}: {INDEX} has no weight_map. Fix: download it anew")
    files = set(map(str, weight_map.values()))
    if (folder / SINGLE).exists() and SINGLE not in files:
        raise ConfigError(
            f"{where} holds {SINGLE} beside {INDEX}, which does not name it: transformers reads "
            "the one, SGLang the other. Fix: move one of them away"
        )
    if missing := {name for name in files if not (folder / name).is_file()}:
        raise ConfigError(
            f"{where}: {INDEX} names files that are missing: {some_of(missing)}. "
            "Fix: download them, e.g. hf download NAME --local-dir FOLDER"
        )
    found = {name: _tensor_names(folder / name, where) for name in sorted(files)}
    if lost := {tensor for tensor, file in weight_map.items() if tensor not in found[file]}:
        raise ConfigError(
            f"{where}: tensors are not in the files that {INDEX} names for them: "
            f"{some_of(lost)}. Fix: download the folder anew"
        )


def _no_weights(folder: Path, where: str) -> ConfigError:
    pickled = _files(folder, "*.bin", "*.pt", "*.pth")
    if pickled:
        return ConfigError(
            f"{where} holds pickled weights only ({some_of(pickled)}), and to read those is to run "
            "what is in them. Fix: name a folder with safetensors, or convert it where you trust "
            "it: from_pretrained, then save_pretrained"
        )
    others = _files(folder, "*.safetensors", "*.gguf")
    beside = f" (only {some_of(others)})" if others else ""
    return ConfigError(
        f"{where} has no weights{beside}: {SINGLE} or {INDEX} is missing. "
        "Fix: download the whole model"
    )


def _files(folder: Path, *patterns: str) -> list[str]:
    """Names of the files, without links into a cache that lead nowhere."""
    return [p.name for pattern in patterns for p in folder.glob(pattern) if p.is_file()]


def _tensor_names(path: Path, where: str) -> set[str]:
    """The names in a safetensors header: 8 bytes of length, JSON, then the tensors' bytes.

    Format: https://huggingface.co/docs/safetensors, "Format".
    """
    try:
        size = path.stat().st_size
        header, start = _header(path, size)
        header.pop("__metadata__", None)
        expected = start + max((t["data_offsets"][1] for t in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ConfigError(
            f"{where}: {path.name} is no safetensors file ({error}). Fix: download it anew "
            "(git lfs pull, where git brought a pointer in its place)"
        ) from None
    if size != expected:
        raise ConfigError(
            f"{where}: {path.name} has {size} bytes, and by its header {expected}: it is cut off "
            "or damaged. Fix: download it anew"
        )
    return set(header)


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """A header, and where the tensors' bytes begin. Raises ValueError, struct.error: it is none."""
    with path.open("rb") as file:
        head = file.read(8)
        if head == _LFS_POINTER:
            raise ValueError("a pointer of Git LFS")
        (length,) = struct.unpack("<Q", head)
        if length > size:
            raise ValueError("its header is cut off")
        return json.loads(file.read(length)), 8 + length


def _read_object(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {path.name} cannot be read: {error}. Fix: download it anew"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: {path.name} is no JSON object. Fix: download it anew")
    return content


def _text(content: Any, key: str) -> str:
    value = content.get(key) if isinstance(content, dict) else None
    return str(value or "unknown")
