"""What is not trained is held once, in the compute dtype: the teacher is what it was before."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import nn

from common.config import ModelSection, TeacherSection
from learner.model.frozen import narrow_frozen, shareable
from learner.model.lora import adapter_state, add_adapters
from learner.model.student import load_student
from learner.model.teacher import Teacher
from tests.learner.teacher_weights import load_weights, saved_weights
from tests.tiny_model import FAMILIES, make_tiny_checkpoint

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = str(request.param)
    return make_tiny_checkpoint(tmp_path_factory.mktemp(family), 0, True, family)


def adapted(folder: Path, is_narrow: bool) -> Any:
    section = ModelSection(path=str(folder), freeze_vision_tower=True)
    model = load_student(section, torch.device("cpu"))
    add_adapters(model, rank=3, alpha=6.0, seed=5)
    if is_narrow:
        narrow_frozen(model, BFLOAT16)
    return model


def move(model: nn.Module, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    for adapter in adapter_state(model).values():
        adapter.add_(torch.randn(adapter.shape, generator=made) * 1e-3)


def test_a_teacher_on_the_students_base_is_the_one_on_a_copy_of_its_own(folder: Path):
    narrow, wide = adapted(folder, True), adapted(folder, False)
    on_base, on_copy = (Teacher(m, TeacherSection(), BFLOAT16) for m in (narrow, wide))
    for step in range(1, 5):
        for model, teacher in ((narrow, on_base), (wide, on_copy)):
            move(model, step)
            teacher.update(step)
    ours, theirs = (dict(t.model.named_parameters()) for t in (on_base, on_copy))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert parameter.dtype == theirs[name].dtype, name
        assert torch.equal(parameter, theirs[name]), name
    saved = saved_weights(on_copy)
    assert {n: t.tolist() for n, t in saved_weights(on_base).items()} == {
        name: tensor.tolist() for name, tensor in saved.items() if name in saved_weights(on_base)
    }


def test_what_is_shared_is_one_memory_and_all_but_the_adapters(folder: Path):
    model = adapted(folder, True)
    teacher = Teacher(model, TeacherSection(), BFLOAT16)
    students = dict(model.named_parameters())
    adapters = adapter_state(model).keys()
    for name, parameter in teacher.model.named_parameters():
        is_one = parameter.data_ptr() == students[name].data_ptr()
        assert is_one == (name not in adapters), name
        assert not parameter.requires_grad or name not in adapters
    assert set(saved_weights(teacher)) == set(adapters)
    assert all(students[name].dtype == FLOAT32 for name in adapters)


def test_a_base_is_narrow_but_for_what_is_computed_in_float32(folder: Path):
    model = adapted(folder, True)
    wide = {n for n, p in model.named_parameters() if p.dtype == FLOAT32}
    of_decays = ("linear_attn.A_log", "linear_attn.dt_bias")
    decays = {n for n, _ in model.named_parameters() if n.endswith(of_decays)}
    assert wide == decays | adapter_state(model).keys()


def test_in_float32_nothing_changes_and_all_that_is_frozen_is_shared(folder: Path):
    model = adapted(folder, False)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    narrow_frozen(model, FLOAT32)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before
    assert shareable(model, FLOAT32) == before.keys() - adapter_state(model).keys()


def test_a_teacher_that_was_saved_with_its_base_comes_back(folder: Path):
    model = adapted(folder, True)
    teacher = Teacher(model, TeacherSection(), BFLOAT16)
    move(model, 1)
    teacher.update(1)
    base = {n: p.detach().float() for n, p in teacher.model.named_parameters()}
    saved = {n: t.clone() for n, t in (base | saved_weights(teacher)).items()}
    resumed = Teacher(adapted(folder, True), TeacherSection(), BFLOAT16, step=1)
    load_weights(resumed, saved)
    for name, tensor in saved_weights(teacher).items():
        assert torch.equal(saved_weights(resumed)[name], tensor)
    with pytest.raises(ValueError, match=r"has other\.weight"):
        load_weights(resumed, saved | {"other.weight": torch.zeros(1)})


# ---- sharded -------------------------------------------------------------------------------------
def _stack() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2))  # 5 rows do not halve
    for layer in model[:2]:
        layer.requires_grad_(False)
    return model


def _share_sharded(rank: int, folder: str) -> None:
    from torch.distributed import barrier, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    student = _stack()
    given = torch.ones(1, 4)
    expected = student(given)
    teacher = Teacher(student, TeacherSection(), FLOAT32, will_shard=True)
    for model in (student, teacher.model):
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        model(given)  # FSDP2 has seen its parameters
        model.reshard()
    versions = {n: p.to_local()._version for n, p in student.named_parameters()}
    teacher.reshard()
    is_read = {n: p.to_local()._version == versions[n] for n, p in student.named_parameters()}
    ours, theirs = (dict(m.named_parameters()) for m in (student, teacher.model))
    is_one = {n: ours[n].to_local().data_ptr() == theirs[n].to_local().data_ptr() for n in ours}
    found = [teacher.model(given), student(given)]
    found[1].sum().backward()
    with torch.no_grad():  # as a checkpoint's weights come
        ours["0.weight"].to_local().mul_(2)
    found += [teacher.model(given), student(given)]
    if rank == 0:
        result = {"is_one": is_one, "is_read": is_read, "found": found, "expected": expected}
        torch.save(result, f"{folder}/result.pt")
    barrier()
    destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that ends in good order


@pytest.mark.slow
def test_sharded_models_share_the_shards_that_are_even(tmp_path: Path):
    torch.multiprocessing.spawn(_share_sharded, (str(tmp_path),), nprocs=2)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    assert result["is_one"] == {
        "0.weight": True, "0.bias": True, "1.weight": False, "1.bias": False,
        "2.weight": False, "2.bias": False,
    }  # fmt: skip
    assert all(result["is_read"].values()), "a shared shard was copied onto itself"
    for output in result["found"][:2]:
        torch.testing.assert_close(output, result["expected"])
    one, other = result["found"][2:]
    torch.testing.assert_close(one, other)
    assert not torch.equal(one, result["expected"])
