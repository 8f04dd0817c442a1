"""In which dtype an export holds each tensor."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from common.weight_dtypes import is_stored_in_float32
from learner.checkpoint.tensor_files import Form

START = "start"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Dtypes:
    """A rule for the tensors of a model, and what config.json says of them."""

    of_start: Mapping[str, str] | None  # by name in the files; None means the files' own
    chosen: torch.dtype | None  # for all floating-point tensors; None means as `of_start` says
    in_config: str | None  # None means as the start's

    def form(self, name: str, form: Form) -> Form:
        """The form of a tensor in the export, from its form in the checkpoint."""
        return Form(self._dtype(name, form.dtype), form.shape)

    def _dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        if not dtype.is_floating_point:
            return dtype
        if self.chosen is not None:
            return _beside(self.chosen, name)
        if self.of_start is None:
            return dtype
        if name in self.of_start:
            return _named(self.of_start[name])
        return _beside(_named(Counter(self.of_start.values()).most_common(1)[0][0]), name)


def dtypes_of(choice: str, state: Mapping[str, Any] | None) -> Dtypes:
    """The rule that `--dtype` asks for.

    Args:
        choice: "start", or a key of DTYPES.
        state: of the checkpoint; None means that the source is a plain Hugging Face folder.
    """
    of_start = None if state is None else state.get("dtypes")
    if choice == START and state is not None and of_start is None:
        choice = "bfloat16"
    if choice == START:
        return Dtypes(of_start, None, None)
    return Dtypes(None, DTYPES[choice], choice)


def _named(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _beside(dtype: torch.dtype, name: str) -> torch.dtype:
    """The dtype of one tensor where the model has `dtype`."""
    return torch.float32 if dtype.itemsize < 4 and is_stored_in_float32(name) else dtype
