from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.config import DataSection, LearnerSection, RunConfig, RunSection
from common.errors import ConfigError, DataError
from common.source import SampleSource
from common.training_data import open_source
from tests.broker.support import make_sample, make_source


def stream(source: SampleSource) -> list[str]:
    return [source.at(i).sample.sample_id for i in range(source.num_groups)]


def test_each_epoch_holds_every_sample_once_in_another_order() -> None:
    samples = stream(make_source(20, epochs=3))
    epochs = [samples[:20], samples[20:40], samples[40:]]
    assert all(Counter(epoch) == Counter(f"s{i}" for i in range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_any_place_can_be_asked_for_at_any_time() -> None:
    source, other = make_source(5, epochs=2), make_source(5, epochs=2)
    backwards = [source.at(i) for i in reversed(range(10))]
    assert backwards[::-1] == [other.at(i) for i in range(10)]
    assert [source.at(i).group_id for i in (0, 4, 5, 9)] == ["0/0", "0/4", "1/0", "1/4"]


def test_order_follows_the_seed_and_not_the_file() -> None:
    assert stream(make_source(20)) == stream(make_source(20))
    assert stream(make_source(20)) != stream(make_source(20, seed=1))
    turned = SampleSource([make_sample(i) for i in reversed(range(20))], seed=0)
    assert stream(turned) == stream(make_source(20))


def test_without_shuffle_the_order_is_the_files() -> None:
    source = SampleSource([make_sample(i) for i in range(4)], epochs=2, shuffle=False)
    assert stream(source) == ["s0", "s1", "s2", "s3"] * 2


def test_sampling_seeds_differ_by_sample_epoch_and_run_and_are_repeatable() -> None:
    def seeds(run_seed: int) -> dict[tuple[str, str], int]:
        source = make_source(20, epochs=2, seed=run_seed)
        places = [source.at(i) for i in range(source.num_groups)]
        return {(x.group_id.split("/")[0], x.sample.sample_id): x.sampling_seed for x in places}

    first = seeds(0)
    assert first == seeds(0) and len(set(first.values())) == 40
    assert not set(first.values()) & set(seeds(1).values())
    assert all(0 <= seed < 2**31 for seed in first.values())


def write(folder: Path, boxes: list[list[int]]) -> Path:
    rows = [
        {
            "sample_id": f"s{i}", "problem": "<image>?", "image": "a.png",
            "image_sha256": "0" * 64, "width": 9, "height": 9, "box": box,
        }
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder / "train.parquet"


def config(train: Path | None, groups_per_step: int, epochs: int = 1) -> RunConfig:
    return RunConfig(
        run=RunSection(seed=5),
        data=DataSection(train=train, epochs=epochs),
        learner=LearnerSection(groups_per_step=groups_per_step),
    )


def test_bad_rows_are_logged_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, [[0, 0, 2, 2], [3, 3, 3, 3], [1, 1, 2, 2]])
    with caplog.at_level("INFO"):
        source = open_source(config(path, 2))
    assert [s.sample_id for s in source.samples] == ["s0", "s2"]
    assert "row 1" in caplog.text and "2 samples, 1 bad rows left out" in caplog.text


def test_less_than_one_step_of_data_is_a_config_error(tmp_path: Path) -> None:
    path = write(tmp_path, [[0, 0, 2, 2], [1, 1, 2, 2]])
    assert open_source(config(path, 4, epochs=2)).num_groups == 4
    with pytest.raises(ConfigError, match=r"groups_per_step = 5 .* 2 usable .*epochs = 2.*Fix"):
        open_source(config(path, 5, epochs=2))


def test_no_dataset_and_an_unusable_one_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train is not set"):
        open_source(config(None, 1))
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"x\.parquet"):
        open_source(config(tmp_path / "x.parquet", 1))


def test_too_many_bad_rows_are_refused_with_the_first_reasons(tmp_path: Path) -> None:
    path = write(tmp_path, [[3, 3, 3, 3], [4, 4, 4, 4], [0, 0, 2, 2], [1, 1, 2, 2]])
    with pytest.raises(ConfigError, match=r"of 4 rows .* 2 refused .* allows 1: .*row 0.*row 1"):
        open_source(config(path, 2))
    lenient = config(path, 2)
    data = lenient.data.model_copy(update={"max_refused_share": 0.5})
    source = open_source(lenient.model_copy(update={"data": data}))
    assert (source.rows.num_good, len(source.rows.refused)) == (2, 2)
