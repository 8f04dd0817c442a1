import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from common.config_cli import load
from common.errors import CheckpointError
from common.rendering import Renderer
from learner.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    load_teacher,
    restore,
    save_checkpoint,
)
from learner.model import load_student, named_weights
from learner.optim import Optimizer
from learner.trainer import Trainer
from tests.learner.conftest import World
from tests.tiny_model import make_tiny_checkpoint

LENGTHS = [(3, 1, 2), (1, 1, 1), (5, 2, 4), (2, 6, 1)]


def save(world: World, trainer: Trainer, folder, config=None, commit=lambda step, oldest: None):
    return save_checkpoint(folder, trainer, world.renderer, config or world.config, commit)


def train(world: World, trainer: Trainer, steps: range, config=None) -> None:
    preparation = world.preparation(trainer, config)
    for step in steps:
        groups = [world.group(4 * step + i, LENGTHS[i], version=step - 1) for i in range(4)]
        trainer.step(preparation.prepare(step, groups))


def resumed(world: World, folder, config=None) -> Trainer:
    """A new trainer that goes on from the newest checkpoint, as the session makes it."""
    config = config or world.config
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    path = config.model.model_copy(update={"path": str(checkpoint.path)})
    trainer = world.trainer(config.model_copy(update={"model": path}))
    restore(checkpoint, trainer)
    return trainer


def assert_same_state(first: Trainer, second: Trainer) -> None:
    for side in ("student", "teacher"):
        one, two = (
            named_weights(t.model if side == "student" else t.teacher.model)
            for t in (first, second)
        )
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert tensor.dtype == two[name].dtype
            assert torch.equal(tensor, two[name]), f"{side} {name}"
    ours, theirs = (t.optimizer.state_dict() for t in (first, second))
    assert ours["skipped_steps"] == theirs["skipped_steps"]
    assert ours["adamw"]["state"].keys() == theirs["adamw"]["state"].keys()
    for number, moments in ours["adamw"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, theirs["adamw"]["state"][number][key]), (number, key)
    assert first.version == second.version


@pytest.fixture
def trained(world):
    trainer = world.trainer()
    preparation = world.preparation(trainer)
    trainer.step(preparation.prepare(1, [world.group(i) for i in range(4)]))
    return trainer


def test_the_student_loads_as_a_hugging_face_folder(world, trained, tmp_path):
    path = save(world, trained, tmp_path)
    assert path.name == "step-000001"
    config = world.config.model.model_copy(update={"path": str(path)})
    loaded = named_weights(load_student(config, torch.device("cpu")))
    ours = named_weights(trained.model)
    assert loaded.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(loaded[name], tensor), name
    again = Renderer(str(path))
    problem = world.samples[0].problem
    assert again.text(problem) == world.renderer.text(problem)
    picture = world.images.open(world.samples[0].image)
    first, second = (r.prompt(problem, picture) for r in (again, world.renderer))
    assert first.input_ids.tolist() == second.input_ids.tolist()
    assert (first.pixel_values == second.pixel_values).all()


def test_the_teacher_and_the_optimizer_are_saved_exactly(world, trained, tmp_path):
    path = save(world, trained, tmp_path)
    fresh = world.trainer().teacher.model
    load_teacher(path, fresh)
    for name, tensor in named_weights(trained.teacher.model).items():
        assert torch.equal(named_weights(fresh)[name], tensor), name
    assert (
        load_file(path / "teacher/weights.safetensors").keys()
        == named_weights(trained.model).keys()
    )
    saved = torch.load(path / "optimizer.pt", weights_only=True)
    ours = trained.optimizer.state_dict()
    for number, moments in ours["adamw"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(saved["adamw"]["state"][number][key], value)
    assert "cpu" in torch.load(path / "random.pt", weights_only=True)


def test_version_and_configuration_are_saved(world, trained, tmp_path):
    path = save(world, trained, tmp_path)
    state = json.loads((path / "state.json").read_text())
    assert (state["version"], state["seed"]) == (1, 3)
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert state["files"].keys() == files - {"state.json"}
    assert load(["--config", str(path / "run.toml")]) == world.config


def test_only_the_last_ones_are_kept_and_half_written_ones_are_none(world, trained, tmp_path):
    for left in (".step-000009.part", ".step-000008.old"):
        (tmp_path / left).mkdir()
    for version in (1, 2, 10):
        trained.version = version
        save(world, trained, tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000010"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_broker_is_told_before_a_checkpoint_is_valid(world, trained, tmp_path):
    told = []

    def commit(step: int, oldest: int) -> None:
        told.append((step, oldest, [path.name for path in list_checkpoints(tmp_path)]))

    for version in (1, 2, 3, 4):
        trained.version = version
        save(world, trained, tmp_path, commit=commit)
    one, two, three = ("step-000001", "step-000002", "step-000003")
    assert told == [(1, 0, []), (2, 1, [one]), (3, 1, [one, two]), (4, 2, [two, three])]


def test_what_the_broker_refuses_is_no_checkpoint(world, trained, tmp_path):
    def refuse(step: int, oldest: int) -> None:
        raise ConnectionError("the broker is gone")

    with pytest.raises(ConnectionError):
        save(world, trained, tmp_path, commit=refuse)
    assert find_checkpoint(tmp_path, world.config) is None
    save(world, trained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


# ---- restore -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"teacher": {"policy": "frozen"}},
        {"teacher": {"policy": "current"}},
        {"model": {"dtype": "bfloat16", "gradient_checkpointing": True}},
        {"optimizer": {"warmup_steps": 3, "warmup_from_zero": True, "final_lr_share": 0.1}},
    ],
    ids=["ema", "frozen", "current", "bfloat16", "schedule"],
)
def test_training_goes_on_bit_for_bit(world, tmp_path, changes):
    config = world.changed(**changes)
    straight = world.trainer(config)
    train(world, straight, range(1, 5), config)

    first = world.trainer(config)
    train(world, first, range(1, 3), config)
    save(world, first, tmp_path, config)
    drawn = torch.rand(3)
    torch.rand(100)
    second = resumed(world, tmp_path, config)
    assert torch.equal(torch.rand(3), drawn), "torch's generator is elsewhere"
    assert_same_state(first, second)
    train(world, second, range(3, 5), config)
    assert_same_state(straight, second)


def test_an_untied_head_and_skipped_steps_come_back(world, tmp_path):
    path = make_tiny_checkpoint(tmp_path / "untied", seed=5, tie_head=False)
    config = world.changed(model={"path": str(path)})
    trainer = world.trainer(config)
    train(world, trainer, range(1, 2), config)
    trainer.optimizer.skipped_steps = 7
    save(world, trainer, tmp_path / "checkpoints", config)
    again = resumed(world, tmp_path / "checkpoints", config)
    assert again.optimizer.skipped_steps == 7
    assert_same_state(trainer, again)


def test_a_trainer_that_never_updated_comes_back(world, tmp_path):
    trainer = world.trainer()
    trainer.step(world.preparation(trainer).prepare(1, []))
    save(world, trainer, tmp_path)
    assert_same_state(trainer, resumed(world, tmp_path))


def test_settings_of_the_optimizer_are_those_of_the_configuration(world, trained, tmp_path):
    save(world, trained, tmp_path)
    config = world.changed(optimizer={"weight_decay": 0.5})
    (group,) = resumed(world, tmp_path, config).optimizer.state_dict()["adamw"]["param_groups"]
    assert group["weight_decay"] == 0.5


def test_the_newest_complete_checkpoint_is_found(world, trained, tmp_path):
    assert find_checkpoint(tmp_path / "nowhere", world.config) is None
    for version in (1, 12):
        trained.version = version
        save(world, trained, tmp_path)
    shutil.copytree(tmp_path / "step-000012", tmp_path / ".step-000013.part")
    found = find_checkpoint(tmp_path, world.config)
    assert found is not None and found.version == 12


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "teacher/weights.safetensors",
        "optimizer.pt",
        "random.pt",
        "config.json",
    ],
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_named(world, trained, tmp_path, name, damage):
    path = save(world, trained, tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: it is (damaged|missing).* Fix: "):
        find_checkpoint(tmp_path, world.config)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}'])
def test_a_state_that_cannot_be_read_is_named(world, trained, tmp_path, content):
    (save(world, trained, tmp_path) / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state\.json: it .* Fix: "):
        find_checkpoint(tmp_path, world.config)


def test_a_checkpoint_of_another_seed_or_step_is_refused(world, trained, tmp_path):
    path = save(world, trained, tmp_path)
    with pytest.raises(CheckpointError, match=r"run\.seed = 3, this run has 4"):
        find_checkpoint(tmp_path, world.changed(run={"seed": 4}))
    path.rename(tmp_path / "step-000002")
    with pytest.raises(CheckpointError, match="it is of step 1"):
        find_checkpoint(tmp_path, world.config)


def test_parts_of_another_model_are_refused(world, trained, tmp_path):
    path = save(world, trained, tmp_path)
    checkpoint = find_checkpoint(tmp_path, world.config)
    with pytest.raises(CheckpointError, match="its student does not load as it was saved"):
        restore(checkpoint, world.trainer())  # of the start, not of the checkpoint
    with pytest.raises(
        CheckpointError, match=r"teacher/weights\.safetensors: it is of another model"
    ):
        load_teacher(path, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="other trainable parameters"):
        Optimizer(torch.nn.Linear(2, 2).parameters(), world.config.optimizer, 9).load_state_dict(
            trained.optimizer.state_dict()
        )


def test_a_teacher_that_was_not_saved_is_named(world, tmp_path):
    config = world.changed(teacher={"policy": "current"})
    trainer = world.trainer(config)
    train(world, trainer, range(1, 2), config)
    save(world, trainer, tmp_path, config)
    with pytest.raises(CheckpointError, match=r"teacher/weights\.safetensors: it cannot be read"):
        resumed(world, tmp_path)


def test_the_current_teacher_is_not_written_twice(world, tmp_path):
    config = world.changed(teacher={"policy": "current"})
    path = save(world, world.trainer(config), tmp_path, config)
    assert not (path / "teacher/weights.safetensors").exists()
