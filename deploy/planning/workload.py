"""How long prompts and responses are: from the data where it is here, else as published."""

from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist, fmean

from common.config import RunConfig
from common.dataset import read_samples
from common.types import Sample
from deploy.planning.shape import ModelShape

TEXT_TOKENS = 60  # of question and chat template
PUBLISHED_PROMPT, PUBLISHED_CROP, PUBLISHED_RESPONSE = 3400, 800, 170
LONGEST = 2.0  # the longest of a group's responses over their mean
SIGMA = 0.35  # of the logarithm of a group's longest response
_LOOKED_AT = 512


@dataclass(frozen=True)
class Workload:
    image_tokens: float  # of the full picture
    prompt_tokens: float  # with it
    crop_tokens: float  # of the teacher's picture
    teacher_tokens: float  # of its prompt
    response_tokens: float  # mean
    source: str


def workload_of(config: RunConfig, shape: ModelShape) -> Workload:
    response = min(PUBLISHED_RESPONSE, 0.6 * config.rollout.max_response_tokens)
    path = config.data.train
    if path is None or not path.is_file():
        return Workload(
            PUBLISHED_PROMPT - TEXT_TOKENS,
            PUBLISHED_PROMPT,
            PUBLISHED_CROP - TEXT_TOKENS,
            PUBLISHED_CROP,
            response,
            "lengths of the published run (no data.train here)",
        )
    samples, _ = read_samples(path)
    text = min(TEXT_TOKENS, config.model.max_prompt_tokens // 4)
    side = shape.tower.patch * shape.tower.merge
    # Processors shrink what does not fit: the prompt never exceeds its bound.
    room = config.model.max_prompt_tokens - text
    looked = list(islice(samples, _LOOKED_AT))
    image = fmean(min(room, s.image.width * s.image.height / side**2) for s in looked)
    is_full = config.teacher.view in ("full", "answer_hint")
    crop = image if is_full else fmean(min(room, _crop_area(config, s) / side**2) for s in looked)
    return Workload(
        image,
        image + text,
        crop,
        crop + text,
        response,
        f"images of {path.name}, responses assumed",
    )


def _crop_area(config: RunConfig, sample: Sample) -> float:
    """Pixels of what the teacher sees."""
    if sample.crop is not None:
        return sample.crop.width * sample.crop.height
    assert sample.box is not None, sample.sample_id  # the dataset's reader has seen to it
    grown = 1 + 2 * config.teacher.crop_margin
    width = min(sample.image.width, (sample.box.x2 - sample.box.x1) * grown)
    height = min(sample.image.height, (sample.box.y2 - sample.box.y1) * grown)
    return width * height * config.teacher.crop_scale**2


def assumed_spread(count: int = 16) -> tuple[float, ...]:
    """Work of groups relative to its mean: even quantiles of a log-normal, shuffled by stride."""
    law = NormalDist()
    quantiles = [2.718281828 ** (SIGMA * law.inv_cdf((k + 0.5) / count)) for k in range(count)]
    mean = fmean(quantiles)
    return tuple(quantiles[(7 * k) % count] / mean for k in range(count))
