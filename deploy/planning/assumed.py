"""Rates from nothing but the model's size and the makers' figures of a device.

One step's operations over a device's peak, times a share of it that is written down in `devices`.
F is a forward pass of what is counted: a backward pass is 2 F, and one more F where activations are
recomputed; frozen matrices save the half of the backward pass that makes their gradients.
"""

import math
from dataclasses import dataclass

from common.config import RunConfig
from deploy.planning.devices import (
    DECODE_SHARE,
    HOST_RATE,
    LAUNCH_S,
    LEARNER_SHARE,
    MEMORY_RATE,
    NETWORK_RATE,
    PAGEABLE_RATE,
    PREFILL_SHARE,
    PUSH_RATE,
    THREAD_RATE,
)
from deploy.planning.layout import Layout, Machines
from deploy.planning.rates import Rate, Rates
from deploy.planning.shape import ModelShape
from deploy.planning.workload import LONGEST, Workload, assumed_spread

_DECODING_S = 0.25  # one core decodes, resizes and patches a full image of 3,400 tokens
_STARTUP_S = 60.0
_PARAMETER_BYTES = 28  # a step reads and writes: float32 weight, gradient and two moments
_AVERAGE_BYTES = 14  # a step reads and writes: weight, the teacher's average and its copy


def assumed_rates(
    config: RunConfig, shape: ModelShape, work: Workload, machines: Machines, layout: Layout
) -> Rates:
    cost = _Cost(config, shape, work, machines, layout)
    alone_s, shared_s = cost.group_s()
    push_s = shape.parameters * _bytes(config.weights.dtype) / min(PUSH_RATE, cost.push_link)
    note = f"{machines.learner_device.name} at {LEARNER_SHARE:.0%} of peak"
    rollout = f"{machines.rollout_device.name}: {PREFILL_SHARE:.0%} of peak operations, "
    rollout += f"{DECODE_SHARE:.0%} of peak bandwidth"

    def assumed(value: float, why: str = note) -> Rate:
        return Rate(value, "assumed", why)

    return Rates(
        machines=machines.kind,
        ranks=layout.ranks,
        shards=cost.shards,
        groups_per_step=config.learner.groups_per_step,
        prompt_tokens=round(work.prompt_tokens),
        response_tokens=work.response_tokens,
        spread=assumed_spread(),
        group_alone_s=assumed(alone_s, rollout),
        group_shared_s=assumed(shared_s, rollout),
        vision_s=assumed(cost.learner_s(cost.vision)),
        student_s=assumed(cost.learner_s(cost.student)),
        objective_s=assumed(cost.learner_s(cost.objective)),
        backward_s=assumed(cost.backward_s()),
        teacher_s=assumed(cost.learner_s(cost.teacher)),
        optimizer_s=assumed(cost.optimizer_s(), "memory traffic of AdamW"),
        teacher_update_s=assumed(cost.average_s(), "memory traffic of the average"),
        other_s=assumed(0.0, "nothing else"),
        stall_s=assumed(cost.stall_s(), "copy or gather of the weights"),
        prepare_s=assumed(cost.prepare_s(), f"{_DECODING_S:g} s a full image, less a crop"),
        push_s=assumed(push_s, f"{PUSH_RATE / 1e9:g} GB/s end to end"),
        pause_s=assumed(push_s, "the whole push"),
        evaluation_sample_s=assumed(cost.evaluation_s(), note),
        checkpoint_s=assumed(
            checkpoint_bytes(config, shape) / cost.shards / PAGEABLE_RATE,
            f"each rank copies its part at {PAGEABLE_RATE / 1e9:g} GB/s",
        ),
        startup_s=assumed(_STARTUP_S if machines.has_gpus else _STARTUP_S / 6, "a guess"),
    )


@dataclass(frozen=True)
class _Cost:
    """Operations are those of one group, seconds those of a step on the busiest rank."""

    config: RunConfig
    shape: ModelShape
    work: Workload
    machines: Machines
    layout: Layout

    @property
    def n(self) -> int:
        return self.config.rollout.trajectories_per_sample

    @property
    def groups(self) -> int:
        """Groups of a step that the busiest rank trains."""
        return math.ceil(self.config.learner.groups_per_step / self.layout.ranks)

    @property
    def link(self) -> float:
        """Bytes/s at which a rank gets the others' shards."""
        inside = self.machines.learner_device.link
        return min(inside, NETWORK_RATE) if self._shards_cross else inside

    @property
    def shards(self) -> int:
        return self.layout.shards(self.config)

    @property
    def _shards_cross(self) -> bool:
        return self.shards * self.layout.learner_nodes > self.layout.ranks

    @property
    def push_link(self) -> float:
        crosses = self.machines.gpus > self.machines.gpus_a_node
        inside = self.machines.learner_device.link
        return min(inside, NETWORK_RATE) if crosses else inside

    @property
    def student_tokens(self) -> float:
        return group_tokens(self.work.prompt_tokens, self.work, self.n, self.shares)

    @property
    def shares(self) -> bool:
        return self.config.model.share_prefix

    # ---- operations of a group, forward ----------------------------------------------------------
    @property
    def vision(self) -> float:
        return self.shape.tower.operations(self.work.image_tokens)

    @property
    def student(self) -> float:
        return self._decoder(self.work.prompt_tokens)

    @property
    def objective(self) -> float:
        return self.shape.objective_operations(self.n * self.work.response_tokens)

    @property
    def teacher(self) -> float:
        if self.config.teacher.view == self.config.student.view:
            once = self.vision + self.student
        else:
            once = self.shape.tower.operations(self.work.crop_tokens)
            once += self._decoder(self.work.teacher_tokens)
        contrast = self.config.objective.token_weights == "visual_advantage"
        models = 2 if self.config.teacher.traits.is_mixed else 1
        return once * models * (2 if contrast else 1)

    def _decoder(self, prompt: float) -> float:
        prompts = 1 if self.shares else self.n
        return self.shape.tree_operations(prompt, self.n, self.work.response_tokens, prompts)

    # ---- seconds of a step -----------------------------------------------------------------------
    def learner_s(self, operations: float) -> float:
        rate = self.machines.learner_device.operations * LEARNER_SHARE
        return self.groups * operations / rate

    def backward_s(self) -> float:
        model = self.config.model
        passes = float(model.gradient_checkpointing)
        of_student = passes + (1.0 if model.lora_rank else 2.0)
        of_vision = 0.0 if model.freeze_vision_tower else passes + 2.0
        computing_s = self.learner_s(of_student * self.student + of_vision * self.vision)
        forward_s = self.learner_s(self.student + self.vision)
        return computing_s + max(0.0, self.gathering_s() - computing_s - forward_s)

    def gathering_s(self) -> float:
        """FSDP's: weights before forward and backward, and gradients, of every micro-batch.

        What is recomputed finds its weights gathered: two gathers, with activations kept or not
        (counted in tests/deploy/planning/test_memory_at_size.py).
        Replicas add up each rank's gradients in a ring, which takes them twice over the network.
        """
        shards, replicas = self.shards, self.layout.ranks // self.shards
        room = self.config.learner.student_batch_tokens
        a_batch = max(1, int(room // self.student_tokens))
        batches = math.ceil(self.groups / a_batch)
        gradients = 4 * self.trained
        gathered = 2 * _bytes(self.config.model.dtype) * self.shape.parameters + gradients
        added = 2 * gradients / shards * (replicas - 1) / replicas
        network = min(self.machines.learner_device.link, NETWORK_RATE)
        crossing_s = 0.0
        if self._offloads and self.layout.ranks > 1:  # shards, in float32, and their gradients
            crossing_s = (8 * self.shape.parameters + gradients) / shards / HOST_RATE
        sent_s = gathered * (shards - 1) / shards / self.link + added / network
        return batches * (sent_s + crossing_s)

    @property
    def trained(self) -> int:
        return trained_parameters(self.config, self.shape)

    def optimizer_s(self) -> float:
        """Masters and gradients of a model that is held on one GPU cross once a step, too."""
        mine = self.trained / self.shards
        if not self._offloads:
            return _PARAMETER_BYTES * mine / (self._bandwidth * DECODE_SHARE)
        crossing = 8 * mine if self.layout.ranks == 1 else 0.0
        return _PARAMETER_BYTES * mine / self.host_rate + crossing / HOST_RATE

    def average_s(self) -> float:
        if not self.config.teacher.traits.has_float32:
            return 0.0
        mine = self.trained / self.shards
        on_host = self.config.teacher.offload and self.machines.learner_device.is_gpu
        if not self._offloads and not on_host:
            return _AVERAGE_BYTES * mine / (self._bandwidth * DECODE_SHARE)
        crossing = (
            _bytes(self.config.model.dtype) * mine
        )  # the copy that computes crosses to the GPU
        return _AVERAGE_BYTES * mine / self.host_rate + crossing / HOST_RATE

    @property
    def host_rate(self) -> float:
        """Bytes/s of memory traffic on the CPUs. Ray leaves a process one thread by itself."""
        return min(MEMORY_RATE, THREAD_RATE * (self.config.learner.threads or 1))

    @property
    def _bandwidth(self) -> float:
        return self.machines.learner_device.bandwidth

    @property
    def _offloads(self) -> bool:
        return self.config.learner.offload and self.machines.learner_device.is_gpu

    def stall_s(self) -> float:
        if self.layout.ranks == 1:
            return 0.0  # copied beside the next forward pass
        return 4 * self.shape.parameters / self.link

    def prepare_s(self) -> float:
        processes = self.config.learner.render_processes
        if processes is None:
            processes = 4 if self.machines.learner_device.is_gpu else 0
        if processes or not self.machines.has_gpus:
            return 0.0  # every rank renders ahead of need, beside the step
        return self.groups * _DECODING_S * (1 + self.work.crop_tokens / self.work.image_tokens)

    def evaluation_s(self) -> float:
        """Full image and crop, answered greedily; the servers share the samples.

        As many samples are answered at a time as there are groups' responses, so that the weights
        which every token reads are read once for all of them.
        """
        alone_s, shared_s = self._answers_s(1)
        at_once = self.config.rollout.max_concurrent_groups * self.n
        return 2 * (alone_s / at_once + shared_s) / self.layout.servers

    # ---- rollout ---------------------------------------------------------------------------------
    def group_s(self) -> tuple[float, float]:
        """What a group takes by itself, and what it takes from the others on its server."""
        return self._answers_s(self.n)

    def _answers_s(self, n: int) -> tuple[float, float]:
        """The same of n responses to one prompt."""
        device, gpus = self.machines.rollout_device, max(1, self.layout.server_gpus)
        operations = device.operations * PREFILL_SHARE * gpus
        bandwidth = device.bandwidth * DECODE_SHARE * gpus
        width = 2 if device.is_gpu else 4
        response, prompt = self.work.response_tokens, self.work.prompt_tokens
        longest = min(LONGEST * response, self.config.rollout.max_response_tokens)
        read = self.shape.language_parameters * width / bandwidth
        alone_s = longest * (read + (LAUNCH_S if device.is_gpu else 0.0))
        prefill = self.vision + self.shape.operations(prompt, prompt / 2)
        tokens = n * response
        decoding = tokens * 2 * (self.shape.layer_parameters + self.shape.embedding_parameters)
        cache = self.shape.kv_numbers * width * (prompt + response / 2) + self.shape.state_bytes
        return alone_s, (prefill + decoding) / operations + tokens * cache / bandwidth


def group_tokens(prompt: float, work: Workload, n: int, shares_prefix: bool) -> float:
    """Tokens that one group takes in a packed row."""
    responses = n * work.response_tokens
    return responses + (prompt if shares_prefix else n * prompt)


def trained_parameters(config: RunConfig, shape: ModelShape) -> int:
    tower = 0 if config.model.freeze_vision_tower else shape.tower.parameters
    if config.model.lora_rank:
        return shape.lora_parameters(config.model.lora_rank) + tower
    return shape.language_parameters + tower


def checkpoint_bytes(config: RunConfig, shape: ModelShape) -> int:
    """In float32: weights, and of what is trained two moments and the teacher's average."""
    tensors = 4 if config.teacher.traits.weights == "copy" else 3
    frozen = frozen_parameters(config, shape)
    return 4 * (tensors * trained_parameters(config, shape) + frozen)


def frozen_parameters(config: RunConfig, shape: ModelShape) -> int:
    tower = shape.tower.parameters if config.model.freeze_vision_tower else 0
    return tower + (shape.language_parameters if config.model.lora_rank else 0)


def _bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else 4
