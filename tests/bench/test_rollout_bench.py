"""The benchmark of rollout runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of

GROUPS, N, TOKENS = 4, 2, 5


@pytest.mark.slow
def test_rollout_bench_writes_its_figures(tmp_path: Path) -> None:
    options = (
        f"--engine embedded --groups {GROUPS} --concurrent 2 --repeats 1 --n {N} --tokens {TOKENS}"
    )
    found = figures_of("rollout", tmp_path, options)
    assert found["vs_engine_alone"] > 0
    assert found["tokens"] == [GROUPS * N * TOKENS]  # all responses have full length, on both sides
    for side in ("ours", "alone"):
        assert found["tokens_per_s"][side]["median"] > 0
        assert found["client_cpu_s"][side]["median"] > 0
