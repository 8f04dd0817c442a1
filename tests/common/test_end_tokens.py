"""One rule says what ends a response."""

from types import SimpleNamespace

import pytest

from common.end_tokens import end_token_ids, end_token_ids_of


@pytest.mark.parametrize(
    "sources, ids",
    [
        ((), []),
        ((None, None), []),
        ((2,), [2]),
        (([2, 0], None, 2), [0, 2]),
        ((0, [None, 5], (7, 5)), [0, 5, 7]),
    ],
)
def test_end_tokens_are_the_union_of_what_is_named(sources, ids):
    assert end_token_ids(*sources) == ids


def model(generation: object, config: object, text: object) -> SimpleNamespace:
    inner = SimpleNamespace(eos_token_id=text)
    outer = SimpleNamespace(eos_token_id=config, get_text_config=lambda: inner)
    return SimpleNamespace(config=outer, generation_config=SimpleNamespace(eos_token_id=generation))


def test_each_place_of_a_checkpoint_counts():
    tokenizer = SimpleNamespace(eos_token_id=4)
    assert end_token_ids_of(model([1, 2], None, 3), tokenizer) == [1, 2, 3, 4]
    assert end_token_ids_of(model(None, 5, None), tokenizer) == [4, 5]
    without = SimpleNamespace(config=model(1, 2, 3).config)  # a model that cannot generate
    assert end_token_ids_of(without, SimpleNamespace()) == [2, 3]
