"""What a model's tensors are called in Hugging Face files, and which of a file's it knows."""

import logging
from collections.abc import Iterable

import torch
from torch import nn

from common.model_loading import is_stored_as_it_is

logger = logging.getLogger(__name__)


def names_in_files(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Parameter name -> name in the files that the model was loaded from, where they differ.

    Servers know the latter alone, and for some families (Qwen2.5-VL) transformers has its own.
    """
    from transformers.core_model_loading import revert_weight_conversion

    if not is_stored_as_it_is(model):
        logger.warning(
            "%s stores some weights joined or split; checkpoints hold them as transformers has "
            "them in memory: transformers loads them, SGLang may not",
            type(model).__name__,
        )
        return {}
    if getattr(model, "_weight_conversions", None) == []:
        return {}  # its files have its own names
    stand_ins = {name: torch.empty(0, device="meta") for name in names}
    reverted = revert_weight_conversion(model, stand_ins)
    stored = {id(tensor): name for name, tensor in reverted.items()}
    pairs = {name: stored[id(tensor)] for name, tensor in stand_ins.items()}
    return {name: other for name, other in pairs.items() if name != other}


def known_names(model: nn.Module) -> set[str]:
    """Every name under which files may hold a tensor that the model has, tied ones by all names."""
    from transformers.core_model_loading import revert_weight_conversion

    stand_ins = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in model.state_dict().items()
    }
    return {*stand_ins, *revert_weight_conversion(model, dict(stand_ins))}
