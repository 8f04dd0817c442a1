"""The benchmark of the objective runs and writes what it promises; its figures are not judged."""

from pathlib import Path
from typing import Any

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_objective_bench_writes_its_figures(tmp_path: Path) -> None:
    options = "--tokens 16,64 --vocabulary 70000 --hidden 8 --top-k 20 --repeats 2 --threads 1"
    found = figures_of("objective", tmp_path, options)
    assert [case["tokens"] for case in found["by_size"]] == [16, 64]
    assert found["not_measured"] == []
    for case in found["by_size"]:
        assert abs(case["loss"]["ours"] / case["loss"]["materialised"] - 1) < 1e-3
        mib = case["extra_mib"]
        assert case["memory_ratio"] == mib["materialised"] / mib["ours"]
        assert case["vs_trl_memory"] == mib["ours_whole"] / mib["trl"]
        assert case["top_k_vs_trl_memory"] == mib["ours"] / mib["trl"]
        whole_mib = case["tokens"] * 70_000 * 4 / 2**20
        assert mib["materialised"] > 2 * whole_mib
        assert 0 < mib["ours"] < mib["materialised"]
        assert all(len(seconds["all"]) == 2 for seconds in case["seconds"].values())
        assert list(case["seconds"]) == ["ours", "materialised", "ours_whole", "trl"]
    assert found["memory_ratio"] == min(case["memory_ratio"] for case in found["by_size"])
    assert found["time_ratio"] == min(case["time_ratio"]["median"] for case in found["by_size"])
    assert found["vs_trl_memory"] == max(case["vs_trl_memory"] for case in found["by_size"])
    assert found["vs_trl_time"] == max(case["vs_trl_time"]["median"] for case in found["by_size"])
    assert found["time_ratio"] > 0 and found["vs_trl_time"] > 0
    check_that_all_compute_the_same(found)


def check_that_all_compute_the_same(found: dict[str, Any]) -> None:
    """Loss and gradients: of plain autograd and the objective's, and of TRL's and the objective's
    over the whole vocabulary.
    """
    for case in found["by_size"]:
        assert case["differences"].keys() == {"materialised", "trl"}
        for differences in case["differences"].values():
            assert differences.keys() == {"loss", "hidden", "weight"}
            assert max(differences.values()) < 2e-5, differences
