"""One model over several ranks: FSDP2, for transformers' image-text models.

    model.base_model                     root; holds no parameter of its own
      visual.blocks[i]                   a group each
      visual (patches, mergers, ...)     a group
      language_model.embed_tokens        a group; also read as the head if the head is tied
      language_model.layers[i]           a group each
        linear_attn (A_log, dt_bias)     a small one beside, in float32 (common.weight_dtypes)
      language_model (final norm)        a group
    model.lm_head                        a group if it is not tied

A group's weights are gathered before its forward and before its backward and given up after each;
outside of those every parameter is a DTensor, Shard(0), in float32. Tower, embedding and decoder
may thus be called by themselves, or within the root's forward. Gradients are
SUMMED over the ranks in float32: the loss of each rank has the whole step's denominators.

FSDP2: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from torch.nn import functional

from common.errors import ConfigError
from common.families import TITLES
from common.image_text_model import ImageTextBase, ImageTextModel
from common.weight_dtypes import is_computed_in_float32

_NORM_FLOOR = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def shard_model(
    model: ImageTextModel,
    mesh: DeviceMesh,
    dtype: torch.dtype,
    offload: bool = False,
    reduce_dtype: torch.dtype = torch.float32,
) -> None:
    """Shard an image-text model over the ranks of `mesh`, in place.

    Every rank must hold the same weights; they may be on the CPU, and go to the mesh's device group
    by group. Where they are on the meta device each rank gets memory for its shards alone, which
    are then to be filled. Those that are trained are float32; frozen ones and a teacher's keep
    their dtype. Set requires_grad, checkpointing and adapters before, and make copies (the
    teacher) before: a sharded model cannot be deep-copied. Make the optimizer after.

    Args:
        mesh: of one dimension, or of two: weights are then sharded along the second, and each
            of the first has them all (`learner.ranks`).
        dtype: of weights and activations in forward and backward, whatever the masters' is, but
            for the decays of a gated delta net, which stay float32. No autocast is needed, nor
            wanted: it would undo part of it.
        offload: masters, gradients and so the optimizer's moments are in main memory.
        reduce_dtype: in which gradients are summed.

    Raises:
        ConfigError: offload without a GPU, or a model of another form.
    """
    if offload and mesh.device_type == "cpu":
        raise ConfigError(
            "learner.offload = true: the learner computes on a CPU, whose memory holds everything "
            "already. Fix: learner.offload = false"
        )
    embedding = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    is_tied = head.weight is embedding.weight
    root = model.base_model
    apart = {} if dtype == torch.float32 else _kept_in_float32(model)
    others = {parameter for parameters in apart.values() for parameter in parameters}

    def shard(module: nn.Module, dtype: torch.dtype, ignored: set[nn.Parameter]) -> None:
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=_policy(dtype, reduce_dtype),
            offload_policy=CPUOffloadPolicy() if offload else OffloadPolicy(),
            reshard_after_forward=True,  # the root too, so that parameters are always DTensors
            ignored_params=ignored,
        )
        _sum_gradients(cast(FSDPModule, module))

    for module in [*_parts(root, embedding), root, *([] if is_tied else [head])]:
        shard(module, dtype, others)
    # After what contains them, which would leave out all of a module that is a group already.
    for module, parameters in apart.items():
        shard(module, torch.float32, set(module.parameters()) - parameters)
    if is_tied:
        head.weight = None  # or it would get its own memory
    _allocate(model, torch.device("cpu") if offload else _device(mesh))
    if is_tied:
        head.weight = embedding.weight
        head.__class__ = _TiedHead
    _settle_root(root)


def part_of_rank(model: nn.Module) -> tuple[int, int, bool]:
    """This rank's part of a model: its number, of how many, and whether no rank before has it."""
    mesh = next((p.device_mesh for p in model.parameters() if isinstance(p, DTensor)), None)
    if mesh is None:
        return 0, 1, True
    return mesh.get_local_rank(-1), mesh.size(-1), mesh.ndim == 1 or mesh.get_local_rank(0) == 0


def whole_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter as every rank needs it, e.g. the head in the objective: plain, in `dtype`.

    Differentiable: the ranks' gradients are summed in float32 and added to the shards' `.grad`.
    (Each of them comes in `dtype`, as autograd has it: one rounding a micro-batch.)
    All ranks call it, and take the backward pass through it, equally often. One that is not
    sharded is only cast.
    """
    if not isinstance(weight, DTensor):
        return weight.to(dtype)
    whole: Tensor = _Gathered.apply(weight, dtype)  # type: ignore[no-untyped-call]
    return whole


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, detached, on the mesh's device; another tensor as it is.

    All ranks call it, for the same tensors in the same order, from the thread that trains: beside
    a forward or backward pass the ranks' collectives would get out of step.
    """
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    whole: Tensor = _on_mesh(tensor).full_tensor()
    return whole


def local_part(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this rank holds, in their memory: all if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_into(parameter: Tensor, whole: Tensor) -> None:
    """Set a parameter, sharded or not, from all of its values, which every rank has.

    Raises:
        ValueError: another shape.
    """
    if parameter.shape != whole.shape:
        raise ValueError(f"shape {tuple(whole.shape)}, not {tuple(parameter.shape)}")
    if not isinstance(parameter, DTensor):
        parameter.copy_(whole)
        return
    mesh = parameter.device_mesh
    on_mesh = whole.to(_device(mesh))
    shard = distribute_tensor(on_mesh, mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(shard.to_local())


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients, sharded or not, so that their global norm is at most `max_norm`.

    One collective, where torch's own takes one for every parameter; all ranks call it and get the
    same number.

    Returns:
        The norm before clipping; not finite if a gradient of any rank is not: the gradients are
        then of no use.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    first = gradients[0]
    shards = [local_part(gradient) for gradient in gradients]
    norms = torch.stack(list(torch._foreach_norm(shards)))
    square = norms.double().square().sum()
    if isinstance(first, DTensor):
        dist.all_reduce(square, group=first.device_mesh.get_group(-1))  # of one replica
    norm: float = square.sqrt().item()
    torch._foreach_mul_(shards, min(1.0, max_norm / (norm + _NORM_FLOOR)))
    return norm


class _TiedHead(nn.Linear):
    """A head that belongs to no group, and gathers its weight when it is called.

    Greedy answers call it; the objective takes its weight by `whole_weight`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, whole_weight(self.weight, input.dtype))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: DTensor, dtype: torch.dtype) -> Tensor:
        context.weight_device = weight.device
        context.mesh, context.placements = weight.device_mesh, weight.placements
        # Cast first: half the bytes travel.
        return gather(weight.to(dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        of_this_rank = DTensor.from_local(
            gradient.float(), context.mesh, [Partial()] * context.mesh.ndim, run_check=False
        )
        shard = of_this_rank.redistribute(placements=context.placements)
        return shard.to(context.weight_device), None


def _allocate(model: nn.Module, device: torch.device) -> None:
    """Give memory to what is on the meta device; what is in it is not defined."""

    def allocated(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        local = torch.empty_like(local_part(tensor), device=device)
        if not isinstance(tensor, DTensor):
            return local
        # As FSDP2 makes them: empty_like would work out for every shape how its result is sharded.
        spec = tensor._spec
        return DTensor(local, spec, requires_grad=False)  # type: ignore[no-untyped-call]

    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model._apply(allocated)  # type: ignore[no-untyped-call]


def _policy(dtype: torch.dtype, reduce_dtype: torch.dtype) -> MixedPrecisionPolicy:
    return MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=reduce_dtype,
        # transformers casts where it must; FSDP's casting would take our frozen dataclasses apart.
        cast_forward_inputs=False,
    )


def _kept_in_float32(model: nn.Module) -> dict[nn.Module, set[nn.Parameter]]:
    """The parameters that are computed with in float32, by the module that holds them."""
    found: dict[nn.Module, set[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if is_computed_in_float32(name):
            holder = model.get_submodule(name.rpartition(".")[0])
            found.setdefault(holder, set()).add(parameter)
    return found


def _parts(root: ImageTextBase, embedding: nn.Module) -> list[nn.Module]:
    """The modules that are gathered at once, each before one that contains it."""
    text = getattr(root, "language_model", None)
    tower = getattr(root, "visual", None)
    layers, blocks = getattr(text, "layers", None), getattr(tower, "blocks", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(blocks, nn.ModuleList):
        raise ConfigError(
            f"model.path: {type(root).__name__} lacks language_model.layers or visual.blocks, so "
            "it cannot be sharded. Fix: train it on one GPU, or choose a model of the "
            f"{TITLES} family"
        )
    return [*blocks, tower, *layers, embedding, text]


def _sum_gradients(module: FSDPModule) -> None:
    """Sum gradients over ranks: by default FSDP2 takes the mean.

    The factor alone would make it use PREMUL_SUM, which gloo does not know.
    """
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)


def _settle_root(root: Any) -> None:
    """Make `root` FSDP's root: it takes the module called first, which would be a part of it."""
    root.settle_sharding = lambda: None
    register_fsdp_forward_method(root, "settle_sharding")
    root.settle_sharding()
    del root.settle_sharding


def _on_mesh(tensor: DTensor) -> DTensor:
    """The tensor on the mesh's device: an offloaded shard must be there before it is gathered."""
    return cast(DTensor, tensor.to(_device(tensor.device_mesh)))


def _device(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.cuda.current_device())
