"""Weights of any size in tensors as a language model has them."""

import torch
from torch import Tensor, nn

MIB = 2**20
_LAYERS = 12
_MLP = 3  # its width, in hidden sizes
_FLOAT_BYTES = 4
_EMBEDDING_SHARE = 0.1


def make_weights(mib: int) -> dict[str, Tensor]:
    """float32 tensors of `mib` MiB, less than a row of the embedding missing."""
    return {name: torch.full(shape, 0.5) for name, shape in shapes(mib).items()}


def shapes(mib: int) -> dict[str, tuple[int, ...]]:
    """By name: an embedding, then layers of attention, MLP and norms."""
    wanted = mib * MIB // _FLOAT_BYTES
    hidden = _hidden_size(wanted)
    layer = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"},
        "mlp.gate_proj.weight": (_MLP * hidden, hidden),
        "mlp.up_proj.weight": (_MLP * hidden, hidden),
        "mlp.down_proj.weight": (hidden, _MLP * hidden),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    layers = {
        f"model.layers.{number}.{name}": shape
        for number in range(_LAYERS)
        for name, shape in layer.items()
    }
    rows = (wanted - sum(_count(shape) for shape in layers.values())) // hidden
    return {"model.embed_tokens.weight": (rows, hidden), **layers}


class Weights(nn.Module):
    """A module that has these parameters and computes nothing."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self._tensors = make_weights(mib)

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # names may hold dots
        return self._tensors


def _hidden_size(wanted: int) -> int:
    a_layer = 4 + 3 * _MLP  # in hidden sizes squared
    size = (wanted * (1 - _EMBEDDING_SHARE) / (_LAYERS * a_layer)) ** 0.5
    return max(8, int(size) // 8 * 8)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
