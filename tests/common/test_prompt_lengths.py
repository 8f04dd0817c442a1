"""Sizes and lengths counted from files are those of transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import PromptSection
from common.errors import DataError
from common.picture_grid import PictureGrid, grid_of_folder
from common.prompt_lengths import lengths_of_folder
from common.rendering import Renderer
from tests.rehearsal.checkpoint import make_checkpoint
from tests.tiny_model import FAMILIES, PROBLEM, make_tiny_checkpoint

CHECKPOINT = Path(__file__).resolve().parents[2] / "deploy/quickstart/checkpoint"
PROBLEMS = (
    PROBLEM,
    "<image>",
    "which <image> digit is on the red tag ?",
    "<image>\n\nWas für eine Ziffer?  数字 ",
)
SIZES = ((128, 128), (400, 30), (700, 500), (1, 1), (35, 1990))
side = st.integers(1, 20_000)


@given(side, side, st.sampled_from([16, 28, 32]), st.sampled_from([(256, 2**20), (3136, 802816)]))
def test_a_size_is_that_of_the_processor(
    width: int, height: int, unit: int, area: tuple[int, int]
) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    least, most = area
    try:
        height_then, width_then = smart_resize(height, width, unit, least, most)
    except ValueError:
        with pytest.raises(DataError, match=r"200 times the other\. Fix"):
            PictureGrid(unit, least, most).size_of(width, height)
        return
    try:
        again = smart_resize(height_then, width_then, unit, least, most)
    except ValueError:
        again = None
    grid = PictureGrid(unit, least, most)
    if again != (height_then, width_then):
        with pytest.raises(DataError, match="leaves alone"):
            grid.size_of(width, height)
        return
    assert grid.size_of(width, height) == (width_then, height_then)
    assert grid.tokens_of(width, height) * unit**2 == width_then * height_then


@given(side, side, st.sampled_from([16, 28]), st.sampled_from([(512, 2**21), (12544, 9633792)]))
def test_a_size_is_that_of_glms_processor(
    width: int, height: int, unit: int, area: tuple[int, int]
) -> None:
    from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

    def asked(width: int, height: int) -> tuple[int, int]:
        found = smart_resize(2, height, width, 2, unit, *area)
        return found[1], found[0]

    grid = PictureGrid(unit, *area, frames=2, is_glm=True)
    try:
        expected = asked(width, height)
        is_left_alone = asked(*expected) == expected
    except ValueError:
        is_left_alone = False
    if is_left_alone and max(width, height) <= 200 * min(width, height):
        assert grid.size_of(width, height) == expected
        return
    with pytest.raises(DataError, match="Fix: cut it"):
        grid.size_of(width, height)


@pytest.fixture(scope="module", params=["quickstart", *FAMILIES])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "quickstart":
        return CHECKPOINT
    if request.param == "qwen3_5":  # transformers splits words by its own rule, not by the file's
        return make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), family=request.param)


def test_a_length_is_that_of_the_rendered_prompt(folder: Path) -> None:
    lengths, renderer = lengths_of_folder(folder, PromptSection()), Renderer(str(folder))
    assert lengths is not None
    for problem in PROBLEMS:
        for width, height in SIZES:
            prompt = renderer.prompt(problem, Image.new("RGB", (width, height)))
            tokens = len(prompt.input_ids)
            assert lengths.over(tokens - 1, problem, width, height) == tokens
            assert lengths.over(tokens, problem, width, height) is None


def test_the_template_that_is_configured_counts(tmp_path: Path) -> None:
    template = (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8")
    (tmp_path / "long.jinja").write_text("which " * 50 + template, encoding="utf-8")
    prompt = PromptSection(chat_template=tmp_path / "long.jinja")
    plain = lengths_of_folder(CHECKPOINT, PromptSection())
    long = lengths_of_folder(CHECKPOINT, prompt)
    assert plain is not None and long is not None
    tokens = plain.over(1, PROBLEM, 64, 64)
    rendered = Renderer(str(CHECKPOINT), prompt).prompt(PROBLEM, Image.new("RGB", (64, 64)))
    assert tokens is not None and long.over(1, PROBLEM, 64, 64) == len(rendered.input_ids) > tokens


@pytest.mark.parametrize(
    "broken", ["processor_config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_files_of_no_use_cost_the_count_alone(tmp_path: Path, broken: str) -> None:
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((CHECKPOINT / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes(
        (CHECKPOINT / "chat_template.jinja").read_bytes()
    )
    assert lengths_of_folder(tmp_path, PromptSection()) is not None
    (tmp_path / broken).write_text("{% no such thing %}", encoding="utf-8")
    assert lengths_of_folder(tmp_path, PromptSection()) is None
    assert lengths_of_folder(Path("Organisation/Name"), PromptSection()) is None


def test_limits_of_pixels_come_first_where_both_are_given(tmp_path: Path) -> None:
    """Transformers has it so: min_pixels and max_pixels override size."""
    size = {"shortest_edge": 1, "longest_edge": 2}
    settings = {"patch_size": 16, "merge_size": 2, "size": size}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert grid_of_folder(tmp_path) == PictureGrid(32, 1, 2)
    file.write_text(json.dumps(settings | {"max_pixels": 9, "min_pixels": 4}), encoding="utf-8")
    assert grid_of_folder(tmp_path) == PictureGrid(32, 4, 9)
    file.write_text(json.dumps(settings | {"patch_size": None}), encoding="utf-8")
    assert grid_of_folder(tmp_path) is None


def test_counting_needs_no_transformers() -> None:
    code = (
        "import sys; from pathlib import Path; from common.config import PromptSection;"
        "from common.prompt_lengths import lengths_of_folder;"
        f"lengths = lengths_of_folder(Path({str(CHECKPOINT)!r}), PromptSection());"
        "assert lengths.over(1, '<image>which ?', 64, 64) > 1;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
