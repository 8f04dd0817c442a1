"""A whole model or a refusal: transformers fills what a checkpoint lacks with random numbers."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import ConfigError
from common.model_files import FAMILIES, Use, check_model_files, some_of

_OTHER_HEADS = "mtp."
_REPORT = "transformers.modeling_utils"  # the logger that tells what was missing in many lines


def load_image_text_model(folder: str, key: str = "model.path") -> Any:
    """The image-text model of a folder, in float32 on the CPU, every tensor from its files.

    A tied head comes from its embedding, and what the model's class says it leaves aside (the
    multi-token prediction of Qwen3.5) is left aside.

    Args:
        key: of the configuration, for messages.

    Raises:
        ConfigError: no such model, or tensors that are missing, unknown, of another shape, or not
            finite, with their names.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where = f"{key} = {folder!r}"
    check_model_files(Path(folder), where, Use(prompts=False))
    try:
        with _only_errors(_REPORT):
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except MemoryError:
        raise
    except Exception as error:  # a config.json can be wrong in more ways than transformers names
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{where} cannot be loaded: {reason}. "
            f"Fix: name a Hugging Face folder of an image-text model, such as {FAMILIES}"
        ) from error
    check_report(report, where)
    check_finite(model, where)
    return model


def check_report(report: Mapping[str, Any], where: str) -> None:
    """Refuse what transformers would only have logged.

    Args:
        report: its loading info.
    """
    mismatched = {
        f"{name} ({list(found)}, not {list(wanted)})"
        for name, found, wanted in report["mismatched_keys"]
    }
    problems = (
        ("lacks tensors that its model has", report["missing_keys"]),
        ("has tensors that its model does not know", _strange(report["unexpected_keys"])),
        ("has tensors of another shape than its config.json says", mismatched),
    )
    found = [f"{problem}: {some_of(names)}" for problem, names in problems if names]
    if found:
        raise ConfigError(
            f"{where} {'; it '.join(found)}. Fix: name a whole checkpoint whose config.json "
            "belongs to its weights"
        )


def _strange(names: Iterable[str]) -> set[str]:
    """Without heads for predicting several tokens, which no family trains here: checkpoints and
    exports keep them as they are. Qwen3.5's class says so itself, others do not."""
    return {name for name in names if not name.startswith(_OTHER_HEADS)}


def check_finite(model: nn.Module, where: str) -> None:
    """Refuse NaN and infinity anywhere in the weights."""
    broken = [name for name, tensor in model.state_dict().items() if not _is_finite(tensor)]
    if broken:
        raise ConfigError(
            f"{where} has tensors with NaN or infinity: {some_of(broken)}. "
            "Fix: name a checkpoint from before it diverged, or download it anew"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    extremes = torch.stack(torch.aminmax(tensor))  # of NaN they are NaN; no second tensor is made
    return bool(extremes.isfinite().all())


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """By a filter: transformers reads the logger's level, and tells more where it is a high one."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    told = logging.getLogger(name)
    told.addFilter(is_error)
    try:
        yield
    finally:
        told.removeFilter(is_error)
