"""A process in which Triton's interpreter runs flash-linear-attention's kernels on CPU tensors.

The interpreter must be chosen before anything imports Triton, and where fla can be imported
transformers takes it: so in a process of its own. Its products in bfloat16 are wrong: use float32.
Three mends to what triton 3.8.0 and fla-core 0.6.0 expect of a GPU: nothing to tune, `range` over
scalars that the interpreter holds as tensors.
"""

import builtins
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

KERNELS = Path(__file__).parents[2] / ".cache" / "kernels"


def interpreting() -> Iterator[Callable[..., Any]]:
    """Calls a function of a test's module there, and gives back what it returns or raises."""
    if not (KERNELS / "set-up").exists():
        pytest.fail("no .cache/kernels. Fix: run deploy/setup.sh kernels")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(500)


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(KERNELS))
    import torch

    torch.set_num_threads(1)
    import fla.ops.common.chunk_delta_h as state_kernels
    from triton.runtime.autotuner import Autotuner

    Autotuner.do_bench = property(lambda tuner: _untimed, lambda tuner, value: None)
    state_kernels.range = _range


def _untimed(kernel_call: object, quantiles: object) -> list[float]:
    return [0.0, 0.0, 0.0]


def _range(*bounds: Any) -> Iterator[Any]:
    from triton.runtime.interpreter import _implicit_cvt

    return (_implicit_cvt(number) for number in builtins.range(*map(_as_int, bounds)))


def _as_int(number: Any) -> int:
    return int(number.handle.data.item()) if hasattr(number, "handle") else int(number)
