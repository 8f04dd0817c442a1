"""The teacher: which weights score the student's tokens, and how they follow the student.

`common.config.objective.TEACHER_POLICIES` lists the policies. An average is (1 - rate) * teacher +
rate * student after every optimizer step.

The forward pass runs on a copy in the compute dtype (but for what stays float32, see
common.weight_dtypes). What the student does not train is no copy but the student's own, and no
part of a checkpoint's teacher: under LoRA the teacher is its adapters. A moving average needs
float32 beside the copy: its steps are rate * lr wide and would be rounded away in bfloat16. That
master is on the student's device or in main memory; if float32 is the compute dtype, the copy
itself is the master, wherever it is. Buffers stay as they are (a copy of the student takes them
too).
Parameters are matched by name, and worked on shard by shard where FSDP2 has sharded them. Of
adapters A and B are averaged apart. That is not the average of the merged weights, which would need
all of them in float32; it is off by up to 1 % of the distance between teacher and student at lr
1e-5 and by 7 % at 1e-4 (rate 0.05, 100 steps of AdamW in one direction, the worst case).
"""

import copy
from collections.abc import Callable, Mapping
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from common.config import ModelSection, TeacherSection
from common.errors import ConfigError
from common.image_text_model import ImageTextModel
from learner.model.frozen import as_computed, share_shards, shareable
from learner.model.sharding import local_part


class Teacher:
    """The teacher's weights, and how they follow the student.

    Make it from a student whose frozen parts and adapters are in place. To shard: give
    `will_shard`, shard the student and `model` alike (the same mesh, the same modules), then call
    `reshard`; until then the student may be on the meta device.

    Args:
        student: its parameters are the teacher's start; those that train are float32.
        dtype: of the forward pass, float32 or bfloat16.
        step: from which training continues. After step 0 the student is no longer the teacher's
            start, so `load_by` must come before the first `update`.
        will_shard: make no float32 master of the whole model, `reshard` makes that of a shard.

    Raises:
        ConfigError: the model of teacher.path cannot be loaded or does not fit the student.
    """

    def __init__(
        self,
        student: ImageTextModel,
        config: TeacherSection,
        dtype: torch.dtype,
        step: int = 0,
        *,
        will_shard: bool = False,
    ) -> None:
        self._student = student
        self._config = config
        self._step = step
        self._traits = config.traits
        self._is_saved = self._traits.weights == "copy"
        self._shared = shareable(student, dtype) if self._is_saved else frozenset()
        self._same = self._shared  # of those, the ones that are one memory with the student's
        self._copy = _start(student, config, dtype, self._shared)
        self._needs_load = self._is_saved and step > 0
        trained = [name for name, p in student.named_parameters() if p.requires_grad]
        self._moving = trained if self._traits.has_float32 else []
        self._has_master = bool(self._moving) and dtype != torch.float32
        self._needs_reshard = will_shard and self._copy is not None
        self._master: dict[str, Tensor] = {}
        if self._has_master and not will_shard:
            self._take_master()

    @property
    def model(self) -> ImageTextModel:
        """The copy in the compute dtype, or the student itself where it is its own teacher."""
        return self._student if self._copy is None else self._copy

    @property
    def models(self) -> tuple[tuple[float, ImageTextModel], ...]:
        """Weights and models: weighted logits add up to the teacher's; weights sum to 1."""
        if not self._traits.is_mixed:
            return ((1.0, self.model),)
        share = self._config.student_share
        mixed = ((1 - share, self.model), (share, self._student))
        return tuple((weight, model) for weight, model in mixed if weight > 0)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the student after optimizer step `step` (1-based), if that step was made."""
        assert not self._needs_load, f"load_by must come first: step {self._step} is resumed"
        match self._traits.after_step:
            case "nothing":
                pass
            case "average":
                self._average()
            case "copy":
                if step % self._config.interval_steps == 0:
                    self._copy_student(self._shared)
            case unknown:
                assert_never(unknown)

    def kept(self) -> dict[str, Tensor]:
        """The live tensors that a checkpoint saves: the teacher, by parameter name, tied ones once.

        Each where it has most bits: the float32 master of what moves, other parameters in the
        compute dtype, persistent buffers; without what it shares with the student; empty unless
        it is a copy. The next `update` changes them. The shards of a sharded model may be in main
        memory, and then need `.to(device)` one by one before `full_tensor()`.
        """
        assert not self._needs_reshard, "reshard must come first"
        if not self._is_saved:
            return {}
        own = self._parameters_without(self._shared)
        return own | self._master | _persistent_buffers(self.model)

    @torch.no_grad()
    def load_by(
        self, put: Callable[[Tensor, str], None], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Take over what `kept` was in the trainer that saved it, bit for bit.

        The student comes first: what is shared with it, but in other memory, is copied.

        Args:
            put: fills one of `kept`, sharded or not, with the weight of this name.
            shapes: of whole weights by name. What is shared with the student may be among them,
                and is left alone.

        Raises:
            ValueError: they are of another model.
        """
        kept = self.kept()
        _check_forms(shapes, kept, self._shared)
        for name, tensor in kept.items():
            put(tensor, name)
        computing, students = _parameters(self.model), _parameters(self._student)
        for name, tensor in self._master.items():
            _write(computing[name], tensor)
        for name in self._shared - self._same:
            _write(computing[name], students[name])
        self._needs_load = False

    def reshard(self) -> None:
        """Take the start shard by shard, once the student and `model` have been sharded.

        From now on they share their shards, too. The start is taken from the student, so this is
        for the time before the first step, or before `load_by`. Another model has its start.
        """
        self._needs_reshard = False
        if self._is_saved:
            self._same = share_shards(self.model, self._student, self._shared)
            self._copy_student(self._same)
        if self._has_master:
            self._take_master()

    # ---- weights ---------------------------------------------------------------------------------
    @torch.no_grad()
    def _take_master(self) -> None:
        students = _parameters(self._student)
        self._master.clear()  # a whole one goes before the sharded one comes
        for name in self._moving:
            self._master[name] = _float32_like(students[name], self._config.offload)
            _write(self._master[name], students[name])

    def _parameters_without(self, names: frozenset[str]) -> dict[str, Tensor]:
        every = _parameters(self.model)
        return {name: tensor for name, tensor in every.items() if name not in names}

    def _average(self) -> None:
        assert not self._needs_reshard, "reshard must come first"
        students, computing = _parameters(self._student), _parameters(self.model)
        masters = self._master or computing
        for name in self._moving:
            student, master = local_part(students[name]), local_part(masters[name])
            average = master.to(student.device, non_blocking=True)  # a GPU averages faster
            average.lerp_(student, self._config.ema_rate)
            if self._has_master:
                local_part(computing[name]).copy_(average)
            if average is not master:
                master.copy_(average, non_blocking=True)
        if self._config.offload and torch.cuda.is_available():
            torch.cuda.synchronize()  # the master in main memory may be read from now on

    @torch.no_grad()
    def _copy_student(self, left_out: frozenset[str]) -> None:
        students = _parameters(self._student)
        for name, tensor in self._parameters_without(left_out).items():
            _write(tensor, students[name])
        buffers = dict(self._student.named_buffers())
        for name, tensor in self.model.named_buffers():
            tensor.copy_(buffers[name])


# ---- the start -----------------------------------------------------------------------------------
def _start(
    student: ImageTextModel, config: TeacherSection, dtype: torch.dtype, shared: frozenset[str]
) -> ImageTextModel | None:
    weights = config.traits.weights
    if weights == "student":
        return None
    if weights == "copy":
        return _frozen_copy(student, dtype, shared)
    assert weights == "model" and config.path is not None  # the configuration has checked
    return _load_fixed(config.path, student, dtype)


def _frozen_copy(
    model: ImageTextModel, dtype: torch.dtype, shared: frozenset[str]
) -> ImageTextModel:
    """A copy with parameters in `dtype`, ties kept. Buffers keep their dtype (rotary: float32)."""

    def copied(name: str, parameter: nn.Parameter) -> nn.Parameter:
        if name in shared:
            return parameter
        copy_in_dtype = as_computed(name, parameter, dtype, is_copy=True)
        return nn.Parameter(copy_in_dtype, requires_grad=False)

    # Given the parameters, deepcopy makes no second model in float32 on the way.
    parameters = {id(p): copied(name, p) for name, p in model.named_parameters()}
    return copy.deepcopy(model, parameters).eval()


def _load_fixed(path: str, student: ImageTextModel, dtype: torch.dtype) -> ImageTextModel:
    from learner.model.student import load_student

    vision = getattr(student.config, "vision_config", None)
    section = ModelSection(
        path=path,
        attention=getattr(vision, "_attn_implementation", None) or "auto",
        gradient_checkpointing=False,
    )
    try:
        is_outline = any(p.is_meta for p in student.parameters())
        # Not on the student's GPU: float32 must not fill it.
        model = load_student(section, torch.device("meta" if is_outline else "cpu"))
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.path", "teacher.path")) from error
    _check_fit(path, model, student)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = as_computed(name, parameter, dtype)
    if not is_outline:
        model.to(next(student.parameters()).device)
    return model.eval()


def _check_fit(path: str, model: ImageTextModel, student: ImageTextModel) -> None:
    """Refuse a teacher that cannot take the student's token ids and pixels."""
    theirs, ours = _inputs_of(model), _inputs_of(student)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ConfigError(
                f"teacher.path = {path!r}: its {name} is {theirs[name]}, the student's is {value}, "
                "but both get the same tokens and pixels. Fix: name a model of the student's "
                "family, or set teacher.policy = ema"
            )


def _inputs_of(model: ImageTextModel) -> dict[str, object]:
    vision = getattr(model.config, "vision_config", None)
    return {
        "vocabulary size": model.get_output_embeddings().weight.shape[0],
        "image token id": getattr(model.config, "image_token_id", None),
        "patch size": getattr(vision, "patch_size", None),
        "temporal patch size": getattr(vision, "temporal_patch_size", None),
        "spatial merge size": getattr(vision, "spatial_merge_size", None),
    }


# ---- tensors, whole or sharded -------------------------------------------------------------------
def _parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, tied ones once; the shards of a sharded model."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # without a backward pass, the root stays gathered after a forward
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _float32_like(tensor: Tensor, in_main_memory: bool) -> Tensor:
    """An uninitialised tensor, sharded as `tensor` is; page-locked if a GPU will copy to it."""
    return torch.empty_like(
        tensor,
        dtype=torch.float32,
        device="cpu" if in_main_memory else tensor.device,
        pin_memory=in_main_memory and torch.cuda.is_available(),
    )


def _write(target: Tensor, source: Tensor) -> None:
    """Copy into `target`'s memory, rounded to its dtype. Both are sharded alike, or neither is."""
    local_part(target).copy_(local_part(source))


def _check_forms(
    shapes: Mapping[str, tuple[int, ...]], ours: Mapping[str, Tensor], shared: frozenset[str]
) -> None:
    if missing := sorted(ours.keys() - shapes.keys()):
        raise ValueError(f"it lacks {missing[0]} (and {len(missing) - 1} others)")
    if unknown := sorted(shapes.keys() - ours.keys() - shared):
        raise ValueError(f"it has {unknown[0]} (and {len(unknown) - 1} others), unknown here")
    for name, tensor in ours.items():
        if shapes[name] != tuple(tensor.shape):
            raise ValueError(
                f"its {name} has the shape {list(shapes[name])}, not {list(tensor.shape)}"
            )
