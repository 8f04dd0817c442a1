from dataclasses import replace

import pytest

from deploy.planning.layout import Layout
from deploy.planning.memory import LIBRARIES, activation_bytes, learner_memory, server_memory
from tests.deploy.planning.shapes import DEVICE, SHAPE, WORK, config

SIZE = 1820
GIB = 2**30


def memory(ranks=1, **sections):
    return learner_memory(config(**sections), SHAPE, WORK, Layout(1, ranks, 1))


def test_one_rank_holds_everything():
    found = memory()
    assert found.weights == 4 * SIZE  # nothing is gathered
    assert found.gradients == 4 * SIZE
    assert found.optimizer == 8 * SIZE
    assert found.teacher == (2 + 4) * SIZE  # the copy that computes, the float32 average
    assert found.push == 2 * SIZE
    assert found.total == pytest.approx((4 + 4 + 8 + 6 + 2) * SIZE + found.activations + LIBRARIES)


def test_ranks_share_all_but_the_gathered_layers_and_the_snapshot():
    found = memory(ranks=4)
    gathered = 2 * (2 * 864 / 3 + 300) + 4 * 300
    assert found.weights == pytest.approx(SIZE + gathered)
    assert found.optimizer == 2 * SIZE
    assert found.teacher == pytest.approx(6 * SIZE / 4)
    assert found.push == 2 * SIZE


def test_replicas_hold_as_much_as_one_of_them_would():
    run = config()
    one, two = Layout(1, 4, 1), Layout(1, 8, 1, learner_nodes=2)
    assert learner_memory(run, SHAPE, WORK, two) == learner_memory(run, SHAPE, WORK, one)


def test_float32_needs_no_second_copy_of_the_average():
    found = memory(model={"dtype": "float32"}, weights={"dtype": "float32"})
    assert found.teacher == 4 * SIZE and found.push == 4 * SIZE


def test_offload_moves_it_to_main_memory():
    found = memory(learner={"offload": True})
    assert found.gradients == found.optimizer == found.teacher == 0
    assert found.host == (4 + 4 + 8 + 6) * SIZE
    of_teacher = memory(teacher={"offload": True})
    assert of_teacher.teacher == 2 * SIZE and of_teacher.host == 4 * SIZE


def test_adapters_train_little():
    found = memory(model={"lora_rank": 4})
    trained = SHAPE.lora_parameters(4) + SHAPE.tower.parameters
    assert found.optimizer == 8 * trained and found.weights == 4 * SIZE


def test_activations_by_hand():
    """One group a micro-batch: 28 tokens, 20 patches; six widths, four of queries, four of MLP."""
    layer, block = 6 * 6 + 4 * 6 + 4 * 10, 10 * 4 + 3 * 8
    logits = 8 * 50 * 4
    found = activation_bytes(config(), SHAPE, WORK)
    assert found == 2 * (28 * 3 * layer + 20 * 2 * block) + logits
    recomputed = activation_bytes(config(model={"gradient_checkpointing": True}), SHAPE, WORK)
    assert recomputed == 2 * (28 * (3 * 6 + layer) + 20 * (2 * 4 + block)) + logits
    twice = activation_bytes(config(learner={"micro_batch_tokens": 56}), SHAPE, WORK)
    assert twice == pytest.approx(2 * found)


def test_a_server():
    big = replace(DEVICE, memory=10 * GIB)
    sections = {"rollout": {"max_concurrent_groups": 3}}
    found = server_memory(config(**sections), SHAPE, WORK, Layout(1, 1, 2), big)
    assert found.weights == 2 * SIZE / 2
    assert found.cache == 3 * (20 + 2 * 8) * 18 * 2 / 2  # the longest responses, over two GPUs
    assert found.room == 0.85 * 10 * GIB and found.fits


def test_a_server_fits_only_beside_what_else_is_there():
    big = replace(DEVICE, memory=2 * GIB)
    kept = 2 * GIB - LIBRARIES - SIZE
    found = server_memory(config(), SHAPE, WORK, Layout(1, 1, 1), big, kept)
    assert found.room == pytest.approx(SIZE) and not found.fits
