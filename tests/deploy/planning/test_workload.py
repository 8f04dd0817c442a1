from collections.abc import Iterator
from itertools import count

import pytest

from common.config_cli import build
from common.dataset import Numbered
from common.types import Box, ImageRef, Sample
from deploy.planning import workload
from tests.deploy.planning.shapes import SHAPE


def endless(path: object) -> Iterator[Numbered]:
    for number in count():
        image = ImageRef(sha256="0" * 64, path="x", width=8, height=8)
        box = Box(x1=0, y1=0, x2=4, y2=4)
        sample = Sample(sample_id=str(number), problem="<image>", image=image, box=box, crop=None)
        yield Numbered(number, sample)


def test_the_first_rows_are_enough_of_any_data_set(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "parsed_rows", endless)
    train = tmp_path / "train.parquet"
    train.touch()
    found = workload.workload_of(build({"data": {"train": train}}), SHAPE)
    assert found.source.startswith("images of train.parquet")
    assert found.prompt_tokens > found.image_tokens > 0
