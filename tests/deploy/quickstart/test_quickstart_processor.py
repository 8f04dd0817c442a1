import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deploy.quickstart.pixels import pixel_batch
from deploy.quickstart.processor import SPECIAL_TOKENS, UNKNOWN, WORDS, make_processor
from deploy.quickstart.scenes import COLORS, Tag, answer, question

PROCESSOR = make_processor()
TOKENIZER = PROCESSOR.tokenizer


def rendered(problem: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": problem}]
    return PROCESSOR.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )


@pytest.mark.parametrize("color", COLORS)
def test_questions_and_answers_survive_the_tokenizer(color: str) -> None:
    texts = [answer(Tag(color, digit, 0, 0)) + "<|im_end|>" for digit in range(10)]
    for text in [question(color), rendered("\n" + question(color)), *texts]:
        ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        assert TOKENIZER.unk_token_id not in ids
        assert TOKENIZER.decode(ids) == text
    assert {len(TOKENIZER(text)["input_ids"]) for text in texts} == {7}


@given(st.lists(st.sampled_from([w for w in WORDS if w.startswith(" ")]), min_size=1))
def test_any_row_of_words_survives_the_tokenizer(words: list[str]) -> None:
    text = "".join(words)
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_an_unknown_word_is_marked_not_dropped() -> None:
    ids = TOKENIZER("Which zebra?")["input_ids"]
    assert TOKENIZER.convert_ids_to_tokens(ids) == ["Which", UNKNOWN, "?"]


def test_prompt_has_no_system_turn_and_ends_with_the_empty_think_block() -> None:
    text = rendered("\nWhich digit is on the red tag?")
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>\n"
        "Which digit is on the red tag?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_history_turns_carry_no_think_block() -> None:
    text = PROCESSOR.apply_chat_template(
        [
            {"role": "user", "content": "Which digit?"},
            {"role": "assistant", "content": [{"type": "text", "text": "The digit."}]},
        ],
        add_generation_prompt=False,
    )
    assert text == (
        "<|im_start|>user\nWhich digit?<|im_end|>\n<|im_start|>assistant\nThe digit.<|im_end|>\n"
    )


def test_special_tokens_are_left_out_of_decoded_answers() -> None:
    ids = TOKENIZER("The red tag shows 7.<|im_end|>")["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "The red tag shows 7."
    assert all(len(TOKENIZER(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)


def test_pretraining_sees_the_processors_pixels() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
    patches, grid = pixel_batch(pictures)
    expected = PROCESSOR.image_processor(
        images=[Image.fromarray(p) for p in pictures], return_tensors="pt"
    )
    assert grid.tolist() == expected["image_grid_thw"].tolist()
    np.testing.assert_allclose(patches.numpy(), expected["pixel_values"].numpy(), atol=1e-6)
