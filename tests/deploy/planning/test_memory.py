from dataclasses import replace

import pytest

from common.config.objective import TEACHER_POLICIES
from deploy.planning.layout import Layout
from deploy.planning.memory import (
    LIBRARIES,
    SERVER_OUTSIDE,
    activation_bytes,
    delta_layer_numbers,
    full_layer_numbers,
    learner_memory,
    server_memory,
)
from tests.deploy.planning.shapes import DEVICE, SHAPE, WORK, config

SIZE = 1820
GIB = 2**30


def memory(ranks=1, **sections):
    return learner_memory(config(**sections), SHAPE, WORK, Layout(1, ranks, 1))


def test_one_rank_holds_everything():
    found = memory()
    assert found.weights == 4 * SIZE
    assert found.gathered == (2 + 2 + 4) * 300  # the head as it is computed with, and its gradient
    assert found.gradients == 4 * SIZE
    assert found.optimizer == 8 * SIZE
    assert found.teacher == (2 + 4) * SIZE  # the copy that computes, the float32 average
    assert found.push == 2 * SIZE
    assert found.host == 4 * 4 * SIZE  # a checkpoint's copies
    parts = (4 + 4 + 8 + 6 + 2) * SIZE + found.gathered + found.activations
    assert found.total == pytest.approx(parts + LIBRARIES)


def test_ranks_share_all_but_the_gathered_layers_and_the_snapshot():
    found = memory(ranks=4)
    layer = 864 / 3
    # Two layers and a gradient in both dtypes; the head is less.
    assert found.weights == SIZE and found.gathered == pytest.approx((2 * 2 + 2 + 4) * layer)
    assert found.optimizer == 2 * SIZE
    assert found.teacher == pytest.approx(6 * SIZE / 4)
    assert found.push == 2 * SIZE


def test_replicas_hold_as_much_as_one_of_them_would():
    run = config()
    one, two = Layout(1, 4, 1), Layout(1, 8, 1, learner_nodes=2)
    assert learner_memory(run, SHAPE, WORK, two) == learner_memory(run, SHAPE, WORK, one)


@pytest.mark.parametrize("name", TEACHER_POLICIES)
def test_a_teacher_takes_what_its_policy_declares(name):
    policy = TEACHER_POLICIES[name]
    copy = 0 if policy.weights == "student" else 2
    found = memory(teacher={"policy": name, "path": "x"})
    assert found.teacher == (copy + 4 * policy.has_float32) * SIZE


def test_float32_needs_no_second_copy_of_the_average():
    found = memory(model={"dtype": "float32"}, weights={"dtype": "float32"})
    assert found.teacher == 4 * SIZE and found.push == 4 * SIZE


def test_offload_moves_it_to_main_memory():
    found = memory(learner={"offload": True})
    assert found.gradients == found.optimizer == found.teacher == 0
    assert found.host == (4 + 4 + 8 + 6 + 16) * SIZE
    assert found.gathered == (2 + 4) * SIZE + 8 * 300  # held whole for a step
    of_teacher = memory(teacher={"offload": True})
    assert of_teacher.teacher == 2 * SIZE and of_teacher.host == (4 + 16) * SIZE


def test_a_snapshot_for_files_is_in_main_memory():
    found = memory(weights={"transport": "files"})
    assert found.push == 0 and found.host == (16 + 2) * SIZE


def test_adapters_train_little():
    found = memory(model={"lora_rank": 4})
    trained, base = SHAPE.lora_parameters(4) + SHAPE.tower.parameters, 864 + 300
    assert found.optimizer == 8 * trained
    assert found.weights == 4 * trained + 2 * base  # what is frozen, as it is computed
    assert found.teacher == (2 + 4) * trained  # the base is the student's
    other = memory(model={"lora_rank": 4}, teacher={"policy": "fixed", "path": "x"})
    assert other.teacher == 2 * (trained + base)


def test_activations_by_hand():
    """One group a micro-batch: 28 tokens of which 8 are asked for, 20 patches."""
    mlp = 2 * 6 + 3 * 10
    layer = 2 * 6 + 3 * 6 + 3 * 3 + mlp
    working = 10 + 2 * 6
    block = 11 * 4 + 2 * 8
    around = 3 * 2**2 + 4 + (3 * 4 + 6 / 2**2)  # pixels, the first block's input, a merger
    logits = 8 * 50 * 4
    found = activation_bytes(config(), SHAPE, WORK, 2)
    kept = 28 * 3 * layer - 20 * mlp
    assert found == 2 * (kept + 28 * working + 20 * (2 * block + around)) + logits
    recomputed = activation_bytes(config(model={"gradient_checkpointing": True}), SHAPE, WORK, 2)
    inside = 28 * (3 * 6 + layer + working)
    assert recomputed == 2 * (inside + 20 * (2 * 4 + around)) + logits
    half = activation_bytes(config(model={"gradient_checkpointing": 0.5}), SHAPE, WORK, 2)
    inside = 28 * (6 + 2 * layer + layer + working) - 20 * mlp
    assert half == 2 * (inside + 20 * (4 + block + around)) + logits
    twice = activation_bytes(config(learner={"micro_batch_tokens": 56}), SHAPE, WORK, 2)
    assert twice == pytest.approx(2 * found)
    frozen = activation_bytes(config(model={"freeze_vision_tower": True}), SHAPE, WORK, 2)
    assert frozen == found - 2 * 20 * (2 * block + around)


def test_one_rank_under_autocast_has_a_wider_residual_stream():
    """2 bytes more for each number of it: 4 a layer around norms, 2 of one layer's gradients."""
    more = activation_bytes(config(), SHAPE, WORK, 1) - activation_bytes(config(), SHAPE, WORK, 2)
    assert more == pytest.approx(2 * 28 * 6 * (3 * 4 + 2))
    adapters = config(model={"lora_rank": 2})
    assert activation_bytes(adapters, SHAPE, WORK, 1) == activation_bytes(adapters, SHAPE, WORK, 2)


def test_a_gated_delta_net_keeps_the_state_that_each_branch_begins_with():
    """Two such layers beside one with attention and its gate; two branches."""
    model = replace(
        SHAPE, full_layers=1, has_gate=True,
        delta_keys=4, delta_values=6, delta_heads=2, delta_state=8,
    )  # fmt: skip
    mlp = 2 * 6 + 3 * 10
    full = 2 * 6 + 5 * 6 + 3 * 3 + mlp
    delta = 2 * 6 + 2 * (2 * 4 + 6) + 3 * 6 + (64 + 13) * 2 + mlp
    assert (full_layer_numbers(model), delta_layer_numbers(model)) == (full, delta)
    states = 2 * 4 * 8
    frozen = {"freeze_vision_tower": True}
    found = activation_bytes(config(model=frozen), model, WORK, 2)
    inside = 2 * (28 * (full + 2 * delta + 10 + 2 * 6) - 20 * mlp)
    assert found == pytest.approx(inside + 2 * states + 8 * 50 * 4)
    recomputed = activation_bytes(
        config(model={**frozen, "gradient_checkpointing": True}), model, WORK, 2
    )
    inside = 2 * 28 * (3 * 6 + delta + 10 + 2 * 6)
    assert recomputed == pytest.approx(inside + states + 8 * 50 * 4)


def test_a_server():
    big = replace(DEVICE, memory=10 * GIB)
    sections = {"rollout": {"max_concurrent_groups": 3}}
    found = server_memory(config(**sections), SHAPE, WORK, Layout(1, 1, 2), big)
    assert found.weights == 2 * SIZE / 2
    assert found.cache == 3 * (20 + 2 * 8) * 18 * 2 / 2  # the longest responses, over two GPUs
    assert found.needed == found.cache / 3
    assert found.room == 10 * GIB - SERVER_OUTSIDE and found.fits


def test_a_server_fits_only_beside_what_else_is_there():
    big = replace(DEVICE, memory=8 * GIB)
    needed = 2 * SIZE + (20 + 2 * 8) * 18 * 2
    kept = 8 * GIB - SERVER_OUTSIDE - needed
    found = server_memory(config(), SHAPE, WORK, Layout(1, 1, 1), big, kept)
    assert found.room == pytest.approx(needed) and found.fits
    assert not server_memory(config(), SHAPE, WORK, Layout(1, 1, 1), big, kept + 1).fits


def test_a_servers_share_is_of_what_is_free_at_its_start():
    big = replace(DEVICE, memory=80 * GIB)
    run = config(sglang={"memory_fraction": 0.5})
    found = server_memory(run, SHAPE, WORK, Layout(1, 1, 1), big, 20 * GIB)
    assert found.room == 0.5 * 60 * GIB


def test_states_are_float32_and_five_a_request():
    """Keys of four numbers, values of six; a state of eight; three taps of a convolution."""
    delta = replace(SHAPE, full_layers=1, delta_keys=4, delta_values=6, delta_state=8)
    assert delta.state_bytes == 2 * (4 * 8 + 2 * 3 * (4 + 4 + 6))
    found = server_memory(config(), delta, WORK, Layout(1, 1, 1), DEVICE)
    assert found.needed == (20 + 2 * 8) * 6 * 2 + 2 * 5 * delta.state_bytes


def test_no_more_groups_run_than_have_room():
    big = replace(DEVICE, memory=8 * GIB)
    of_group, weights = (20 + 2 * 8) * 18 * 2, 2 * SIZE
    for count in (0, 2, 5):
        kept = 8 * GIB - SERVER_OUTSIDE - weights - (count + 0.5) * of_group
        run = config(rollout={"max_concurrent_groups": 3})
        found = server_memory(run, SHAPE, WORK, Layout(1, 1, 1), big, kept)
        assert found.groups == min(count, 3) and found.cache == found.groups * of_group


def test_a_fixed_cache_is_what_the_configuration_says():
    run = config(sglang={"max_total_tokens": 100, "max_states": 7})
    delta = replace(SHAPE, full_layers=1, delta_keys=4, delta_values=6, delta_state=8)
    found = server_memory(run, delta, WORK, Layout(1, 1, 1), DEVICE)
    assert found.cache == found.needed == 100 * 6 * 2 + 7 * delta.state_bytes
