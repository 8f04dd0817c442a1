"""A checkpoint's files are in its folder, whatever it says of itself."""

import json
from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.files import sha256_of_file
from common.model_files import INDEX, weight_files
from learner.checkpoint.folder import check_files, list_checkpoints


def test_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    (folder / "step-000001").mkdir(parents=True)
    elsewhere.mkdir()
    assert [path.name for path in list_checkpoints(folder)] == ["step-000001"]
    (folder / "step-000002").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=r"step-000002: it is a link.* Fix: "):
        list_checkpoints(folder)


@pytest.mark.parametrize("name", ["../x", "{here}/x", "link"])
def test_a_file_elsewhere_is_none_of_a_checkpoint(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "step-000001"
    folder.mkdir()
    (tmp_path / "x").write_text("elsewhere")
    (folder / "link").symlink_to(tmp_path / "x")
    digest = sha256_of_file(tmp_path / "x")
    with pytest.raises(CheckpointError, match="it lies outside the checkpoint"):
        check_files(folder, {name.format(here=tmp_path): digest})


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", ".."])
def test_an_index_names_files_beside_it_alone(tmp_path: Path, name: str) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": name}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is no file of this folder"):
        weight_files(tmp_path)


def test_the_hub_s_cache_keeps_files_behind_links(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_text("")
    snapshot = tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model-1.safetensors").symlink_to(blob)
    (snapshot / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert weight_files(snapshot) == [snapshot / "model-1.safetensors"]
