import json

import pytest

from common.errors import ConfigError
from deploy.planning.accounting import account_of
from deploy.planning.measured import run_folder_rates, step_seconds
from deploy.planning.run_files import read_run
from deploy.planning.simulation import Setup, simulate
from deploy.planning.verdict import advised_servers
from tests.deploy.planning import made_up_run as made_up
from tests.deploy.planning.made_up_run import make_run, tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run(tmp_path, model):
    return make_run(tmp_path / "run", model)


def test_the_learners_rates_are_its_rows(run):
    rates = run_folder_rates(run)
    assert rates.vision_s.value == 0.25 and rates.backward_s.value == 0.75
    assert rates.stall_s.value == 0.125
    assert rates.other_s.value == pytest.approx(0.125)
    assert rates.step_s() == pytest.approx(made_up.STEP_S)
    assert rates.startup_s.value == made_up.STARTUP_S
    assert rates.evaluation_sample_s.value == pytest.approx(made_up.EVALUATION_S / 40)
    assert rates.checkpoint_s.source == "assumed"
    names = [name for name, rate in rates.named().items() if rate.source == "assumed"]
    assert names == ["checkpoint_s"]


def test_the_rollout_sides_rates_are_in_the_journal(run):
    rates = run_folder_rates(run)
    together = rates.group_alone_s.value + 2 * rates.group_shared_s.value
    assert together == pytest.approx(made_up.GROUP_S)
    assert "the split between the two is assumed" in rates.group_alone_s.note
    assert rates.push_s.value == pytest.approx(made_up.SERVE_S)
    assert rates.pause_s.value == pytest.approx(0.1)
    assert rates.prepare_s.value == pytest.approx(made_up.WAIT_S)
    assert rates.response_tokens == 4.0 and rates.prompt_tokens == 30
    assert rates.spread and set(rates.spread) == {1.0}


def test_the_simulation_of_a_runs_rates_is_that_run(run):
    found = simulate(Setup.of(run_folder_rates(run), 1, 2, 1))
    expected = made_up.STEP_S + made_up.WAIT_S
    assert found.step_s == pytest.approx(expected)
    assert step_seconds(read_run(run)) == pytest.approx([expected] * 5)
    assert found.learner_idle_share == pytest.approx(made_up.WAIT_S / expected)
    assert found.rollout_idle_share == pytest.approx(1 - 1.0 / expected, abs=0.01)


def test_concurrency_that_varies_tells_both_parts_of_a_groups_time(tmp_path, model, monkeypatch):
    """Seconds = 0.4 + 0.3 for each group in flight."""
    calls = [(0.0, "begin", ({},), None), (0.0, "join", (made_up.SERVER, "rollout"), None)]
    at, number = 1.0, 0
    for crowd in (1, 2, 4, 8) * 3:
        names = tuple((f"0/{number + k}", 0) for k in range(crowd))
        number += crowd
        calls.append((at, "lease", (made_up.SERVER, b"", crowd, 0, 0, at), names))
        at += 0.4 + 0.3 * crowd
        for name, attempt in names:
            receipt = (0, 0, 30, (3, 5))
            calls.append((at, "submit", (made_up.SERVER, name, attempt, receipt), "accepted"))
    monkeypatch.setattr(made_up, "_calls", lambda steps: calls)
    rates = run_folder_rates(make_run(tmp_path / "run", model))
    assert rates.group_alone_s.value == pytest.approx(0.4)
    assert rates.group_shared_s.value == pytest.approx(0.3)
    assert "2 to 8 in flight" in rates.group_shared_s.note


def test_a_run_without_a_journal_or_vision_figure_is_measured_as_far_as_it_goes(run):
    (run / "journal" / "journal.log").unlink()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("time/vision_s", None)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates = run_folder_rates(run)
    assert rates.vision_s.value == 0 and rates.other_s.value == pytest.approx(0.375)
    assert rates.group_alone_s.source == rates.push_s.source == "assumed"


def test_a_run_that_has_only_begun_has_no_rates(tmp_path, model):
    run = make_run(tmp_path / "run", model, steps=1, is_over=False)
    with pytest.raises(ConfigError, match=r"has 1 trained steps: too few.*Fix"):
        run_folder_rates(run)


def test_half_a_line_at_the_end_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "time')
    assert len(read_run(run).steps) == 6


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"RUN = .*holds no run\. Fix"):
        read_run(tmp_path)


def test_the_account_adds_up_to_the_wall_clock(run):
    account = account_of(read_run(run))
    assert account.wall_s == made_up.STARTUP_S + made_up.EVALUATION_S + 6 * 2.5 + 1.0
    assert sum(account.parts.values()) == pytest.approx(account.wall_s)
    assert account.parts["start-up"] == made_up.STARTUP_S
    assert account.parts["evaluation"] == made_up.EVALUATION_S
    assert account.parts["waiting for samples"] == pytest.approx(6 * made_up.WAIT_S)
    assert account.parts["vision"] == pytest.approx(6 * 0.25)
    assert account.parts["other"] == pytest.approx(6 * 0.125 + 1.0)


def test_the_rollout_side_of_the_account(run):
    rollout = account_of(read_run(run)).rollout
    assert rollout.servers == pytest.approx(1.0)
    assert rollout.groups == 12 and rollout.expired == 0
    assert rollout.seconds_a_group == pytest.approx(made_up.GROUP_S)
    # from the first step's start to the last one's end; two batches were made before
    assert rollout.busy_share == pytest.approx(4 * made_up.GROUP_S / (6 * 2.5 - made_up.WAIT_S))


def test_advice_is_the_fewest_servers_that_do(run, tmp_path, model, monkeypatch):
    assert advised_servers(run) == 1
    monkeypatch.setattr(made_up, "GROUP_S", 4.0)
    assert advised_servers(make_run(tmp_path / "slow", model)) == 2


def test_a_run_of_the_published_kind_needs_no_data(tmp_path, model):
    run = make_run(tmp_path / "run", model, data={"train": tmp_path / "gone.parquet"})
    assert run_folder_rates(run).response_tokens == 4.0
