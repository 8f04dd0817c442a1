"""The benchmark of loading runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_loading_bench_writes_its_figures(tmp_path: Path) -> None:
    # Against this commit itself: the one of the goals is not in every checkout.
    found = figures_of("loading", tmp_path, "--megabytes 10 --ranks 2 --base HEAD")
    assert set(found["memory"]) == {"start", "save", "resume"}
    assert found["load_memory_ratio"] == max(found["memory"].values()) > 0
    starts = {phase: found["seconds"][phase] for phase in ("start", "resume")}
    assert found["first_step_ratio"] == max(starts.values()) > 0
    for side in ("theirs", "ours"):
        for phase in ("start", "save", "resume"):
            assert 0 < found["measured"][side][phase]["mib"] < 1000
