"""SGLang's cache of encoded pictures, kept for as long as the weights that encoded them.

launch.py reads this file by its path. SGLang keeps the cache over new weights and over
/flush_cache: a picture would go on being shown as the vision tower of the start saw it. A key of
each push's own (mm_hashes) would not do: a request that a pause has put back is computed again
with the new weights, under the key that it was sent with.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

_MANAGERS = "sglang.srt.managers"
_UPDATES = (
    "update_weights_from_disk",
    "update_weights_from_distributed",
    "update_weights_from_tensor",
    "update_weights_from_ipc",
)


def forget_pictures_with_weights() -> None:
    """Make every update of weights empty the cache of its process, even one that fails.

    Raises:
        RuntimeError: this SGLang is another one than we know.
    """
    updater: Any = importlib.import_module(
        "sglang.srt.managers.scheduler_components.weight_updater"
    )
    manager = getattr(updater, "SchedulerWeightUpdaterManager", None)
    for name in _UPDATES:
        update = getattr(manager, name, None)
        if update is None:
            raise RuntimeError(
                f"SGLang's weight updater has no {name}: pictures would be shown as older weights "
                "encoded them. Fix: install sglang==0.5.23 (deploy/setup.sh sglang)"
            )
        setattr(manager, name, _and_forget(update))


def _and_forget(update: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(update)
    def update_and_forget(*arguments: Any, **options: Any) -> Any:
        try:
            return update(*arguments, **options)
        finally:
            cache = importlib.import_module(f"{_MANAGERS}.mm_schedule").embedding_cache
            if cache is not None:
                cache.clear()

    return update_and_forget
