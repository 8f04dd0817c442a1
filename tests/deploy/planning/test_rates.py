import json

import pytest

from common.errors import ConfigError
from deploy.planning.rates import Rate, from_json, read_rates, to_json, write_rates
from tests.deploy.planning.shapes import some_rates


def test_rates_survive_a_file(tmp_path):
    rates = some_rates(vision_s=0.25, push_s=1.5)
    write_rates(tmp_path / "rates.json", rates)
    assert read_rates(tmp_path / "rates.json") == rates


def test_a_step_is_its_parts_the_rest_and_the_stall():
    rates = some_rates(
        vision_s=1, student_s=2, objective_s=4, backward_s=8, teacher_s=16, optimizer_s=32,
        teacher_update_s=64, other_s=128, stall_s=256, prepare_s=512, push_s=1024,
    )  # fmt: skip
    assert rates.step_s() == 511


def test_more_ranks_share_groups_and_weights():
    rates = some_rates(student_s=8, prepare_s=4, optimizer_s=6, stall_s=1, push_s=1)
    three = rates.for_ranks(3, 3)
    assert three.student_s.value == 3  # of eight groups the busiest rank has three
    assert three.prepare_s.value == 1.5
    assert three.optimizer_s.value == 2
    assert (three.stall_s.value, three.push_s.value) == (1, 1)
    assert three.ranks == 3
    assert three.for_ranks(1, 1).student_s.value == pytest.approx(8)


def test_replicas_of_a_model_share_groups_but_no_weights():
    """Twelve ranks hold three copies of the model, four ranks each."""
    rates = some_rates(student_s=8, optimizer_s=6, teacher_update_s=4)
    twelve = rates.for_ranks(12, 4)
    assert twelve.student_s.value == 1  # of eight groups, one on the busiest rank
    assert (twelve.optimizer_s.value, twelve.teacher_update_s.value) == (1.5, 1)
    assert (twelve.ranks, twelve.shards) == (12, 4)
    assert twelve.for_ranks(8, 8).optimizer_s.value == 0.75


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("rates"),
        lambda content: content["rates"].pop("vision_s"),
        lambda content: content.update(format=1),
        lambda content: content["rates"]["vision_s"].update(value=-1),
        lambda content: content["rates"]["vision_s"].update(value=float("nan")),
        lambda content: content["rates"]["vision_s"].update(source="guessed"),
        lambda content: content.pop("spread"),
    ],
)
def test_what_is_no_rates_is_refused(change):
    content = json.loads(json.dumps(to_json(some_rates())))
    change(content)
    with pytest.raises(ConfigError, match=r"here holds no rates .*Fix: .*--calibrate"):
        from_json(content, "here")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--rates .*nothing\.json.*Fix: add --calibrate"):
        read_rates(tmp_path / "nothing.json")


def test_scaling_keeps_the_source():
    assert Rate(2.0, "measured", "so").times(0.5) == Rate(1.0, "measured", "so")
