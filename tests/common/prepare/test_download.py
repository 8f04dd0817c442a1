"""Datasets from the hub: the real client, a hub on loopback, downloads that are cut or wrong.

Holds common/hub_datasets.py, common/prepare/hub_rows.py.
"""

import json
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.dataset import read_samples
from common.images import ImageStore
from common.prepare.hint import HINT
from common.prepare.published import DATASET, REVISION
from tests.common.hub import COMMIT, Hub, asked, serving_hub
from tests.common.prepare.rows_files import SIZE, jpeg, write_jsonl
from tests.common.prepare.support import split, tar_gz

COMMAND = "import sys; from common.prepare.__main__ import main; main(sys.argv[1:])"
QUESTION = "<image>\nWhich?\nA. one\nB. two"
NUM_ROWS = 4


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published set as the hub has it: the student's pictures in split archives."""
    folder = tmp_path / "published"
    pictures = [jpeg(SIZE[0] + n, SIZE[1], quality=80) for n in range(NUM_ROWS)]
    rows = [
        {
            **{field: [f"{field}/{n}.jpg"] for field in _ARCHIVES},
            "bbox": [10, 20, 60, 70],
            "problem": f"{QUESTION}\n\n{HINT}",
            "answer": "B",
        }
        for n in range(NUM_ROWS)
    ]
    for field, parts in _ARCHIVES.items():
        archive = tar_gz(*((f"{n}.jpg", picture) for n, picture in enumerate(pictures)))
        split(archive, folder / field, f"{field}.tar.gz", parts)
    write_jsonl(folder / "train.jsonl", rows)
    return folder


_ARCHIVES = {"images": 3, "teacher_images": 1, "original_images": 2}


def prepared(home: Path, hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    return asked(home, COMMAND, *words, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")


def serving_published(folder: Path) -> AbstractContextManager[Hub]:
    return serving_hub(folder, DATASET, REVISION, "datasets")


@pytest.mark.parametrize("picture", ["red_box", "clean"])
def test_the_published_set_is_downloaded_unpacked_and_prepared(
    published: Path, tmp_path: Path, picture: str
) -> None:
    out = tmp_path / "out"
    with serving_published(published) as hub:
        words = ("vision-opd-6k", "--out", str(out), "--picture", picture)
        done = prepared(tmp_path / "home", hub, *words)
    assert done.returncode == 0, done.stderr
    assert f"{DATASET} at {REVISION} is in " in done.stdout
    assert done.stdout.splitlines()[-1] == f"{out}/train.parquet: {NUM_ROWS} rows, 0 left out"
    samples, bad = read_samples(out / "train.parquet")
    assert bad == [] and [s.sample_id for s in samples] == [f"line-{n:06d}" for n in range(1, 5)]
    hint = f"\n\n{HINT}" if picture == "red_box" else ""
    assert {s.problem for s in samples} == {f"{QUESTION}{hint}"}
    assert ImageStore(out).open(samples[3].image).size == (SIZE[0] + 3, SIZE[1])
    assert not (out / "unpacked").exists()


def test_a_download_that_is_cut_goes_on_where_it_was(published: Path, tmp_path: Path) -> None:
    """The client keeps what came in whole pieces of 10 MiB."""
    piece = 10 * 2**20
    noise = np.random.default_rng(0).bytes(3 * piece)
    pictures = ((f"{n}.jpg", jpeg(*SIZE)) for n in range(NUM_ROWS))
    shutil.rmtree(published / "images")
    split(tar_gz(("noise.bin", noise), *pictures), published / "images", "images.tar.gz", 1)
    with serving_published(published) as hub:
        hub.cuts["images/images.tar.gz.part-aa"] = 2 * piece + piece // 2
        words = ("vision-opd-6k", "--out", str(tmp_path / "out"))
        done = prepared(tmp_path / "home", hub, *words)
    assert done.returncode == 0, done.stderr
    assert hub.ranges == [f"bytes={2 * piece}-"]
    assert pq.read_metadata(tmp_path / "out/train.parquet").num_rows == NUM_ROWS


def test_what_is_here_is_not_downloaded_again(published: Path, tmp_path: Path) -> None:
    with serving_published(published) as hub:
        for name in ("one", "two"):
            words = ("vision-opd-6k", "--out", str(tmp_path / name))
            assert prepared(tmp_path / "home", hub, *words).returncode == 0
    assert len(hub.sent) == len(set(hub.sent)) == 7


def test_a_file_of_other_content_than_the_hub_says_is_not_used(
    published: Path, tmp_path: Path
) -> None:
    """The same number of bytes, so that only the hash tells."""
    name = "teacher_images/teacher_images.tar.gz.part-aa"
    content = (published / name).read_bytes()
    words = ("vision-opd-6k", "--out", str(tmp_path / "out"))
    with serving_published(published) as hub:
        hub.lies[name] = content[:-9] + b"?" + content[-8:]
        done = prepared(tmp_path / "home", hub, *words)
        assert done.returncode == 2
        assert f"{name} was not downloaded as the hub says" in done.stderr
        assert "Fix: start again" in done.stderr and not (tmp_path / "out/train.parquet").exists()
        hub.lies.clear()
        assert prepared(tmp_path / "home", hub, *words).returncode == 0
    assert hub.sent.count(Path(name).name) == 2 and len(hub.sent) == 8


def test_a_hostile_archive_is_refused_and_nothing_leaves_the_folder(
    published: Path, tmp_path: Path
) -> None:
    shutil.rmtree(published / "images")
    split(tar_gz(("../../escaped.jpg", b"x")), published / "images", "images.tar.gz", 1)
    with serving_published(published) as hub:
        done = prepared(tmp_path / "home", hub, "vision-opd-6k", "--out", str(tmp_path / "out"))
    assert done.returncode == 1 and "'../../escaped.jpg' leads out of the folder" in done.stderr
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_a_downloaded_folder_with_its_archives_is_a_source_too(
    published: Path, tmp_path: Path
) -> None:
    from common.prepare.published_command import prepare_published

    assert prepare_published(published, tmp_path / "out").num_rows == NUM_ROWS


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Org/Other", "is not shown: it does not exist, or is private"),
        ("Secret/Set", "is gated"),
        ("Org/Set@v9", "has no revision 'v9'"),
        ("Set", "no name on the hub"),
    ],
)
def test_what_the_hub_does_not_have_is_one_clear_line(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "set").mkdir()
    with serving_hub(tmp_path / "set", "Org/Set", COMMIT, "datasets") as hub:
        words = ("custom", "--input", f"hf:{name}", "--out", str(tmp_path / "out"))
        done = prepared(tmp_path / "home", hub, *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert part in done.stderr and "Fix: " in done.stderr


def test_a_hub_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with serving_hub(tmp_path, "Org/Set", COMMIT, "datasets") as hub:
        pass
    done = prepared(tmp_path / "home", hub, "vision-opd-6k", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "cannot be downloaded" in done.stderr
    assert f"hf download --repo-type dataset {DATASET}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("split_said", "expected"),
    [(":train", ["t0", "t1"]), (":test", ["e0"]), ("@main:test", ["e0"]), ("", None)],
)
def test_rows_of_the_hub_are_those_of_the_split_that_is_said(
    tmp_path: Path, split_said: str, expected: list[str] | None
) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "pictures/a.jpg").write_bytes(jpeg(*SIZE))
    for name, rows in (("train-00000-of-00002", ["t0"]), ("train-00001-of-00002", ["t1"]),
                       ("test-00000-of-00001", ["e0"])):  # fmt: skip
        made = [
            {"id": i, "image": "pictures/a.jpg", "query": "?", "box": [1, 2, 3, 4]} for i in rows
        ]
        write_jsonl(folder / f"data/{name}.jsonl", made)
    words = ("--box-units", "pixels", "--box-form", "xyxy", "--out", str(tmp_path / "out"))
    with serving_hub(folder, "Org/Set", COMMIT, "datasets") as hub:
        done = prepared(
            tmp_path / "home", hub, "custom", "--input", f"hf:Org/Set{split_said}", *words
        )
    if expected is None:
        assert done.returncode == 2 and "there are train, test. Fix: write hf:Org/Set:SPLIT" in (
            done.stderr
        )
        return
    assert done.returncode == 0, done.stderr
    assert f"is commit {COMMIT}" in done.stdout
    found = pq.read_table(tmp_path / "out/train.parquet")["sample_id"].to_pylist()
    assert found == expected and json.dumps(found)
