"""A tiny dataset of random pictures, and groups of random responses, for tests."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from common.config import RunConfig
from common.group import Group, Responses, Trajectory, VersionSpan
from common.images import ImageStore
from common.rendering import Renderer
from common.types import FinishReason, Sample
from common.views.settings import ViewSettings
from common.views.showing import record_of
from tests.tiny_model import PROBLEM

SETTINGS = ViewSettings.of(RunConfig())

SIZES = ((64, 48), (48, 48), (64, 64))
BOX = [8, 8, 24, 24]


def make_dataset(folder: Path, num_samples: int, seed: int = 0) -> Path:
    """Writes pictures of several sizes and samples.parquet, which it returns."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(num_samples):
        width, height = SIZES[number % len(SIZES)]
        name = f"images/{number}.png"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        rows.append(
            {
                "sample_id": f"s{number}",
                "problem": PROBLEM,
                "image": name,
                "image_sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "width": width,
                "height": height,
                "box": BOX,
                "answer": str(number % 10),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    return folder / "samples.parquet"


def make_group(
    sample: Sample,
    renderer: Renderer,
    images: ImageStore,
    group_id: str,
    lengths: Sequence[int],
    version: int = 0,
    seed: int = 0,
) -> Group:
    """Random digits as responses, with made-up rollout log-probs."""
    rng = np.random.default_rng(seed)
    digits = [renderer.tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]
    prompt = renderer.prompt(sample.problem, images.open(sample.image))
    return Group(
        group_id=group_id,
        attempt=0,
        sample_id=sample.sample_id,
        view=record_of("full", SETTINGS, 0, prompt.sha256),
        prompt_token_ids=renderer.prompt_token_ids(sample.problem),
        num_prompt_tokens=len(prompt.input_ids),
        responses=Responses.of(
            tuple(
                Trajectory(
                    index=index,
                    response_token_ids=rng.choice(digits, length).astype(np.int32),
                    rollout_logprobs=-rng.exponential(3.0, length).astype(np.float32),
                    version_spans=(VersionSpan(version=version, start=0, end=length),),
                    cache_version=version,
                    finish_reason=FinishReason.STOP,
                )
                for index, length in enumerate(lengths)
            )
        ),
    )
