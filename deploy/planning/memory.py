"""Bytes on one GPU of the learner, and of a rollout server.

Weights, moments, averages and snapshots are exact (tests/deploy/planning/test_memory_at_size.py
counts them at the shapes of published models); activations are those of the largest micro-batch, by
the tensors that autograd keeps of a decoder layer, and are the least certain figure here.
"""

from dataclasses import dataclass

from common.config import ModelSection, RunConfig
from common.sglang_states import SLOTS_A_REQUEST
from deploy.planning.assumed import (
    checkpoint_bytes,
    frozen_parameters,
    group_tokens,
    trained_parameters,
)
from deploy.planning.devices import Device
from deploy.planning.layout import Layout
from deploy.planning.shape import ModelShape
from deploy.planning.workload import LONGEST, Workload

SERVER_SHARE = 0.85  # of a GPU's memory for weights and cache, where the configuration says none
LIBRARIES = 1.5 * 2**30  # CUDA, NCCL and the allocator's loss
SERVER_OUTSIDE = 6.5 * 2**30  # of its share: CUDA graphs, context, a vision tower's activations
CHUNK_BYTES = 2 * 2**30  # the objective's logits of one chunk, at most


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes a rank."""

    weights: float  # float32 masters; what is not trained in the compute dtype
    gathered: float  # what is whole beside them while it computes, and its gradient
    gradients: float
    optimizer: float
    teacher: float  # the average and the copy that computes
    activations: float
    push: float  # rank 0's snapshot
    host: float  # main memory of rank 0: what is there instead, and a checkpoint's copies

    @property
    def total(self) -> float:
        parts = self.weights + self.gathered + self.gradients + self.optimizer + self.teacher
        return parts + self.activations + self.push + LIBRARIES


@dataclass(frozen=True)
class ServerMemory:
    """Bytes on each GPU of a server."""

    weights: float
    cache: float  # of all sequences that run at once
    needed: float  # without which it does not start, or runs no group
    outside: float  # of weights and cache
    room: float  # for weights and cache
    groups: int  # that run at once, as configured or as have room

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.outside

    @property
    def fits(self) -> bool:
        return self.weights + self.needed <= self.room


def learner_memory(
    config: RunConfig, shape: ModelShape, work: Workload, layout: Layout
) -> LearnerMemory:
    shards, width = layout.shards(config), _compute_bytes(config)
    trained, frozen = trained_parameters(config, shape), frozen_parameters(config, shape)
    masters = (4 * trained + width * frozen) / shards
    gradients, moments = 4 * trained / shards, 8 * trained / shards
    copy = _teacher_copy(config, trained, frozen) / shards
    average = 4 * trained / shards if config.teacher.policy == "ema" and width == 2 else 0.0
    push = float(shape.parameters * (2 if config.weights.dtype == "bfloat16" else 4))
    host = checkpoint_bytes(config, shape) / shards
    if config.learner.offload:
        host += masters + gradients + moments + copy + average
        masters = gradients = moments = copy = average = 0.0
    elif config.teacher.offload:
        host, average = host + average, 0.0
    if config.weights.transport == "files":
        host, push = host + push, 0.0
    return LearnerMemory(
        weights=masters,
        gathered=gathered_bytes(config, shape, layout),
        gradients=gradients,
        optimizer=moments,
        teacher=copy + average,
        activations=activation_bytes(config, shape, work),
        push=push,
        host=host,
    )


def gathered_bytes(config: RunConfig, shape: ModelShape, layout: Layout) -> float:
    """The head while the objective works on it, or the layers, whichever is more.

    The head is there as the objective reads it; its gradient is summed up in float32, becomes the
    compute dtype as autograd has it, and float32 again to be reduced: two of these at a time. Of a
    sharded model's layers two are whole at a time, and one gradient in both dtypes. An offloaded
    model on one rank is held whole for a step (`learner.model.held`).
    """
    width = _compute_bytes(config)
    is_trained = not config.model.lora_rank
    head = shape.embedding_parameters * (width + (width + 4 if is_trained else 0))
    if layout.ranks == 1:
        if not config.learner.offload:
            return head
        return width * shape.parameters + 4 * trained_parameters(config, shape) + head
    layer = shape.layer_parameters / shape.layers
    return max(head, layer * (2 * width + (width + 4 if is_trained else 0)))


def _teacher_copy(config: RunConfig, trained: int, frozen: int) -> int:
    """All ranks' together. What the student does not train is its own (`learner.model.frozen`)."""
    width = _compute_bytes(config)
    if config.teacher.policy == "current":
        return 0
    return width * (trained + frozen if config.teacher.policy == "fixed" else trained)


def _compute_bytes(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def activation_bytes(config: RunConfig, shape: ModelShape, work: Workload) -> float:
    """What a micro-batch keeps for its backward pass, and the objective's chunk."""
    n = config.rollout.trajectories_per_sample
    tokens = group_tokens(work.prompt_tokens, work, n, config.model.share_prefix)
    largest = max(tokens, min(config.learner.student_batch_tokens, tokens * 96))
    groups = largest / tokens
    width = 2 if config.model.dtype == "bfloat16" else 4
    layer = layer_numbers(shape)
    tower = shape.tower
    patches = groups * work.image_tokens * tower.merge**2
    block = 10 * tower.width + 3 * tower.mlp_width
    decoder = _kept(config.model, shape.layers, shape.width, layer)
    vision = _kept(config.model, tower.depth, tower.width, block)
    if config.model.freeze_vision_tower:
        vision = block
    rows = n * work.response_tokens * groups
    chunk = min(CHUNK_BYTES, rows * shape.vocabulary * 4)
    return width * (largest * decoder + patches * vision) + chunk


def _kept(model: ModelSection, layers: int, width: int, layer: int) -> int:
    """Of a stack, by token: recomputed layers keep their input, and one of them is whole."""
    recomputed = model.num_recomputed(layers)
    return recomputed * width + (layers - recomputed) * layer + (layer if recomputed else 0)


def layer_numbers(shape: ModelShape) -> int:
    """Kept of one layer a token: two norms' inputs and outputs, attention's, the MLP's three."""
    query = shape.heads * shape.head_width
    return 6 * shape.width + 4 * query + 4 * shape.mlp_width


def server_memory(
    config: RunConfig,
    shape: ModelShape,
    work: Workload,
    layout: Layout,
    device: Device,
    kept_free: float = 0.0,
) -> ServerMemory:
    """
    Args:
        kept_free: bytes that others need on the same GPU. The server's share is of what they leave.
    """
    gpus = max(1, layout.server_gpus)
    share = config.sglang.memory_fraction or SERVER_SHARE
    free = device.memory - kept_free
    outside = SERVER_OUTSIDE if device.is_gpu else LIBRARIES
    room = min(share * free, free - outside)
    weights = shape.parameters * _served_bytes(device) / gpus
    of_group = _group_cache(config, shape, work, device) / gpus
    groups = config.rollout.max_concurrent_groups
    if config.sglang.max_total_tokens is not None:
        cache = needed = _fixed_cache(config, shape, device) / gpus
    else:
        if device.is_gpu:
            groups = min(groups, max(0, int((room - weights) / of_group)))
        cache, needed = groups * of_group, of_group
    return ServerMemory(weights, cache, needed, outside, room, groups)


def _group_cache(config: RunConfig, shape: ModelShape, work: Workload, device: Device) -> float:
    """KV of one group, and the states of its responses."""
    n = config.rollout.trajectories_per_sample
    longest = min(LONGEST * work.response_tokens, config.rollout.max_response_tokens)
    tokens = work.prompt_tokens + n * longest
    slots = n * (SLOTS_A_REQUEST if device.is_gpu else 1)
    return tokens * shape.kv_numbers * _served_bytes(device) + slots * shape.state_bytes


def _fixed_cache(config: RunConfig, shape: ModelShape, device: Device) -> float:
    """Where the configuration says how much."""
    n = config.rollout.trajectories_per_sample
    requests = config.rollout.max_concurrent_groups * n + 1  # the probe after a push
    slots = config.sglang.max_states or SLOTS_A_REQUEST * requests
    tokens = config.sglang.max_total_tokens or 0
    return tokens * shape.kv_numbers * _served_bytes(device) + slots * shape.state_bytes


def _served_bytes(device: Device) -> int:
    return 2 if device.is_gpu else 4
