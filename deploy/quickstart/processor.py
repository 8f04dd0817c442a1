"""Tokenizer, chat template and image processor of the quickstart, after Qwen's conventions.

Special tokens, vision placeholders and the empty think block of the generation prompt are Qwen's,
so the code that trains this world is the code that trains a real checkpoint. The vocabulary is a
few dozen words.
"""

from pathlib import Path
from typing import Any

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from deploy.quickstart.scenes import COLORS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINK_TOKENS = ("<think>", "</think>")
UNKNOWN = "<unk>"
# As in Qwen's vocabularies a word carries the space before it, so decoding only concatenates.
WORDS = (
    *("\n", "\n\n", "user", "assistant", "system", ".", "?", ","),
    *("Which", " digit", " is", " on", " the", " tag", "The", " shows"),
    *(f" {color}" for color in COLORS),
    *(f" {digit}" for digit in range(10)),
)
_PIECE = r"\n\n|\n| ?[^\s.,?]+|[.,?]| "
_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
PATCH = 8  # pixels
MERGE = 2  # patches a side that become one image token: 16 px


def make_processor() -> Any:
    """A Qwen3VLProcessor with a word-level tokenizer of this world's few words."""
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 2**20}
    half = [0.5, 0.5, 0.5]
    layout = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            size=pixels, image_mean=half, image_std=half, **layout
        ),
        tokenizer=_make_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(
            size=pixels, image_mean=half, image_std=half, **layout
        ),
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
    )


def _make_tokenizer() -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = (*SPECIAL_TOKENS, *THINK_TOKENS, UNKNOWN, *WORDS)
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=list(SPECIAL_TOKENS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
