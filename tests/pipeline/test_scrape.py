"""The real Prometheus reads a run, by the configuration of deploy/README.md."""

import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from common.config_cli import build
from common.metrics import METRICS, OBSERVED
from common.scrape.exported import EXPORTED
from common.scrape.port import scrape_port
from tests.broker.support import process
from tests.deploy.quickstart.support import SMALL, TIMEOUT_S, Launched
from tests.prometheus import ROOT, Prometheus, complaints, documented_config, running_prometheus
from tests.waiting import until, wait_until

PROCESSES = {"broker", "learner-0", "rollout-0", "rollout-1", "launcher"}


async def test_a_broker_and_another_process_are_found_and_read(tmp_path: Path) -> None:
    key = tmp_path / "scrape.key"
    key.touch(0o600)
    key.write_text("0123456789abcdef\n")
    (tmp_path / "prometheus").mkdir()
    run = tmp_path / "run-7"
    documented = documented_config(run / "scrape", key)
    config = build({"run": {"folder": run}, "scrape": {"key_file": key}})
    row = {"learner/loss_nats": 0.25, "learner/grad_norm": math.nan}
    with (
        process(tmp_path, "--scrape.key_file", str(key)),
        running_prometheus(tmp_path / "prometheus", documented) as prometheus,
    ):
        async with scrape_port(config, "learner", "learner-0", lambda: row):
            await until(lambda: prometheus.scraped() == {"broker", "learner-0"})
            labels = 'run="run-7",role="broker",process="broker"'
            assert prometheus.value(f"vision_opd_broker_slots{{{labels}}}") == 2
            row["learner/loss_nats"] = 0.125
            await until(lambda: prometheus.value("vision_opd_learner_loss_nats") == 0.125)
            assert math.isnan(prometheus.value("vision_opd_learner_grad_norm"))
            assert len(prometheus.query("process_resident_memory_bytes")) == 2
        await until(lambda: prometheus.scraped() == {"broker"})


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 120)
def test_every_process_of_a_run_is_read_as_its_files_say(tmp_path: Path) -> None:
    (tmp_path / "prometheus").mkdir()
    documented = documented_config(tmp_path / "run" / "scrape")
    with running_prometheus(tmp_path / "prometheus", documented) as prometheus:
        options = ("--rollout.servers", "2", "--learner.max_steps", "16")
        run = Launched(tmp_path / "run", *SMALL, *options)
        try:
            run.wait_for_step(2)
            wait_until(lambda: prometheus.scraped() == PROCESSES)
            for file in sorted((run.folder / "scrape").iterdir()):
                assert complaints(exposition(file)) == "", file
            assert run.wait() == 0, run.output()
        finally:
            run.process.kill()
            run.process.wait()
        assert list((run.folder / "scrape").iterdir()) == []
        the_learner_s_figures_are_those_of_its_rows(prometheus, run)
        the_launcher_s_figures_are_its_observations(prometheus, run)
        the_broker_s_books_are_those_of_its_steps(prometheus, run)
        the_board_shows_the_run(prometheus, run)
        the_board_s_servers_are_one_version_behind_at_most(prometheus, run)


def exposition(file: Path) -> str:
    """What the process that a file of RUN/scrape names answers."""
    (entry,) = json.loads(file.read_text())
    with urllib.request.urlopen(f"http://{entry['targets'][0]}/metrics", timeout=30) as reply:
        return str(reply.read().decode())


def the_learner_s_figures_are_those_of_its_rows(prometheus: Prometheus, run: Launched) -> None:
    rows = {row["step"]: row for row in run.metrics() if "learner/loss_nats" in row}
    steps = prometheus.scrapes('vision_opd_learner_step{process="learner-0"}')
    assert len(set(steps.values())) > 2, "scraped at several steps"
    compared = 0
    for name in EXPORTED.keys() & rows[2].keys():
        told = prometheus.scrapes(f'{EXPORTED[name].series}{{process="learner-0"}}')
        for time_s, value in told.items():
            if name in (row := rows[int(steps[time_s])]):
                assert value == row[name], (name, row["step"])
                compared += 1
    assert compared > 100


def the_launcher_s_figures_are_its_observations(prometheus: Prometheus, run: Launched) -> None:
    lines = (run.folder / "observations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for name in rows[-1].keys() - {"step", "time_s"}:
        told = prometheus.scrapes(f'{EXPORTED[name].series}{{role="launcher"}}')
        assert set(told.values()) <= {row[name] for row in rows if name in row}


def the_broker_s_books_are_those_of_its_steps(prometheus: Prometheus, run: Launched) -> None:
    versions = prometheus.scrapes("vision_opd_broker_version")
    trained = prometheus.scrapes('vision_opd_broker_samples{state="trained"}')
    assert {time_s: 8 * version for time_s, version in versions.items()} == trained
    servers = {
        s["metric"]["server"] for s in prometheus.query("vision_opd_rollout_tokens_total[1h]")
    }
    assert servers == {"rollout-0", "rollout-1"}


def the_board_shows_the_run(prometheus: Prometheus, run: Launched) -> None:
    """Every figure, but those that the row of the step does not have."""
    steps = prometheus.scrapes('vision_opd_learner_step{process="learner-0"}')
    last = max(steps.values())
    time_s = max(t for t, step in steps.items() if step < last)  # later, servers may have ended
    told = {metric.name for metric in OBSERVED}
    for row in run.metrics():
        told |= row.keys() if row["step"] == steps[time_s] or "evaluation/version" in row else set()
    not_told = {EXPORTED[name].series for name in EXPORTED.keys() & METRICS.keys() - told}
    not_told.add(EXPORTED["broker/trajectories_expired"].series)  # none has
    asked = [expression for panel in board_panels() for expression in asked_by(panel)]
    assert len(asked) > 60
    for expression in asked:
        filled = expression.replace("$run", run.folder.name).replace("$__rate_interval", "20s")
        is_told = not any(series in expression for series in not_told)
        assert bool(prometheus.query(filled, time_s)) is is_told, expression


def the_board_s_servers_are_one_version_behind_at_most(
    prometheus: Prometheus, run: Launched
) -> None:
    """What the run's max_staleness = 1 means, from the first push to the end."""
    titled = {panel["title"]: panel for panel in board_panels()}
    (behind,) = asked_by(titled["Versions behind the learner"])
    found = prometheus.query(f"({behind.replace('$run', run.folder.name)})[1h:200ms]")
    assert {series["metric"]["member"] for series in found} == {"rollout-0", "rollout-1"}
    values = [float(value) for series in found for _, value in series["values"]]
    assert len(values) > 20 and set(values) <= {0, 1}, values


def board_panels() -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "deploy/grafana/vision-opd.json").read_text())["panels"])


def asked_by(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]
