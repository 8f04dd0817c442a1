"""The benchmark of the push runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of

MIB = 2**20


@pytest.mark.slow
def test_push_bench_writes_its_figures(tmp_path: Path) -> None:
    found = figures_of("push", tmp_path, "--sizes 3 --servers 2 --repeats 2 --bucket-mib 1")
    (case,) = found["by_case"]
    assert (case["mib"], case["servers"]) == (3, 2)
    assert found["vs_raw_broadcast"] == case["vs_raw_broadcast"]["median"] > 0
    assert found["stall_share"] == case["stall_share"]["median"] >= 0
    assert found["pause_s"] == {"3": {"2": case["pause_s"]["median"]}}
    assert 2.7 * MIB < case["num_bytes"] <= 3 * MIB
    assert case["num_buckets"] >= 3
    assert 0 < case["pause_s"]["median"] < case["push_s"]["max"]
    assert len(case["push_s"]["all"]) == len(case["raw_s"]["all"]) == 2
    assert 0 < sum(case["phases_s"].values()) <= 2 * case["push_s"]["max"]
