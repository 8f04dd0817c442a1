"""The benchmark of launches runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.written import figures_of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_launches_bench_writes_its_figures(tmp_path: Path) -> None:
    # Against this commit itself: the one that it is for is not in every checkout.
    found = figures_of("launches", tmp_path, "--base HEAD --models Qwen3-VL-4B")
    assert found["theirs"] == found["ours"]
    assert [case["name"] for case in found["ours"]] == ["Qwen3-VL-4B"]
    for case in found["ours"]:
        assert 0 < case["forward"] < case["backward"] and case["waits"] == 0
