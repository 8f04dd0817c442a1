import copy
import os
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from common.config import ModelSection, TeacherSection
from common.config.objective import TEACHER_POLICIES, TeacherPolicyName
from common.errors import ConfigError
from learner.model.student import load_student
from learner.model.teacher import Teacher
from tests.learner.teacher_weights import load_weights, saved_weights
from tests.tiny_model import make_tiny_checkpoint

SAVED = [name for name, policy in TEACHER_POLICIES.items() if policy.weights == "copy"]
STAYING = [name for name in SAVED if TEACHER_POLICIES[name].after_step == "nothing"]
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


class Student(nn.Module):
    """Tied weights, a frozen part, buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.tower = nn.Linear(3, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("frequencies", torch.rand(2), persistent=False)


def student() -> Student:
    torch.manual_seed(0)
    return Student()


def teacher_of(model: nn.Module, dtype=FLOAT32, step: int = 0, **fields) -> Teacher:
    return Teacher(model, TeacherSection(**fields), dtype, step)


def move(model: nn.Module, generator: torch.Generator, size: float = 1e-4) -> None:
    """An optimizer step."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def train(model: nn.Module, teacher: Teacher, first: int, last: int, size: float = 1e-4) -> None:
    generator = torch.Generator().manual_seed(first)
    for step in range(first, last + 1):
        move(model, generator, size)
        teacher.update(step)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


# ---- ema -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("offload", [False, True])
def test_ema_follows_its_closed_form_on_every_parameter(dtype, offload):
    model, rate, steps = student(), 0.05, 30
    generator = torch.Generator().manual_seed(1)
    teacher = teacher_of(model, dtype, ema_rate=rate, offload=offload)
    history = [{n: p.double() for n, p in values(model).items()}]
    for step in range(1, steps + 1):
        move(model, generator)
        teacher.update(step)
        history.append({n: p.double() for n, p in values(model).items()})
    master = saved_weights(teacher)
    for name, parameter in teacher.model.named_parameters():
        if not model.get_parameter(name).requires_grad:
            continue  # in the compute dtype: the master is for what moves
        expected = (1 - rate) ** steps * history[0][name]
        for step in range(1, steps + 1):
            expected += rate * (1 - rate) ** (steps - step) * history[step][name]
        assert master[name].dtype == FLOAT32
        torch.testing.assert_close(master[name].double(), expected, rtol=1e-6, atol=1e-7)
        assert parameter.dtype == dtype
        assert torch.equal(parameter, master[name].to(dtype))


def test_master_keeps_steps_that_bfloat16_rounds_away():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    teacher = teacher_of(model, BFLOAT16, ema_rate=0.05)
    nn.init.constant_(model.weight, 1 + 2e-3)  # a moving average in bfloat16 would stay at 1
    alone = torch.ones(1, dtype=BFLOAT16)
    for step in range(1, 200):
        teacher.update(step)
        alone.lerp_(model.weight.detach().to(BFLOAT16).view(1), 0.05)
        if step == 1:
            assert saved_weights(teacher)["weight"].item() == pytest.approx(1 + 1e-4, rel=1e-6)
            assert teacher.model.weight.item() == 1
    assert alone.item() == 1
    assert saved_weights(teacher)["weight"].item() == pytest.approx(1 + 2e-3, rel=3e-6)


def test_master_starts_with_all_bits_of_the_student():
    model = student()
    master = saved_weights(teacher_of(model, BFLOAT16))
    assert torch.equal(master["embedding.weight"], model.embedding.weight)
    assert not torch.equal(master["embedding.weight"].to(BFLOAT16).float(), model.embedding.weight)


def test_frozen_parts_have_no_master_but_are_saved():
    model = student()
    teacher = teacher_of(model, BFLOAT16)
    train(model, teacher, 1, 3)
    rounded = model.tower.weight.detach().to(BFLOAT16)
    assert torch.equal(teacher.model.tower.weight, rounded)
    assert torch.equal(saved_weights(teacher)["tower.weight"], rounded.float())
    assert "tower.weight" not in teacher._master


def test_float32_keeps_no_second_copy():
    teacher = teacher_of(student(), offload=True)
    address = teacher.model.embedding.weight.data_ptr()
    assert saved_weights(teacher)["embedding.weight"].data_ptr() == address


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offloaded_master_gets_the_same_bits_as_one_on_the_gpu():
    masters = []
    for offload in (False, True):
        model = student().cuda()
        teacher = teacher_of(model, BFLOAT16, offload=offload)
        for step in range(1, 6):
            with torch.no_grad():
                model.embedding.weight.mul_(1.001)
            teacher.update(step)
        assert saved_weights(teacher)["embedding.weight"].is_cuda is not offload
        masters.append({n: t.cpu() for n, t in saved_weights(teacher).items()})
    assert_equal(*masters)


# ---- all policies --------------------------------------------------------------------------------
def test_every_name_of_the_configuration_is_a_policy() -> None:
    assert sorted(TEACHER_POLICIES) == sorted(get_args(TeacherPolicyName))


@pytest.mark.parametrize("name", TEACHER_POLICIES)
def test_a_teacher_is_what_its_policy_declares(tiny_checkpoint: Path, name: str) -> None:
    """Planner, checkpoints and configuration go by these declarations."""
    policy, model = TEACHER_POLICIES[name], load(tiny_checkpoint)
    path, interval = str(tiny_checkpoint), 2
    teacher = teacher_of(model, BFLOAT16, policy=name, path=path, interval_steps=interval)
    saved = saved_weights(teacher)
    assert (teacher.model is model) == (policy.weights == "student")
    assert bool(saved) == (policy.weights == "copy")
    kept = teacher.kept()
    moving = [name for name, p in model.named_parameters() if p.requires_grad and name in kept]
    assert any(kept[name].dtype == FLOAT32 for name in moving) == policy.has_float32
    assert len(teacher.models) == (2 if policy.is_mixed else 1)
    assert sum(weight for weight, _ in teacher.models) == pytest.approx(1)
    before = values(teacher.model)
    train(model, teacher, 1, 10 * interval, size=1.0)
    is_still = all(torch.equal(p, before[name]) for name, p in values(teacher.model).items())
    assert is_still == (policy.after_step == "nothing" and policy.weights != "student")


# ---- other policies ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [{"policy": "ema", "ema_rate": 0.0}, *({"policy": name} for name in STAYING)],
)
def test_teachers_that_do_not_move(fields):
    model = student()
    teacher = teacher_of(model, BFLOAT16, **fields)
    before = values(teacher.model)
    train(model, teacher, 1, 20, size=1.0)
    assert_equal(values(teacher.model), before)


def test_current_teacher_is_the_student_and_nothing_is_copied_or_saved():
    model = student()
    teacher = teacher_of(model, BFLOAT16, step=3, policy="current")
    assert teacher.model is model
    assert teacher.models == ((1.0, model),)
    assert saved_weights(teacher) == {}
    train(model, teacher, 4, 5)
    assert model.embedding.weight.dtype == FLOAT32 and model.embedding.weight.requires_grad


def test_progressive_teacher_takes_parameters_and_buffers_every_interval():
    model = student()
    teacher = teacher_of(model, BFLOAT16, policy="progressive", interval_steps=3)
    start = values(teacher.model)
    model.norm.running_mean += 1
    model.norm.num_batches_tracked += 5
    train(model, teacher, 1, 2, size=1.0)
    assert_equal(values(teacher.model), start)
    train(model, teacher, 3, 3, size=1.0)
    taken = {name: p.to(BFLOAT16) for name, p in values(model).items()}
    assert_equal(values(teacher.model), taken)
    assert torch.equal(teacher.model.norm.running_mean, model.norm.running_mean)
    assert teacher.model.norm.num_batches_tracked == 5
    train(model, teacher, 4, 5, size=1.0)
    assert_equal(values(teacher.model), taken)


@pytest.mark.parametrize("policy", ["ema", *STAYING])
def test_buffers_of_the_teacher_stay(policy):
    model = student()
    teacher = teacher_of(model, policy=policy, ema_rate=0.5)
    model.norm.running_mean += 1
    train(model, teacher, 1, 2)
    assert teacher.model.norm.running_mean.abs().max() == 0


def test_trust_region_mixes_the_start_and_the_student():
    model = student()
    teacher = teacher_of(model, policy="trust_region", student_share=0.05)
    (start_weight, start), (student_weight, live) = teacher.models
    assert (start_weight, student_weight) == (0.95, 0.05)
    assert start is teacher.model is not model and live is model


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_trust_region_runs_no_model_of_weight_0(share):
    model = student()
    teacher = teacher_of(model, policy="trust_region", student_share=share)
    assert teacher.models == ((1.0, model if share else teacher.model),)


@pytest.mark.parametrize("policy", SAVED)
def test_copies_want_no_gradient_and_leave_the_student_as_it_is(policy):
    model = student()
    before = copy.deepcopy(model)
    made = teacher_of(model, BFLOAT16, policy=policy).model
    assert not any(p.requires_grad for p in made.parameters())
    assert not made.training
    assert {p.dtype for p in made.parameters()} == {BFLOAT16}
    assert made.head.weight is made.embedding.weight
    assert made.frequencies.dtype == made.norm.running_mean.dtype == FLOAT32
    assert model.training and model.head.weight is model.embedding.weight
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    assert_equal(values(model), values(before))
    model.tower.weight.data.zero_()
    assert made.tower.weight.abs().max() > 0


# ---- fixed ---------------------------------------------------------------------------------------
def load(path: Path) -> nn.Module:
    section = ModelSection(path=str(path), gradient_checkpointing=False)
    return load_student(section, torch.device("cpu"))


def test_fixed_teacher_is_the_model_of_its_path(tiny_checkpoint, tmp_path):
    other = make_tiny_checkpoint(tmp_path / "other", seed=5)
    model = load(tiny_checkpoint)
    teacher = teacher_of(model, BFLOAT16, step=7, policy="fixed", path=str(other))
    expected = {name: p.to(BFLOAT16) for name, p in values(load(other)).items()}
    train(model, teacher, 8, 9)
    assert_equal(values(teacher.model), expected)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert saved_weights(teacher) == {}
    assert all(b.dtype != BFLOAT16 for b in teacher.model.buffers())


def test_fixed_teacher_of_another_vocabulary_is_refused(tiny_checkpoint, tmp_path):
    other = load(make_tiny_checkpoint(tmp_path / "made"))
    size = other.get_output_embeddings().weight.shape[0]
    other.resize_token_embeddings(size + 3)
    other.save_pretrained(tmp_path / "wider")
    with pytest.raises(ConfigError, match=r"teacher\.path") as caught:
        teacher_of(load(tiny_checkpoint), policy="fixed", path=str(tmp_path / "wider"))
    assert f"vocabulary size is {size + 3}, the student's is {size}" in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_fixed_teacher_of_other_patches_is_refused(tiny_checkpoint, tmp_path):
    other = make_tiny_checkpoint(tmp_path / "other", family="qwen2_5_vl")
    with pytest.raises(ConfigError, match="patch size is 14, the student's is 8"):
        teacher_of(load(tiny_checkpoint), policy="fixed", path=str(other))


def test_fixed_teacher_that_is_not_there_is_named_by_its_own_key(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"^teacher\.path = .*nowhere.*Fix: "):
        teacher_of(load(tiny_checkpoint), policy="fixed", path=str(tmp_path / "nowhere"))


# ---- save and load -------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("policy", SAVED)
def test_a_loaded_teacher_goes_on_bit_for_bit(policy, dtype):
    fields = {"policy": policy, "interval_steps": 2}
    model = student()
    teacher = teacher_of(model, dtype, **fields)
    model.norm.running_mean += 1
    train(model, teacher, 1, 3)
    saved = {name: t.clone() for name, t in saved_weights(teacher).items()}
    assert {"embedding.weight", "norm.running_mean", "norm.num_batches_tracked"} < saved.keys()
    assert not {"head.weight", "frequencies"} & saved.keys()
    assert {t.dtype for t in saved.values()} == {FLOAT32, torch.int64}

    resumed_model = copy.deepcopy(model)
    resumed = teacher_of(resumed_model, dtype, step=3, **fields)
    load_weights(resumed, saved)
    assert_equal(saved_weights(resumed), saved)
    assert_equal(values(resumed.model), values(teacher.model))
    assert torch.equal(resumed.model.norm.running_mean, teacher.model.norm.running_mean)

    train(model, teacher, 4, 7)
    train(resumed_model, resumed, 4, 7)
    assert_equal(saved_weights(resumed), saved_weights(teacher))
    assert_equal(values(resumed.model), values(teacher.model))


@pytest.mark.parametrize("policy", SAVED)
def test_a_resumed_teacher_refuses_to_go_on_without_its_weights(policy):
    teacher = teacher_of(student(), step=3, policy=policy)
    with pytest.raises(AssertionError, match="load_by"):
        teacher.update(4)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("norm.bias"), "lacks norm.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "has extra"),
        (lambda w: w.update({"norm.bias": torch.zeros(9)}), r"norm.bias has the shape \[9\]"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(change, words):
    teacher = teacher_of(student(), BFLOAT16)
    before = values(teacher.model)
    weights = {name: torch.zeros_like(t) for name, t in saved_weights(teacher).items()}
    change(weights)
    with pytest.raises(ValueError, match=words):
        load_weights(teacher, weights)
    assert_equal(values(teacher.model), before)


# ---- sharded -------------------------------------------------------------------------------------
def stack() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))  # 5 rows do not halve
    model[1].bias.requires_grad_(False)
    return model


def _shard(model: nn.Module, mesh) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)


def _train_sharded(rank: int, folder: str, dtype: torch.dtype) -> None:
    """Writes a sharded teacher after 3 steps, and one that loaded it and made 2 more."""
    from torch.distributed import barrier, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    config = TeacherSection()

    def sharded(step: int) -> tuple[nn.Module, Teacher]:
        model = stack()
        teacher = Teacher(model, config, dtype, step, will_shard=True)
        _shard(model, mesh)
        _shard(teacher.model, mesh)
        teacher.reshard()
        return model, teacher

    def steps(model: nn.Module, teacher: Teacher, first: int, last: int) -> dict[str, Tensor]:
        for step in range(first, last + 1):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1 + 0.01 * step)
                teacher.model(torch.ones(1, 3, dtype=dtype))  # leaves the root gathered
            teacher.update(step)
        return {name: t.full_tensor().clone() for name, t in saved_weights(teacher).items()}

    model, teacher = sharded(0)
    after_3 = steps(model, teacher, 1, 3)
    again, resumed = sharded(3)
    load_weights(resumed, after_3)
    with torch.no_grad():
        for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs)
    after_5 = steps(again, resumed, 4, 5)
    output = resumed.model(torch.ones(1, 3, dtype=dtype))
    if rank == 0:
        torch.save((after_3, after_5, output), f"{folder}/result.pt")
    barrier()
    destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that ends in good order


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_sharded_teacher_equals_a_whole_one(dtype, tmp_path):
    model = stack()
    teacher = teacher_of(model, dtype)
    expected = []
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(1 + 0.01 * step)
        teacher.update(step)
        if step in (3, 5):
            expected.append({n: t.clone() for n, t in saved_weights(teacher).items()})
    arguments = (str(tmp_path), dtype)
    torch.multiprocessing.spawn(_train_sharded, arguments, nprocs=2)
    *found, output = torch.load(tmp_path / "result.pt", weights_only=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)
    torch.testing.assert_close(output, teacher.model(torch.ones(1, 3, dtype=dtype)))


def test_a_sharded_master_is_not_used_before_it_is_there():
    model = stack()
    teacher = Teacher(model, TeacherSection(), BFLOAT16, will_shard=True)
    assert not teacher._master  # a whole one may not fit
    with pytest.raises(AssertionError, match="reshard must come first"):
        teacher.update(1)
    with pytest.raises(AssertionError, match="reshard must come first"):
        saved_weights(teacher)
    teacher.reshard()
    teacher.update(1)
