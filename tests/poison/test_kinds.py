"""Every kind of row through the real reading, and those that pass through the real renderer."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from common.bad_rows import BadRow
from common.config import DataSection, ModelSection, RunConfig
from common.dataset import read_answers
from common.errors import DataError
from common.images import ImageStore
from common.reading import Reading, read_checked
from common.rendering import Renderer
from common.types import Sample
from common.views.settings import ViewSettings
from learner.views.renderer import ViewRenderer, ViewRequest
from rollout.engine_views import EngineViews
from tests.poison.kinds import KINDS, MAX_MEGAPIXELS, MAX_PROMPT_TOKENS, Kind, Outcome, build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
CHECKPOINT = Path(__file__).resolve().parents[2] / "deploy/quickstart/checkpoint"
NUM_HEALTHY = 3
SETTINGS = ViewSettings.of(RunConfig())


class Everything(NamedTuple):
    reading: Reading
    samples: dict[str, Sample]  # by sample_id
    bad: dict[int, BadRow]  # by row
    images: ImageStore
    renderer: Renderer
    views: ViewRenderer


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    train = build(tmp_path_factory.mktemp("poison"), NUM_HEALTHY).train
    config = RunConfig(
        data=DataSection(train=train, max_picture_megapixels=MAX_MEGAPIXELS),
        model=ModelSection(path=str(CHECKPOINT), max_prompt_tokens=MAX_PROMPT_TOKENS),
    )
    reading = read_checked(config, train)
    images, renderer = ImageStore(train.parent), Renderer(str(CHECKPOINT))
    yield Everything(
        reading,
        {sample.sample_id: sample for sample in reading.samples},
        {bad.row: bad for bad in reading.bad_rows},
        images,
        renderer,
        ViewRenderer(renderer, images, SETTINGS, None),
    )


def test_there_are_kinds_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(KINDS) >= 100 and len({kind.name for kind in KINDS}) == len(KINDS)


def test_every_row_is_a_sample_or_a_bad_row(everything: Everything) -> None:
    reading = everything.reading
    assert reading.num_rows == len(KINDS) + NUM_HEALTHY
    assert len(reading.samples) + len(reading.bad_rows) == reading.num_rows
    assert len(everything.bad) == len(reading.bad_rows)
    assert {f"healthy {number}" for number in range(NUM_HEALTHY)} <= set(everything.samples)
    assert [bad.row for bad in reading.bad_rows] == sorted(everything.bad)
    assert set(read_answers(reading.path)) >= set(everything.samples)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_becomes_of_a_row(everything: Everything, kind: Kind) -> None:
    outcome, reason = _outcome(everything, kind)
    assert (outcome, kind.reason in reason) == (kind.outcome, True), reason
    assert "\n" not in reason and len(reason) < 700


def _outcome(everything: Everything, kind: Kind) -> tuple[Outcome, str]:
    """What the processes of a run would make of it, one after the other, and why."""
    bad = everything.bad.get(KINDS.index(kind))
    if bad is not None:
        assert ". Fix: " in bad.reason
        return Outcome.AT_READING, bad.reason
    sample = everything.samples[kind.name]
    try:
        content = everything.images.read_bytes(sample.image)
        EngineViews(everything.renderer, SETTINGS).make(sample, "full", 0, content)
        tokens = everything.renderer.prompt_token_ids(sample.problem)
    except DataError as error:
        return Outcome.AT_ROLLOUT, str(error)
    assert len(tokens) > 0
    requests = [ViewRequest(kind=view, sample=sample, seed=0) for view in ("student", "teacher")]
    for view in everything.views.render(requests):
        if isinstance(view, DataError):
            return Outcome.BY_LEARNER, str(view)
    return Outcome.TRAINED, ""
