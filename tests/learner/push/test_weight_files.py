"""What a push through files may delete: nothing that it did not write."""

from pathlib import Path

import pytest
import torch

from common.errors import ConfigError
from learner.push.weight_files import WeightFolder

MODEL = torch.nn.Linear(1, 1)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["version-of-my-thesis", "version-2", "version-000001-1", "a.txt"])
def test_a_folder_that_holds_anything_is_refused_by_name_and_left_alone(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "text").write_text("years of work")
    with pytest.raises(
        ConfigError, match=rf"weights\.folder = .* holds '{name}'.* Fix: name a new"
    ):
        WeightFolder(tmp_path, MODEL, "/runs/a")
    assert listing(tmp_path) == [name, f"{name}/text"]


def test_what_an_earlier_life_wrote_is_removed_and_a_strangers_file_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "weights"
    WeightFolder(folder, MODEL, "/runs/a")
    for name in ("version-000004-7", ".version-000005-8.part"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("")
    WeightFolder(folder, MODEL, "/runs/a")
    assert listing(folder) == ["vision-opd-weights.json"]
    for name in ("version-of-my-thesis", "version-4-7", "version-000004-7-copy"):
        (folder / name).mkdir()
        with pytest.raises(ConfigError, match=rf"holds '{name}'"):
            WeightFolder(folder, MODEL, "/runs/a")
        (folder / name).rmdir()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "weights", tmp_path / "elsewhere"
    WeightFolder(folder, MODEL, "/runs/a")
    elsewhere.mkdir()
    (elsewhere / "text").write_text("")
    (folder / "version-000001-1").symlink_to(elsewhere)
    WeightFolder(folder, MODEL, "/runs/a")
    assert listing(elsewhere) == ["text"]


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    WeightFolder(tmp_path, MODEL, "/runs/a")
    with pytest.raises(ConfigError, match=r"belongs to the run /runs/a\. Fix: "):
        WeightFolder(tmp_path, MODEL, "/runs/b")
    (tmp_path / "vision-opd-weights.json").write_text("[]")
    with pytest.raises(ConfigError, match="belongs to the run unknown"):
        WeightFolder(tmp_path, MODEL, "/runs/a")


def test_a_folder_that_cannot_be_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"weights\.folder = .*Not a directory\. Fix"):
        WeightFolder(tmp_path / "file" / "weights", MODEL, "/runs/a")
