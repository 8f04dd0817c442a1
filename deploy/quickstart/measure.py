"""How well a checkpoint folder reads held-out scenes, loaded as a user would load it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from deploy.quickstart.dataset import scenes_of
from deploy.quickstart.scenes import CROP_SIDE, Scene, answer, crop_box, question

BATCH = 50  # scenes


@dataclass(frozen=True)
class Reading:
    full: float  # share of questions answered exactly right from the full image
    crop: float  # from the evidence crop, same questions
    scenes: int


def measure_checkpoint(folder: Path, num_scenes: int, seed: int = 0) -> Reading:
    """Greedy answers to the first held-out scenes of a seed, compared word for word."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scenes = scenes_of("heldout", num_scenes, seed)
    full = crop = 0
    for start in range(0, num_scenes, BATCH):
        part = scenes[start : start + BATCH]
        full += _num_right(model, processor, part, [Image.fromarray(s.pixels) for s in part])
        crop += _num_right(model, processor, part, [_crop(s) for s in part])
    return Reading(full / num_scenes, crop / num_scenes, num_scenes)


def answers(
    model: Any, processor: Any, colors: list[str], pictures: list[Image.Image]
) -> list[str]:
    """Greedy answers, one a picture; the pictures must have one size."""
    texts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        {"type": "text", "text": f"\n{question(color)}"},
                    ],
                }
            ],
            add_generation_prompt=True,
        )
        for color in colors
    ]
    inputs = processor(text=texts, images=pictures, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, temperature=None, max_new_tokens=12)
    replies: list[str] = processor.tokenizer.batch_decode(
        out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return replies


def _num_right(model: Any, processor: Any, scenes: list[Scene], pictures: list[Image.Image]) -> int:
    replies = answers(model, processor, [s.evidence.color for s in scenes], pictures)
    return sum(r == answer(s.evidence) for r, s in zip(replies, scenes, strict=True))


def _crop(scene: Scene) -> Image.Image:
    return Image.fromarray(scene.pixels).crop(
        crop_box(scene.evidence, CROP_SIDE, scene.pixels.shape[0])
    )
