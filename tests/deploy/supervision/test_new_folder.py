import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.config_cli import build
from deploy import options
from deploy.supervision.run_folder import with_folder_of_its_own

NOW = time.strptime("2026-11-23 20:21:10", "%Y-%m-%d %H:%M:%S")


def test_launches_of_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "ROOT", tmp_path)
    config = build({"run": {"name": "sweep"}})
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: with_folder_of_its_own(config, NOW).run, range(8)))
    names = {run.folder.name for run in runs if run.folder}
    first = "sweep-20261123-202110"
    assert names == {first, *(f"{first}-{number}" for number in range(2, 9))}
    for run in runs:
        assert run.folder and stat.S_IMODE(run.folder.stat().st_mode) == 0o700


def test_a_folder_that_is_named_is_that_one(tmp_path: Path) -> None:
    for run in ({"folder": tmp_path / "run"}, {"resume": True}):
        config = build({"run": run})
        assert with_folder_of_its_own(config, NOW) is config
    assert list(tmp_path.iterdir()) == []
