"""How long prompts and responses are: from the data where it is here, else as published."""

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean

from common.bad_rows import BadRow
from common.config import RunConfig
from common.dataset import check_any, parsed_rows
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from deploy.planning.shape import ModelShape

TEXT_TOKENS = 60  # tokens of question and chat template
PUBLISHED_PROMPT, PUBLISHED_CROP, PUBLISHED_RESPONSE = 3400, 800, 170
LONGEST = 2.0  # length of a group's longest response over the mean
SIGMA = 0.35  # standard deviation of the logarithm of a group's longest response
_LOOKED_AT = 512


@dataclass(frozen=True)
class Workload:
    image_tokens: float  # tokens of the full picture
    prompt_tokens: float  # tokens of the student's prompt with its picture
    crop_tokens: float  # tokens of the teacher's picture
    teacher_tokens: float  # tokens of the teacher's prompt with its picture
    response_tokens: float  # mean number of tokens of a response
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
    looked = _first_samples(path)
    text = min(TEXT_TOKENS, config.model.max_prompt_tokens // 4)
    side = shape.tower.patch * shape.tower.merge
    # Processors shrink what does not fit: the prompt never exceeds its bound.
    room = config.model.max_prompt_tokens - text
    image = fmean(min(room, s.image.width * s.image.height / side**2) for s in looked)
    crop = fmean(min(room, _teacher_area(config, s) / side**2) for s in looked)
    return Workload(
        image,
        image + text,
        crop,
        crop + text,
        response,
        f"images of {path.name}, responses assumed",
    )


def _first_samples(path: Path) -> list[Sample]:
    """The first good rows; DataError if the file has none."""
    bad: list[BadRow] = []
    samples: list[Sample] = []
    for found in parsed_rows(path):
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        samples.append(found.sample)
        if len(samples) == _LOOKED_AT:
            break
    check_any(path, samples, bad)
    return samples


def _teacher_area(config: RunConfig, sample: Sample) -> float:
    """Pixels of what the teacher is shown; 0 for a sample that the run will refuse."""
    size = view_named(config.teacher.view).size(sample, ViewSettings.of(config))
    return 0.0 if size is None else size[0] * size[1]


def assumed_spread(count: int = 16) -> tuple[float, ...]:
    """Work of groups relative to its mean: even quantiles of a log-normal, shuffled by stride."""
    law = NormalDist()
    quantiles = [2.718281828 ** (SIGMA * law.inv_cdf((k + 0.5) / count)) for k in range(count)]
    mean = fmean(quantiles)
    return tuple(quantiles[(7 * k) % count] / mean for k in range(count))
