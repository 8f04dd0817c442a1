"""Checkpoints of a sharded model: saved by two ranks, loaded by one and by four."""

from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from common.config import RunConfig
from common.rendering import Renderer
from learner.checkpoint import Checkpointer, find_checkpoint, restore
from learner.checkpoint.folder import read_state
from learner.checkpoint.paths import OPTIMIZER
from learner.checkpoint.tensor_files import TensorFiles, forms_of, write_tensors
from learner.checkpoint.tensors import fill
from learner.model.sharding import gather
from learner.ranks import Ranks
from tests.learner.rank_processes import run_on_ranks
from tests.learner.small_training import SmallTraining, small_config


def train_and_save(ranks: Ranks, config: RunConfig, folder: Path) -> tuple[dict[str, str], str]:
    """Return the state that was saved, and what was drawn after it."""
    torch.manual_seed(ranks.rank)
    training = SmallTraining(config, ranks)
    commits: list[tuple[int, ...]] = []
    renderer = Renderer(config.model.path)
    with Checkpointer(folder, training, renderer, config, lambda *told: commits.append(told)) as c:
        training.step()
        training.step()
        c.save()
        drawn = torch.rand(4)
        state = training.state()
        training.step()  # another version than the one that is on the disk
    assert commits == ([(2, 0)] if ranks.writes else [])
    return state, str(drawn.tolist())


def load_on_ranks(ranks: Ranks, config: RunConfig, folder: Path) -> tuple[dict[str, str], str]:
    torch.manual_seed(100 + ranks.rank)
    checkpoint = find_checkpoint(folder, config)
    assert checkpoint is not None
    training = SmallTraining(config, ranks, version=checkpoint.version)
    restore(checkpoint, training)
    return training.state(), str(torch.rand(4).tolist())


@pytest.mark.slow
def test_of_two_replicas_one_is_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, tiny_checkpoint)
    folder = tmp_path / "checkpoints"
    saved = run_on_ranks(train_and_save, 4, config, folder, shard_ranks=2)
    again = run_on_ranks(load_on_ranks, 4, config, folder, shard_ranks=2)
    three = run_on_ranks(load_on_ranks, 3, config, folder)
    assert [state for state, _ in (*saved, *again, *three)] == [saved[0][0]] * 11
    digests = read_state(folder / "step-000002")["files"]
    assert {len(d) for name, d in digests.items() if name == OPTIMIZER} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 2], ids=["whole", "lora"])
def test_two_ranks_save_what_one_and_four_load(
    tiny_checkpoint: Path, tmp_path: Path, lora_rank: int
) -> None:
    config = small_config(tmp_path, tiny_checkpoint, model={"lora_rank": lora_rank})
    folder = tmp_path / "checkpoints"
    saved = run_on_ranks(train_and_save, 2, config, folder)
    expected = saved[0][0]
    alone = load_on_ranks(Ranks(0, 1, torch.device("cpu"), 30.0), config, folder)
    four = run_on_ranks(load_on_ranks, 4, config, folder)
    assert [state for state, _ in (*saved, alone, *four)] == [expected] * 7
    drawn = [after for _, after in saved]
    assert [after for _, after in four[:2]] == drawn, (
        "each rank goes on with its own random numbers"
    )
    assert alone[1] == drawn[0]
    assert len({after for _, after in four}) == 4


@pytest.mark.slow
def test_a_resumed_teacher_has_the_frozen_weights_that_ranks_share_unevenly(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """They are the student's, but in memory of the teacher's own, and no checkpoint has them."""
    config = small_config(tmp_path, tiny_checkpoint, model={"freeze_vision_tower": True})
    folder = tmp_path / "checkpoints"
    saved = run_on_ranks(train_and_save, 2, config, folder)
    three = run_on_ranks(load_on_ranks, 3, config, folder)
    assert [state for state, _ in three] == [saved[0][0]] * 3


def fill_every_placement(ranks: Ranks, path: Path) -> None:
    assert ranks.mesh is not None
    for shape in ((5, 3), (1,), (4, 2, 7), (0, 3)):
        whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
        if ranks.writes:
            path.unlink(missing_ok=True)
            write_tensors(path, forms_of({"x": whole}), {"x": whole}.__getitem__)
        torch.distributed.barrier()
        with TensorFiles([path]) as files:
            for placement in (Replicate(), *(Shard(axis) for axis in range(len(shape)))):
                target = distribute_tensor(torch.full(shape, -1.0), ranks.mesh, [placement])
                fill(target, files, "x")
                assert torch.equal(gather(target), whole), (shape, placement)
        torch.distributed.barrier()
    whole = torch.ones(2, 3)
    if ranks.writes:
        path.unlink()
        write_tensors(path, forms_of({"x": whole}), {"x": whole}.__getitem__)
    torch.distributed.barrier()
    partial = DTensor.from_local(whole, ranks.mesh, [Partial()])
    with TensorFiles([path]) as files, pytest.raises(TypeError, match="Fix: shard with Shard"):
        fill(partial, files, "x")


def test_each_rank_reads_the_part_that_it_holds(tmp_path: Path) -> None:
    run_on_ranks(fill_every_placement, 3, tmp_path / "x.safetensors")
