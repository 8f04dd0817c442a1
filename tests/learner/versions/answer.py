"""What a folder's tokenizer, processor and model say, in whatever transformers runs this.

answer.py FOLDER OUT.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import common.torchvision_compat  # noqa: F401

WORDS = "the cat\n<|im_end|>\u00e9"


def answer(folder: Path) -> dict[str, np.ndarray]:
    """Arrays: text of a prompt as UTF-8, token ids, pixels, logits float32 [L, V]."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    turn = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "which digit?"}],
    }
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    inputs = processor(text=[text], images=[Image.fromarray(pixels)], return_tensors="pt")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(**inputs).logits[0].float()
    return {
        "words": np.asarray(tokenizer(WORDS)["input_ids"]),
        "text": np.frombuffer(text.encode(), dtype=np.uint8),
        "input_ids": inputs["input_ids"].numpy(),
        "pixels": inputs["pixel_values"].numpy(),
        "ends": np.asarray(model.generation_config.eos_token_id).reshape(-1),
        "logits": logits.numpy(),
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **answer(Path(sys.argv[1])))
