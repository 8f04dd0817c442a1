import json

import pytest
import torch
from safetensors.torch import load_file

from common.config_cli import load
from common.rendering import Renderer
from learner.checkpoint import list_checkpoints, load_teacher, save_checkpoint
from learner.model import load_student, named_weights


@pytest.fixture
def trained(world):
    trainer = world.trainer()
    preparation = world.preparation(trainer)
    trainer.step(preparation.prepare(1, [world.group(i) for i in range(4)]))
    return trainer


def test_the_student_loads_as_a_hugging_face_folder(world, trained, tmp_path):
    path = save_checkpoint(tmp_path, trained, world.renderer, world.config, keep=2)
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
    path = save_checkpoint(tmp_path, trained, world.renderer, world.config, keep=2)
    fresh = world.trainer().teacher.model
    load_teacher(path, fresh)
    for name, tensor in named_weights(trained.teacher.model).items():
        assert torch.equal(named_weights(fresh)[name], tensor), name
    assert load_file(path / "teacher.safetensors").keys() == named_weights(trained.model).keys()
    saved = torch.load(path / "optimizer.pt", weights_only=True)
    ours = trained.optimizer.state_dict()
    for number, moments in ours["adamw"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(saved["adamw"]["state"][number][key], value)
    assert "cpu" in torch.load(path / "random.pt", weights_only=True)


def test_version_and_configuration_are_saved(world, trained, tmp_path):
    path = save_checkpoint(tmp_path, trained, world.renderer, world.config, keep=2)
    assert json.loads((path / "state.json").read_text()) == {"version": 1, "seed": 3}
    assert load(["--config", str(path / "run.toml")]) == world.config


def test_only_the_last_ones_are_kept_and_half_written_ones_are_none(world, trained, tmp_path):
    (tmp_path / ".step-000009.part").mkdir()
    for version in (1, 2, 10):
        trained.version = version
        save_checkpoint(tmp_path, trained, world.renderer, world.config, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000010"]


def test_a_teacher_of_another_model_is_refused(world, trained, tmp_path):
    path = save_checkpoint(tmp_path, trained, world.renderer, world.config, keep=2)
    with pytest.raises(ValueError, match="another model"):
        load_teacher(path, torch.nn.Linear(2, 2))


def test_the_current_teacher_is_not_written_twice(world, tmp_path):
    config = world.changed(teacher={"policy": "current"})
    path = save_checkpoint(tmp_path, world.trainer(config), world.renderer, config, keep=1)
    assert not (path / "teacher.safetensors").exists()
