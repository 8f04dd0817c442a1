"""Prompts and pictures as every part of a run makes them, on a checkpoint of the project's form.

Holds common/chat_template.py.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import PromptSection
from common.errors import ConfigError, DataError
from common.pictures import decode_picture, encode_png
from common.rendering import Renderer
from common.views.showing import Shown
from tests.tiny_model import PROBLEM, make_tiny_checkpoint

HEAD = "<|im_start|> assistant"
THINKS_UNLESS_TOLD = (
    "{% if add_generation_prompt %}<|im_start|> assistant "
    "{% if enable_thinking is defined and enable_thinking is false %}<think> </think> "
    "{% else %}<think> {% endif %}{% endif %}"
)
THINKS_IF_TOLD = (
    "{% if add_generation_prompt %}<|im_start|> assistant "
    "{% if enable_thinking is defined and enable_thinking is true %}<think> "
    "{% else %}<think> </think> {% endif %}{% endif %}"
)
ALWAYS_THINKS = (
    "{# enable_thinking is read nowhere #}"
    "{% if add_generation_prompt %}<|im_start|> assistant <think> {% endif %}"
)
NEVER_THINKS = "{% if add_generation_prompt %}<|im_start|> assistant <think> </think> {% endif %}"
KNOWS_NOTHING = "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
TURN = (
    "{%- for message in messages -%}<|im_start|> {{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|> <|image_pad|> <|vision_end|> {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}<|im_end|> {% endfor -%}"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def with_template(checkpoint, tmp_path):
    """A copy of the checkpoint with another end of its template."""

    def make(end: str, turn: str = TURN) -> str:
        folder = tmp_path / "model"
        shutil.copytree(checkpoint, folder)
        (folder / "chat_template.jinja").write_text(turn + end)
        return str(folder)

    return make


# ---- thinking ------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", [THINKS_UNLESS_TOLD, THINKS_IF_TOLD, NEVER_THINKS])
def test_by_default_the_think_block_is_empty(with_template, end: str) -> None:
    assert Renderer(with_template(end)).text(PROBLEM).endswith(f"{HEAD} <think> </think> ")


def test_a_template_without_thinking_is_left_alone(with_template) -> None:
    assert Renderer(with_template(KNOWS_NOTHING)).text(PROBLEM).endswith(f"{HEAD} ")


@pytest.mark.parametrize("end", [THINKS_UNLESS_TOLD, THINKS_IF_TOLD, ALWAYS_THINKS])
def test_thinking_can_be_asked_for(with_template, end: str) -> None:
    renderer = Renderer(with_template(end), PromptSection(thinking=True))
    assert renderer.text(PROBLEM).endswith(f"{HEAD} <think> ")


def test_a_template_that_always_thinks_is_refused(with_template) -> None:
    with pytest.raises(ConfigError, match=r"opens a think block whatever .*prompt\.chat_template"):
        Renderer(with_template(ALWAYS_THINKS))


@pytest.mark.parametrize(
    ("end", "reason"), [(NEVER_THINKS, "closes the think"), (KNOWS_NOTHING, "knows no thinking")]
)
def test_thinking_that_a_template_cannot_do_is_refused(with_template, end, reason) -> None:
    with pytest.raises(ConfigError, match=rf"prompt\.thinking = true.*{reason}.*Fix"):
        Renderer(with_template(end), PromptSection(thinking=True))


def test_the_switch_is_given_to_templates_that_name_it_alone(with_template, caplog) -> None:
    """transformers logs a line for each call with a keyword that the template does not name."""
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        Renderer(with_template(KNOWS_NOTHING)).text(PROBLEM)
    finally:
        logging.disable_propagation()
    assert "enable_thinking" not in caplog.text


# ---- templates -----------------------------------------------------------------------------------
def test_another_template_takes_the_place_of_the_checkpoints(checkpoint, tmp_path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("Mine: " + TURN + NEVER_THINKS)
    renderer = Renderer(str(checkpoint), PromptSection(chat_template=file))
    assert renderer.text(PROBLEM).startswith("Mine:")


def test_a_template_that_is_not_there_is_a_config_error(checkpoint, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"chat template .*none\.jinja.*prompt\.chat_template"):
        Renderer(str(checkpoint), PromptSection(chat_template=tmp_path / "none.jinja"))


def test_a_base_model_without_template_is_refused(with_template) -> None:
    folder = Path(with_template(""))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template: is it a base model"):
        Renderer(str(folder))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "puts 0"),
        ("{{ raise_exception('no pictures here') }}", "no pictures here"),
        ("{% if %}", "cannot render"),
    ],
)
def test_a_template_that_knows_no_pictures_is_refused(with_template, turn, reason) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*Fix"):
        Renderer(with_template(NEVER_THINKS, turn))


def test_a_folder_without_processor_is_a_config_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path = .* has no usable processor"):
        Renderer(str(tmp_path))


# ---- a person's text -----------------------------------------------------------------------------
@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|video_pad|>"])
def test_control_tokens_in_a_question_are_refused_by_name(checkpoint, token: str) -> None:
    renderer = Renderer(str(checkpoint))
    assert token in renderer.control_tokens
    with pytest.raises(DataError, match=r"holds '<\|.*control token.*Fix"):
        renderer.text(f"<image>which {token} digit")


def test_the_ends_of_a_response_are_those_of_all_three_files(checkpoint, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    own = Renderer(str(folder)).tokenizer.eos_token_id
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [0]}))
    assert Renderer(str(folder)).end_token_ids == sorted({0, own})
    (folder / "generation_config.json").unlink()
    assert Renderer(str(folder)).end_token_ids == [own]


# ---- pictures ------------------------------------------------------------------------------------
def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    small = rng.integers(0, 256, (max(1, height // 7), max(1, width // 7), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 48), (317, 211), (50, 1000), (1, 1), (1300, 1100), (16, 16)])
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_fitting_changes_nothing_of_what_the_processor_makes(checkpoint, size, backend) -> None:
    from transformers import AutoImageProcessor

    renderer = Renderer(str(checkpoint))
    renderer._sizes._processor = AutoImageProcessor.from_pretrained(checkpoint, backend=backend)
    picture = photograph(*size)
    fitted = renderer.fitted(picture)
    plain = renderer._sizes._processor(images=[picture], return_tensors="np")
    again = renderer._sizes._processor(images=[fitted], return_tensors="np")
    assert np.array_equal(plain["image_grid_thw"], again["image_grid_thw"])
    assert np.array_equal(plain["pixel_values"], again["pixel_values"])
    assert renderer.fitted(fitted) is fitted


def test_an_engine_is_given_the_pixels_of_the_prompt(checkpoint) -> None:
    renderer = Renderer(str(checkpoint))
    content = io.BytesIO()
    photograph(317, 211).save(content, "JPEG")
    with Image.open(content) as opened:
        shown = Shown(opened.convert("RGB"), "<image>?")
    image, sha256 = renderer.engine_image(shown, content.getvalue())
    assert sha256 == renderer.prompt("<image>?", shown.picture).sha256
    seen = Image.open(io.BytesIO(image))
    assert (seen.format, seen.mode) == ("PNG", "RGB")
    ours = renderer.fitted(Image.open(content).convert("RGB"))
    assert np.array_equal(np.asarray(seen), np.asarray(ours))


def test_an_engine_is_given_a_plain_file_as_it_is(checkpoint) -> None:
    content = encode_png(photograph(64, 48))
    shown = Shown(decode_picture(content, "p.png"), "<image>?")
    assert Renderer(str(checkpoint)).engine_image(shown, content)[0] is content
    image, _ = Renderer(str(checkpoint)).engine_image(shown)  # of pixels that no file has
    assert Image.open(io.BytesIO(image)).tobytes() == shown.picture.tobytes()


@pytest.mark.parametrize("size", [(10, 3000), (8010, 40)])
def test_an_extreme_shape_is_that_pictures_fault(checkpoint, size) -> None:
    with pytest.raises(DataError, match="Fix: cut it to a less extreme shape"):
        Renderer(str(checkpoint)).fitted(Image.new("RGB", size))
