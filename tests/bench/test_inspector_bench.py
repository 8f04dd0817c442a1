"""The benchmark of the inspector writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inspector_bench_writes_its_figures(tmp_path: Path) -> None:
    small = "--trajectories 3000 --repeats 1 --runs 1 --steps 5 --groups 4"
    found = figures_of("inspector", tmp_path, small)
    assert found["trajectories"] == 5 * 512
    assert 0 < found["start_s"] < found["first_page_s"]
    assert found["filter_s"] == max(found["filters"].values()) > 0
    assert found["resident_mb"] > 50 and found["index_s"] > 0 and found["index_mb"] > 0
    assert found["overhead_share"] == round(found["overhead_shares"]["median"], 4)
    assert found["step_s_with"]["min"] > 0 and found["step_s_without"]["min"] > 0
    assert 0 < found["inspector_cpu_share"]["median"] < 1
