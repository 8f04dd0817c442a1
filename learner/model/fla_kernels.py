"""Whether flash-linear-attention's Triton kernels compute a tensor: on GPUs, or as Triton's
interpreter runs them on CPU tensors (TRITON_INTERPRET=1, in tests).
"""

import functools
import importlib.util
import os

from torch import Tensor


def run_on(tensor: Tensor) -> bool:
    """Whether the kernels compute `tensor`.

    A package that is installed but cannot be imported is an error where it is used: the plain way
    would be many times slower, without a word.
    """
    return (tensor.is_cuda or _is_interpreted()) and is_installed()


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def is_installed() -> bool:
    return importlib.util.find_spec("fla") is not None
