"""Make `import torchvision` work where its wheel links CUDA and torch is a CPU build.

The default Linux wheel of torchvision cannot load its compiled operators next to a CPU build of
torch, and then fails at import because two operator schemas are missing. transformers' Qwen
processors only need its pure-Python parts, so declaring the two schemas is enough. Import this
module before transformers. It does nothing where the operators load.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareOperatorsFirst(importlib.abc.MetaPathFinder):
    """Declares the operators just before the first import of torchvision, then steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            import torch

            sys.meta_path.remove(self)
            if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
                for name in ("nms", "qnms"):
                    torch.library.define(f"torchvision::{name}", _SCHEMA)
        return None


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _DeclareOperatorsFirst())
