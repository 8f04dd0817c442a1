"""Holds deploy/planning/explain_text.py, deploy/planning/verdict.py."""

import asyncio
import json
import re

import pytest

from deploy import explain
from deploy.planning.simulation import simulate
from deploy.supervision.launcher_api import listening
from tests.deploy.planning import made_up_run as made_up
from tests.deploy.planning.made_up_run import make_run, tiny_model
from tests.deploy.showing.support import status


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def explained(capsys, *arguments) -> str:
    explain.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_the_page_adds_up(tmp_path, model, capsys):
    text = explained(capsys, make_run(tmp_path / "run", model))
    assert "6 steps in 30 s, over" in text
    table = text.split("Where the learner's time went")[1].split("together")[0]
    spent = [float(number) for number in re.findall(r"([\d.]+) s ", table)]
    assert len(spent) == 13
    assert sum(spent) == pytest.approx(30.0, abs=0.1)
    assert "Against the plan" not in text
    assert re.search(r"busy generating +28 %", text)


def test_a_learner_that_limits_the_run(tmp_path, model, capsys):
    text = explained(capsys, make_run(tmp_path / "run", model))
    assert "The learner: backward is 43 % of its work" in text
    assert "--learner.ranks 2" in text and "--model.gradient_checkpointing false" in text
    assert "learner.render_processes" in text  # 0.5 s of 2.5 for a batch that was there


def test_servers_that_limit_the_run(tmp_path, model, capsys, monkeypatch):
    """Each group takes 8 s, so that the learner has to wait for a batch of two."""
    for name, value in (("GROUP_S", 8.0), ("WAIT_S", 6.0), ("LATE_S", 5.5)):
        monkeypatch.setattr(made_up, name, value)
    run = make_run(tmp_path / "run", model)
    text = explained(capsys, run)
    assert "Generation: the learner waited for samples 75 % of the time" in text
    assert f"python -m deploy.scale {run} rollout=" in text


def test_a_synchronous_run_is_told_what_overlapping_would_bring(tmp_path, model, capsys):
    run = make_run(tmp_path / "run", model, broker={"max_staleness": 0})
    text = explained(capsys, run)
    assert "Both sides wait for each other" in text
    assert "With --broker.max_staleness 1 a step would take 2.50 s, not 3.80 s" in text


def test_a_run_that_goes_on(tmp_path, model, capsys):
    text = explained(capsys, make_run(tmp_path / "run", model, is_over=False))
    assert "6 steps in 29 s, not over" in text
    started = explained(capsys, make_run(tmp_path / "new", model, steps=1, is_over=False))
    assert "not known yet" in started


def test_a_plan_is_compared_with_what_happened(tmp_path, model, capsys):
    run = make_run(tmp_path / "run", model)
    prediction = {
        "servers": 1, "ranks": 1, "max_staleness": 1, "step_s": 2.0, "learner_idle_share": 0.1,
        "rollout_idle_share": 0.5, "staleness_mean": 1.0, "staleness_max": 1, "total_s": 45.0,
    }  # fmt: skip
    others = [{**prediction, "servers": 2}, {**prediction, "max_staleness": 0}]
    plan = {"predictions": [*others, prediction]}
    (run / "plan.json").write_text(json.dumps(plan))
    text = explained(capsys, run)
    assert re.search(r"step +2\.00 s +2\.50 s +-20 %", text)
    assert re.search(r"learner idle +10 % +20 %", text)
    assert re.search(r"whole run +45 s +30 s +\+50 %", text)
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text(json.dumps({"predictions": others}))
    assert "says nothing of this number" in explained(capsys, run, "--plan", elsewhere)


@pytest.mark.parametrize("content", [None, "{}", "[1]", "no json", '{"predictions": 3}'])
def test_a_plan_that_is_none_is_refused(tmp_path, model, capsys, content):
    run = make_run(tmp_path / "run", model)
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        explain.main([str(run), "--plan", str(file)])
    assert "Fix: make it with python -m deploy.plan --json" in capsys.readouterr().err


def test_no_run_is_a_config_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        explain.main([str(tmp_path)])
    assert "holds no run" in capsys.readouterr().err


def test_the_page_begins_with_what_limits_the_run(tmp_path, model, capsys):
    text = explained(capsys, make_run(tmp_path / "run", model))
    assert text.splitlines()[0].startswith(
        "The learner limited it: backward is 43 % of its work, and it waited only 10 % of the run "
        "while the servers had no work 72 %; raise learner.ranks 1 > 2 at the next start"
    )
    assert re.search(r"waiting for samples +[0-9.]+ s +10 %", text)
    assert re.search(r"evaluation +4.00 s +13 %", text)
    assert re.search(r"start-up +10.0 s +33 %", text)
    assert text.splitlines()[2].startswith("run: 6 steps")


def test_the_servers_idle_share_is_the_table_s(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(made_up, "WAIT_S", 2.0)
    text = explained(capsys, make_run(tmp_path / "run", model, steps=12))
    share = re.search(r"idle +(\d+ %)", text)[1]
    assert f"had nothing to do {share} of theirs" in text.splitlines()[0]


def test_a_page_asked_for_again_is_simulated_once(tmp_path, model, capsys):
    run = make_run(tmp_path / "run", model)
    simulate.cache_clear()
    explained(capsys, run)
    needed = simulate.cache_info().misses
    explained(capsys, run)
    assert simulate.cache_info().misses == needed <= 3


async def test_what_only_a_running_launcher_knows_is_asked_for(tmp_path, model, capsys):
    run = make_run(tmp_path / "run", model, is_over=False)
    full = status({}).model_copy(update={"store_failure": "No space left on device"})
    answer = {"broker": full.model_dump_json(), "elapsed_s": 3.0, "waits": []}
    async with listening(run, lambda: answer, lambda wish: wish):
        await asyncio.to_thread(explain.main, [str(run)])
    assert capsys.readouterr().out.startswith("The broker's disk stops it (No space left")
    await asyncio.to_thread(explain.main, [str(run)])
    assert capsys.readouterr().out.startswith("Rollout limits it")
