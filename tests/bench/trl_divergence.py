"""TRL's chunked divergence, from its wheel alone: trl/kernels/chunked_divergence.py.

TRL wants accelerate and datasets, which this file of it does not use. What stands between the two
is left out: the packages' own __init__, and the gathering of heads that DeepSpeed's ZeRO-3 shards.
"""

import contextlib
import functools
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

TRL = "trl==1.16.0"
_FOLDER = Path(__file__).resolve().parents[2] / ".cache" / TRL.replace("==", "-")
_PACKAGES = ("trl", "trl.kernels", "trl.trainer")
_TIMEOUT_S = 300.0


def fetch() -> None:
    """Into .cache, on the first use.

    Raises:
        subprocess.CalledProcessError: pip finds no such wheel.
    """
    if _FOLDER.exists():
        return
    _FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_FOLDER.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        target = Path(scratch) / "whole"
        subprocess.run(
            [*pip, "--no-deps", "--target", str(target), TRL], check=True, timeout=_TIMEOUT_S
        )
        with contextlib.suppress(OSError):  # another call was faster
            os.rename(target, _FOLDER)


@functools.cache
def chunked_divergence() -> Callable[..., Any]:
    """`ChunkedDivergenceFunction.apply`: hidden states and heads -> divergence and entropy [T]."""
    for name in _PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(_FOLDER.joinpath(*name.split(".")))]
        sys.modules[name] = package
    utilities = ModuleType("trl.trainer.utils")
    utilities.maybe_gather_lm_head_ctx = lambda *heads: contextlib.nullcontext()
    sys.modules[utilities.__name__] = utilities
    file = importlib.import_module("trl.kernels.chunked_divergence")
    apply: Callable[..., Any] = file.ChunkedDivergenceFunction.apply
    return apply
