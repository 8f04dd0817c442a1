"""Seconds by hand: 1,000 operations and 100 bytes a second, with the shares of `devices`."""

from dataclasses import replace

import pytest

from common.config.objective import TEACHER_POLICIES
from deploy.planning import assumed, devices
from deploy.planning.assumed import assumed_rates
from deploy.planning.layout import Layout
from tests.deploy.planning.shapes import DEVICE, MACHINES, SHAPE, WORK, config

VISION = 26_560  # of one image, forward
PROMPT = 20 * (2 * 864 + 72 * 10)
RESPONSES = 8 * (2 * 864 + 72 * 22)  # two of four tokens, behind the prompt
RATE = 1000 * devices.LEARNER_SHARE


def rates(layout=Layout(1, 1, 1), machines=MACHINES, **sections):  # noqa: B008
    return assumed_rates(config(**sections), SHAPE, WORK, machines, layout)


def test_forward_passes():
    found = rates()
    assert found.vision_s.value == pytest.approx(8 * VISION / RATE)
    assert found.student_s.value == pytest.approx(8 * (PROMPT + RESPONSES) / RATE)
    assert found.objective_s.value == pytest.approx(8 * 4 * 2 * 300 * 8 / RATE)
    teacher = SHAPE.tower.operations(2) + SHAPE.operations(10, 5) + SHAPE.operations(8, 12)
    assert found.teacher_s.value == pytest.approx(8 * teacher / RATE)


def test_without_a_shared_prefix_each_response_pays_for_its_prompt():
    found = rates(model={"share_prefix": False})
    assert found.student_s.value == pytest.approx(8 * (2 * PROMPT + RESPONSES) / RATE)


@pytest.mark.parametrize(
    ("model", "of_student", "of_vision"),
    [
        ({}, 2, 2),
        ({"gradient_checkpointing": True}, 3, 3),
        ({"gradient_checkpointing": 0.25}, 2.25, 2.25),
        ({"freeze_vision_tower": True}, 2, 0),
        ({"lora_rank": 4}, 1, 2),
    ],
)
def test_backward_passes(model, of_student, of_vision):
    expected = 8 * (of_student * (PROMPT + RESPONSES) + of_vision * VISION) / RATE
    assert rates(model=model).backward_s.value == pytest.approx(expected)


def test_a_rank_does_its_groups_alone_and_its_share_of_the_weights():
    one, three = rates(), rates(Layout(1, 3, 1))
    assert three.student_s.value == pytest.approx(one.student_s.value * 3 / 8)  # ceil(8 / 3) of 8
    assert three.optimizer_s.value == pytest.approx(one.optimizer_s.value / 3)
    assert one.optimizer_s.value == pytest.approx(28 * 1820 / (100 * devices.DECODE_SHARE))


def test_images_rendered_ahead_keep_no_rank_waiting():
    for ranks, groups in ((1, 8), (4, 2)):
        here = rates(Layout(1, ranks, 1))  # render_processes = 0
        image_s = 0.25 * (1 + WORK.crop_tokens / WORK.image_tokens)
        assert here.prepare_s.value == pytest.approx(groups * image_s)
        ahead = rates(Layout(1, ranks, 1), learner={"render_processes": 1})
        assert ahead.prepare_s.value == 0.0


def test_a_slow_link_holds_up_the_backward_pass():
    """Two groups a rank, one a micro-batch: weights twice in bfloat16, gradients in float32."""
    slow = replace(MACHINES, learner_device=replace(DEVICE, link=1.0))
    found = rates(Layout(1, 4, 1), slow)
    gathering_s = 2 * (2 * 2 + 4) * 1820 * (3 / 4) / 1.0
    together = found.vision_s.value + found.student_s.value + found.backward_s.value
    assert together == pytest.approx(gathering_s)
    fast = rates(Layout(1, 4, 1), replace(MACHINES, learner_device=replace(DEVICE, link=1e9)))
    assert fast.backward_s.value == pytest.approx(2 * 2 * (PROMPT + RESPONSES + VISION) / RATE)


def test_between_machines_gradients_alone_travel(monkeypatch):
    """One group a rank; four shards a machine, whose gradients two machines add up in a ring."""
    monkeypatch.setattr(assumed, "NETWORK_RATE", 0.5)
    slow = replace(MACHINES, learner_device=replace(DEVICE, link=1.0))
    found = rates(Layout(1, 8, 1, learner_nodes=2), slow)
    inside_s = (2 * 2 + 4) * 1820 * (3 / 4) / 1.0
    between_s = 2 * (4 * 1820 / 4) * (1 / 2) / 0.5
    together = found.vision_s.value + found.student_s.value + found.backward_s.value
    assert together == pytest.approx(inside_s + between_s)
    assert found.optimizer_s.value == pytest.approx(rates(Layout(1, 4, 1)).optimizer_s.value)
    one_mesh = rates(Layout(1, 8, 1, learner_nodes=2), slow, learner={"shard_ranks": 8, "ranks": 8})
    across_s = (2 * 2 + 4) * 1820 * (7 / 8) / 0.5
    together = one_mesh.vision_s.value + one_mesh.student_s.value + one_mesh.backward_s.value
    assert together == pytest.approx(across_s)


def test_what_is_recomputed_is_not_gathered_again():
    slow = replace(MACHINES, learner_device=replace(DEVICE, link=1.0))
    found = rates(Layout(1, 4, 1), slow, model={"gradient_checkpointing": True})
    together = found.vision_s.value + found.student_s.value + found.backward_s.value
    assert together == pytest.approx(2 * (2 * 2 + 4) * 1820 * (3 / 4) / 1.0)


def test_an_offloaded_model_is_updated_by_so_many_threads():
    """Masters and gradients of a model that is held on its GPU cross to it and back once a step."""
    for threads, rate in ((2, 2 * devices.THREAD_RATE), (10**6, devices.MEMORY_RATE)):
        found = rates(learner={"offload": True, "threads": threads})
        expected = 28 * 1820 / rate + 8 * 1820 / devices.HOST_RATE
        assert found.optimizer_s.value == pytest.approx(expected)
        average = 14 * 1820 / rate + 2 * 1820 / devices.HOST_RATE
        assert found.teacher_update_s.value == pytest.approx(average)


def test_offloaded_ranks_wait_for_main_memory_in_every_micro_batch():
    fast = replace(MACHINES, learner_device=replace(DEVICE, link=1e30, operations=1e30))
    found = rates(Layout(1, 4, 1), fast, learner={"offload": True})
    crossing_s = 2 * (8 + 4) * 1820 / 4 / devices.HOST_RATE
    assert found.backward_s.value == pytest.approx(crossing_s)


def test_a_checkpoint_is_copied_by_all_ranks():
    found = rates(Layout(1, 4, 1)).checkpoint_s.value
    assert found == pytest.approx(16 * 1820 / 4 / devices.PAGEABLE_RATE)
    adapters = rates(model={"lora_rank": 4, "freeze_vision_tower": True}).checkpoint_s.value
    copied = 16 * SHAPE.lora_parameters(4) + 4 * 1820
    assert adapters == pytest.approx(copied / devices.PAGEABLE_RATE)


def test_evaluation_decodes_every_token():
    """Two views of a sample; what is read once a token serves all that is answered at a time."""
    found = rates(rollout={"max_concurrent_groups": 1})
    operations = (VISION + PROMPT + 4 * 2 * (864 + 300)) / (1000 * devices.PREFILL_SHARE)
    cache = 4 * 18 * 22 * 2 / (100 * devices.DECODE_SHARE)
    expected = 2 * (found.group_alone_s.value / 2 + operations + cache)
    assert found.evaluation_sample_s.value == pytest.approx(expected)
    assert rates(
        Layout(2, 1, 1), rollout={"max_concurrent_groups": 1}
    ).evaluation_sample_s.value == (pytest.approx(expected / 2))


def test_generation():
    """Weights are read once a token for all; prompt, products and cache are each group's own."""
    found = rates()
    bandwidth = 100 * devices.DECODE_SHARE
    longest = 2 * 4
    read_s = 2 * (864 + 300) / bandwidth
    assert found.group_alone_s.value == pytest.approx(longest * (read_s + devices.LAUNCH_S))
    operations = VISION + PROMPT + 8 * 2 * (864 + 300)
    cache = 8 * 18 * 22 * 2
    expected = operations / (1000 * devices.PREFILL_SHARE) + cache / bandwidth
    assert found.group_shared_s.value == pytest.approx(expected)


def test_a_server_on_two_gpus_is_twice_as_fast():
    one, two = rates(), rates(Layout(1, 1, 2))
    assert two.group_shared_s.value == pytest.approx(one.group_shared_s.value / 2)


def test_a_push_takes_the_slower_of_link_and_known_rate():
    assert rates().push_s.value == pytest.approx(2 * 1820 / 50)  # bfloat16 over the link
    fast = replace(MACHINES, learner_device=replace(DEVICE, link=1e12))
    assert rates(machines=fast).push_s.value == pytest.approx(2 * 1820 / devices.PUSH_RATE)


def test_everything_is_marked_as_assumed_with_its_reason():
    for name, rate in rates().named().items():
        assert rate.source == "assumed" and rate.note, name
    assert sum(rates().spread) / len(rates().spread) == pytest.approx(1.0)


@pytest.mark.parametrize("policy", TEACHER_POLICIES)
def test_only_what_moves_in_float32_has_to_be_updated(policy):
    seconds = rates(teacher={"policy": policy, "path": "x"}).teacher_update_s.value
    assert (seconds > 0) == TEACHER_POLICIES[policy].has_float32
