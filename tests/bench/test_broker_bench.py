"""The benchmark of the broker runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
def test_broker_bench_writes_its_figures(tmp_path: Path) -> None:
    found = figures_of("broker", tmp_path, "--smoke")
    assert found["is_smoke"]
    assert found["vs_ray_queue"] is None and found["vs_redis"] is None
    assert found["vs_today_4k"] is None and found["vs_ray_batch_4k"] is None
    assert found["cost_growth"] > 0 and found["peak_bytes"] > 0
    assert found["trajectories_per_s"]["4"]["broker"]["median"] > 0
    assert found["latencies_ms"]["4"]["broker"]["take_p99"] > 0
    assert [cost["groups"] for cost in found["crowd"]["costs"]] == [5, 55, 300]
