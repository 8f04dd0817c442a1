import pytest
from pydantic import ValidationError

from common.types import Box, ImageRef, Sample

pytestmark = pytest.mark.smoke

IMAGE = ImageRef(sha256="0" * 64, path="a.png", width=4, height=3)
SAMPLE = Sample(sample_id="s", problem="<image>?", image=IMAGE, box=None, crop=IMAGE)


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (3, 0, 2, 5), (0, 5, 5, 5), (-1, 0, 5, 5)])
def test_an_empty_or_negative_box_is_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValidationError):
        Box(**dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)))


def test_records_are_frozen_and_convert_nothing() -> None:
    with pytest.raises(ValidationError):
        SAMPLE.problem = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Box.model_validate({"x1": "0", "y1": 0, "x2": 1, "y2": 1})
