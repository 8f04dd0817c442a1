"""A whole model or a refusal: transformers fills what a checkpoint lacks with random numbers."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import ConfigError
from common.families import TITLES
from common.image_text_model import ImageTextModel
from common.model_files import (
    Use,
    check_model_files,
    read_header,
    some_of,
    weight_files,
)

_OTHER_HEADS = "mtp."
_NOTHING_TO_REPORT: dict[str, Any] = {
    "missing_keys": (), "unexpected_keys": (), "mismatched_keys": (),
}  # fmt: skip
_REPORT = "transformers.modeling_utils"  # the logger that tells what was missing in many lines


def load_image_text_model(folder: str, key: str = "model.path") -> ImageTextModel:
    """The image-text model of a folder, in float32 on the CPU, every tensor from its files.

    A tied head comes from its embedding, and what the model's class says it leaves aside (the
    multi-token prediction of Qwen3.5) is left aside.

    Args:
        key: the configuration's key, for messages.

    Raises:
        ConfigError: no such model, or tensors that are missing, unknown, of another shape, or not
            finite, with their names.
    """
    from transformers import AutoModelForImageTextToText

    where = f"{key} = {folder!r}"
    model = _checked(
        folder, where, lambda how: AutoModelForImageTextToText.from_pretrained(folder, **how)
    )
    check_finite(model.state_dict().items(), where)
    return model


def outline_image_text_model(folder: str, key: str = "model.path") -> ImageTextModel:
    """The model of a folder before its files are read: its parameters are on the meta device.

    Only the files' headers are read, and checked as `load_image_text_model` does; what is not
    finite shows when the tensors come. What no file holds (rotary frequencies) is there, on the
    CPU. Ties are made.

    Raises:
        ConfigError: as `load_image_text_model`, but for what is not finite.
    """
    return _checked(folder, f"{key} = {folder!r}", lambda how: _outline(Path(folder), how))


def is_stored_as_it_is(model: torch.nn.Module) -> bool:
    """Whether each of a loaded model's tensors is one of the files, under whatever name."""
    from transformers.core_model_loading import WeightConverter

    conversions = getattr(model, "_weight_conversions", None) or ()
    return not any(isinstance(conversion, WeightConverter) for conversion in conversions)


def _checked(folder: str, where: str, load: Callable[[dict[str, Any]], Any]) -> ImageTextModel:
    """Check a folder, load its model and refuse what transformers would only have logged.

    Args:
        load: makes a model and transformers' loading info from options of `from_pretrained`.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    check_model_files(Path(folder), where, Use(prompts=False))
    how = {
        "dtype": torch.float32,
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": False,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # tensors of another shape are refused below, by name
    }
    try:
        with _only_errors(_REPORT):
            model, report = load(how)
    except MemoryError:
        raise
    except Exception as error:  # a config.json can be wrong in more ways than transformers names
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{where} cannot be loaded: {reason}. "
            f"Fix: name a Hugging Face folder of an image-text model, such as {TITLES}"
        ) from error
    check_report(report, where)
    whole: ImageTextModel = model
    return whole


class _Announced:
    """A file's tensor before it is read: transformers loads it, a shape without memory."""

    def __init__(self, shape: list[int]) -> None:
        self.shape = shape

    def __getitem__(self, _: object) -> "_Announced":
        return self

    def to(self, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(self.shape, dtype=dtype, device="meta")


def _outline(folder: Path, how: dict[str, Any]) -> Any:
    """Make a model whose parameters have no memory, and transformers' report of what files lack.

    transformers builds its conversions of every family before it reads a name: where names and
    shapes are the model's own there is nothing to convert or report.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    announced = _announced(folder)
    model, report = _without_memory(model_class, config), _NOTHING_TO_REPORT
    if _shapes_by_name(model) == {name: tensor.shape for name, tensor in announced.items()}:
        model._weight_conversions = []
        model.set_use_kernels(False)
    else:
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=announced, **how
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.name_or_path = model.config.name_or_path = str(folder)
    return model.eval(), report


def _without_memory(model_class: Any, config: Any) -> Any:
    """A model on the meta device, ties made; buffers that no file holds have values, on the CPU."""
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter._is_hf_initialized = True
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
    model.initialize_weights()
    return model


def _shapes_by_name(model: torch.nn.Module) -> dict[str, list[int]]:
    """Shapes of what files hold: a tied tensor is in them once, under its first name."""
    tensors = model.state_dict(keep_vars=True)
    firsts = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {name: list(tensors[name].shape) for name in firsts.values()}


def _announced(folder: Path) -> dict[str, _Announced]:
    headers = [read_header(path)[0] for path in weight_files(folder)]
    return {
        name: _Announced(form["shape"])
        for header in headers
        for name, form in header.items()
        if name != "__metadata__" and not name.startswith(_OTHER_HEADS)
    }


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
    """The names without heads for predicting several tokens, which no family trains here.

    Checkpoints and exports keep those heads as they are. Qwen3.5's class leaves them aside itself.
    """
    return {name for name in names if not name.startswith(_OTHER_HEADS)}


def check_finite(
    weights: Iterable[tuple[str, torch.Tensor]],
    where: str,
    of_all: Callable[[Sequence[bool]], Sequence[bool]] = lambda flags: flags,
) -> None:
    """Refuse NaN and infinity anywhere in the weights.

    Args:
        weights: names and tensors; each is looked at as it comes.
        of_all: where each rank has a part of every tensor: from this rank's verdicts to those of
            all ranks together.
    """
    verdicts = {name: not _is_finite(tensor) for name, tensor in weights}
    is_broken = of_all(list(verdicts.values()))
    if broken := [name for name, flag in zip(verdicts, is_broken, strict=True) if flag]:
        raise ConfigError(
            f"{where} has tensors with NaN or infinity: {some_of(broken)}. "
            "Fix: name a checkpoint from before it diverged, or download it anew"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    extremes = torch.stack(torch.aminmax(tensor))  # NaN stays NaN; no second tensor is made
    return bool(extremes.isfinite().all())


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Let a logger tell errors alone.

    It sets a filter: transformers reads the logger's level, and logs more where that is high.
    """

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    told = logging.getLogger(name)
    told.addFilter(is_error)
    try:
        yield
    finally:
        told.removeFilter(is_error)
