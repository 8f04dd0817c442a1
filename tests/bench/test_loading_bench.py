"""The benchmark of loading runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_loading_bench_writes_its_figures(tmp_path: Path) -> None:
    # Against this commit itself: the one of the goals is not in every checkout.
    found = figures_of("loading", tmp_path, "--megabytes 10 --ranks 2 --base HEAD")
    ratios, figure_of = found["ratios"], found["ratio_of"]
    for name in ("load_memory_ratio", "load_anonymous_memory_ratio"):
        by_phase = ratios[figure_of[name]]
        assert set(by_phase) == {"start", "save", "resume"}
        assert found[name] == max(by_phase.values()) > 0
    for name in ("first_step_ratio", "first_step_cpu_ratio"):
        by_phase = ratios[figure_of[name]]
        assert found[name] == max(by_phase[phase] for phase in ("start", "resume")) > 0
    assert figure_of["load_memory_ratio"] == "resident_mib"
    for side in ("theirs", "ours"):
        for phase in ("start", "save", "resume"):
            figures = found["measured"][side][phase]
            assert 0 < figures["anonymous_mib"] < 1000 and 0 < figures["resident_mib"] < 1000
