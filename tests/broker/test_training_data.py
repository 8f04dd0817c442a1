"""One reading decides what a run trains on, whatever becomes of the files.

Holds common/kept_reading.py.
"""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from broker.service.opening import Opened, open_broker
from common.bad_rows import BadRow
from common.config import DataSection, LearnerSection, ModelSection, RunConfig, RunSection
from common.errors import ConfigError, DataError
from common.kept_reading import FILE, has_journal, keep, kept_reading
from common.training_data import foreseen_source, open_source
from tests.poison.rows import Folder, write_table


def make(folder: Path, num_rows: int = 4, width: int = 96) -> RunConfig:
    rows = [Folder(folder, f"s{number}").row(width=width) for number in range(num_rows)]
    return RunConfig(
        run=RunSection(folder=folder / "run"),
        data=DataSection(train=write_table(rows, folder / "train.parquet")),
        model=ModelSection(path=str(folder)),
        learner=LearnerSection(groups_per_step=2),
    )


def begin(config: RunConfig) -> list[str]:
    """Open the broker once, and close it; the names of its samples."""
    source = open_source(config)
    close(open_broker(config, source))
    return [sample.sample_id for sample in source.samples]


def close(opened: Opened) -> None:
    opened.service.store.close()


def test_a_restart_keeps_to_what_the_first_reading_found(tmp_path: Path) -> None:
    config = make(tmp_path)
    (tmp_path / "pictures/s1.png").unlink()
    assert begin(config) == ["s0", "s2", "s3"]
    kept = kept_reading(tmp_path / "run")
    assert kept is not None and kept.num_rows == 4
    assert kept.bad_rows == (
        BadRow(
            1, "s1", "image", "'pictures/s1.png'", "there is no such file",
            "restore it, or correct the path",
        ),
    )  # fmt: skip
    (tmp_path / "pictures/s2.png").unlink()
    Image.new("RGB", (96, 64)).save(tmp_path / "pictures/s1.png")
    assert begin(config) == ["s0", "s2", "s3"]
    assert begin(config) == [sample.sample_id for sample in foreseen_source(config).samples]
    again = open_source(config).reading
    assert again is not None and tuple(again.bad_rows) == kept.bad_rows


def test_a_restart_looks_at_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(tmp_path)
    begin(config)
    written = (tmp_path / "run" / FILE).read_bytes()
    monkeypatch.setattr("common.reading.check_pictures", lambda *_: 1 / 0)
    assert len(begin(config)) == 4
    assert (tmp_path / "run" / FILE).read_bytes() == written


def test_other_limits_change_no_run_that_has_begun(tmp_path: Path) -> None:
    config = make(tmp_path)
    names = begin(config)
    data = config.data.model_copy(update={"max_picture_megapixels": 1e-6})
    assert begin(config.model_copy(update={"data": data})) == names


@pytest.mark.parametrize(
    ("num_rows", "width", "words"),
    [(3, 96, r"4 usable rows then, 3 now"), (4, 97, "4 usable rows as then, but others")],
)
def test_another_data_set_is_refused_by_name(
    tmp_path: Path, num_rows: int, width: int, words: str
) -> None:
    begin(make(tmp_path))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"data\.train = .*train\.parquet.*{words}.*Fix: "):
        begin(make(tmp_path, num_rows, width))
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_the_same_data_set_elsewhere_is_the_same(tmp_path: Path) -> None:
    config = make(tmp_path)
    names = begin(config)
    moved = (tmp_path / "train.parquet").rename(tmp_path / "moved.parquet")
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": moved})})
    assert begin(config) == names


def test_a_start_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    config = make(tmp_path)
    open_source(config)
    assert not (tmp_path / "run").exists() and not has_journal(tmp_path / "run")
    for number in range(4):
        (tmp_path / f"pictures/s{number}.png").unlink()
    with pytest.raises(DataError, match=r"no usable row, of 4\. row 0, sample 's0': image = "):
        open_source(config)


def test_what_a_launcher_has_read_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(tmp_path)
    (tmp_path / "pictures/s1.png").unlink()
    reading = open_source(config, afresh=True).reading
    assert reading is not None
    keep(tmp_path / "run", reading)
    with monkeypatch.context() as patched:
        patched.setattr("common.reading.check_pictures", lambda *_: 1 / 0)
        assert begin(config) == ["s0", "s2", "s3"]
    Image.new("RGB", (96, 64)).save(tmp_path / "pictures/s1.png")
    assert len(open_source(config, afresh=True).samples) == 3  # the run has begun


def test_a_reading_that_was_left_counts_only_for_the_same_file_and_settings(tmp_path: Path) -> None:
    config = make(tmp_path)
    (tmp_path / "pictures/s1.png").unlink()
    reading = open_source(config, afresh=True).reading
    assert reading is not None
    keep(tmp_path / "run", reading)
    Image.new("RGB", (96, 64)).save(tmp_path / "pictures/s1.png")
    assert len(open_source(config).samples) == 3
    assert len(open_source(config, afresh=True).samples) == 4
    data = config.data.model_copy(update={"max_picture_megapixels": 1.0})
    assert len(open_source(config.model_copy(update={"data": data})).samples) == 4
    assert len(open_source(make(tmp_path, 5)).samples) == 5


def test_a_run_of_an_older_version_is_read_in_full(tmp_path: Path) -> None:
    config = make(tmp_path)
    begin(config)
    os.remove(tmp_path / "run" / FILE)
    (tmp_path / "pictures/s2.png").unlink()
    assert len(open_source(config).samples) == 3


def test_a_reading_of_the_version_before_keeps_its_reasons(tmp_path: Path) -> None:
    config = make(tmp_path)
    (tmp_path / "pictures/s2.png").unlink()
    begin(config)
    path, before = tmp_path / "run" / FILE, kept_reading(tmp_path / "run")
    path.write_text(path.read_text(encoding="utf-8").replace('"fix":', '"mend":'), encoding="utf-8")
    assert before is not None and before.bad_rows and '"mend":' in path.read_text(encoding="utf-8")
    assert kept_reading(tmp_path / "run") == before


def test_a_damaged_reading_is_named(tmp_path: Path) -> None:
    config = make(tmp_path)
    begin(config)
    for text in (
        "{",
        "{}",
        json.dumps({"dataset": "", "num_rows": 1, "digest": "", "settings": "", "bad_rows": [1]}),
    ):
        (tmp_path / "run" / FILE).write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"reading\.json is damaged: .*Fix: put it back"):
            open_source(config)
