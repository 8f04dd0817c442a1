"""Modules of transformers that compute in another way, with the parameters that they have."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def with_forward(
    plain: type[nn.Module], forward: Callable[..., Any], mark: type = object
) -> type[nn.Module]:
    """A class for `module.__class__`: `plain`, but for its forward pass.

    It cannot be pickled; copy.deepcopy takes the class as it is.

    Args:
        forward: takes `self`; it may call `plain.forward`.
        mark: a class without content that tells such modules from others.
    """
    return with_methods(plain, {"forward": forward}, mark)


def with_methods(
    plain: type[nn.Module], methods: Mapping[str, Callable[..., Any]], mark: type = object
) -> type[nn.Module]:
    """A class like `with_forward`'s, with any methods in place of `forward`."""
    bases = (plain,) if mark is object else (plain, mark)
    return type(plain.__name__, bases, {**methods, "__module__": plain.__module__})
