"""The benchmark of preparing runs and writes what it promises; its figures are not judged."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
def test_prepare_bench_writes_its_figures(tmp_path: Path) -> None:
    found = figures_of("prepare", tmp_path, "--pictures 70 --repeats 2 --rows 100")
    assert set(found["seconds"]) == {"ours", "bare", "threads"}
    assert all(len(side["all"]) == 2 and side["min"] > 0 for side in found["seconds"].values())
    bare, ours = (found["seconds"][side]["all"] for side in ("bare", "ours"))
    assert found["shares"]["all"] == [a / b for a, b in zip(bare, ours, strict=True)]
    assert found["share_of_bare"] == found["shares"]["median"] > 0
    assert found["memory"]["100"]["command_mib"] > 20
