"""A byte-level BPE tokenizer of Qwen3.5's form: files as the hub has them, a few hundred tokens.

The pieces are learnt from texts that ship with scikit-learn. All 256 bytes are among them, so that
any question can be asked.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NUM_PIECES = 512  # of the vocabulary, without control tokens

# Name, and whether decoding for people leaves it out. In the order of their ids.
CONTROL_TOKENS = (
    *((f"<|{name}|>", True) for name in (
        "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start",
        "box_end", "quad_start", "quad_end", "vision_start", "vision_end", "vision_pad",
        "image_pad", "video_pad",
    )),
    ("<tool_call>", False),
    ("</tool_call>", False),
    *((f"<|{name}|>", False) for name in (
        "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep",
    )),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
)  # fmt: skip


def write_tokenizer(folder: Path, chat_template: str) -> dict[str, int]:
    """Writes tokenizer.json, tokenizer_config.json, vocab.json and merges.txt.

    Returns:
        the ids of the control tokens, by name. The others stand before them.
    """
    from tokenizers import AddedToken

    tokenizer = _learn_pieces()
    tokenizer.add_tokens(
        [AddedToken(name, special=special, normalized=False) for name, special in CONTROL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    ids = {name: tokenizer.token_to_id(name) for name, _ in CONTROL_TOKENS}
    _write(folder / "tokenizer_config.json", _settings(ids, chat_template))
    return ids


def _learn_pieces() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=NUM_PIECES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in _texts()], trainer)
    return tokenizer


def _texts() -> list[Path]:
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None, "Fix: pip install '.[quickstart]'"
    return sorted((Path(spec.origin).parent / "datasets" / "descr").glob("*.rst"))


def _settings(ids: dict[str, int], chat_template: str) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(ids[name]): {"content": name, **flags, "special": special}
            for name, special in CONTROL_TOKENS
        },
        "additional_special_tokens": [name for name, special in CONTROL_TOKENS if special][1:],
        "bos_token": None,
        "chat_template": chat_template,  # beside chat_template.jinja: it stands twice on the hub
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
