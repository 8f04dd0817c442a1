"""The student's weights under the names that servers take."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from common.served_names import pushed_name
from learner.model.lora import base_names, merged_weight


class PushedWeights(Mapping[str, Tensor]):
    """Every tensor that a server must get, by its pushed name, tied ones once.

    The model's own tensors, live and detached; of an adapted layer the merged weight, made anew
    whenever it is asked for, so this is no dict. A sharded model gives DTensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._own_names = {pushed_name(name): name for name in base_names(model)}

    def __getitem__(self, name: str) -> Tensor:
        return merged_weight(self._model, self._own_names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._own_names)

    def __len__(self) -> int:
        return len(self._own_names)
