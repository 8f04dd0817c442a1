"""Token ids as texts, with the tokenizer that the learner left in the run folder."""

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from deploy.inspector.tokens import FILE, TokenDecoder
from tests.deploy.inspector.runs import END, RED, THE, with_tokenizer


def byte_level(run: Path) -> tokenizers.Tokenizer:
    """One token for each byte, as the vocabulary of a real model has them, and two of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    (run / FILE).parent.mkdir(parents=True)
    tokenizer.save(str(run / FILE))
    return tokenizer


def test_texts_have_no_special_tokens_and_pieces_name_them(tmp_path: Path) -> None:
    texts = TokenDecoder(with_tokenizer(tmp_path))
    assert texts.texts([[THE, RED, END], []]) == ["The red", ""]
    assert texts.pieces([THE, RED, END]) == ["The", " red", "<|im_end|>"]
    assert texts.note() is None


def test_half_a_character_is_shown_as_its_bytes(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    ids = tokenizer.encode("a \N{EURO SIGN}<").ids
    texts = TokenDecoder(tmp_path)
    assert texts.pieces(ids) == ["a", " ", "<E2>", "<82>", "<AC>", "<"]
    assert texts.texts([ids]) == ["a \N{EURO SIGN}<"]
    assert texts.pieces([tokenizer.token_to_id("<|im_end|>")]) == ["<|im_end|>"]


def test_a_real_replacement_character_is_itself(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"\N{REPLACEMENT CHARACTER}": 0}, "x"))
    (tmp_path / FILE).parent.mkdir()
    tokenizer.save(str(tmp_path / FILE))
    assert TokenDecoder(tmp_path).pieces([0]) == ["\N{REPLACEMENT CHARACTER}"]


def test_ids_that_no_token_has_do_no_harm(tmp_path: Path) -> None:
    texts = TokenDecoder(with_tokenizer(tmp_path))
    assert texts.texts([[THE, 9999]]) == ["The"]
    assert len(texts.pieces([9999])) == 1


def test_without_a_tokenizer_texts_are_ids_until_it_comes(tmp_path: Path) -> None:
    texts = TokenDecoder(tmp_path)
    assert texts.texts([[THE, RED]]) == ["24 26"] and texts.pieces([RED]) == ["26"]
    assert "there is no" in texts.note() and texts.digest() == ""
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text("{")
    assert texts.texts([[THE]]) == ["24"] and "damaged" in texts.note()
    with_tokenizer(tmp_path)
    assert texts.texts([[THE, RED]]) == ["The red"] and len(texts.digest()) == 64
