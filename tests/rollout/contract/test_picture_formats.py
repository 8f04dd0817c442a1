"""Whatever file a sample's picture is: the engine's pixels and log-probs are the learner's.

    pytest -m sglang -rP tests/rollout/contract/test_picture_formats.py

prints a line a format: the largest difference in log-probs, and whether the pixels are the same.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from common.images import picture_of
from common.pictures import decode_picture, encode_png
from common.types import ImageRef
from common.views.showing import Shown
from rollout.engine import GroupRequest
from rollout.http_engine import generate_body
from tests.picture_files import KINDS, picture_file
from tests.plain_pixels import pixel_digest, plain_pixel_values
from tests.rollout.support import reference_logprobs
from tests.tiny_model import PROBLEM

SIZES = {"resized": (197, 131), "as it is": (96, 64)}


@pytest.fixture
def ask(api, renderer):
    """Two responses to a picture file, as the worker asks for them."""

    async def send(content: bytes, ref: ImageRef):
        shown = Shown(picture_of(ref, content), PROBLEM)
        request = GroupRequest(
            prompt_token_ids=renderer.prompt_token_ids(PROBLEM),
            images=(renderer.engine_image(shown, content)[0],),
            num_trajectories=2, temperature=1.0, top_p=1.0, top_k=-1, max_response_tokens=6,
            banned_token_ids=tuple(renderer.vision_token_ids),
            end_token_ids=tuple(renderer.end_token_ids), seed=None,
        )  # fmt: skip
        return await api.ok("/generate", generate_body(request, "formats"))

    return send


@pytest.fixture
def difference(model, renderer):
    """The largest of an answer's log-probs from the learner's, were it shown `picture`."""

    def of(answer: dict, picture: Image.Image) -> float:
        expected = reference_logprobs(
            model, renderer, encode_png(picture), answer["output_ids"],
            banned=tuple(renderer.vision_token_ids),
        )  # fmt: skip
        found = [pair[0] for pair in answer["meta_info"]["output_token_logprobs"]]
        return float(np.abs(np.array(found) - expected).max())

    return of


@pytest.mark.parametrize("kind", KINDS)
async def test_the_engine_sees_the_learners_pixels(ask, difference, served, renderer, kind):
    for what, (width, height) in SIZES.items():
        file = picture_file(kind, width, height)
        ref = ImageRef(sha256="0" * 64, path=kind, width=width, height=height)
        answers = await ask(file, ref)
        picture = decode_picture(file, kind)
        prompt = renderer.prompt(PROBLEM, picture)
        assert {a["meta_info"]["prompt_tokens"] for a in answers} == {len(prompt.input_ids)}
        if served.pixel_log is not None:
            seen = json.loads(served.pixel_log.read_text().splitlines()[-1])
            assert seen["sha256"] == pixel_digest(plain_pixel_values(renderer, prompt))
            assert seen["grid"] == prompt.image_grid_thw[0].tolist()
        worst = max(difference(answer, picture) for answer in answers)
        print(f"{kind:26} {what:10} same pixels, log-probs {worst:.1e} apart")
        assert worst < 5e-5


async def test_the_stored_pixels_of_a_turned_file_would_be_others(ask, difference):
    """What an engine would make of the file itself: the difference that the test above can see."""
    content = picture_file("jpeg turned 3", 96, 64)
    as_stored = Image.open(io.BytesIO(content)).convert("RGB")
    ref = ImageRef(sha256="0" * 64, path="p", width=96, height=64)
    answers = await ask(encode_png(as_stored), ref)
    assert difference(answers[0], as_stored) < 5e-5
    assert difference(answers[0], decode_picture(content, "p")) > 1e-3
