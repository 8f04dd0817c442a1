"""The real Prometheus reads a run, by the configuration of deploy/README.md."""

import math
from pathlib import Path

from common.config_cli import build
from common.scrape.port import scrape_port
from tests.broker.support import process
from tests.prometheus import documented_config, running_prometheus
from tests.waiting import until


async def test_a_broker_and_another_process_are_found_and_read(tmp_path: Path) -> None:
    key = tmp_path / "scrape.key"
    key.touch(0o600)
    key.write_text("0123456789abcdef\n")
    (tmp_path / "prometheus").mkdir()
    options = ("--scrape.key_file", str(key))
    with process(tmp_path, *options):
        run = tmp_path / "run-7"
        targets = run / "scrape"
        config = build({"run": {"folder": run}, "scrape": {"key_file": key}})
        row = {"learner/loss_nats": 0.25, "learner/grad_norm": math.nan}
        with running_prometheus(
            tmp_path / "prometheus", documented_config(targets, key)
        ) as prometheus:
            async with scrape_port(config, "learner", "learner-0", lambda: row):
                await until(lambda: prometheus.scraped() == {"broker", "learner-0"})
                labels = 'run="run-7",role="broker",process="broker"'
                assert prometheus.value(f"vision_opd_broker_slots{{{labels}}}") == 2
                row["learner/loss_nats"] = 0.125
                await until(lambda: prometheus.value("vision_opd_learner_loss_nats") == 0.125)
                assert math.isnan(prometheus.value("vision_opd_learner_grad_norm"))
                assert len(prometheus.query("process_resident_memory_bytes")) == 2
                help_of = prometheus.targets()
                assert help_of["broker"]["lastError"] == ""
            await until(lambda: prometheus.scraped() == {"broker"})
