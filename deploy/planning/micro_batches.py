"""How many student tokens a micro-batch may have, by the account of the learner's memory.

Every micro-batch of a sharded or offloaded model pays for gathering the weights and for reducing
their gradients, and all kernel launches, however little is in it.
"""

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from common.config import RunConfig
from common.errors import ConfigError
from deploy.cluster.nodes import Node
from deploy.planning.assumed import group_tokens
from deploy.planning.devices import Device
from deploy.planning.layout import Layout, configured_layout, described_machines
from deploy.planning.memory import learner_memory
from deploy.planning.shape import ModelShape, shape_of
from deploy.planning.workload import Workload, workload_of

logger = logging.getLogger(__name__)
USED = 0.9  # share of a GPU's memory; the rest is left to what no account knows
ACTIVATIONS = 1.5  # times those accounted for, which are its least certain figure
MOST_GROUPS = 8  # more would save less than an eighth of what a micro-batch costs


def sized_here(config: RunConfig, find_nodes: Callable[[], Sequence[Node]]) -> RunConfig:
    """Size micro-batches for the GPUs of some machines, as `sized` does.

    The configuration stays where the learner has no GPU, or GPU or model is not known.

    Args:
        find_nodes: asked only where the learner is to have GPUs: it may take a while.
    """
    if not config.learner_pool.gpus or config.learner.device == "cpu":
        return config
    try:
        machines = described_machines(find_nodes())
        shape = shape_of(config.model.path)
    except ConfigError as error:
        logger.info("micro-batches are not sized by memory: %s", error)
        return config
    layout = configured_layout(config, machines)
    share = min(1.0, config.learner_pool.gpus)
    return sized(config, shape, workload_of(config, shape), layout, machines.learner_device, share)


def sized(
    config: RunConfig,
    shape: ModelShape,
    work: Workload,
    layout: Layout,
    device: Device,
    share: float = 1.0,
) -> RunConfig:
    """Set `learner.micro_batch_tokens`, if it is not set and the learner computes on GPUs.

    At least one group of mean length, at most `MOST_GROUPS` and what a rank has in a step.

    Args:
        share: of each GPU's memory that is the learner's.
    """
    if config.learner.micro_batch_tokens is not None or not device.is_gpu:
        return config
    one = group_tokens(
        work.prompt_tokens, work, config.rollout.trajectories_per_sample, config.model.share_prefix
    )
    groups = min(MOST_GROUPS, math.ceil(config.learner.groups_per_step / layout.ranks))

    def needed(tokens: int) -> float:
        changed = config.changed(learner={"micro_batch_tokens": tokens})
        memory = learner_memory(changed, shape, work, layout)
        return memory.total + (ACTIVATIONS - 1) * memory.activations

    candidates = range(math.ceil(one), math.ceil(groups * one) + 1)
    fitting = bisect_right(candidates, USED * share * device.memory, key=needed)
    tokens = candidates[max(0, fitting - 1)]
    return config.changed(learner={"micro_batch_tokens": tokens})
