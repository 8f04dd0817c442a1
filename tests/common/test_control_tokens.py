import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.control_tokens import check_plain, control_tokens, control_tokens_of_folder
from common.errors import DataError

QUICKSTART = Path(__file__).parents[2] / "deploy" / "quickstart" / "checkpoint"


def test_special_tokens_and_tags_are_control_tokens_and_words_are_not() -> None:
    added = [("<|im_end|>", True), ("<think>", False), ("[INST]", True), ("  ", False),
             ("hello", False), ("<", False), ("<>", False), ("\n\n", True)]  # fmt: skip
    assert control_tokens(added) == ("<|im_end|>", "<think>", "[INST]")


def test_a_folder_tells_what_its_tokenizer_tells() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART)
    added = [(t.content, t.special) for t in tokenizer.added_tokens_decoder.values()]
    assert control_tokens_of_folder(QUICKSTART) == control_tokens(added)
    assert {"<|image_pad|>", "<think>"} <= set(control_tokens(added))


def test_both_forms_of_files_are_read(tmp_path: Path) -> None:
    assert control_tokens_of_folder(tmp_path) == ()
    (tmp_path / "tokenizer.json").write_text("not JSON")
    decoder = {"7": {"content": "<|im_end|>", "special": True}, "8": {"content": 3}, "9": None}
    settings = {"added_tokens_decoder": decoder}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert control_tokens_of_folder(tmp_path) == ("<|im_end|>",)


@given(st.text(), st.text())
def test_a_token_is_found_wherever_it_stands(before: str, after: str) -> None:
    with pytest.raises(DataError, match=r"the question holds '<\|x\|>'.*Fix"):
        check_plain(before + "<|x|>" + after, ("<|x|>",), "the question")


def test_plain_text_passes() -> None:
    check_plain("a < b | c > d <image> im_end", ("<|im_end|>", "<think>"), "it")
