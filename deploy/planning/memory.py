"""Bytes on one GPU of the learner, and of a rollout server.

All of it but the allocator's loss is held to counts at the shapes of published models
(tests/deploy/planning/test_memory_at_size.py). Activations are those of the largest micro-batch,
with flash attention and flash-linear-attention's kernels: plain norms and gates keep more.
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
from deploy.planning.shape import ModelShape, Tower
from deploy.planning.workload import LONGEST, Workload

SERVER_SHARE = 0.85  # of a GPU for weights and cache, where the configuration says none
LIBRARIES = 1.5 * 2**30  # for CUDA, NCCL and the allocator's loss
SERVER_OUTSIDE = 6.5 * 2**30  # for CUDA graphs, context, a vision tower's activations
CHUNK_BYTES = 2 * 2**30  # at most, for the objective's logits of one chunk
DELTA_CHUNK = 64  # tokens of a sequence that a gated delta net's kernel takes at once


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes of each learner rank."""

    weights: float  # masters in float32, what is not trained in the compute dtype
    gathered: float  # head or layers that are whole while they compute, and their gradient
    gradients: float
    optimizer: float
    teacher: float  # its average, and the copy that computes
    activations: float
    push: float  # the snapshot that rank 0 sends
    host: float  # main memory of rank 0: offloaded parts, and a checkpoint's copies

    @property
    def total(self) -> float:
        parts = self.weights + self.gathered + self.gradients + self.optimizer + self.teacher
        return parts + self.activations + self.push + LIBRARIES


@dataclass(frozen=True)
class ServerMemory:
    """Bytes on each GPU of a server."""

    weights: float
    cache: float  # KV and states of all sequences that run at once
    needed: float  # cache without which the server does not start, or runs no group
    outside: float  # neither weights nor cache
    room: float  # there is for weights and cache
    groups: int  # run at once, as configured or as have room

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
    average = 4 * trained / shards if config.teacher.traits.has_float32 and width == 2 else 0.0
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
        activations=activation_bytes(config, shape, work, layout.ranks),
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
    """Bytes of all ranks together. What the student does not train is its own (`model.frozen`)."""
    held = {"student": 0, "copy": trained, "model": trained + frozen}
    return _compute_bytes(config) * held[config.teacher.traits.weights]


def _is_under_autocast(config: RunConfig, ranks: int) -> bool:
    """Whether a bfloat16 model has float32 parameters: one rank alone, that trains all of them.

    Norms and the residual stream are then float32. That is read from autocast's rules, not counted.
    """
    return ranks == 1 and not config.learner.offload and not config.model.lora_rank


def _compute_bytes(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def activation_bytes(config: RunConfig, shape: ModelShape, work: Workload, ranks: int) -> float:
    """What of a micro-batch is there at most in its backward pass, and the objective's chunk.

    Args:
        ranks: of the learner; one alone keeps more, where it computes under autocast.

    The count that this is held to: tests/deploy/planning/test_memory_at_size.py.
    """
    n = config.rollout.trajectories_per_sample
    tokens = group_tokens(work.prompt_tokens, work, n, config.model.share_prefix)
    largest = max(tokens, min(config.learner.student_batch_tokens, tokens * 96))
    groups = largest / tokens
    width = _compute_bytes(config)
    stream = 4 if _is_under_autocast(config, ranks) else width
    rows = n * work.response_tokens * groups
    branches = n * groups if config.model.share_prefix else 0.0
    decoder = _decoder_bytes(config.model, shape, largest, rows, branches, width, stream)
    patches = groups * work.image_tokens * shape.tower.merge**2
    tower = _tower_bytes(config.model, shape.tower, patches, width)
    chunk = min(CHUNK_BYTES, rows * shape.vocabulary * 4)
    return decoder + tower + chunk


def _decoder_bytes(
    model: ModelSection,
    shape: ModelShape,
    tokens: float,
    rows: float,
    branches: float,
    width: int,
    stream: int,
) -> float:
    """Layers, of which one is computed backward; the last one's MLP has only the asked rows.

    Args:
        width: bytes of a number.
        stream: bytes of a number of the residual stream and of what norms take and give.
    """
    state = 4 * shape.delta_state * branches  # float32, that branches begin with
    wider = (stream - width) * tokens * shape.width
    full = width * tokens * full_layer_numbers(shape) + 4 * wider
    delta = width * tokens * delta_layer_numbers(shape) + 4 * wider + state
    delta_layers = shape.layers - shape.full_layers
    mean = (shape.full_layers * full + delta_layers * delta) / shape.layers
    recomputed = model.num_recomputed(shape.layers)
    kept = recomputed * stream * tokens * shape.width + (shape.layers - recomputed) * mean
    if recomputed < shape.layers:
        kept -= width * (tokens - rows) * _mlp_numbers(shape)
    again = 0.0
    if recomputed:
        again = max(full if shape.full_layers else 0.0, delta if delta_layers else 0.0)
    return kept + again + width * tokens * _working_numbers(shape) + 2 * wider


def _tower_bytes(model: ModelSection, tower: Tower, patches: float, width: int) -> float:
    """Nothing is kept of a frozen tower. A block's backward pass begins after the decoder's."""
    if model.freeze_vision_tower:
        return 0.0
    recomputed = model.num_recomputed(tower.depth)
    blocks = recomputed * tower.width + (tower.depth - recomputed) * block_numbers(tower)
    pixels = 3 * tower.patch_depth * tower.patch**2
    # A merger's norm, its first layer and activation; and what it gives to every token.
    mergers = tower.mergers * (3 * tower.width + tower.output_width / tower.merge**2)
    return width * patches * (blocks + pixels + tower.width + mergers)


def full_layer_numbers(shape: ModelShape) -> int:
    """Numbers a token that autograd keeps of a layer with full attention and fused norms and gate.

    Queries: as projected, as rotated, and attention's output; a gate adds its sigmoid and the
    product. Keys: as projected and as rotated; values once.
    """
    query, key = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    return _around_numbers(shape) + (5 if shape.has_gate else 3) * query + 3 * key


def delta_layer_numbers(shape: ModelShape) -> int:
    """The same of a gated delta net by flash-linear-attention's kernels (fla-core 0.6).

    Keys, queries and values before the convolution and after it; the delta rule's output, gate and
    gated norm; a row of its chunk's matrix a head of values, and 13 numbers of rates and scales.
    """
    convolved = 2 * shape.delta_keys + shape.delta_values
    by_head = DELTA_CHUNK + 13
    return (
        _around_numbers(shape) + 2 * convolved + 3 * shape.delta_values
        + by_head * shape.delta_heads
    )  # fmt: skip


def _around_numbers(shape: ModelShape) -> int:
    """Input and output of the norm before attention or delta net, and all of the MLP."""
    behind = 2 * shape.width if shape.has_norms_behind else 0  # the outputs of two more norms
    return 2 * shape.width + behind + _mlp_numbers(shape)


def _mlp_numbers(shape: ModelShape) -> int:
    """Input and output of its norm; gate, what is gated, and their product.

    Without a fused form also the activated gate. That is read from GLM's class, not counted.
    """
    return 2 * shape.width + (4 if shape.has_norms_behind else 3) * shape.mlp_width


def _working_numbers(shape: ModelShape) -> int:
    """Gradients in a layer's backward pass: of the MLP's product, and of the layer's two ends."""
    return shape.mlp_width + 2 * shape.width


def block_numbers(tower: Tower) -> int:
    """Numbers a patch that autograd keeps of a block of the vision tower.

    Two norms' inputs and outputs; queries, keys and values as projected, the first two as rotated
    as well; attention's output, and that of all pictures in one; the MLP's hidden layer twice.
    """
    return 11 * tower.width + (3 if tower.is_gated else 2) * tower.mlp_width


def server_memory(
    config: RunConfig,
    shape: ModelShape,
    work: Workload,
    layout: Layout,
    device: Device,
    kept_free: float = 0.0,
) -> ServerMemory:
    """What a server takes of each of its GPUs.

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
    """Bytes of a cache whose size the configuration says."""
    n = config.rollout.trajectories_per_sample
    requests = config.rollout.max_concurrent_groups * n + 1  # the probe after a push
    slots = config.sglang.max_states or SLOTS_A_REQUEST * requests
    tokens = config.sglang.max_total_tokens or 0
    return tokens * shape.kv_numbers * _served_bytes(device) + slots * shape.state_bytes


def _served_bytes(device: Device) -> int:
    return 2 if device.is_gpu else 4
