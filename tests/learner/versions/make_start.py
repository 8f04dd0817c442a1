"""Run by transformers 4.57: a tiny random model in the form that the hub's folders have.

    make_start.py FOLDER qwen3_vl|qwen2_5_vl

Vocabulary beside tokenizer.json, the template in chat_template.json and tokenizer_config.json, no
processor_config.json, weights in bfloat16, settings of generation that transformers will not save,
and one tensor that the model's class does not load.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

import common.torchvision_compat  # noqa: F401
from tests.tiny_model import SPECIAL

TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor -%}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
VISION = {
    "depth": 2, "hidden_size": 24, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32,
}  # fmt: skip


def main(folder: Path, family: str) -> None:
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(folder)
    processor = make_processor(tokenizer, family)
    processor.save_pretrained(folder)
    move_template(folder)
    torch.manual_seed(0)
    model = make_model(tokenizer, family).to(torch.bfloat16)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["mtp.fc.weight"] = torch.randn(4, 8).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if family == "qwen2_5_vl":
        name_torch_dtype(folder / "config.json")
    settings = {"eos_token_id": [tokenizer.eos_token_id], "temperature": 0.1, "top_k": 1}
    (folder / "generation_config.json").write_text(json.dumps(settings))


def make_tokenizer(folder: Path) -> transformers.Qwen2TokenizerFast:
    """Byte-level BPE of two merges, as its two files and tokenizer.json."""
    from transformers.models.qwen2.tokenization_qwen2 import bytes_to_unicode

    words = [*bytes_to_unicode().values(), "th", "the"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    merges.write_text("#version: 0.2\nt h\nth e\n")
    return transformers.Qwen2TokenizerFast(
        str(vocabulary), str(merges), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<|endoftext|>", additional_special_tokens=list(SPECIAL[1:]),
    )  # fmt: skip


def make_processor(tokenizer, family: str):
    pictures = transformers.Qwen2VLImageProcessorFast(
        patch_size=14, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 784, "longest_edge": 2**20},
    )  # fmt: skip
    if family == "qwen3_vl":
        return transformers.Qwen3VLProcessor(
            pictures, tokenizer, transformers.Qwen3VLVideoProcessor(), chat_template=TEMPLATE
        )
    return transformers.Qwen2_5_VLProcessor(
        pictures, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )


def move_template(folder: Path) -> None:
    """To where folders of that age have it."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))


def make_model(tokenizer, family: str):
    of = tokenizer.convert_tokens_to_ids
    common = {
        "image_token_id": of("<|image_pad|>"), "video_token_id": of("<|video_pad|>"),
        "vision_start_token_id": of("<|vision_start|>"),
        "vision_end_token_id": of("<|vision_end|>"), "tie_word_embeddings": True,
    }  # fmt: skip
    text = {**TEXT, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2]}
    if family == "qwen3_vl":
        text |= {"head_dim": 16, "rope_scaling": {**rope, "mrope_interleaved": True}}
        vision = {**VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **common)
        return transformers.Qwen3VLForConditionalGeneration(config)
    vision = {**VISION, "window_size": 56, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, "rope_scaling": rope, "bos_token_id": None},
        vision_config=vision, **common,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def name_torch_dtype(file: Path) -> None:
    text = file.read_text()
    assert '"dtype"' in text
    file.write_text(text.replace('"dtype"', '"torch_dtype"'))


main(Path(sys.argv[1]), sys.argv[2])
