"""Bytes on one GPU of the learner, and of a rollout server.

Weights, moments and averages are exact; activations are those of the largest micro-batch, by the
tensors that autograd keeps of a decoder layer, and are the least certain figure here.
"""

from dataclasses import dataclass

from common.config import RunConfig
from deploy.planning.assumed import group_tokens, trained_parameters
from deploy.planning.devices import Device
from deploy.planning.layout import Layout
from deploy.planning.shape import ModelShape
from deploy.planning.workload import LONGEST, Workload

SERVER_SHARE = 0.85  # of a GPU's memory for weights and cache, where the configuration says none
LIBRARIES = 1.5 * 2**30  # CUDA, NCCL and the allocator's loss
CHUNK_BYTES = 2 * 2**30  # the objective's logits of one chunk, at most


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes a rank."""

    weights: float  # float32 masters, and what one layer is gathered into
    gradients: float
    optimizer: float
    teacher: float  # the average and the copy that computes
    activations: float
    push: float  # rank 0's snapshot
    host: float = 0.0  # in main memory instead

    @property
    def total(self) -> float:
        parts = self.weights + self.gradients + self.optimizer + self.teacher
        return parts + self.activations + self.push + LIBRARIES


@dataclass(frozen=True)
class ServerMemory:
    """Bytes on each GPU of a server."""

    weights: float
    cache: float  # of all sequences that may run at once
    room: float  # for weights and cache

    @property
    def total(self) -> float:
        return self.weights + self.cache + LIBRARIES

    @property
    def fits(self) -> bool:
        """Whether weights fit, and the cache of one group."""
        return self.weights < self.room


def learner_memory(
    config: RunConfig, shape: ModelShape, work: Workload, layout: Layout
) -> LearnerMemory:
    shards, size = layout.shards(config), shape.parameters
    trained = trained_parameters(config, shape)
    width = 2 if config.model.dtype == "bfloat16" else 4
    masters, gradients, moments = 4 * size / shards, 4 * trained / shards, 8 * trained / shards
    copy = width * size / shards
    average = 4 * trained / shards if width == 2 else 0.0
    if config.teacher.policy == "current":
        copy = 0.0
    if config.teacher.policy != "ema":
        average = 0.0
    push = size * (2 if config.weights.dtype == "bfloat16" else 4)
    host = 0.0
    if config.learner.offload:
        host = masters + gradients + moments + copy + average
        masters = gradients = moments = copy = average = 0.0
    elif config.teacher.offload:
        host, average = average, 0.0
    # Two layers are whole at a time, and the embedding while the objective reads it as the head.
    gathered = 0.0
    if layout.ranks > 1 or config.learner.offload:
        gathered = width * (
            2 * shape.layer_parameters / shape.layers + shape.embedding_parameters
        ) + (4 * shape.embedding_parameters)
    return LearnerMemory(
        weights=masters + gathered,
        gradients=gradients,
        optimizer=moments,
        teacher=copy + average,
        activations=activation_bytes(config, shape, work),
        push=float(push),
        host=host,
    )


def activation_bytes(config: RunConfig, shape: ModelShape, work: Workload) -> float:
    """What a micro-batch keeps for its backward pass, and the objective's chunk."""
    n = config.rollout.trajectories_per_sample
    tokens = group_tokens(work.prompt_tokens, work, n, config.model.share_prefix)
    largest = max(tokens, min(config.learner.micro_batch_tokens, tokens * 96))
    groups = largest / tokens
    width = 2 if config.model.dtype == "bfloat16" else 4
    query = shape.heads * shape.head_width
    # Kept of one layer: two norms' inputs and outputs, attention's, the three of the MLP.
    layer = 6 * shape.width + 4 * query + 4 * shape.mlp_width
    tower = shape.tower
    patches = groups * work.image_tokens * tower.merge**2
    block = 10 * tower.width + 3 * tower.mlp_width
    if config.model.gradient_checkpointing:
        decoder = shape.layers * shape.width + layer
        vision = tower.depth * tower.width + block
    else:
        decoder, vision = shape.layers * layer, tower.depth * block
    if config.model.freeze_vision_tower:
        vision = block
    rows = n * work.response_tokens * groups
    chunk = min(CHUNK_BYTES, rows * shape.vocabulary * 4)
    return width * (largest * decoder + patches * vision) + chunk


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
        kept_free: bytes that others need on the same GPU.
    """
    n, gpus = config.rollout.trajectories_per_sample, max(1, layout.server_gpus)
    longest = min(LONGEST * work.response_tokens, config.rollout.max_response_tokens)
    width = 2 if device.is_gpu else 4
    tokens = work.prompt_tokens + n * longest
    group = tokens * shape.kv_numbers + n * shape.state_numbers
    share = config.sglang.memory_fraction or SERVER_SHARE
    return ServerMemory(
        weights=shape.parameters * width / gpus,
        cache=config.rollout.max_concurrent_groups * group * width / gpus,
        room=min(share * device.memory, device.memory - kept_free - LIBRARIES),
    )
