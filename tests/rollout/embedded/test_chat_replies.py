"""Answers in parts: whatever the steps, they make the text; stop strings; the names of tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rollout.embedded.chat_replies import PartWriter, Writer, usage
from rollout.embedded.chat_requests import ChatRequest
from rollout.embedded.sampler import Prompt, RequestLaw, ScoredToken, Sequence
from rollout.embedded.stop_strings import StopStrings, num_settled
from rollout.embedded.token_texts import TokenTexts

END = 256  # <|end|>


@pytest.fixture(scope="module")
def tokenizer():
    """A token a byte, and two that are no text."""
    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )


def prompt(image_tokens: int = 0) -> Prompt:
    types = torch.tensor([1] * image_tokens + [0] * 3)
    return Prompt(torch.zeros(len(types), dtype=torch.int64), types)


def response(limit: int = 1000, top: int = 0) -> Sequence:
    law = RequestLaw(limit, stop_token_ids=frozenset([END]), top_logprobs=top)
    return Sequence(prompt(), law, np.random.default_rng(0))


def writer(tokenizer, **options) -> Writer:
    messages = [{"role": "user", "content": "which"}]
    return Writer(ChatRequest.model_validate({"messages": messages, **options}), tokenizer)


def said_in_parts(writer: Writer, tokens: list[int], every: int, limit: int) -> tuple:
    """(choices of the parts, the response): a step a token, a look every so many tokens."""
    each = response(limit)
    watch = StopStrings(writer.request.stops or ["\0none"], [each], writer.tokenizer, True)
    parts = PartWriter(writer, 0, each)
    choices = []
    for number, token in enumerate(tokens):
        each.append(token, -1.0, "0")
        watch()
        if number % every == 0 or each.finish_reason is not None:
            choices += parts.news()
        if each.finish_reason is not None:
            break
    assert parts.news() == []
    return choices, each


@settings(max_examples=200)
@given(
    text=st.text("ab\u00e9\U00020bb7", max_size=20),
    stops=st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=2),
    every=st.integers(1, 4),
    limit=st.integers(1, 60),
)
def test_parts_make_the_answer_whatever_the_steps(tokenizer, text, stops, every, limit):
    tokens = [*text.encode(), END]
    choices, each = said_in_parts(writer(tokenizer, stop=stops), tokens, every, limit)
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    whole = writer(tokenizer, stop=stops).choice(0, each)
    assert said == whole["message"]["content"]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert not any(stop in said for stop in stops) or whole["finish_reason"] == "length"
    if limit > len(tokens) and not any(stop in text for stop in stops):
        assert said == text
        assert whole["matched_stop"] == END


@settings(max_examples=200)
@given(
    content=st.lists(st.sampled_from([*b"a \xe2\x82\xbb\xf0\xa0\xff", END + 1]), max_size=12),
    every=st.integers(1, 4),
)
def test_parts_make_the_answer_when_bytes_are_no_text(tokenizer, content, every):
    choices, each = said_in_parts(writer(tokenizer), [*content, END], every, 99)
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    visible = bytes(token for token in content if token < END)
    assert said == writer(tokenizer).text(each) == visible.decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stops", "settled"),
    [
        ("abc", [], 3),
        ("abc", ["x"], 3),
        ("abc", ["cd"], 2),
        ("abc", ["cd", "bcd"], 1),
        ("aaa", ["aaaa"], 0),
        ("", ["a"], 0),
    ],
)
def test_what_may_begin_a_stop_string_is_held_back(text, stops, settled):
    assert num_settled(text, stops) == settled


def test_logprobs_come_once_each_the_end_tokens_with_the_last_part(tokenizer):
    asks = writer(tokenizer, logprobs=True)
    choices, each = said_in_parts(asks, [*b"a\xc3\xa9", END], 1, 9)
    found = [
        entry["token"] for c in choices for entry in (c["logprobs"] or {"content": []})["content"]
    ]
    assert found == ["a", "\ufffd", "\ufffd", "<|end|>"]
    assert [len((c["logprobs"] or {"content": []})["content"]) for c in choices] == [0, 1, 2, 1]
    whole = asks.choice(0, each)["logprobs"]["content"]
    assert [entry["bytes"] for entry in whole] == [[97], [0xC3], [0xA9], list(b"<|end|>")]


def test_the_likeliest_tokens_stand_beside_each(tokenizer):
    each = response(top=2)
    rows = [[ScoredToken(97, -0.1), ScoredToken(98, -2.0), ScoredToken(99, -3.0)]] * 2
    for token, likeliest in zip((97, END), rows, strict=True):
        each.append(token, -0.1, "0", likeliest)
    entries = writer(tokenizer, logprobs=True, top_logprobs=2).choice(0, each)["logprobs"]
    for entry in entries["content"]:
        assert [(top["token"], top["logprob"]) for top in entry["top_logprobs"]] == [
            ("a", -0.1),
            ("b", -2.0),
        ]


def test_bytes_of_tokens_that_are_no_bytes_are_those_of_their_text(renderer):
    texts = TokenTexts(renderer.tokenizer)
    (digit,) = renderer.tokenizer("digit")["input_ids"]
    assert texts.text(digit) == "digit" and bytes(texts.bytes_of(digit)) == b"digit"


def test_usage_counts_the_prompt_once():
    each = response()
    each.append(97, -1.0, "0")
    found = usage(prompt(image_tokens=4), [each, each, each])
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (7, 3, 10)
    assert found["prompt_tokens_details"] == {"cached_tokens": 0, "image_tokens": 4}
    assert usage(prompt(), [each])["prompt_tokens_details"] is None
