import json
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common import full_disk
from common.config import RunConfig
from common.config.objective import TEACHER_POLICIES
from common.config_cli import load
from common.errors import CheckpointError
from common.rendering import Renderer
from learner.checkpoint import (
    Checkpointer,
    Trained,
    discard_after,
    find_checkpoint,
    list_checkpoints,
    load_teacher,
    restore,
    roll_back_targets,
)
from learner.checkpoint import checkpointer as checkpointer_module
from learner.checkpoint.folder import oldest_target, read_scores, superseded
from learner.model.student import load_student
from tests.learner.conftest import World
from tests.learner.small_training import SmallTraining, small_config
from tests.learner.teacher_weights import saved_weights
from tests.small_disk import small_disk
from tests.tiny_model import FAMILIES, make_tiny_checkpoint

LENGTHS = [(3, 1, 2), (1, 1, 1), (5, 2, 4), (2, 6, 1)]
LIMIT_S = 30.0
FILES = (
    "model.safetensors",
    "teacher/weights.safetensors",
    "training/optimizer.safetensors",
    "training/random.safetensors",
    "config.json",
)


def accept(step: int, oldest: int) -> None:
    """A broker that says yes."""


def checkpointer(
    config: RunConfig,
    training: Trained,
    folder: Path,
    commit: Callable[[int, int], None] = accept,
) -> Checkpointer:
    made = Checkpointer(folder, training, Renderer(config.model.path), config, commit)
    made._saved_version = -1  # the tests save versions that others start from
    return made


def save(
    config: RunConfig,
    training: Trained,
    folder: Path,
    commit: Callable[[int, int], None] = accept,
) -> Path:
    with checkpointer(config, training, folder, commit) as saver:
        saver.save()
    return folder / f"step-{training.version:06d}"


def save_versions(
    config: RunConfig, training: SmallTraining, folder: Path, *versions: int
) -> list[str]:
    """The names of those that are left."""
    for version in versions:
        training.version = version
        save(config, training, folder)
    return [path.name for path in list_checkpoints(folder)]


def restored(config: RunConfig, folder: Path) -> SmallTraining:
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    training = SmallTraining(config, version=checkpoint.version)
    restore(checkpoint, training)
    return training


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> RunConfig:
    return small_config(tmp_path / "run", tiny_checkpoint)


@pytest.fixture
def trained(config: RunConfig) -> SmallTraining:
    training = SmallTraining(config)
    training.step()
    return training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


# ---- what is written -----------------------------------------------------------------------------
@pytest.mark.parametrize("tie_head", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_is_what_transformers_would_have_saved(
    tmp_path: Path, folder: Path, family: str, tie_head: bool
) -> None:
    model = make_tiny_checkpoint(tmp_path / "model", family=family, tie_head=tie_head)
    config = small_config(tmp_path / "run", model)
    training = SmallTraining(config)
    training.step()
    path = save(config, training, folder)
    training.model.save_pretrained(tmp_path / "theirs")
    for name in side_files(model) | {"config.json"}:  # which names float32 already
        assert (path / name).read_bytes() == (model / name).read_bytes(), name
    ours, theirs = (load_file(p / "model.safetensors") for p in (path, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert restored(config, folder).state() == training.state()


def side_files(folder: Path) -> set[str]:
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if not name.endswith(".safetensors")} - {"config.json"}


def test_a_large_student_is_in_parts(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.checkpoint.files._MAX_SHARD_BYTES", 40_000)
    path = save(config, trained, folder)
    assert len(list(path.glob("model-0*-of-0*.safetensors"))) > 2
    loaded = load_student(
        config.model.model_copy(update={"path": str(path)}), torch.device("cpu")
    ).state_dict()
    assert all(torch.equal(tensor, loaded[n]) for n, tensor in trained.model.state_dict().items())
    assert restored(config, folder).state() == trained.state()


def test_tokenizer_and_processor_load_again(world: World, tmp_path: Path, folder: Path) -> None:
    config = small_config(tmp_path / "run", Path(world.config.model.path))
    again = Renderer(str(save(config, SmallTraining(config), folder)))
    problem = world.samples[0].problem
    assert again.text(problem) == world.renderer.text(problem)
    picture = world.images.open(world.samples[0].image)
    first, second = (r.prompt(problem, picture) for r in (again, world.renderer))
    assert first.input_ids.tolist() == second.input_ids.tolist()
    assert (first.pixels == second.pixels).all()
    assert torch.equal(again.patching.values_CL, world.renderer.patching.values_CL)


def test_tensors_are_in_the_files_under_their_names(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    path = save(config, trained, folder)
    teacher = load_file(path / "teacher/weights.safetensors")
    master = saved_weights(trained.teacher)
    assert teacher.keys() == master.keys()
    assert all(torch.equal(teacher[n], t) and t.dtype == torch.float32 for n, t in master.items())
    optimizer = load_file(path / "training/optimizer.safetensors")
    ours = trained.optimizer.tensors()
    assert optimizer.keys() == ours.keys()
    assert all(torch.equal(optimizer[name], tensor) for name, tensor in ours.items())
    name = trained.optimizer.parameter_names[-1]
    assert optimizer[f"step.{name}"] == 1 and optimizer[f"exp_avg_sq.{name}"].any()
    assert load_file(path / "training/random.safetensors").keys() == {"cpu.0"}
    assert {file.suffix for file in path.rglob("*") if file.is_file()} <= {
        ".json", ".safetensors", ".toml", ".jinja",
    }  # fmt: skip


def test_version_and_configuration_are_saved(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    path = save(config, trained, folder)
    state = json.loads((path / "state.json").read_text())
    assert (state["version"], state["seed"], state["oldest"]) == (1, 3, 0)
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert state["files"].keys() == files - {"state.json"}
    assert load(["--config", str(path / "run.toml")]) == config


@pytest.mark.parametrize(
    "policy", [name for name, policy in TEACHER_POLICIES.items() if policy.weights != "copy"]
)
def test_a_teacher_without_weights_of_its_own_is_not_written(
    tmp_path: Path, tiny_checkpoint: Path, folder: Path, policy: str
) -> None:
    config = small_config(
        tmp_path, tiny_checkpoint, teacher={"policy": policy, "path": str(tiny_checkpoint)}
    )
    training = SmallTraining(config)
    training.step()
    assert not (save(config, training, folder) / "teacher").exists()
    assert restored(config, folder).state() == training.state()


# ---- while training goes on ----------------------------------------------------------------------
class Gate:
    """A broker that answers when it is let."""

    def __init__(self) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def __call__(self, step: int, oldest: int) -> None:
        self.is_asked.set()
        assert self.may_answer.wait(LIMIT_S)


def test_training_goes_on_and_changes_nothing_of_what_is_written(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained.state()
    write, may_write = checkpointer_module.write_checkpoint, threading.Event()

    def late(*arguments: object) -> None:
        assert may_write.wait(LIMIT_S)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpointer_module, "write_checkpoint", late)
    with checkpointer(config, trained, folder) as saver:
        drawn_from = torch.get_rng_state()
        saver.save()
        assert not saver.wait(0.01) and list_checkpoints(folder) == []
        for _ in range(3):
            trained.step()
        torch.rand(10)
        may_write.set()
        assert saver.wait(LIMIT_S)
        assert restored(config, folder).state() == expected
        assert torch.equal(torch.get_rng_state(), drawn_from)
        saver.save()  # into the same memory
        assert saver.wait(LIMIT_S) and saver.wait(0)
    assert restored(config, folder).state() == trained.state()


def test_a_second_save_waits_for_the_first_and_the_stall_is_counted(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    def join_and_open(thread: threading.Thread, timeout_s: float | None = None) -> None:
        threading.Timer(0.2, gate.may_answer.set).start()
        join(thread, timeout_s)

    join = threading.Thread.join
    with checkpointer(config, trained, folder, gate) as saver:
        saver.save()
        assert gate.is_asked.wait(LIMIT_S)
        assert saver.stall_s < LIMIT_S
        before_s = saver.stall_s
        trained.step()
        monkeypatch.setattr(threading.Thread, "join", join_and_open)
        saver.save()
        assert saver.stall_s - before_s >= 0.2
    assert [path.name for path in list_checkpoints(folder)] == ["step-000001", "step-000002"]


def test_leaving_waits_and_no_thread_is_left(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    def slow(step: int, oldest: int) -> None:
        time.sleep(0.2)  # which leaving has to wait for

    save(config, trained, folder, slow)
    assert [path.name for path in list_checkpoints(folder)] == ["step-000001"]
    assert not any(thread.name == "checkpoint" for thread in threading.enumerate())


def test_a_version_is_saved_once(config: RunConfig, trained: SmallTraining, folder: Path) -> None:
    told = []
    with Checkpointer(
        folder, trained, Renderer(config.model.path), config, lambda *args: told.append(args)
    ) as saver:
        saver.save()  # what it started from
        trained.step()
        saver.save()
        saver.save()
    assert told == [(2, 0)]


# ---- errors of a write ---------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["wait", "save", "exit"])
def test_what_the_broker_refuses_is_no_checkpoint_and_is_raised_later(
    config: RunConfig, trained: SmallTraining, folder: Path, when: str
) -> None:
    def refuse(step: int, oldest: int) -> None:
        raise ConnectionError("the broker is gone")

    with (
        pytest.raises(ConnectionError, match="gone"),
        checkpointer(config, trained, folder, refuse) as saver,
    ):
        saver.save()
        if when == "wait":
            saver.wait(LIMIT_S)
        elif when == "save":
            saver.save()
    assert find_checkpoint(folder, config) is None
    save(config, trained, folder)
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_after_an_error_the_same_version_can_be_saved(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    answers = [ConnectionError("not now"), None]

    def answer(step: int, oldest: int) -> None:
        if error := answers.pop(0):
            raise error

    with checkpointer(config, trained, folder, answer) as saver:
        saver.save()
        with pytest.raises(ConnectionError):
            saver.wait(LIMIT_S)
        saver.save()
    assert restored(config, folder).state() == trained.state()


def test_a_disk_that_refuses_is_one_clear_error(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with checkpointer(config, trained, folder) as saver, monkeypatch.context() as patched:
        patched.setattr(checkpointer_module, "write_checkpoint", refuse)
        saver.save()
        with pytest.raises(CheckpointError, match=r"step-000001\.part: .*Input/output.*Fix: "):
            saver.wait(LIMIT_S)
    assert list_checkpoints(folder) == []


def test_a_full_disk_is_waited_for_and_gets_back_what_was_taken(
    config: RunConfig, trained: SmallTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        folder = disk.folder / "checkpoints"
        waits: list[list[Path]] = []

        def wait(seconds: float) -> None:
            waits.append(list(folder.iterdir()))
            disk.free()

        patient = partial(full_disk.when_there_is_room, sleep=wait)
        monkeypatch.setattr(checkpointer_module, "when_there_is_room", patient)
        disk.fill()
        with checkpointer(config, trained, folder) as saver:
            saver.save()
            assert saver.wait(LIMIT_S)
        assert waits == [[]]  # once, and nothing of it was there meanwhile
        assert restored(config, folder).state() == trained.state()


def test_a_hurried_write_does_not_wait_for_a_full_disk(
    config: RunConfig, trained: SmallTraining, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        folder = disk.folder / "checkpoints"
        with checkpointer(config, trained, folder) as saver:
            saver.hurry()
            saver.save()
            with pytest.raises(CheckpointError, match=r"step-000001\.part: .*No space left.*Fix: "):
                saver.wait(LIMIT_S)
        assert list(folder.iterdir()) == []


def test_the_error_that_ends_a_run_is_not_hidden_by_that_of_a_write(
    config: RunConfig, trained: SmallTraining, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(step: int, oldest: int) -> None:
        raise ConnectionError("the broker is gone")

    with pytest.raises(ZeroDivisionError), checkpointer(config, trained, folder, refuse) as saver:
        saver.save()
        raise ZeroDivisionError
    assert "the broker is gone" in caplog.text


def test_a_write_that_never_ends_is_an_error(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    with checkpointer(config, trained, folder, gate) as saver:
        saver.save()
        with monkeypatch.context() as patched:
            patched.setattr(checkpointer_module, "_WRITE_TIMEOUT_S", 0.05)
            with pytest.raises(CheckpointError, match=r"not written after .* Fix: "):
                saver.save()
        gate.may_answer.set()


def test_a_folder_that_cannot_be_made_is_one_clear_error(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    folder.write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot be written: .* Fix: "):
        save(config, trained, folder)


# ---- which are kept ------------------------------------------------------------------------------
def test_only_the_last_ones_are_kept_and_half_written_ones_are_none(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    for left in (".step-000009.part", ".step-000008.old"):
        (folder / left).mkdir(parents=True)
    names = save_versions(config, trained, folder, 1, 2, 10)
    assert names == ["step-000002", "step-000010"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(1, [(1, 0), (2, 1), (3, 2), (4, 3)]), (2, [(1, 0), (2, 1), (3, 2), (4, 3)]),
     (3, [(1, 0), (2, 1), (3, 1), (4, 2)])],
)  # fmt: skip
def test_the_broker_is_told_before_a_checkpoint_is_valid(
    tmp_path: Path, tiny_checkpoint: Path, folder: Path, keep: int, expected: list[object]
) -> None:
    """And never gives up a step that the learner may go on from if it dies right then."""
    config = small_config(tmp_path, tiny_checkpoint, checkpoint={"keep": keep})
    training, told = SmallTraining(config), []

    def commit(step: int, oldest: int) -> None:
        there = [int(path.name[-6:]) for path in list_checkpoints(folder)]
        assert step not in there and oldest <= max(there, default=0)
        told.append((step, oldest))

    for version in (1, 2, 3, 4):
        training.version = version
        save(config, training, folder, commit)
        assert roll_back_targets(folder)[0] >= told[-1][1]
        assert roll_back_targets(folder)[-keep:] == list(range(1, version + 1))[-keep:]
    assert told == expected


def test_the_best_are_kept_beside_the_newest(
    tmp_path: Path, tiny_checkpoint: Path, folder: Path
) -> None:
    config = small_config(
        tmp_path,
        tiny_checkpoint,
        checkpoint={"keep": 1, "keep_best": 2},
        evaluation={"every_steps": 1},
        data={"heldout": "heldout.parquet"},
    )
    training = SmallTraining(config)
    with Checkpointer(folder, training, Renderer(config.model.path), config, accept) as saver:
        saver.note_score(0, 0.99)  # of no checkpoint
        for accuracy in (0.5, 0.9, 0.6, None, 0.7, 0.2):
            training.step()
            saver.save()
            if accuracy is not None:
                saver.note_score(training.version, accuracy)
            saver.note_score(77, 0.99)
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["2", "5", "6"]
    scores = read_scores(folder)
    scores.pop(3, None)  # it goes with the save after the removal
    assert scores == {2: 0.9, 5: 0.7, 6: 0.2}
    assert roll_back_targets(folder) == [5, 6]
    with pytest.raises(CheckpointError, match=r"000002: it is kept for its accuracy .*\[5, 6\]"):
        discard_after(folder, 2)


@pytest.mark.parametrize("accuracy", [0.9, None])
def test_a_checkpoint_stays_until_its_accuracy_is_known(
    world, tmp_path: Path, accuracy: float | None
) -> None:
    """Servers measure while later steps are trained, and later checkpoints written."""
    folder = tmp_path / "checkpoints"
    config = world.changed(
        checkpoint={"keep": 1, "keep_best": 1},
        evaluation={"every_steps": 1},
        data={"heldout": "heldout.parquet"},
    )
    training = SmallTraining(config)
    with Checkpointer(folder, training, Renderer(config.model.path), config, accept) as saver:
        for step in range(1, 4):
            training.step()
            saver.save(is_measured=step == 1)
        assert saver.wait(60.0)
        assert [path.name[-1] for path in list_checkpoints(folder)] == ["1", "3"]
        saver.note_score(1, accuracy)
    expected = ["3"] if accuracy is None else ["1", "3"]
    assert [path.name[-1] for path in list_checkpoints(folder)] == expected


@pytest.mark.parametrize(
    ("scores", "keep", "keep_best", "expected"),
    [
        ({}, 2, 0, [1, 2, 3]),
        ({}, 2, 3, [1, 2, 3]),
        ({1: 0.5, 3: 0.5}, 1, 1, [1, 2, 4]),  # of equals the later
        ({5: 0.9, 1: 0.5}, 2, 1, [1, 2, 3]),  # the best may be among the newest
        ({1: 0.9, 2: 0.8, 3: 0.7}, 9, 0, []),
        ({99: 1.0}, 1, 1, [1, 2, 3, 4]),
    ],
)
def test_what_is_superseded(
    scores: dict[int, float], keep: int, keep_best: int, expected: list[int]
) -> None:
    assert superseded([1, 2, 3, 4, 5], scores, keep, keep_best) == expected


def test_a_step_that_was_given_up_stays_given_up(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    save_versions(config, trained, folder, 1, 2, 3, 4)
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["3", "4"]
    shutil.copytree(folder / "step-000003", folder / "step-000001")  # as if it was the best
    assert oldest_target(folder, 5, keep=9) == 3
    assert roll_back_targets(folder) == [3, 4]


def test_scores_that_cannot_be_read_are_named(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    save(config, trained, folder)
    for content in ("[]", "{", '{"1": null}'):
        (folder / "scores.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"scores\.json: it cannot be read.* Fix: "):
            read_scores(folder)


# ---- back ----------------------------------------------------------------------------------------
def test_later_checkpoints_are_discarded_for_a_roll_back(
    tmp_path: Path, tiny_checkpoint: Path, folder: Path
) -> None:
    config = small_config(tmp_path, tiny_checkpoint, checkpoint={"keep": 3})
    training, states = SmallTraining(config), {}
    with Checkpointer(folder, training, Renderer(config.model.path), config, accept) as saver:
        for _ in range(3):
            training.step()
            states[training.version] = training.state()
            saver.save()
            saver.note_score(training.version, 0.5)
    assert discard_after(folder, 1) == [2, 3] and discard_after(folder, 1) == []
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["step-000001"]
    assert read_scores(folder) == {1: 0.5}
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    restore(checkpoint, training)  # one that has trained since
    assert training.state() == states[1]
    with Checkpointer(folder, training, Renderer(config.model.path), config, accept) as saver:
        training.step()
        assert training.state() == states[2]
        saver.save()  # a version that was saved before
    assert [path.name for path in list_checkpoints(folder)] == ["step-000001", "step-000002"]
    assert restored(config, folder).state() == states[2]


def die(path: Path) -> None:
    raise KeyboardInterrupt


def test_a_discard_that_dies_half_way_leaves_the_older_ones(
    config: RunConfig, trained: SmallTraining, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"keep": 4})}
    )
    save_versions(config, trained, folder, 1, 2, 3, 4)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            discard_after(folder, 2)
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["1", "2", "3"]
    assert (folder / ".step-000004.discarded").is_dir()
    assert discard_after(folder, 2) == [3]
    found = find_checkpoint(folder, config)
    assert found is not None and found.version == 2
    assert save_versions(config, trained, folder, 5)[-1] == "step-000005"
    assert not list(folder.glob(".step-*"))


def test_after_a_roll_back_what_was_given_up_stays_given_up(
    tmp_path: Path, tiny_checkpoint: Path, folder: Path
) -> None:
    """The checkpoint that is the newest then was written when more could be undone."""
    config = small_config(tmp_path, tiny_checkpoint, checkpoint={"keep": 3})
    training = SmallTraining(config)
    save_versions(config, training, folder, 1)
    shutil.copytree(folder / "step-000001", tmp_path / "best")
    save_versions(config, training, folder, 2, 3, 4, 5)
    (tmp_path / "best").rename(folder / "step-000001")  # as if it was the best
    assert roll_back_targets(folder) == [3, 4, 5]
    assert discard_after(folder, 3) == [4, 5]
    assert roll_back_targets(folder) == [3], "the broker has forgotten the steps after 1"
    assert find_checkpoint(folder, config) is not None


def test_there_is_no_way_back_to_what_is_not_there(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    save_versions(config, trained, folder, 3)
    with pytest.raises(CheckpointError, match=r"step-000002: there is no such .*one of \[3\]"):
        discard_after(folder, 2)
    assert [path.name for path in list_checkpoints(folder)] == ["step-000003"]


# ---- restore -------------------------------------------------------------------------------------
def train(world: World, trainer: Trained, steps: range, config: RunConfig) -> None:
    preparation = world.preparation(trainer, config)
    for step in steps:
        groups = [world.group(4 * step + i, LENGTHS[i], version=step - 1) for i in range(4)]
        trainer.step(preparation.prepare(step, groups))


def assert_same_state(first: Trained, second: Trained) -> None:
    pairs = [
        (first.model.state_dict(), second.model.state_dict()),
        (first.teacher.model.state_dict(), second.teacher.model.state_dict()),
        (saved_weights(first.teacher), saved_weights(second.teacher)),
        (first.optimizer.tensors(), second.optimizer.tensors()),
    ]
    for one, two in pairs:
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name
    assert first.optimizer.skipped_steps == second.optimizer.skipped_steps
    assert first.version == second.version


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"teacher": {"policy": "frozen"}},
        {"teacher": {"policy": "progressive", "interval_steps": 3}},
        {"teacher": {"policy": "current"}},
        {"model": {"dtype": "bfloat16", "gradient_checkpointing": True}},
        {"model": {"freeze_vision_tower": True}},
        {"optimizer": {"warmup_steps": 3, "warmup_from_zero": True, "final_lr_share": 0.1}},
    ],
    ids=["ema", "frozen", "progressive", "current", "bfloat16", "no_vision", "schedule"],
)
def test_training_goes_on_bit_for_bit(
    world: World, folder: Path, changes: dict[str, dict[str, object]]
) -> None:
    config = world.changed(**changes)
    straight = world.trainer(config)
    train(world, straight, range(1, 5), config)

    first = world.trainer(config)
    train(world, first, range(1, 3), config)
    save(config, first, folder)
    drawn = torch.rand(3)
    torch.rand(100)
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    path = config.model.model_copy(update={"path": str(checkpoint.path)})
    second = world.trainer(config.model_copy(update={"model": path}))
    restore(checkpoint, second)
    assert torch.equal(torch.rand(3), drawn), "torch's generator is elsewhere"
    assert_same_state(first, second)
    train(world, second, range(3, 5), config)
    assert_same_state(straight, second)


def test_a_student_of_any_start_becomes_that_of_the_checkpoint(
    tmp_path: Path, config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    save(config, trained, folder)
    other = make_tiny_checkpoint(tmp_path / "other", seed=9)
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    training = SmallTraining(config, path=other, version=1)
    restore(checkpoint, training)
    assert training.state() == trained.state()


def test_adapters_come_back(tmp_path: Path, tiny_checkpoint: Path, folder: Path) -> None:
    config = small_config(tmp_path, tiny_checkpoint, model={"lora_rank": 2})
    training = SmallTraining(config)
    training.step()
    path = save(config, training, folder)
    assert restored(config, folder).state() == training.state()
    merged = load_file(path / "model.safetensors")
    base = load_file(tiny_checkpoint / "model.safetensors")
    assert merged.keys() == base.keys()
    changed = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged[changed], base[changed])
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    other = make_tiny_checkpoint(tmp_path / "other", seed=9)
    with pytest.raises(CheckpointError, match=r"not that of this model and its adapters. Fix: "):
        restore(checkpoint, SmallTraining(config, path=other, version=1))
    wider = small_config(tmp_path, tiny_checkpoint, model={"lora_rank": 3})
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: .*has the shape"):
        restore(checkpoint, SmallTraining(wider, version=1))


def test_skipped_steps_come_back(config: RunConfig, trained: SmallTraining, folder: Path) -> None:
    trained.optimizer.skipped_steps = 7
    save(config, trained, folder)
    assert restored(config, folder).optimizer.skipped_steps == 7


def test_a_trainer_that_never_updated_comes_back(config: RunConfig, folder: Path) -> None:
    training = SmallTraining(config)
    training.version = 1
    assert training.optimizer.tensors() == {}
    save(config, training, folder)
    assert restored(config, folder).state() == training.state()


def test_settings_of_the_optimizer_are_those_of_the_configuration(
    tmp_path: Path, config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    save(config, trained, folder)
    path = Path(config.model.path)
    decayed = small_config(tmp_path, path, optimizer={"weight_decay": 0.5, "lr": 0.1})
    straight, other = restored(config, folder), restored(decayed, folder)
    assert straight.state() == other.state()
    straight.step()
    other.step()
    assert straight.state() != other.state()


def test_the_newest_complete_checkpoint_is_found(
    config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    assert find_checkpoint(folder, config) is None and roll_back_targets(folder) == []
    save_versions(config, trained, folder, 1, 12)
    shutil.copytree(folder / "step-000012", folder / ".step-000013.part")
    found = find_checkpoint(folder, config)
    assert found is not None and found.version == 12


# ---- what cannot be gone on from -----------------------------------------------------------------
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_named(
    config: RunConfig, trained: SmallTraining, folder: Path, name: str, damage: str
) -> None:
    path = save(config, trained, folder) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: it is (damaged|missing).* Fix: "):
        find_checkpoint(folder, config)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}'])
def test_a_state_that_cannot_be_read_is_named(
    config: RunConfig, trained: SmallTraining, folder: Path, content: str
) -> None:
    (save(config, trained, folder) / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state\.json: it .* Fix: "):
        find_checkpoint(folder, config)


def test_a_checkpoint_of_another_seed_or_step_is_refused(
    tmp_path: Path, config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    path = save(config, trained, folder)
    other = small_config(tmp_path, Path(config.model.path), run={"seed": 4})
    with pytest.raises(CheckpointError, match=r"run\.seed = 3, this run has 4"):
        find_checkpoint(folder, other)
    path.rename(folder / "step-000002")
    with pytest.raises(CheckpointError, match="it is of step 1"):
        find_checkpoint(folder, config)


def test_parts_of_another_model_are_refused(
    tmp_path: Path, config: RunConfig, trained: SmallTraining, folder: Path
) -> None:
    path = save(config, trained, folder)
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    untied = make_tiny_checkpoint(tmp_path / "untied", tie_head=False)
    other = SmallTraining(config, path=untied, version=1)
    with pytest.raises(CheckpointError, match=r"of another model: 63 tensors, not 64.* Fix: "):
        restore(checkpoint, other)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: it is of another model"):
        load_teacher(path, other.teacher)
    frozen = small_config(tmp_path, Path(config.model.path), model={"freeze_vision_tower": True})
    with pytest.raises(
        CheckpointError, match=r"optimizer\.safetensors: it is of other trainable parameters"
    ):
        restore(checkpoint, SmallTraining(frozen, version=1))


def test_a_teacher_that_was_not_saved_is_named(
    tmp_path: Path, config: RunConfig, folder: Path
) -> None:
    own = small_config(tmp_path, Path(config.model.path), teacher={"policy": "current"})
    training = SmallTraining(own)
    training.step()
    save(own, training, folder)
    with pytest.raises(CheckpointError, match=r"teacher/weights\.safetensors: it cannot be read"):
        restored(config, folder)
