"""The rehearsal's material: what it makes is what its names say."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from common.dataset import read_samples
from common.images import ImageStore
from common.prepare.published_command import prepare_published
from common.rendering import Renderer
from common.weight_dtypes import is_stored_in_float32
from tests.plain_pixels import plain_pixel_values
from tests.rehearsal.checkpoint import INDEX, make_checkpoint
from tests.rehearsal.photographs import (
    KINDS,
    MEGAPIXELS,
    NUM_BAD_ROWS,
    cmyk,
    grey,
    make_published_folder,
    progressive,
    turned,
)
from tests.rehearsal.tokens import CONTROL_TOKENS

NUM_ROWS = len(KINDS)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published_folder(tmp_path_factory.mktemp("published"), NUM_ROWS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


# ---- photographs ---------------------------------------------------------------------------------
def test_rows_are_of_the_published_form(published: Path) -> None:
    found = rows(published)
    assert len(found) == NUM_ROWS + NUM_BAD_ROWS
    for row in found[:NUM_ROWS]:
        assert list(row) == ["images", "teacher_images", "original_images", "bbox", "problem",
                             "answer", "extra_info"]  # fmt: skip
        assert row["problem"].startswith("<image>\n") and "red box" in row["problem"]
        assert row["answer"] in "ABCD"


def test_pictures_are_photographs_of_about_a_megapixel_with_a_red_box(published: Path) -> None:
    for number, row in enumerate(rows(published)[:NUM_ROWS]):
        marked, clean, crop = (
            np.asarray(
                ImageOps.exif_transpose(Image.open(published / row[field][0])).convert("RGB")
            )
            for field in ("images", "original_images", "teacher_images")
        )
        assert MEGAPIXELS[0] - 0.01 <= marked[..., 0].size / 1e6 <= MEGAPIXELS[1] + 0.01
        x1, y1, x2, y2 = row["bbox"]
        assert crop.shape == (2 * (y2 - y1), 2 * (x2 - x1), 3)
        difference = np.abs(marked.astype(int) - clean).max(-1)
        ys, xs = np.nonzero(difference > 60)
        assert len(xs) > 100, number  # a line is there, where the box is
        assert x1 - 16 <= xs.min() and xs.max() <= x2 + 16
        assert y1 - 16 <= ys.min() and ys.max() <= y2 + 16


@pytest.mark.parametrize(
    ("encode", "mode", "key"),
    [(progressive, "RGB", "progressive"), (grey, "L", None), (cmyk, "CMYK", None)],
)
def test_kinds_of_jpeg_are_what_they_are_called(encode, mode: str, key: str | None) -> None:
    content = encode(Image.radial_gradient("L").convert("RGB"))
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", mode)
        assert key is None or picture.info[key]


def test_a_turned_one_is_stored_on_its_side_and_seen_upright() -> None:
    picture = Image.linear_gradient("L").resize((64, 32)).convert("RGB")
    with Image.open(io.BytesIO(turned(picture))) as stored:
        assert stored.size == (32, 64)
        seen = ImageOps.exif_transpose(stored)
    assert seen.size == (64, 32)
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(picture)).mean() < 3


def test_the_converter_takes_the_good_rows_and_names_the_bad_ones(
    published: Path, tmp_path: Path
) -> None:
    prepared = prepare_published(published, tmp_path / "out")
    assert prepared.num_rows == NUM_ROWS
    missing, cut = (tmp_path / "out/left_out.txt").read_text().splitlines()
    assert "there is no such file" in missing and "truncated" in cut
    samples, problems = read_samples(tmp_path / "out" / "train.parquet")
    assert problems == []
    images = ImageStore(tmp_path / "out")
    for sample in samples:
        images.open(sample.image)
        assert sample.crop is not None
        images.open(sample.crop)


def test_the_same_seed_gives_the_same_files(published: Path, tmp_path: Path) -> None:
    again = make_published_folder(tmp_path, 2)
    for name in ("images/0000.jpg", "teacher_images/0001.jpg"):
        assert (again / name).read_bytes() == (published / name).read_bytes()


# ---- checkpoint ----------------------------------------------------------------------------------
def weights(folder: Path) -> dict[str, torch.Tensor]:
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    assert len(set(places.values())) == 2
    parts = {file: load_file(folder / file) for file in set(places.values())}
    assert sum(map(len, parts.values())) == len(places)
    return {name: parts[file][name] for name, file in places.items()}


def test_weights_are_bfloat16_but_for_those_that_files_hold_in_float32(checkpoint: Path) -> None:
    found = weights(checkpoint)
    exact = {name: t for name, t in found.items() if is_stored_in_float32(name)}
    assert len(exact) == 2 * 3  # A_log and the gated norm of three layers
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name in exact else torch.bfloat16), name
    for name, tensor in exact.items():
        assert not torch.equal(tensor, tensor.bfloat16().float()), name


def test_the_head_is_tied_and_a_prediction_head_is_there(checkpoint: Path) -> None:
    found = weights(checkpoint)
    assert "lm_head.weight" not in found
    assert {"mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.mlp.up_proj.weight"} <= found.keys()


def test_transformers_loads_it_with_nothing_missing_and_nothing_unexpected(
    checkpoint: Path,
) -> None:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=torch.bfloat16, output_loading_info=True
    )
    assert type(model).__name__ == "Qwen3_5ForConditionalGeneration"
    assert not any(info.values()), info


def test_any_text_survives_the_tokenizer_and_control_tokens_are_one_token_each(
    checkpoint: Path,
) -> None:
    tokenizer = Renderer(str(checkpoint)).tokenizer
    text = "Wie viele? \u00e9\u4e2d\U0001f600\n\n 12.5 %"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for name, special in CONTROL_TOKENS:
        (token,) = tokenizer(name)["input_ids"]
        assert (token in tokenizer.all_special_ids) == special or name == "<|endoftext|>"


def test_the_template_thinks_unless_it_is_told_not_to(checkpoint: Path) -> None:
    tokenizer = Renderer(str(checkpoint)).tokenizer
    asked = [{"role": "user", "content": "Hello"}]
    for options, end in (
        ({}, "<|im_start|>assistant\n<think>\n"),
        ({"enable_thinking": True}, "<|im_start|>assistant\n<think>\n"),
        ({"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ):
        text = tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True, **options
        )
        assert text == f"<|im_start|>user\nHello<|im_end|>\n{end}"


def test_the_picture_decides_what_is_said_next(checkpoint: Path, published: Path) -> None:
    from transformers import AutoModelForImageTextToText

    renderer = Renderer(str(checkpoint))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    laws = []
    for row in rows(published)[:2]:
        picture = Image.open(published / row["images"][0]).convert("RGB").resize((512, 512))
        prompt = renderer.prompt("<image>\nWhat?", picture)
        with torch.no_grad():
            logits = model(
                input_ids=torch.from_numpy(prompt.input_ids)[None],
                mm_token_type_ids=torch.from_numpy(prompt.mm_token_type_ids)[None],
                pixel_values=torch.from_numpy(plain_pixel_values(renderer, prompt)),
                image_grid_thw=torch.from_numpy(prompt.image_grid_thw),
            ).logits[0, -1]
        laws.append(logits.log_softmax(-1))
    assert laws[0].exp().topk(100).values.sum() < 0.95  # not degenerate
    assert (laws[0] - laws[1]).abs().mean() > 0.1
