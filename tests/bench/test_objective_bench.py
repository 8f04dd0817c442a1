"""The benchmark of the objective runs and writes what it promises; its figures are not judged."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
def test_objective_bench_writes_its_figures(tmp_path: Path) -> None:
    options = "--tokens 16,64 --vocabulary 70000 --hidden 8 --top-k 20 --repeats 2"
    found = figures_of("objective", tmp_path, options)
    assert [case["tokens"] for case in found["by_size"]] == [16, 64]
    assert found["not_measured"] == []
    for case in found["by_size"]:
        assert abs(case["loss"]["ours"] / case["loss"]["materialised"] - 1) < 1e-3
        assert case["memory_ratio"] == (
            case["extra_mib"]["materialised"] / case["extra_mib"]["ours"]
        )
        whole_mib = case["tokens"] * 70_000 * 4 / 2**20
        assert case["extra_mib"]["materialised"] > 2 * whole_mib
        assert 0 < case["extra_mib"]["ours"] < case["extra_mib"]["materialised"]
        for side in ("ours", "materialised"):
            assert len(case["seconds"][side]["all"]) == 2
    assert found["memory_ratio"] == min(case["memory_ratio"] for case in found["by_size"])
    assert found["time_ratio"] == min(case["time_ratio"]["median"] for case in found["by_size"])
    assert found["time_ratio"] > 0
