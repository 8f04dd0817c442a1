"""Low-rank adapters of the language model (LoRA, Hu et al., arXiv 2106.09685).

    y = x W^T + (alpha / rank) (x A^T) B^T      W frozen; A [rank, in] random; B [out, rank] zero

so that at first the model is the base model, bit by bit. Linear layers are changed in place: the
base weights keep their names in `state_dict()`; `<layer>.lora_a` and `<layer>.lora_b` join them.
Rollout servers and Hugging Face checkpoints get merged weights, W + (alpha / rank) B A, under the
base names; they need no second model, since each is made when it is asked for. Servers do not get
adapters by themselves, since SGLang 0.5.23 cannot take these: it adapts no in_proj_a and in_proj_b
of a gated delta net (`supported_lora_modules` of models/qwen3_5.py) and knows no in_proj_qkv with
one A (lora/lora.py); it takes them pickled, or by name of a folder; its weight checksums see
parameters alone, so that they do not show which adapter answers; and with --enable-lora it
gives up the fused projections.

Works before and after sharding: of a sharded model merged weights are sharded as their W is.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional

from common.errors import CheckpointError, ConfigError
from common.families import TITLES
from common.image_text_model import ImageTextModel
from learner.model.sharding import copy_into

_PARTS = ("lora_a", "lora_b")


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter. `add_adapters` turns plain ones into it."""

    lora_a: nn.Parameter  # [rank, in]
    lora_b: nn.Parameter  # [out, rank]
    lora_scale: float

    def forward(self, input: Tensor) -> Tensor:
        low_rank = functional.linear(functional.linear(input, self.lora_a), self.lora_b)
        return super().forward(input) + self.lora_scale * low_rank


def add_adapters(model: ImageTextModel, rank: int, alpha: float, seed: int) -> None:
    """Adapt every linear layer of the decoder layers; freeze all else but the vision tower.

    The vision tower, merger included, is left as it is: model.freeze_vision_tower decides. Same
    seed, same adapters, on any device and on every rank. Call it before `shard_model`.

    Args:
        rank: at least 1.
        alpha: adapters count alpha / rank times.

    Raises:
        ConfigError: there is nothing to adapt.
    """
    text = getattr(model.base_model, "language_model", None)
    layers = getattr(text, "layers", None)
    linears = [] if layers is None else [m for m in layers.modules() if type(m) is nn.Linear]
    if not linears:
        raise ConfigError(
            f"model.lora_rank = {rank}: {type(model).__name__} has no linear layers in "
            "language_model.layers. Fix: model.lora_rank = 0, or choose a model of the "
            f"{TITLES} family"
        )
    of_vision = {id(p) for p in model.base_model.visual.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in of_vision:
            parameter.requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for linear in linears:
        _adapt(linear, rank, alpha, random)


def base_names(model: nn.Module) -> list[str]:
    """Names in `state_dict()` without adapters, tied weights once: what a server must get."""
    every = dict(model.named_parameters(remove_duplicate=False))
    again = every.keys() - dict(model.named_parameters()).keys()
    return [
        name
        for name in model.state_dict()
        if name not in again and name.rpartition(".")[2] not in _PARTS
    ]


@torch.no_grad()
def merged_weight(model: nn.Module, name: str) -> Tensor:
    """The weight of this base name, adapter merged in: float32, its own memory.

    A weight without an adapter is the model's own tensor, detached. Of a sharded model it is a
    DTensor, and all ranks ask for the same names in the same order.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    tensor = cast(Tensor, getattr(module, leaf))
    if leaf != "weight" or not isinstance(module, AdaptedLinear):
        return tensor.detach()
    return tensor.detach().float() + _difference(module)


def iterate_merged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`merged_weight` of each of `base_names`, one in memory at a time."""
    for name in base_names(model):
        yield name, merged_weight(model, name)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, by their state_dict names, detached: what a resumed run needs."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] in _PARTS
    }


def load_adapters(model: nn.Module, adapters: Mapping[str, Tensor]) -> None:
    """Set the adapters of an adapted model, sharded or not, from whole tensors.

    Raises:
        CheckpointError: they are of another model, or of another rank.
    """
    ours = adapter_state(model)
    if ours.keys() != adapters.keys():
        different = sorted(ours.keys() ^ adapters.keys())
        raise CheckpointError(
            f"{len(different)} adapters are in the model or in the checkpoint alone, e.g. "
            f"{different[0]}. Fix: model.path and model.lora_rank as in the run that wrote it"
        )
    for name, adapter in ours.items():
        if adapter.shape != adapters[name].shape:
            raise CheckpointError(
                f"{name} has the shape {tuple(adapters[name].shape)}, not {tuple(adapter.shape)}. "
                "Fix: model.lora_rank as in the run that wrote the checkpoint"
            )
    for name, adapter in ours.items():
        copy_into(adapter, adapters[name])


def _adapt(linear: nn.Linear, rank: int, alpha: float, random: torch.Generator) -> None:
    # Drawn numbers are kept where the weight is only announced.
    device = torch.device("cpu") if linear.weight.is_meta else linear.weight.device
    # x A^T is then about as large as x, whatever the width.
    lora_a = torch.randn(rank, linear.in_features, generator=random) / linear.in_features**0.5
    linear.__class__ = AdaptedLinear
    adapted = cast(AdaptedLinear, linear)
    adapted.lora_a = nn.Parameter(lora_a.to(device))
    adapted.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
    adapted.lora_scale = alpha / rank


def _difference(module: AdaptedLinear) -> Tensor:
    """(alpha / rank) B A, float32."""
    lora_a, lora_b = module.lora_a.detach(), module.lora_b.detach()
    if isinstance(lora_a, DTensor):  # the rows of B that a rank has give its rows of the product
        lora_a = lora_a.redistribute(placements=[Replicate()] * lora_a.device_mesh.ndim)
    return module.lora_scale * (lora_b.float() @ lora_a.float())
